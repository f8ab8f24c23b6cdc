// What the cost model says about those who wait; see scheduler.h.
#include <algorithm>

#include "base/int_math.h"
#include "coordinator/scheduler/scheduler.h"

namespace bora {

double Scheduler::PromptTokenUs() const {
  StepWork all;
  for (const Sequence* sequence : decoding_) {
    if (!sequence->held) all.Add(sequence->n_planned, 1);
  }
  // Those of one micro-batch.
  StepWork work;
  work.n_tokens = CeilDiv(all.n_tokens, options_.n_stages);
  work.context_tokens = all.context_tokens / options_.n_stages;
  work.pairs = all.pairs / options_.n_stages;
  const int32_t n_max = static_cast<int32_t>(
      std::max<int64_t>(1, options_.limits.max_num_batched_tokens - work.n_tokens));
  const int32_t n_tokens = work.n_tokens == 0 ? n_max : FitTokens(work, 0, n_max, false);
  work.Add(0, n_tokens);
  return cost_model_.Predict(work) / n_tokens;
}

double Scheduler::FinishUs() const {
  if (mean_output_tokens_ <= 0 || running_.empty()) return 0;
  StepWork work;
  double n_tokens = 0;  // that those who run still generate
  for (const Sequence* sequence : running_) {
    work.Add(sequence->n_planned, 1);
    n_tokens += std::min<double>(
        mean_output_tokens_, sequence->n_prompt + sequence->spec.max_tokens - sequence->n_known());
  }
  const double n_sequences = static_cast<double>(running_.size());
  return cost_model_.Predict(work) * (n_tokens / n_sequences) / n_sequences;
}

double Scheduler::PredictPlaceUs() const {
  if (n_waiting() == 0) return 0;
  const double prompt_us = PromptTokenUs() * static_cast<double>(n_waiting_prompt_tokens_) /
                           static_cast<double>(n_waiting());
  return free_slots_.empty() ? std::max(prompt_us, FinishUs()) : prompt_us;
}

double Scheduler::PredictFirstTokenUs(const SequenceSpec& spec, double enough_us) const {
  if (cost_model_.n_observations() == 0) return 0;
  // Who has its fair share of the service waits for its own requests only, each of which takes as
  // much longer as the share is smaller.
  const FairQueue::Ahead ahead = queue_.AheadOf(spec.tenant, spec.priority);
  int64_t n_tokens = ahead.n_tokens;
  for (const Sequence* sequence : running_) {
    n_tokens += std::max(0, sequence->prefill_end - sequence->n_planned);
  }
  const double n_tokens_ahead = std::min(static_cast<double>(n_tokens),
                                         static_cast<double>(ahead.own_n_tokens) / ahead.share);
  const double n_ahead =
      std::min(static_cast<double>(ahead.n_sequences), ahead.own_n_sequences / ahead.share);
  // Some give way at once, see GiversFor.
  const bool has_claim =
      ahead.own_n_running + 1 <= std::max(1.0, ahead.share * n_running()) ||
      std::any_of(running_.begin(), running_.end(), [&](const Sequence* sequence) {
        return sequence->held || sequence->priority > spec.priority;
      });
  const double n_slots_missing =
      has_claim ? 0 : std::max(0.0, n_ahead + 1 - static_cast<double>(free_slots_.size()));
  const double prompt_token_us = PromptTokenUs();
  const double wait_us = std::max(n_tokens_ahead * prompt_token_us, n_slots_missing * FinishUs());
  return wait_us + PromptUs(spec, spec.prompt_tokens, prompt_token_us, enough_us - wait_us);
}

double Scheduler::PredictPromptUs(uint64_t handle, double prompt_token_us, double enough_us) const {
  const auto it = sequences_.find(handle);
  if (it == sequences_.end() || it->second->slot >= 0) return 0;
  return PromptUs(it->second->spec, it->second->tokens(), prompt_token_us, enough_us);
}

double Scheduler::PromptUs(const SequenceSpec& spec, absl::Span<const int32_t> tokens,
                           double prompt_token_us, double enough_us) const {
  int64_t n_computed = static_cast<int64_t>(tokens.size());
  if (static_cast<double>(n_computed) * prompt_token_us > enough_us && spec.prefix_cache &&
      spec.sampling.n_prompt_logprobs < 0) {
    const BlockPool::Match match =
        blocks_.FindPrefix(spec.cache_salt, tokens.subspan(0, tokens.size() - 1));
    n_computed -= static_cast<int64_t>(match.block_ids.size()) * options_.limits.block_size;
  }
  return static_cast<double>(n_computed) * prompt_token_us;
}

}  // namespace bora
