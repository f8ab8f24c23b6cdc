#include "coordinator/engine/queue_quota.h"

#include "base/check.h"
#include "coordinator/scheduler/fair_queue.h"

namespace bora {

QueueQuota::Answer QueueQuota::Take(absl::string_view tenant, int32_t n) {
  CHECK_GT(n, 0);
  const bool named = is_named_(tenant);
  absl::MutexLock lock(&mutex_);
  if (!named && n_unnamed_ >= kMaxUnnamedTenants && !by_account_.contains(tenant)) {
    tenant = kOtherTenants;
  }
  const int32_t n_waiting = n_waiting_;  // before this call, for the answer
  const auto it = by_account_.find(tenant);
  const bool is_new = it == by_account_.end();
  if (n_waiting > 0 && n_waiting + n > limit_) {
    // Above the limit: only for an account with no more than its equal part, and up to limit / 4.
    const int32_t n_own = is_new ? 0 : it->second;
    const int32_t n_accounts = static_cast<int32_t>(by_account_.size()) + (is_new ? 1 : 0);
    if (n_waiting + n > limit_ + limit_ / 4 || n_own + n > limit_ / n_accounts) {
      return {false, n_waiting, ""};
    }
  }
  n_waiting_ += n;
  by_account_[tenant] += n;
  if (is_new && !named) ++n_unnamed_;
  return {true, n_waiting, std::string(tenant)};
}

void QueueQuota::Give(absl::string_view account, int32_t n) {
  if (n == 0) return;
  const bool named = is_named_(account);
  absl::MutexLock lock(&mutex_);
  const auto it = by_account_.find(account);
  CHECK(it != by_account_.end() && it->second >= n) << account;
  it->second -= n;
  n_waiting_ -= n;
  if (it->second > 0) return;
  by_account_.erase(it);
  if (!named) --n_unnamed_;
}

}  // namespace bora
