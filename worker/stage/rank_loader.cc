#include "worker/stage/rank_loader.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/checkpoint/checkpoint.h"
#include "model/checkpoint/dummy_weights.h"
#include "model/checkpoint/weights_source.h"

namespace bora {
namespace {

absl::StatusOr<DType> ParseDType(const std::string& name) {
  if (name == "float32") return DType::kF32;
  if (name == "bfloat16") return DType::kBf16;
  if (name == "float16") return DType::kF16;
  return absl::InvalidArgumentError(
      absl::StrCat("dtype is '", name, "', supported are float32, bfloat16 and float16"));
}

// Says what loses bits on its way from the files.
void LogRounding(const Checkpoint& checkpoint, const LoadModel& load) {
  if (load.dtype != "bfloat16") return;
  for (const auto& [dtype, name] :
       {std::pair(FileDType::kF16, "float16"), std::pair(FileDType::kF32, "float32")}) {
    const int64_t n_tensors = checkpoint.CountStored(dtype);
    if (n_tensors == 0) continue;
    LogWarning(absl::StrCat(name, " weights are rounded to bfloat16 because --dtype=bfloat16"),
               {{"tensors", n_tensors}, {"exact", "--dtype=float32"}});
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
  if (load.quantization.empty()) return Precision(dtype);
  if (load.quantization == "int8") return Precision(dtype, WeightFormat::kInt8);
  return absl::InvalidArgumentError(
      absl::StrCat("quantization is '", load.quantization, "', supported is int8"));
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
