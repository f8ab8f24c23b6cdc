#include "coordinator/queue_places.h"

#include "base/check.h"

namespace bora {

QueuePlaces::Answer QueuePlaces::Take(absl::string_view tenant, int32_t n) {
  CHECK_GT(n, 0);
  absl::MutexLock lock(&mutex_);
  const int32_t n_waiting = n_waiting_;
  if (n_waiting > 0 && n_waiting + n > limit_) {
    const auto it = by_tenant_.find(tenant);
    const int32_t n_own = it == by_tenant_.end() ? 0 : it->second;
    const int32_t n_tenants = static_cast<int32_t>(by_tenant_.size()) + (n_own == 0 ? 1 : 0);
    if (n_waiting + n > limit_ + limit_ / 4 || n_own + n > limit_ / n_tenants) {
      return {false, n_waiting};
    }
  }
  n_waiting_ += n;
  by_tenant_[tenant] += n;
  return {true, n_waiting};
}

void QueuePlaces::Give(absl::string_view tenant, int32_t n) {
  if (n == 0) return;
  absl::MutexLock lock(&mutex_);
  const auto it = by_tenant_.find(tenant);
  CHECK(it != by_tenant_.end() && it->second >= n) << tenant;
  it->second -= n;
  if (it->second == 0) by_tenant_.erase(it);
  n_waiting_ -= n;
}

}  // namespace bora
