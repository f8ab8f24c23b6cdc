#include <memory>

#include "base/check.h"
#include "tests/cuda/cuda_ranks.h"
#include "tests/cuda/test_nccl.h"
#include "tests/property/same_bytes.h"
#include "tests/worker/tiny_model.h"

namespace bora {
namespace {

// What links the ranks of a group; on a GPU, which several ranks of a process cannot share, null.
const NcclLibrary* Nccl() {
#ifdef BORA_FAKE_NCCL
  static const auto* const library =
      new absl::StatusOr<std::unique_ptr<NcclLibrary>>(OpenTestNccl());
  CHECK_OK(library->status());
  return (*library)->get();
#else
  return nullptr;
#endif
}

}  // namespace

// Executed on the CPU a step takes about 15 ms.
const int kSameBytesPool = 20;

std::vector<SameBytesLayout> SameBytesLayouts() {
  std::vector<SameBytesLayout> layouts = {{"Cuda", 1, 1, WeightFormat::kBf16, 15},
                                          {"CudaEager", 1, 1, WeightFormat::kBf16, 5}};
  if (Nccl() != nullptr) layouts.push_back({"CudaTp2Pp2", 2, 2, WeightFormat::kBf16, 5});
  return layouts;
}

LocalGroupOptions GroupOf(const SameBytesLayout& layout) {
  LocalGroupOptions options = {.tp_size = layout.tp_size,
                               .pp_size = layout.pp_size,
                               .limits = TinyLimits(),
                               .precision = DType::kBf16};
  options.make_rank =
      CudaRanks({.poison_kv = true, .use_graphs = layout.name != "CudaEager", .nccl = Nccl()});
  return options;
}

}  // namespace bora
