#include "worker/stage/rank_loader.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/number_formats.h"
#include "base/status_macros.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/dummy_weights.h"
#include "model/checkpoint/weights_source.h"

namespace bora {
namespace {

// Logs a warning for each type of stored tensors that loses digits because they are read as
// bfloat16.
void LogRounding(const Checkpoint& checkpoint, const LoadModel& load) {
  const absl::string_view rounded_to = InfoOf(DType::kBf16).name;
  if (load.dtype != rounded_to) return;
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    const int64_t n_tensors = checkpoint.CountStored(FileDTypeOf(dtype));
    if (n_tensors == 0) continue;
    LogWarning(
        absl::StrCat(InfoOf(dtype).name, " weights are rounded to ", rounded_to,
                     " because --dtype=", rounded_to),
        {{"tensors", n_tensors}, {"exact", absl::StrCat("--dtype=", InfoOf(DType::kF32).name)}});
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightSource>> OpenSource(const LoadModel& load) {
  if (load.dummy_weights) {
    ASSIGN_OR_RETURN(ModelDirectory directory, ReadModelDirectory(load.model_path));
    return std::make_unique<DummyWeights>(directory.config, load.dummy_seed);
  }
  ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(load.model_path));
  LogRounding(checkpoint, load);
  return std::make_unique<CheckpointWeights>(std::move(checkpoint));
}

absl::StatusOr<Precision> ParsePrecision(const LoadModel& load) {
  ASSIGN_OR_RETURN(const DType dtype, ParseDType(load.dtype));
  ASSIGN_OR_RETURN(const WeightFormat weights, ParseWeightFormat(dtype, load.quantization));
  return Precision(dtype, weights);
}

GroupLimits LimitsFor(const ModelConfig& config, const LoadModel& load) {
  GroupLimits limits;
  limits.max_num_seqs = load.max_num_seqs;
  limits.max_num_batched_tokens = load.max_num_batched_tokens;
  limits.max_model_len = load.max_model_len;
  limits.vocab_size = static_cast<int32_t>(config.vocab_size);
  return limits;
}

absl::StatusOr<RankShape> ShapeFor(const ModelConfig& config, const LoadModel& load) {
  const std::vector<int64_t> layers(load.layers_per_stage.begin(), load.layers_per_stage.end());
  ASSIGN_OR_RETURN(
      const Partition partition,
      MakePartition(config, load.tensor_parallel_size, static_cast<int>(layers.size()), layers));
  if (load.stage < 0 || load.stage >= partition.pp_size || load.tensor_rank < 0 ||
      load.tensor_rank >= partition.tp_size) {
    return absl::InvalidArgumentError(absl::StrCat("stage ", load.stage, " and tensor rank ",
                                                   load.tensor_rank, " of ", partition.pp_size,
                                                   " x ", partition.tp_size));
  }
  return ShapeOfRank(config, partition, load.stage, load.tensor_rank);
}

}  // namespace bora
