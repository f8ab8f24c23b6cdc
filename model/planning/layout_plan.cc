#include "model/planning/layout_plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/flags/quantity.h"
#include "base/int_math.h"
#include "model/planning/partition.h"
#include "model/step/step.h"

namespace bora {
namespace {

constexpr int64_t kFloatBytes = 4;
// Rows of the LM head that a GPU worker computes at once; the worker's number.
constexpr int64_t kHeadTileRows = 256;
// Bytes of workspace per logit of a row while it is sampled.
constexpr int64_t kSampleBytes = 8;
// Prompts are split into chunks of the size with the shortest predicted time, but no smaller than
// this: below about 256 tokens a step's time is that of reading the weights.
constexpr int64_t kMinChunkTokens = 256;
// Limits the time of the search itself.
constexpr int64_t kMaxChunks = 1024;

// The stages of one replica and the links between them.
struct Pipeline {
  std::vector<StageRoofline> stages;  // [pp_size], tensor rank 0
  // [pp_size]: from each stage to the next, the last entry from last to first.
  std::vector<LinkLimits> hops;
  int64_t residual_bytes = 0;  // bytes of the residual of one token
};

// The links of the replica with the most hops between hosts. Links inside a host and across hosts
// differ in latency and bandwidth.
std::vector<LinkLimits> HopsOf(const Layout& layout, const DeviceFleet& fleet) {
  const LinkLimits inside = {kHostHopLatencyUs, fleet.device.collective_bytes_per_s};
  // All tp_size ranks of a stage send at the same time and share the host's network.
  const LinkLimits across = {kNetworkHopLatencyUs, fleet.network_bytes_per_s / layout.tp_size};
  std::vector<LinkLimits> worst;
  int n_worst = -1;
  for (int replica = 0; replica < layout.n_replicas; ++replica) {
    const auto host_of = [&](int stage) {
      return (replica * layout.n_ranks() + stage * layout.tp_size) / fleet.devices_per_host;
    };
    std::vector<LinkLimits> hops;
    int n_across = 0;
    for (int stage = 0; stage < layout.pp_size; ++stage) {
      const bool is_across = host_of(stage) != host_of((stage + 1) % layout.pp_size);
      n_across += is_across ? 1 : 0;
      hops.push_back(is_across ? across : inside);
    }
    if (n_across > n_worst) {
      n_worst = n_across;
      worst = std::move(hops);
    }
  }
  return worst;
}

// Time along the stages, and the share [0, 1] of links and collectives in it.
struct PathTime {
  double us = 0;
  double communication_share = 0;
};

// Time between the tokens of each of n_sequences. They are divided into one micro-batch per stage.
// A token takes until its micro-batch has passed all stages, or until the slowest stage has worked
// on all micro-batches, whichever is longer.
PathTime PredictDecode(const Pipeline& pipeline, int64_t n_sequences, int64_t context_tokens) {
  const int64_t pp_size = static_cast<int64_t>(pipeline.stages.size());
  const int64_t n_batches = std::min(pp_size, n_sequences);
  const int64_t n_rows = CeilDiv(n_sequences, n_batches);
  StepWork work;
  work.n_tokens = n_rows;
  work.context_tokens = work.pairs = n_rows * context_tokens;
  double path_us = 0, communication_us = 0, slowest_us = 0;
  for (const StageRoofline& stage : pipeline.stages) {
    const StageTime time = stage.Predict(work, n_rows);
    path_us += time.us();
    communication_us += time.communication_us;
    slowest_us = std::max(slowest_us, time.us());
  }
  if (pp_size > 1) {
    // The sampled tokens return to the first stage: a few bytes.
    double hops_us = pipeline.hops.back().latency_us;
    for (int64_t i = 0; i + 1 < pp_size; ++i) {
      hops_us +=
          pipeline.hops[i].Microseconds(static_cast<double>(n_rows * pipeline.residual_bytes));
    }
    path_us += hops_us;
    communication_us += hops_us;
  }
  return {std::max(path_us, static_cast<double>(n_batches) * slowest_us),
          communication_us / path_us};
}

// Time from the start of a prompt until its last chunk has passed the last stage. Chunks follow
// each other through the stages.
PathTime PredictPrefill(const Pipeline& pipeline, int64_t n_tokens, int64_t chunk_tokens) {
  const size_t pp_size = pipeline.stages.size();
  // [pp_size]: time when the stage finishes the previous chunk.
  std::vector<double> free_us(pp_size, 0.0);
  double busy_us = 0, communication_us = 0;
  for (int64_t begin = 0; begin < n_tokens; begin += chunk_tokens) {
    const int64_t n_chunk = std::min(chunk_tokens, n_tokens - begin);
    StepWork work;
    work.Add(begin, n_chunk);
    double arrival_us = 0;
    for (size_t i = 0; i < pp_size; ++i) {
      const StageTime time = pipeline.stages[i].Predict(work, begin + n_chunk == n_tokens ? 1 : 0);
      free_us[i] = std::max(free_us[i], arrival_us) + time.us();
      busy_us += time.us();
      communication_us += time.communication_us;
      if (i + 1 == pp_size) break;
      const double hop_us =
          pipeline.hops[i].Microseconds(static_cast<double>(n_chunk * pipeline.residual_bytes));
      arrival_us = free_us[i] + hop_us;
      busy_us += hop_us;
      communication_us += hop_us;
    }
  }
  return {free_us.back(), communication_us / busy_us};
}

// The fastest prefill over chunk sizes that are halved again and again.
PathTime PredictBestPrefill(const Pipeline& pipeline, const PlannedLoad& load) {
  const int64_t n_tokens = load.context_tokens;
  int64_t chunk_tokens = std::min(load.max_chunk_tokens, n_tokens);
  PathTime best = PredictPrefill(pipeline, n_tokens, chunk_tokens);
  // Shorter chunks pay off only with several stages, which otherwise wait for the first chunk.
  while (pipeline.stages.size() > 1 && chunk_tokens / 2 >= kMinChunkTokens &&
         CeilDiv(n_tokens, chunk_tokens / 2) <= kMaxChunks) {
    chunk_tokens /= 2;
    const PathTime time = PredictPrefill(pipeline, n_tokens, chunk_tokens);
    if (time.us < best.us) best = time;
  }
  return best;
}

// KV blocks of one request.
int64_t RequestBlocks(const PlannedLoad& load) {
  return CeilDiv(load.context_tokens, GroupLimits().block_size);
}

// RESOURCE_EXHAUSTED with what a rank needs and what it may take.
absl::Status Misfit(const RankMemory& memory, const DeviceFleet& fleet, const PlannedLoad& load) {
  const int64_t request_bytes =
      RequestBlocks(load) * GroupLimits().block_size * memory.kv_token_bytes;
  const int64_t needed_bytes =
      memory.weight_bytes + memory.workspace_bytes + kPlannedDriverBytes + request_bytes;
  // The memory that a worker takes: kv_bytes is its rest after the other parts.
  const int64_t budget_bytes = needed_bytes - request_bytes + memory.kv_bytes;
  return absl::ResourceExhaustedError(absl::StrCat(
      "a rank of stage ", memory.stage, " needs ", FormatBytes(needed_bytes), " (weights ",
      FormatBytes(memory.weight_bytes), ", working memory ", FormatBytes(memory.workspace_bytes),
      ", driver ", FormatBytes(kPlannedDriverBytes), ", KV of one request of ", load.context_tokens,
      " tokens ", FormatBytes(request_bytes), "), a worker takes ", FormatBytes(budget_bytes),
      " of ", FormatBytes(fleet.memory_bytes)));
}

// Fills in the plan's memory and capacity, which the stage with the fewest blocks decides. Returns
// LayoutPlan::fits.
absl::Status PlanMemory(const ModelConfig& config, const Partition& partition,
                        const DeviceFleet& fleet, const PlannedLoad& load, LayoutPlan* plan) {
  int64_t n_blocks = 0;
  for (int stage = 0; stage < partition.pp_size; ++stage) {
    const RankMemory memory =
        PlanRankMemory(config, ShapeOfRank(config, partition, stage, 0), fleet, load);
    const int64_t stage_blocks =
        std::max<int64_t>(memory.kv_bytes, 0) / (memory.kv_token_bytes * GroupLimits().block_size);
    const bool has_less =
        std::pair(stage_blocks, memory.kv_bytes) < std::pair(n_blocks, plan->memory.kv_bytes);
    if (stage > 0 && !has_less) continue;
    n_blocks = stage_blocks;
    plan->memory = memory;
  }
  plan->kv_tokens = n_blocks * GroupLimits().block_size;
  plan->n_requests = n_blocks / RequestBlocks(load);
  return plan->n_requests > 0 ? absl::OkStatus() : Misfit(plan->memory, fleet, load);
}

// The plan of one layout. `load` is passed by value: its sequences become those of one replica.
LayoutPlan PlanLayout(const ModelConfig& config, const Layout& layout, const DeviceFleet& fleet,
                      PlannedLoad load) {
  LayoutPlan plan;
  plan.layout = layout;
  const auto partition = MakePartition(config, layout.tp_size, layout.pp_size);
  if (!partition.ok()) {
    plan.fits = partition.status();
    return plan;
  }
  const int64_t n_sequences = load.n_sequences;
  load.n_sequences = CeilDiv(n_sequences, layout.n_replicas);
  plan.fits = PlanMemory(config, *partition, fleet, load, &plan);
  if (!plan.fits.ok()) return plan;
  plan.n_sequences = std::min(load.n_sequences, plan.n_requests);

  Pipeline pipeline;
  for (int stage = 0; stage < layout.pp_size; ++stage) {
    pipeline.stages.emplace_back(config, ShapeOfRank(config, *partition, stage, 0), fleet.device);
  }
  pipeline.hops = HopsOf(layout, fleet);
  pipeline.residual_bytes = kFloatBytes * config.dim;
  plan.decode_alone_us = PredictDecode(pipeline, 1, load.context_tokens).us;
  const PathTime decode = PredictDecode(pipeline, plan.n_sequences, load.context_tokens);
  plan.decode_us = decode.us;
  plan.decode_communication_share = decode.communication_share;
  const PathTime prefill = PredictBestPrefill(pipeline, load);
  plan.prefill_us = prefill.us;
  plan.prefill_communication_share = prefill.communication_share;
  plan.replica_tokens_per_s = static_cast<double>(plan.n_sequences) / decode.us * 1e6;
  // With fewer sequences than replicas, some replicas have nothing to do.
  plan.tokens_per_s =
      static_cast<double>(std::min(n_sequences, plan.n_sequences * layout.n_replicas)) / decode.us *
      1e6;
  return plan;
}

}  // namespace

// Norms are float; matrices, embeddings and the KV cache have kPlannedElementBytes per element.
RankMemory PlanRankMemory(const ModelConfig& config, const RankShape& shape,
                          const DeviceFleet& fleet, const PlannedLoad& load) {
  const int64_t q_cols = shape.local_n_heads * config.head_dim;
  const int64_t kv_cols = shape.local_n_kv_heads * config.head_dim;
  const int64_t hidden = shape.local_hidden_dim;
  const int64_t n_layers = shape.layers.n_layers();
  RankMemory memory;
  memory.stage = shape.stage;
  memory.weight_bytes =
      n_layers * (config.dim * (2 * q_cols + 2 * kv_cols + 3 * hidden) * kPlannedElementBytes +
                  2 * config.dim * kFloatBytes);
  if (shape.has_embedding) {
    memory.weight_bytes += config.vocab_size * config.dim * kPlannedElementBytes;
  }
  if (shape.has_head) {
    memory.weight_bytes +=
        shape.local_vocab_size * config.dim * kPlannedElementBytes + config.dim * kFloatBytes;
  }
  const int64_t n_tokens = std::max(load.max_chunk_tokens, load.n_sequences);
  memory.workspace_bytes =
      n_tokens * (2 * config.dim * kFloatBytes + config.dim * kPlannedElementBytes +
                  std::max(q_cols + 2 * kv_cols, 2 * hidden) * kFloatBytes +
                  std::max(q_cols, hidden) * kPlannedElementBytes) +
      load.context_tokens * config.head_dim * kFloatBytes;
  if (shape.has_head) {
    memory.workspace_bytes +=
        kHeadTileRows * (config.dim * (kFloatBytes + kPlannedElementBytes) +
                         shape.local_vocab_size * kFloatBytes + config.vocab_size * kSampleBytes);
    if (shape.tp_size > 1) {
      memory.workspace_bytes += kHeadTileRows * kFloatBytes *
                                (shape.tp_size * shape.local_vocab_size + config.vocab_size);
    }
  }
  const auto budget_bytes =
      static_cast<int64_t>(static_cast<double>(fleet.memory_bytes) * fleet.memory_utilization);
  memory.kv_bytes =
      budget_bytes - memory.weight_bytes - memory.workspace_bytes - kPlannedDriverBytes;
  memory.kv_token_bytes = 2 * n_layers * kv_cols * kPlannedElementBytes;
  return memory;
}

std::vector<LayoutPlan> PlanLayouts(const ModelConfig& config, const DeviceFleet& fleet,
                                    const PlannedLoad& load) {
  CHECK(fleet.n_devices >= 1 && fleet.n_devices <= kMaxPlannedDevices) << fleet.n_devices;
  CHECK(fleet.devices_per_host >= 1 && fleet.n_devices % fleet.devices_per_host == 0)
      << fleet.devices_per_host;
  CHECK(fleet.memory_utilization > 0 && fleet.memory_utilization <= 1) << fleet.memory_utilization;
  CHECK(fleet.network_bytes_per_s > 0 && fleet.device.memory_bytes_per_s > 0 &&
        fleet.device.flop_per_s > 0 && fleet.device.collective_bytes_per_s > 0);
  CHECK(load.context_tokens > 0 && load.n_sequences > 0 && load.max_chunk_tokens > 0);
  std::vector<LayoutPlan> plans;
  for (int tp_size = 1; tp_size <= fleet.devices_per_host; ++tp_size) {
    if (fleet.devices_per_host % tp_size != 0) continue;
    const int n_stages = fleet.n_devices / tp_size;
    for (int pp_size = 1; pp_size <= n_stages; ++pp_size) {
      if (n_stages % pp_size != 0) continue;
      plans.push_back(PlanLayout(config, {tp_size, pp_size, n_stages / pp_size}, fleet, load));
    }
  }
  return plans;
}

std::optional<PlanChoice> ChooseLayout(absl::Span<const LayoutPlan> plans,
                                       PlanObjective objective) {
  // Greater is better, for both objectives.
  const auto merit = [objective](const LayoutPlan& plan) {
    return objective == PlanObjective::kLatency ? 1 / plan.decode_alone_us : plan.tokens_per_s;
  };
  const auto best_of = [&](std::optional<size_t> without) {
    double most = 0;
    for (size_t i = 0; i < plans.size(); ++i) {
      if (plans[i].fits.ok() && i != without) most = std::max(most, merit(plans[i]));
    }
    std::optional<size_t> best;
    for (size_t i = 0; i < plans.size(); ++i) {
      if (!plans[i].fits.ok() || i == without || merit(plans[i]) < most * (1 - kSimilarLayouts))
        continue;
      if (!best.has_value() || plans[i].layout.n_ranks() < plans[*best].layout.n_ranks()) best = i;
    }
    return best;
  };
  const std::optional<size_t> best = best_of(std::nullopt);
  if (!best.has_value()) return std::nullopt;
  return PlanChoice{*best, best_of(best)};
}

}  // namespace bora
