#include "tests/cuda/cuda_ranks.h"

#include <optional>
#include <utility>

#include "base/status_macros.h"
#include "kernels/cuda_runtime.h"
#include "worker/cuda_weight_memory.h"

namespace bora {
namespace {

struct CudaContext {
  CudaStream stream;
  std::optional<CudaDevice> device;
};

}  // namespace

std::function<absl::StatusOr<std::unique_ptr<StepExecutor>>(const WeightSource&, const RankShape&)>
CudaRanks(const CudaRankOptions& options) {
  auto context = std::make_shared<CudaContext>();
  return
      [context, options](const WeightSource& source,
                         const RankShape& shape) -> absl::StatusOr<std::unique_ptr<StepExecutor>> {
        RETURN_IF_ERROR(CheckCudaModel(source.config(), shape));
        ASSIGN_OR_RETURN(const CudaDeviceInfo info, OpenCudaDevice(0));
        ASSIGN_OR_RETURN(context->stream, CudaStream::Create());
        context->device.emplace(context->stream.get(), info.limits);
        CpuDevice readers(2);
        ASSIGN_OR_RETURN(auto weights,
                         RankWeights::Load(source, shape, DType::kBf16, readers, {},
                                           std::make_unique<CudaWeightMemory>(&context->stream)));
        return std::make_unique<CudaRank>(&*context->device, &context->stream, std::move(weights),
                                          options);
      };
}

}  // namespace bora
