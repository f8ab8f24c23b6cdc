#include "worker/rank.h"

#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "worker/collectives.h"
#include "worker/epoch_state.h"

namespace bora {
namespace {

int64_t RopeBytes(const ModelConfig& config, const GroupLimits& limits) {
  return config.head_dim * limits.max_model_len * static_cast<int64_t>(sizeof(float));
}

}  // namespace

RankMemory PlanRankMemory(const ModelConfig& config, const RankShape& shape,
                          const Precision& precision, const GroupLimits& limits) {
  return {.weight_bytes = RankWeightBytes(config, shape, precision),
          .workspace_bytes = StageWorkspaceBytes(config, shape, limits) + StepInputsBytes(limits) +
                             RopeBytes(config, limits),
          .kv_bytes_per_block = KvBytesPerBlock(config, shape, precision.dtype, limits.block_size)};
}

// Everything that ends with the epoch.
struct Rank::Epoch {
  Epoch(std::unique_ptr<EpochState> epoch_state, Mesh* mesh, const GroupLimits& limits)
      : state(std::move(epoch_state)),
        collectives(state->place(), mesh),
        n_token_ids(limits.vocab_size),
        token_counts(limits.max_num_seqs) {
    head_token_idx.reserve(kHeadTileRows);
    sample_rows.reserve(kHeadTileRows);
    sampled.reserve(kHeadTileRows);
  }

  const std::unique_ptr<EpochState> state;
  Collectives collectives;
  const int64_t n_token_ids;  // GroupLimits::vocab_size; at most as many as a row of logits has

  // Scratch of RunHead, one tile.
  std::vector<int32_t> head_token_idx;
  std::vector<SampleRow> sample_rows;
  std::vector<SampledToken> sampled;

  // [max_num_seqs][n_token_ids] of open slots with penalties, of others empty. The sampler's only.
  std::vector<std::vector<uint32_t>> token_counts;
};

Rank::Rank(CpuDevice* device, std::unique_ptr<const RankWeights> weights,
           const RankOptions& options)
    : device_(device),
      weights_(std::move(weights)),
      options_(options),
      stage_(device, weights_.get()) {}

Rank::~Rank() = default;

absl::Status Rank::BeginEpoch(const EpochOptions& options) {
  CHECK(epoch_ == nullptr) << "an epoch has not ended";
  ASSIGN_OR_RETURN(auto state, EpochState::Begin(config(), shape(), options));
  RETURN_IF_ERROR(stage_.Prepare(options.limits, options_.poison_kv));
  if (!rope_.has_value() || options.limits.max_model_len > rope_->n_positions()) {
    rope_.emplace(config().head_dim, options.limits.max_model_len, config().rope_theta);
  }
  epoch_ = std::make_unique<Epoch>(std::move(state), options.mesh, options.limits);
  return absl::OkStatus();
}

void Rank::EndEpoch() { epoch_.reset(); }

absl::Status Rank::Begin(const StepPlan& plan) {
  if (epoch_ == nullptr) return absl::FailedPreconditionError("no epoch has begun");
  ASSIGN_OR_RETURN(result_, epoch_->state->Execute(plan, [&](StepResult* result) {
    if (epoch_->state->place().is_sampler()) CountTokensOf(plan.opened);
    return RunStage(result);
  }));
  return absl::OkStatus();
}

void Rank::CountTokensOf(absl::Span<const SlotOpen> opened) {
  for (const SlotOpen& open : opened) {
    std::vector<uint32_t>& counts = epoch_->token_counts[open.slot];
    counts.resize(open.sampling.has_penalties() ? epoch_->n_token_ids : 0);
    if (counts.empty()) continue;
    CountTokens(open.known_tokens, open.n_prompt_tokens, absl::MakeSpan(counts));
  }
}

absl::Status Rank::RunStage(StepResult* result) {
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

absl::Status Rank::RunHead(StepResult* result) {
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

// logits: [tile.size(), vocab_size]. Appends to the result.
void Rank::SampleTile(absl::Span<const HeadRow> tile, absl::Span<const float> logits,
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
                                 .token_counts = epoch.token_counts[row.slot].data()});
  }
  epoch.sampled.clear();
  Sample(*device_, epoch.n_token_ids, epoch.sample_rows, &epoch.sampled);
  CHECK_EQ(epoch.sampled.size(), tile.size());
  for (size_t i = 0; i < tile.size(); ++i) {
    SampledToken& token = epoch.sampled[i];
    const bool is_draw = tile[i].target_token_id < 0;
    std::vector<uint32_t>& counts = epoch.token_counts[token.slot];
    if (is_draw && !counts.empty() && !token.non_finite) ++counts[token.token_id];
    (is_draw ? result->sampled : result->prompt_logprobs).push_back(std::move(token));
  }
}

}  // namespace bora
