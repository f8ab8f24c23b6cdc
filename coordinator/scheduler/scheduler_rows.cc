// Which rows a plan gets and how long they are; see scheduler.h.
#include <algorithm>
#include <limits>
#include <tuple>

#include "base/int_math.h"
#include "coordinator/scheduler/scheduler.h"

namespace bora {
namespace {

// Prompt tokens of a step whatever its time: a step reads all weights, and this many tokens cost
// little more than that.
constexpr int32_t kMinChunk = 16;

}  // namespace

bool Scheduler::IsThrough(const Sequence& sequence, bool any_distance) const {
  if (sequence.n_samples_in_flight == 0) return true;
  return options_.run_ahead && sequence.n_samples_in_flight == 1 &&
         (any_distance || next_step_id_ - sequence.last_step >= options_.n_stages);
}

void Scheduler::ChooseDecodeRows(bool any_distance, std::vector<Candidate>* rows) {
  const int32_t n_stages = options_.n_stages;
  const int32_t n_share = static_cast<int32_t>(CeilDiv(n_decoding_, n_stages));
  const auto weight = [&](const Sequence& sequence) {
    return cost_model_.PredictDecodeRow(sequence.n_planned, n_share);
  };
  double share = 0;
  if (n_stages > 1) {
    for (const Sequence* sequence : decoding_) {
      if (!sequence->held) share += weight(*sequence) / n_stages;
    }
  }
  double credit = decode_credit_ + share;
  for (Sequence* sequence : decoding_) {
    if (static_cast<int32_t>(rows->size()) == options_.limits.max_num_batched_tokens) break;
    // Those behind it were planned later still.
    if (!IsThrough(*sequence, any_distance)) break;
    // Who cannot grow must not take the place of one that can.
    if (sequence->held || !sequence->WantsToken() || !CanGrow(*sequence)) continue;
    if (n_stages > 1) {
      const double row_weight = weight(*sequence);
      if (!rows->empty() && credit < row_weight / 2) break;
      credit -= row_weight;
    }
    rows->push_back({sequence, 1});
  }
  if (!rows->empty()) decode_credit_ = std::clamp(credit, -share, share);
}

void Scheduler::ChooseChunks(int32_t budget, std::vector<Candidate>* rows) {
  StepWork work;
  for (const Candidate& row : *rows) work.Add(row.sequence->n_planned, 1);
  budget -= static_cast<int32_t>(rows->size());
  // Half is for the next in the queue when it is its turn, if it can get in.
  const Sequence* next = queue_.empty() || free_slots_.empty() ? nullptr : NextInQueue();
  if (next != nullptr && IsBlocked(*next)) next = nullptr;
  bool has_chunk = false;
  for (Sequence* sequence : InPrefillByTurn()) {
    if (budget <= 0) break;
    int32_t n_tokens =
        FitTokens(work, sequence->n_planned,
                  std::min(budget, sequence->prefill_end - sequence->n_planned), has_chunk);
    if (n_tokens == 0) break;
    const bool leaves_half = next != nullptr && FairQueue::Before(*next, *sequence);
    if (leaves_half) n_tokens -= std::min(n_tokens / 2, next->n_known());
    has_chunk = true;
    rows->push_back({sequence, n_tokens});
    work.Add(sequence->n_planned, n_tokens);
    budget -= n_tokens;
    if (leaves_half) break;
  }
}

std::vector<Scheduler::Sequence*> Scheduler::InPrefillByTurn() const {
  std::vector<Sequence*> turn;
  for (Sequence* sequence : running_) {
    if (sequence->InPrefill() && !sequence->held && CanGrow(*sequence)) turn.push_back(sequence);
  }
  if (turn.size() < 2) return turn;
  // The oldest is in front; it stays there when the others came too late to overtake it.
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

int32_t Scheduler::PlanTokensMax() {
  const int32_t n_stages = options_.n_stages;
  const int32_t n_max = options_.limits.max_num_batched_tokens;
  if (n_stages == 1) return n_max;
  int64_t n_tokens = n_waiting_prompt_tokens_;
  for (const Sequence* sequence : running_) {
    n_tokens += std::max(0, sequence->prefill_end - sequence->n_planned);
  }
  if (n_decoding_ > 0) {
    // The micro-batches of one round, as many as there are stages, get equal parts.
    if (next_step_id_ % n_stages == 0 || n_tokens > int64_t{prompt_share_} * n_stages) {
      prompt_share_ = static_cast<int32_t>(
          std::clamp<int64_t>(CeilDiv(n_tokens, n_stages), std::min(kMinChunk, n_max), n_max));
    }
    const int64_t n_decode_rows = CeilDiv(n_decoding_, n_stages);
    return static_cast<int32_t>(std::min<int64_t>(n_max, n_decode_rows + prompt_share_));
  }
  // All are through when the last chunk has followed the first through the stages.
  int32_t best = n_max;
  double best_us = std::numeric_limits<double>::infinity();
  for (int32_t n_chunk = n_max;; n_chunk = std::max(n_chunk / 2, kMinChunk)) {
    StepWork work;
    work.Add(0, std::min<int64_t>(n_chunk, std::max<int64_t>(n_tokens, 1)));
    const double us =
        static_cast<double>(CeilDiv(n_tokens, n_chunk) + n_stages - 1) * cost_model_.Predict(work);
    if (us < best_us) {
      best = n_chunk;
      best_us = us;
    }
    if (n_chunk <= kMinChunk) return best;
  }
}

int32_t Scheduler::FitTokens(StepWork work, int32_t position, int32_t n_max, bool has_chunk) const {
  if (options_.step_time_budget_us <= 0 || n_decoding_ == 0) return n_max;
  const auto fits = [&](int32_t n_tokens) {
    StepWork with = work;
    with.Add(position, n_tokens);
    return cost_model_.Predict(with) * options_.n_stages <= options_.step_time_budget_us;
  };
  int32_t low = 0, high = n_max;  // low fits, what is above high does not
  while (low < high) {
    const int32_t middle = low + (high - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return has_chunk ? low : std::max(low, std::min(n_max, kMinChunk));
}

}  // namespace bora
