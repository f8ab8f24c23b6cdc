// Any bytes are either refused or describe tensors that lie inside the file, do not overlap and
// have the bytes that dtype and shape need.
#include "base/check.h"
#include "model/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t n_bytes) {
  const auto header = bora::ParseSafetensorsHeader(absl::MakeConstSpan(data, n_bytes));
  if (!header.ok()) {
    CHECK(!header.status().message().empty());
    return 0;
  }
  CHECK(header->data_begin <= n_bytes);
  uint64_t end = 0;
  for (const bora::TensorInfo& tensor : header->tensors) {
    CHECK_EQ(tensor.begin, end);
    CHECK(tensor.end > tensor.begin);
    uint64_t tensor_bytes = bora::FileDTypeBytes(tensor.dtype);
    for (const int64_t n : tensor.shape) tensor_bytes *= static_cast<uint64_t>(n);
    CHECK_EQ(tensor.end - tensor.begin, tensor_bytes);
    end = tensor.end;
  }
  CHECK_EQ(header->data_begin + end, n_bytes);
  return 0;
}
