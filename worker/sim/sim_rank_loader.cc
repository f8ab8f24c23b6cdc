#include "worker/sim/sim_rank_loader.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/sim/sim_rank.h"
#include "worker/stage/stage.h"
#include "worker/weights/host_memory.h"

namespace bora {

namespace {

// Bookkeeping for a KV block (SlotTracker): 8 bytes for each of up to 16 ranks on this host.
constexpr int64_t kMemoryPerBlockBytes = 128;

}  // namespace

std::string SimRankLoader::DeviceName() const {
  return absl::StrCat("sim (", ToString(cost_), ")");
}

absl::StatusOr<LoadedRank> SimRankLoader::Load(const LoadModel& load, const LoadOptions&) {
  ASSIGN_OR_RETURN(const Precision precision, ParsePrecision(load));
  // Without the model's weights on this host, dummy weights stand for them.
  absl::StatusOr<std::unique_ptr<WeightSource>> source = OpenSource(load);
  if (absl::IsNotFound(source.status())) {
    LoadModel dummy = load;
    dummy.dummy_weights = true;
    source = OpenSource(dummy);
  }
  RETURN_IF_ERROR(source.status());
  const ModelConfig& config = (*source)->config();
  ASSIGN_OR_RETURN(const RankShape shape, ShapeFor(config, load));
  LoadedRank result;
  result.rank = std::make_unique<SimRank>(config, shape, cost_);
  LoadedModel& loaded = result.loaded;
  loaded.load = load;
  loaded.fingerprint = (*source)->fingerprint().ToHex();
  loaded.kv_block_bytes =
      KvBytesPerBlock(config, shape, precision.kv_dtype(), GroupLimits().block_size);
  // A simulated rank stores no keys and values, only which slots have each block. That takes some
  // bytes per block, in each rank of the group on this host.
  loaded.max_blocks = std::min<int64_t>(std::numeric_limits<int32_t>::max(),
                                        AvailableMemoryBytes() / kMemoryPerBlockBytes);
  LogInfo("simulates a rank", {{"model", load.model_path},
                               {"stage", load.stage},
                               {"tensor_rank", load.tensor_rank},
                               {"layer_begin", shape.layers.begin},
                               {"layer_end", shape.layers.end},
                               {"cost", ToString(cost_)}});
  return result;
}

}  // namespace bora
