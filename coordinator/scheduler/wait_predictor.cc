#include "coordinator/scheduler/wait_predictor.h"

#include <algorithm>

#include "base/int_math.h"
#include "model/step/step_cost.h"

namespace bora {
namespace {

// Weight of the latest completion in the mean length of completions.
constexpr double kMeanShare = 1.0 / 16;

}  // namespace

void WaitPredictor::LearnCompletion(int32_t n_tokens) {
  mean_output_tokens_ = mean_output_tokens_ == 0
                            ? n_tokens
                            : mean_output_tokens_ + kMeanShare * (n_tokens - mean_output_tokens_);
}

double WaitPredictor::PromptTokenUs(const WaitSources& sources) const {
  StepWork all;
  for (const Sequence* sequence : sources.running.decoding()) {
    if (!sequence->held) all.Add(sequence->n_planned, 1);
  }
  // The decode rows of one micro-batch.
  StepWork work;
  work.n_tokens = CeilDiv(all.n_tokens, options_.n_stages);
  work.context_tokens = all.context_tokens / options_.n_stages;
  work.pairs = all.pairs / options_.n_stages;
  const int32_t n_max =
      static_cast<int32_t>(std::max<int64_t>(1, options_.n_plan_tokens_max - work.n_tokens));
  const PromptChunk chunk = {.position = 0, .n_tokens_max = n_max, .is_first = true};
  const int32_t n_tokens =
      work.n_tokens == 0 ? n_max : sources.row_chooser.FitTokens(work, chunk, sources.cost_model);
  work.Add(0, n_tokens);
  return sources.cost_model.Predict(work) / n_tokens;
}

double WaitPredictor::CompletionIntervalUs(const WaitSources& sources) const {
  const RunningSequences& running = sources.running;
  if (mean_output_tokens_ <= 0 || running.size() == 0) return 0;
  StepWork work;
  double n_tokens = 0;  // that the running sequences are expected to generate still
  for (const Sequence* sequence : running.by_age()) {
    work.Add(sequence->n_planned, 1);
    n_tokens += std::min<double>(
        mean_output_tokens_, sequence->n_prompt + sequence->spec.max_tokens - sequence->n_known());
  }
  const double n_sequences = static_cast<double>(running.size());
  return sources.cost_model.Predict(work) * (n_tokens / n_sequences) / n_sequences;
}

double WaitPredictor::SlotUs(const WaitingCounts& waiting, const WaitSources& sources) const {
  if (waiting.n_sequences == 0) return 0;
  const double prompt_us = PromptTokenUs(sources) * static_cast<double>(waiting.n_tokens) /
                           static_cast<double>(waiting.n_sequences);
  return sources.running.n_free_slots() == 0 ? std::max(prompt_us, CompletionIntervalUs(sources))
                                             : prompt_us;
}

double WaitPredictor::FirstTokenUs(const SequenceSpec& spec, double enough_us,
                                   const WaitSources& sources) const {
  if (sources.cost_model.n_observations() == 0) return 0;
  const RunningSequences& running = sources.running;
  // A tenant that gets its fair share waits for its own requests only, each of which takes longer
  // by one over the share.
  const FairQueue::Ahead ahead = sources.queue.AheadOf(spec.tenant, spec.priority);
  const int64_t n_tokens = ahead.n_tokens + running.CountPrefillTokens();
  const double n_tokens_ahead = std::min(static_cast<double>(n_tokens),
                                         static_cast<double>(ahead.own_n_tokens) / ahead.share);
  const double n_ahead =
      std::min(static_cast<double>(ahead.n_sequences), ahead.own_n_sequences / ahead.share);
  // Whether a running sequence gives way at once (Displacement::GiversFor).
  const bool has_claim =
      ahead.own_n_running + 1 <= std::max(1.0, ahead.share * running.size()) ||
      std::any_of(running.by_age().begin(), running.by_age().end(), [&](const Sequence* sequence) {
        return sequence->held || sequence->priority > spec.priority;
      });
  const double n_slots_missing =
      has_claim ? 0 : std::max(0.0, n_ahead + 1 - static_cast<double>(running.n_free_slots()));
  const double prompt_token_us = PromptTokenUs(sources);
  const double wait_us =
      std::max(n_tokens_ahead * prompt_token_us, n_slots_missing * CompletionIntervalUs(sources));
  return wait_us +
         PromptUs({spec, spec.prompt_tokens, prompt_token_us}, enough_us - wait_us, sources.blocks);
}

double WaitPredictor::PromptUs(const Prompt& prompt, double enough_us, const BlockPool& blocks) {
  const SequenceSpec& spec = prompt.spec;
  int64_t n_computed = static_cast<int64_t>(prompt.tokens.size());
  if (static_cast<double>(n_computed) * prompt.prompt_token_us > enough_us && spec.prefix_cache &&
      spec.sampling.n_prompt_logprobs < 0) {
    const BlockPool::Match match =
        blocks.FindPrefix(spec.cache_salt, prompt.tokens.subspan(0, prompt.tokens.size() - 1));
    n_computed -= static_cast<int64_t>(match.block_ids.size()) * blocks.block_size();
  }
  return static_cast<double>(n_computed) * prompt.prompt_token_us;
}

}  // namespace bora
