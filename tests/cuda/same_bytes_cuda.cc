#include "tests/cuda/cuda_ranks.h"
#include "tests/property/same_bytes.h"
#include "tests/worker/tiny_model.h"

namespace bora {

// Executed on the CPU a step takes about 15 ms.
const int kSameBytesPool = 20;

std::vector<SameBytesLayout> SameBytesLayouts() {
  return {{"Cuda", 1, 1, WeightFormat::kBf16, 15}, {"CudaEager", 1, 1, WeightFormat::kBf16, 5}};
}

LocalGroupOptions GroupOf(const SameBytesLayout& layout) {
  LocalGroupOptions options = {.limits = TinyLimits(), .precision = DType::kBf16};
  options.make_rank = CudaRanks({.poison_kv = true, .use_graphs = layout.name != "CudaEager"});
  return options;
}

}  // namespace bora
