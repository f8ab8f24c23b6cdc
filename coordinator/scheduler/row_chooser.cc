#include "coordinator/scheduler/row_chooser.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "base/int_math.h"

namespace bora {
namespace {

// Prompt tokens that a step may have whatever time they take: a step reads all weights, and this
// many tokens cost little more than that.
constexpr int32_t kMinChunk = 16;

// Whether a block can be found for the sequence's next token: it has one already, one is available,
// or another sequence gives way.
bool CanGrow(const Sequence& sequence, const RowSources& sources) {
  return sequence.BlocksNeeded(1, sources.blocks.block_size()) == 0 ||
         sources.blocks.n_available() > 0 || sources.running.VictimFor(sequence) != nullptr;
}

// The running sequences in their prefill that can get rows, in the order of their turns.
std::vector<Sequence*> PrefillByTurn(const RowSources& sources) {
  std::vector<Sequence*> turn;
  for (Sequence* sequence : sources.running.by_age()) {
    if (sequence->InPrefill() && !sequence->held && CanGrow(*sequence, sources)) {
      turn.push_back(sequence);
    }
  }
  if (turn.size() < 2) return turn;
  // The oldest is in front. It stays there if the others came too late to overtake it.
  const Sequence& oldest = *turn.front();
  const bool oldest_is_aged = std::any_of(turn.begin(), turn.end(), [&](const Sequence* sequence) {
    return sequence->priority < oldest.priority || IsMuchOlder(oldest, *sequence);
  });
  std::stable_sort(turn.begin() + (oldest_is_aged ? 1 : 0), turn.end(),
                   [](const Sequence* a, const Sequence* b) {
                     return std::tie(a->priority, a->tenant->virtual_tokens) <
                            std::tie(b->priority, b->tenant->virtual_tokens);
                   });
  return turn;
}

}  // namespace

int32_t RowChooser::BeginPlan(int64_t step_id, int64_t n_waiting_tokens,
                              const RowSources& sources) {
  step_id_ = step_id;
  n_decoding_ = sources.running.CountDecoding();
  const int32_t n_max = options_.n_plan_tokens_max;
  const int32_t n_stages = options_.n_stages;
  if (n_stages == 1) return n_max;
  const int64_t n_tokens = n_waiting_tokens + sources.running.CountPrefillTokens();
  if (n_decoding_ == 0) return BestChunkTokens(n_tokens, sources.cost_model);
  // The micro-batches of a round, as many as there are stages, get equal parts of the prompts.
  if (step_id % n_stages == 0 || n_tokens > int64_t{prompt_share_} * n_stages) {
    prompt_share_ = static_cast<int32_t>(
        std::clamp<int64_t>(CeilDiv(n_tokens, n_stages), std::min(kMinChunk, n_max), n_max));
  }
  const int64_t n_decode_rows = CeilDiv(n_decoding_, n_stages);
  return static_cast<int32_t>(std::min<int64_t>(n_max, n_decode_rows + prompt_share_));
}

int32_t RowChooser::BestChunkTokens(int64_t n_tokens, const StepCostModel& cost_model) const {
  int32_t best = options_.n_plan_tokens_max;
  double best_us = std::numeric_limits<double>::infinity();
  for (int32_t n_chunk = best;; n_chunk = std::max(n_chunk / 2, kMinChunk)) {
    StepWork work;
    work.Add(0, std::min<int64_t>(n_chunk, std::max<int64_t>(n_tokens, 1)));
    // All are through when the last chunk has followed the first through the stages.
    const int64_t n_steps = CeilDiv(n_tokens, n_chunk) + options_.n_stages - 1;
    const double us = static_cast<double>(n_steps) * cost_model.Predict(work);
    if (us < best_us) {
      best = n_chunk;
      best_us = us;
    }
    if (n_chunk <= kMinChunk) return best;
  }
}

bool RowChooser::IsReady(const Sequence& sequence, bool any_distance) const {
  if (sequence.n_samples_in_flight == 0) return true;
  return options_.run_ahead && sequence.n_samples_in_flight == 1 &&
         (any_distance || step_id_ - sequence.last_step >= options_.n_stages);
}

std::vector<RowChoice> RowChooser::ChooseDecodeRows(bool any_distance, const RowSources& sources) {
  std::vector<RowChoice> rows;
  const int32_t n_stages = options_.n_stages;
  const int32_t n_share = static_cast<int32_t>(CeilDiv(n_decoding_, n_stages));
  const auto weight = [&](const Sequence& sequence) {
    return sources.cost_model.PredictDecodeRow(sequence.n_planned, n_share);
  };
  double share = 0;
  if (n_stages > 1) {
    for (const Sequence* sequence : sources.running.decoding()) {
      if (!sequence->held) share += weight(*sequence) / n_stages;
    }
  }
  double credit = decode_credit_ + share;
  for (Sequence* sequence : sources.running.decoding()) {
    if (static_cast<int32_t>(rows.size()) == options_.n_plan_tokens_max) break;
    // decoding() is ordered by last plan: the rest is not ready either.
    if (!IsReady(*sequence, any_distance)) break;
    // A sequence that cannot get its next block must not use up the share of one that can.
    if (sequence->held || !sequence->WantsToken() || !CanGrow(*sequence, sources)) continue;
    if (n_stages > 1) {
      const double row_weight = weight(*sequence);
      if (!rows.empty() && credit < row_weight / 2) break;
      credit -= row_weight;
    }
    rows.push_back({sequence, 1});
  }
  if (!rows.empty()) decode_credit_ = std::clamp(credit, -share, share);
  return rows;
}

void RowChooser::AddPromptChunks(int32_t n_tokens_max, const Sequence* next,
                                 const RowSources& sources, std::vector<RowChoice>* rows) const {
  StepWork work;
  for (const RowChoice& row : *rows) work.Add(row.sequence->n_planned, 1);
  int32_t n_left = n_tokens_max - static_cast<int32_t>(rows->size());
  bool is_first = true;
  for (Sequence* sequence : PrefillByTurn(sources)) {
    if (n_left <= 0) break;
    const int32_t position = sequence->n_planned;
    int32_t n_tokens =
        FitTokens(work, {position, std::min(n_left, sequence->prefill_end - position), is_first},
                  sources.cost_model);
    if (n_tokens == 0) break;
    const bool leaves_half = next != nullptr && FairQueue::Before(*next, *sequence);
    if (leaves_half) n_tokens -= std::min(n_tokens / 2, next->n_known());
    is_first = false;
    rows->push_back({sequence, n_tokens});
    work.Add(position, n_tokens);
    n_left -= n_tokens;
    if (leaves_half) break;
  }
}

int32_t RowChooser::FitTokens(const StepWork& work, const PromptChunk& chunk,
                              const StepCostModel& cost_model) const {
  if (options_.step_time_budget_us <= 0 || n_decoding_ == 0) return chunk.n_tokens_max;
  const auto fits = [&](int32_t n_tokens) {
    StepWork with = work;
    with.Add(chunk.position, n_tokens);
    return cost_model.Predict(with) * options_.n_stages <= options_.step_time_budget_us;
  };
  int32_t low = 0, high = chunk.n_tokens_max;  // low fits, and nothing above high does
  while (low < high) {
    const int32_t middle = low + (high - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return chunk.is_first ? std::max(low, std::min(chunk.n_tokens_max, kMinChunk)) : low;
}

}  // namespace bora
