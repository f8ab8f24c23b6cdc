#include "tests/cuda/cuda_ranks.h"
#include "tests/property/same_bytes.h"
#include "tests/worker/tiny_model.h"

namespace bora {

std::vector<SameBytesLayout> SameBytesLayouts() {
  return {{"Cuda", 1, 1, WeightFormat::kBf16, 60}, {"CudaEager", 1, 1, WeightFormat::kBf16, 20}};
}

LocalGroupOptions GroupOf(const SameBytesLayout& layout) {
  LocalGroupOptions options = {.limits = TinyLimits(), .precision = DType::kBf16};
  options.make_rank = CudaRanks({.poison_kv = true, .use_graphs = layout.name != "CudaEager"});
  return options;
}

}  // namespace bora
