#include "worker/cpu/cpu_rank.h"

#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_device.h"
#include "worker/stage/collectives.h"
#include "worker/stage/epoch_state.h"

namespace bora {
namespace {

// Bytes of the rotary table: for each position, a cosine and a sine per pair of a head's elements.
int64_t RopeBytes(const ModelConfig& config, const GroupLimits& limits) {
  return config.head_dim * limits.max_model_len * static_cast<int64_t>(sizeof(float));
}

// Bytes of CpuRank::token_counts_; only the sampler has counts.
int64_t TokenCountsBytes(const RankShape& shape, const GroupLimits& limits) {
  if (!shape.has_head || shape.tp_rank != 0) return 0;
  return int64_t{limits.max_num_seqs} * limits.vocab_size * static_cast<int64_t>(sizeof(uint32_t));
}

}  // namespace

CpuRankMemory PlanCpuRankMemory(const CpuDevice& device, const ModelConfig& config,
                                const RankShape& shape, const Precision& precision,
                                const GroupLimits& limits) {
  const WeightPlan weights = PlanRankWeights(config, shape, precision, kCpuMatrices);
  const StageScratchShape scratch = {.weights = &weights,
                                     .kv = {.local_n_kv_heads = shape.local_n_kv_heads,
                                            .block_size = limits.block_size,
                                            .head_dim = config.head_dim},
                                     .max_rows = limits.max_num_seqs,
                                     .max_tokens = limits.max_num_batched_tokens,
                                     .max_positions = limits.max_model_len};
  return {.weight_bytes = weights.total_bytes,
          .workspace_bytes = StageWorkspaceBytes(config, shape, limits) +
                             CpuScratchFloats(device, scratch) * int64_t{sizeof(float)} +
                             StepInputsBytes(limits) + RopeBytes(config, limits) +
                             TokenCountsBytes(shape, limits),
          .kv_bytes_per_block =
              KvBytesPerBlock(config, shape, precision.kv_dtype(), limits.block_size)};
}

// All state of the rank that ends with the epoch.
struct CpuRank::Epoch {
  Epoch(std::unique_ptr<EpochState> epoch_state, Mesh* mesh, const GroupLimits& limits)
      : state(std::move(epoch_state)),
        collectives(state->place(), mesh),
        n_token_ids(limits.vocab_size),
        counts_tokens(limits.max_num_seqs) {
    head_token_idx.reserve(kHeadTileRows);
    sample_rows.reserve(kHeadTileRows);
    sampled.reserve(kHeadTileRows);
  }

  const std::unique_ptr<EpochState> state;
  Collectives collectives;
  // GroupLimits::vocab_size. A row of logits may be longer, by padding that is never sampled.
  const int64_t n_token_ids;

  // Scratch of RunHead and SampleTile, one entry per row of a tile.
  std::vector<int32_t> head_token_idx;
  std::vector<SampleRow> sample_rows;
  std::vector<SampledToken> sampled;

