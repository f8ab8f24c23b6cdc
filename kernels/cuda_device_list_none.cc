#include "kernels/cuda_device_list.h"

namespace bora {

void AppendCudaDevices(std::vector<std::string>*) {}

}  // namespace bora
