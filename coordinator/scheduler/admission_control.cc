#include "coordinator/scheduler/admission_control.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/int_math.h"

namespace bora {
namespace {

// For this many plans a refused sequence's need is assumed unchanged; a prefix of it that is
// computed meanwhile is noticed no later.
constexpr int32_t kPlansBetweenLooks = 16;

// A preemption for blocks adds kGrowthOfPreemption to the growth ratio. Each plan leaves
// kGrowthKept of the ratio: half is left after 138 plans.
constexpr double kGrowthOfPreemption = 0.125;
constexpr double kGrowthKept = 0.995;

}  // namespace

BlockPool::Match FindCachedPrefix(const Sequence& sequence, const BlockPool& blocks) {
  if (!sequence.spec.prefix_cache || sequence.WantsPromptLogprobs()) return {};
  return blocks.FindPrefix(sequence.spec.cache_salt,
                           sequence.tokens().subspan(0, sequence.n_known() - 1));
}

std::optional<AdmissionControl::Needs> AdmissionControl::Fit(const Sequence& sequence,
                                                             const RunningSequences& running,
                                                             const BlockPool& blocks) {
  const int32_t n_free = FreeBlocks(running, blocks);
  if (Remembers(sequence) && n_blocks_ > n_free && n_refusals_left_-- > 0) return std::nullopt;
  handle_.reset();
  Needs needs = FindNeeds(sequence, blocks);
  if (needs.n_available_blocks > n_free) {
    Remember(sequence, needs.n_available_blocks);
    return std::nullopt;
  }
  return needs;
}

int32_t AdmissionControl::FreeBlocks(const RunningSequences& running,
                                     const BlockPool& blocks) const {
  const int32_t block_size = blocks.block_size();
  int32_t n_due = 0;
  for (const Sequence* sequence : running.by_age()) {
    const int32_t n_prefill = sequence->BlocksNeeded(sequence->n_prefill_left(), block_size);
    n_due +=
        n_prefill + std::max(1, GrowthExpected(*sequence, int64_t{n_prefill} + sequence->n_blocks(),
                                               block_size));
  }
  return blocks.n_available() - n_due;
}

int32_t AdmissionControl::RecallBlocks(const Sequence& sequence, const BlockPool& blocks) {
  if (!Remembers(sequence)) Remember(sequence, FindNeeds(sequence, blocks).n_available_blocks);
  return n_blocks_;
}

void AdmissionControl::RaiseGrowth() {
  growth_ratio_ = std::min(1.0, growth_ratio_ + kGrowthOfPreemption);
}

void AdmissionControl::LowerGrowth() { growth_ratio_ *= kGrowthKept; }

AdmissionControl::Needs AdmissionControl::FindNeeds(const Sequence& sequence,
                                                    const BlockPool& blocks) const {
  Needs needs;
  needs.cached = FindCachedPrefix(sequence, blocks);
  const std::vector<int32_t>& cached = needs.cached.block_ids;
  const int32_t n_blocks = static_cast<int32_t>(CeilDiv(sequence.n_known(), blocks.block_size()));
  // A cached block that no sequence holds is available until this one holds it.
  const int32_t n_unheld = static_cast<int32_t>(std::count_if(
      cached.begin(), cached.end(), [&](int32_t id) { return blocks.n_holders(id) == 0; }));
  needs.n_available_blocks = n_blocks - static_cast<int32_t>(cached.size()) + n_unheld +
                             GrowthExpected(sequence, n_blocks, blocks.block_size());
  return needs;
}

void AdmissionControl::Remember(const Sequence& sequence, int32_t n_blocks) {
  handle_ = sequence.spec.handle;
  n_blocks_ = n_blocks;
  n_refusals_left_ = kPlansBetweenLooks;
}

int32_t AdmissionControl::GrowthExpected(const Sequence& sequence, int64_t n_blocks,
                                         int32_t block_size) const {
  const int64_t n_blocks_max =
      CeilDiv(int64_t{sequence.n_prompt} + sequence.spec.max_tokens, block_size);
  return static_cast<int32_t>(growth_ratio_ * static_cast<double>(n_blocks_max - n_blocks));
}

}  // namespace bora