  std::vector<bool> counts_tokens;  // [max_num_seqs], whether the open slot has penalties
};

CpuRank::CpuRank(CpuDevice* device, std::unique_ptr<const RankWeights> weights,
                 const RankOptions& options)
    : device_(device),
      weights_(std::move(weights)),
      options_(options),
      stage_(device, weights_.get()) {}

CpuRank::~CpuRank() = default;

absl::Status CpuRank::BeginEpoch(const EpochOptions& options) {
  CHECK(epoch_ == nullptr) << "an epoch has not ended";
  ASSIGN_OR_RETURN(auto state, EpochState::Begin(config(), shape(), options));
  RETURN_IF_ERROR(stage_.Prepare(options.limits, options_.poison_kv));
  // A longer table than needed does no harm: its entries depend on the position only.
  if (!rope_.has_value() || options.limits.max_model_len > rope_->n_positions()) {
    rope_.emplace(config().head_dim, options.limits.max_model_len, config().rope_theta);
  }
  const int64_t counts_bytes = TokenCountsBytes(shape(), options.limits);
  if (token_counts_.bytes() != counts_bytes) {
    token_counts_ = {};
    ASSIGN_OR_RETURN(token_counts_,
                     AlignedBuffer::AllocatePopulated(counts_bytes, "counts of tokens"));
  }
  epoch_ = std::make_unique<Epoch>(std::move(state), options.mesh, options.limits);
  return absl::OkStatus();
}

void CpuRank::EndEpoch() { epoch_.reset(); }

absl::Status CpuRank::Begin(const StepPlan& plan) {
  if (epoch_ == nullptr) return absl::FailedPreconditionError("no epoch has begun");
  ASSIGN_OR_RETURN(result_, epoch_->state->Execute(plan, [&](StepResult* result) {
    if (epoch_->state->place().is_sampler()) CountTokensOf(plan.opened);
    return RunStage(result);
  }));
  return absl::OkStatus();
}

absl::Span<uint32_t> CpuRank::TokenCounts(int32_t slot) {
  const int64_t n_token_ids = epoch_->n_token_ids;
  auto* const counts = reinterpret_cast<uint32_t*>(token_counts_.data());
  return absl::MakeSpan(counts + slot * n_token_ids, static_cast<size_t>(n_token_ids));
}

void CpuRank::CountTokensOf(absl::Span<const SlotOpen> opened) {
  for (const SlotOpen& open : opened) {
    const bool has_penalties = open.sampling.has_penalties();
    epoch_->counts_tokens[open.slot] = has_penalties;
    if (has_penalties) {
      CountTokens(open.known_tokens, open.n_prompt_tokens, TokenCounts(open.slot));
    }
  }
}

absl::Status CpuRank::RunStage(StepResult* result) {
  EpochState& epoch = *epoch_->state;
  const StepInputs& inputs = epoch.inputs();
  const absl::Span<float> residual = stage_.residual(inputs.n_tokens());
  RETURN_IF_ERROR(epoch.boundary().Enter(residual));
  if (inputs.n_tokens() > 0) {
    if (epoch.place().is_first_stage()) stage_.EmbedTokens(inputs.token_ids());
    RETURN_IF_ERROR(stage_.RunLayers(inputs.view(), *rope_, epoch_->collectives));
  }
  if (epoch.place().is_last_stage()) RETURN_IF_ERROR(RunHead(result));
  return epoch.boundary().Leave(residual);
}

absl::Status CpuRank::RunHead(StepResult* result) {
  Epoch& epoch = *epoch_;
  const absl::Span<const HeadRow> head_rows = epoch.state->inputs().head_rows();
  for (size_t begin = 0; begin < head_rows.size(); begin += kHeadTileRows) {
    const absl::Span<const HeadRow> tile = head_rows.subspan(begin, kHeadTileRows);
    epoch.head_token_idx.clear();
    for (const HeadRow& row : tile) epoch.head_token_idx.push_back(row.token_idx);
    ASSIGN_OR_RETURN(const absl::Span<const float> logits,
                     stage_.Logits(epoch.head_token_idx, epoch.collectives));
    if (epoch.state->place().is_sampler()) SampleTile(tile, logits, result);
  }
  return absl::OkStatus();
}

void CpuRank::SampleTile(absl::Span<const HeadRow> tile, absl::Span<const float> logits,
                         StepResult* result) {
  Epoch& epoch = *epoch_;
  const int64_t vocab_size = weights_->config().vocab_size;
  epoch.sample_rows.clear();
  for (size_t i = 0; i < tile.size(); ++i) {
    const HeadRow& row = tile[i];
    epoch.sample_rows.push_back({.logits = &logits[i * vocab_size],
                                 .sampling = &epoch.state->sampling(row.slot),
                                 .slot = row.slot,
                                 .position = row.position,
                                 .n_generated_tokens = row.n_generated_tokens,
                                 .target_token_id = row.target_token_id,
                                 .token_counts = TokenCounts(row.slot).data()});
  }
  epoch.sampled.clear();
  Sample(*device_, epoch.n_token_ids, epoch.sample_rows, &epoch.sampled);
  CHECK_EQ(epoch.sampled.size(), tile.size());
  for (size_t i = 0; i < tile.size(); ++i) {
    SampledToken& token = epoch.sampled[i];
    const bool is_draw = tile[i].target_token_id < 0;
    // Penalties apply from the next draw on. Prompt tokens were counted when the slot was opened.
    if (is_draw && epoch.counts_tokens[token.slot] && !token.non_finite) {
      ++TokenCounts(token.slot)[token.token_id];
    }
    (is_draw ? result->sampled : result->prompt_logprobs).push_back(std::move(token));
  }
}

}  // namespace bora
