#include "tests/cuda/cuda_ranks.h"

#include <optional>
#include <utility>

#include "base/status_macros.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cuda/runtime/cuda_runtime.h"
#include "worker/cuda/cuda_rank_memory.h"
#include "worker/cuda/cuda_weight_memory.h"

namespace bora {
namespace {

// A rank with what it works on.
class RankOnCuda final : public StepExecutor {
 public:
  static absl::StatusOr<std::unique_ptr<StepExecutor>> Make(const WeightSource& source,
                                                            const RankShape& shape,
                                                            const CudaRankOptions& options) {
    RETURN_IF_ERROR(CheckCudaModel(source.config(), shape));
    auto rank = std::make_unique<RankOnCuda>();
    ASSIGN_OR_RETURN(const CudaDeviceInfo info, OpenCudaDevice(0));
    ASSIGN_OR_RETURN(rank->stream_, CudaStream::Create());
    rank->device_.emplace(rank->stream_.get(), info.limits);
    CpuDevice readers(2);
    ASSIGN_OR_RETURN(auto weights,
                     LoadDeviceWeights(source, shape, DType::kBf16, readers, {},
                                       std::make_unique<CudaWeightMemory>(&rank->stream_)));
    rank->rank_ =
        std::make_unique<CudaRank>(&*rank->device_, &rank->stream_, std::move(weights), options);
    return rank;
  }

  const ModelConfig& config() const override { return rank_->config(); }
  const RankShape& shape() const override { return rank_->shape(); }
  absl::Status BeginEpoch(const EpochOptions& options) override {
    return rank_->BeginEpoch(options);
  }
  void EndEpoch() override { rank_->EndEpoch(); }
  absl::Status Begin(const StepPlan& plan) override { return rank_->Begin(plan); }
  int max_begun() const override { return rank_->max_begun(); }
  bool IsDone() const override { return rank_->IsDone(); }
  absl::StatusOr<std::optional<StepResult>> Finish() override { return rank_->Finish(); }

 private:
  CudaStream stream_;
  std::optional<CudaDevice> device_;
  std::unique_ptr<CudaRank> rank_;
};

}  // namespace

std::function<absl::StatusOr<std::unique_ptr<StepExecutor>>(const WeightSource&, const RankShape&)>
CudaRanks(const CudaRankOptions& options) {
  return [options](const WeightSource& source, const RankShape& shape) {
    return RankOnCuda::Make(source, shape, options);
  };
}

}  // namespace bora
