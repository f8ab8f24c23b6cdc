#include "worker/sim/sim_rank.h"

#include <errno.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/time/time.h"
#include "base/check.h"
#include "base/philox.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// Upper half of the Philox counter: sampling on real ranks uses another value, so that the same
// seed never gives the same numbers for both.
constexpr uint64_t kSimStream = 0x73696d;  // "sim"

// Sleeps until `begin` + `duration`. steady_clock is CLOCK_MONOTONIC on Linux.
void SleepUntil(std::chrono::steady_clock::time_point begin, absl::Duration duration) {
  const timespec until = absl::ToTimespec(absl::FromChrono(begin.time_since_epoch()) + duration);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
  }
}

// The token at `position`. If stop_token_ids ban the first choice, the next id that is allowed.
int32_t Draw(const SamplingParams& sampling, int32_t position, int64_t vocab_size) {
  const uint64_t seed = sampling.temperature == 0.0f ? 0 : sampling.seed;
  const auto words = Philox4x32(seed, static_cast<uint64_t>(position), kSimStream);
  int64_t token_id = words[0] % vocab_size;
  const std::vector<int32_t>& banned = sampling.stop_token_ids;  // ascending
  for (size_t i = 0; i < banned.size(); ++i) {
    if (!std::binary_search(banned.begin(), banned.end(), token_id)) break;
    token_id = (token_id + 1) % vocab_size;
  }
  return static_cast<int32_t>(token_id);
}

// The result for one head row: a drawn token, or a prompt token with its log-probability.
SampledToken Sample(const HeadRow& row, const SamplingParams& sampling, int64_t vocab_size) {
  const bool is_target = row.target_token_id >= 0;
  SampledToken token;
  token.slot = row.slot;
  token.position = row.position;
  token.token_id = is_target ? row.target_token_id : Draw(sampling, row.position, vocab_size);
  const int32_t n_top = is_target ? sampling.n_prompt_logprobs : sampling.n_logprobs;
  if (n_top < 0) return token;
  token.logprob = static_cast<float>(-std::log(static_cast<double>(vocab_size)));
  token.rank = 1;
  for (int64_t i = 0; i < std::min<int64_t>(n_top, vocab_size); ++i) {
    token.top.push_back({static_cast<int32_t>((token.token_id + i) % vocab_size), token.logprob});
  }
  return token;
}

}  // namespace

SimRank::SimRank(const ModelConfig& config, const RankShape& shape, const SimCost& cost)
    : config_(config), shape_(shape), cost_(cost) {}

absl::Status SimRank::BeginEpoch(const EpochOptions& options) {
  CHECK(epoch_ == nullptr) << "an epoch has not ended";
  ASSIGN_OR_RETURN(auto epoch, EpochState::Begin(config_, shape_, options));
  const int64_t bytes =
      options.limits.max_num_batched_tokens * config_.dim * static_cast<int64_t>(sizeof(float));
  if (activations_.bytes() != bytes) {
    ASSIGN_OR_RETURN(activations_, AlignedBuffer::Allocate(bytes, "activations"));
  }
  // 1 ns instead of the default 50 us, by which every sleep of this thread could end late.
  prctl(PR_SET_TIMERSLACK, 1);
  epoch_ = std::move(epoch);
  n_token_ids_ = options.limits.vocab_size;
  return absl::OkStatus();
}

absl::Status SimRank::Begin(const StepPlan& plan) {
  if (epoch_ == nullptr) return absl::FailedPreconditionError("no epoch has begun");
  ASSIGN_OR_RETURN(
      result_, epoch_->Execute(plan, [&](StepResult* result) { return RunStage(plan, result); }));
  return absl::OkStatus();
}

absl::Status SimRank::RunStage(const StepPlan& plan, StepResult* result) {
  const absl::Span<float> activations(reinterpret_cast<float*>(activations_.data()),
                                      epoch_->inputs().n_tokens() * config_.dim);
  RETURN_IF_ERROR(epoch_->boundary().Enter(activations));
  const double share = static_cast<double>(shape_.layers.n_layers()) / config_.n_layers;
  SleepUntil(epoch_->boundary().begin(), SimStepTime(cost_, plan) * share);
  if (epoch_->place().is_sampler()) {
    for (const HeadRow& row : epoch_->inputs().head_rows()) {
      const bool is_draw = row.target_token_id < 0;
      (is_draw ? result->sampled : result->prompt_logprobs)
          .push_back(Sample(row, epoch_->sampling(row.slot), n_token_ids_));
    }
  }
  return epoch_->boundary().Leave(activations);
}

}  // namespace bora
