#include "kernels/device_list.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/cuda_device_list.h"
#include "kernels/device.h"

namespace bora {

std::vector<std::string> ListDevices() {
  std::vector<std::string> lines = {absl::StrCat("cpu: ", std::thread::hardware_concurrency(),
                                                 " threads, ", SimdLevelName(BestSimdLevel()))};
  AppendCudaDevices(&lines);
  return lines;
}

}  // namespace bora
