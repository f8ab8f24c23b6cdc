#include "worker/rank.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/stage_boundary.h"

namespace bora {
namespace {

RankPlace PlaceOf(const RankShape& shape, int pp_size) {
  return {
      .stage = shape.stage, .tp_rank = shape.tp_rank, .pp_size = pp_size, .tp_size = shape.tp_size};
}

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
  Epoch(const EpochOptions& options, const RankPlace& place, int64_t feedback_window)
      : epoch(options.epoch),
        place(place),
        slots(options.limits),
        sampling(options.limits.max_num_seqs),
        inputs(options.limits),
        collectives(place, options.mesh),
        boundary(place, options.mesh),
        feedback(place, options.limits, options.mesh, feedback_window) {
    head_token_idx.reserve(kHeadTileRows);
    sample_rows.reserve(kHeadTileRows);
    sampled.reserve(kHeadTileRows);
  }

  const int64_t epoch;
  const RankPlace place;
  SlotTracker slots;
  std::vector<SamplingParams> sampling;  // [max_num_seqs] of the open slots
  StepInputs inputs;
  Collectives collectives;
  StageBoundary boundary;
  TokenFeedback feedback;
  absl::Status failure;  // of the plan that ended the epoch

  // Scratch of RunHead, one tile.
  std::vector<int32_t> head_token_idx;
  std::vector<SampleRow> sample_rows;
  std::vector<SampledToken> sampled;
};

Rank::Rank(CpuDevice* device, std::unique_ptr<const RankWeights> weights,
           const RankOptions& options)
    : device_(device),
      weights_(std::move(weights)),
      options_(options),
      stage_(device, weights_.get()) {}

Rank::~Rank() = default;

absl::Status Rank::BeginEpoch(const EpochOptions& options) {
  CHECK(epoch_ == nullptr) << "epoch " << epoch_->epoch << " has not ended";
  RETURN_IF_ERROR(CheckEpoch(options));
  const RankPlace place = PlaceOf(weights_->shape(), options.pp_size);
  ASSIGN_OR_RETURN(const int64_t window,
                   TokenFeedback::Window(options.limits, options.link_buffer_bytes));
  RETURN_IF_ERROR(stage_.Prepare(options.limits, options_.poison_kv));
  if (!rope_.has_value() || options.limits.max_model_len > rope_->n_positions()) {
    const ModelConfig& config = weights_->config();
    rope_.emplace(config.head_dim, options.limits.max_model_len, config.rope_theta);
  }
  epoch_ = std::make_unique<Epoch>(options, place, window);
  return absl::OkStatus();
}

void Rank::EndEpoch() { epoch_.reset(); }

absl::Status Rank::CheckEpoch(const EpochOptions& options) const {
  const ModelConfig& config = weights_->config();
  const RankShape& shape = weights_->shape();
  RETURN_IF_ERROR(ValidateLimits(options.limits));
  RETURN_IF_ERROR(CheckStepInputsLimits(options.limits));
  RETURN_IF_ERROR(CheckContextLength(config, options.limits.max_model_len));
  if (options.limits.vocab_size != config.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("group limit vocab_size: ", options.limits.vocab_size, ", the model has ",
                     config.vocab_size));
  }
  const RankPlace place = PlaceOf(shape, options.pp_size);
  if (options.pp_size <= shape.stage || place.is_last_stage() != shape.has_head) {
    return absl::InvalidArgumentError(
        absl::StrCat("pp_size ", options.pp_size, " does not fit weights of stage ", shape.stage,
                     shape.has_head ? " with" : " without", " the LM head"));
  }
  if (options.mesh == nullptr) {
    if (place.n_ranks() == 1) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("a group of ", place.n_ranks(), " ranks needs a mesh"));
  }
  if (options.mesh->my_rank() != place.rank()) {
    return absl::InvalidArgumentError(absl::StrCat("the mesh is of rank ", options.mesh->my_rank(),
                                                   ", the weights are of rank ", place.rank()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<StepResult>> Rank::Execute(const StepPlan& plan) {
  if (epoch_ == nullptr) return absl::FailedPreconditionError("no epoch has begun");
  if (plan.epoch != epoch_->epoch) {
    return absl::FailedPreconditionError(
        absl::StrCat("plan epoch: ", plan.epoch, ", this is epoch ", epoch_->epoch));
  }
  if (!epoch_->failure.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("epoch ", epoch_->epoch, " has failed: ", epoch_->failure.message()));
  }
  absl::StatusOr<std::optional<StepResult>> result = ExecuteInEpoch(plan);
  if (!result.ok()) epoch_->failure = result.status();
  return result;
}

absl::StatusOr<std::optional<StepResult>> Rank::ExecuteInEpoch(const StepPlan& plan) {
  Epoch& epoch = *epoch_;
  RETURN_IF_ERROR(epoch.slots.Apply(plan));
  for (const SlotOpen& open : plan.opened) epoch.sampling[open.slot] = open.sampling;
  RETURN_IF_ERROR(epoch.feedback.Prepare(plan));
  epoch.inputs.Build(plan, epoch.slots, epoch.feedback.last_tokens());

  StepResult result{.epoch = plan.epoch, .step_id = plan.step_id};
  const int64_t n_tokens = epoch.inputs.n_tokens();
  const absl::Span<float> residual = stage_.residual(n_tokens);
  RETURN_IF_ERROR(epoch.boundary.Enter(residual));
  if (n_tokens > 0) {
    if (epoch.place.is_first_stage()) stage_.EmbedTokens(epoch.inputs.token_ids());
    RETURN_IF_ERROR(stage_.RunLayers(epoch.inputs.view(), *rope_, epoch.collectives));
  }
  if (epoch.place.is_last_stage()) RETURN_IF_ERROR(RunHead(&result));
  RETURN_IF_ERROR(epoch.boundary.Leave(residual));
  RETURN_IF_ERROR(epoch.feedback.Finish(plan, result.sampled));
  if (!epoch.place.is_sampler()) return std::nullopt;
  const absl::Span<const int64_t> stage_us = epoch.boundary.stage_us();
  result.stage_us.assign(stage_us.begin(), stage_us.end());
  return result;
}

absl::Status Rank::RunHead(StepResult* result) {
  Epoch& epoch = *epoch_;
  const absl::Span<const HeadRow> head_rows = epoch.inputs.head_rows();
  for (size_t begin = 0; begin < head_rows.size(); begin += kHeadTileRows) {
    const absl::Span<const HeadRow> tile = head_rows.subspan(begin, kHeadTileRows);
    epoch.head_token_idx.clear();
    for (const HeadRow& row : tile) epoch.head_token_idx.push_back(row.token_idx);
    ASSIGN_OR_RETURN(const absl::Span<const float> logits,
                     stage_.Logits(epoch.head_token_idx, epoch.collectives));
    if (epoch.place.is_sampler()) SampleTile(tile, logits, result);
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
                                 .sampling = &epoch.sampling[row.slot],
                                 .slot = row.slot,
                                 .position = row.position,
                                 .n_generated_tokens = row.n_generated_tokens,
                                 .target_token_id = row.target_token_id});
  }
  epoch.sampled.clear();
  Sample(*device_, vocab_size, epoch.sample_rows, &epoch.sampled);
  CHECK_EQ(epoch.sampled.size(), tile.size());
  for (size_t i = 0; i < tile.size(); ++i) {
    std::vector<SampledToken>& list =
        tile[i].target_token_id < 0 ? result->sampled : result->prompt_logprobs;
    list.push_back(std::move(epoch.sampled[i]));
  }
}

}  // namespace bora
