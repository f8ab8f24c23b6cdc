#include "kernels/device_list.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/device.h"

namespace bora {

std::vector<std::string> ListDevices() {
  return {absl::StrCat("cpu: ", std::thread::hardware_concurrency(), " threads, ",
                       SimdLevelName(BestSimdLevel()))};
}

}  // namespace bora
