// The GPUs among ListDevices' lines; cuda_device_list.cu in builds with CUDA,
// cuda_device_list_none.cc in others.
#pragma once

#include <string>
#include <vector>

namespace bora {

void AppendCudaDevices(std::vector<std::string>* lines);

}  // namespace bora
