#include "coordinator/fair_queue.h"

#include <algorithm>
#include <tuple>

#include "absl/types/optional.h"
#include "base/check.h"

namespace bora {
namespace {

// Tenants that are remembered after their last sequence has ended.
constexpr int32_t kMaxIdleTenants = 1024;

}  // namespace

Age AgeOf(int64_t arrival_us, Priority priority, uint64_t order) {
  return {arrival_us + kPriorityHandicapUs[static_cast<int>(priority)], order};
}

Tenant* FairQueue::Open(absl::string_view tenant_name) {
  std::unique_ptr<Tenant>& tenant = tenants_[tenant_name];
  if (tenant == nullptr) {
    tenant = std::make_unique<Tenant>();
    tenant->name = std::string(tenant_name);
    const auto weight = weights_.find(tenant_name);
    if (weight != weights_.end()) tenant->weight = weight->second;
    ++n_idle_;
  }
  if (tenant->n_open == 0) {
    tenant->virtual_tokens = std::max(tenant->virtual_tokens, LowestCounter());
    sum_of_weights_ += tenant->weight;
    --n_idle_;
  }
  ++tenant->n_open;
  return tenant.get();
}

void FairQueue::Close(Tenant* tenant) {
  CHECK_GT(tenant->n_open, 0);
  if (--tenant->n_open > 0) return;
  sum_of_weights_ -= tenant->weight;
  // Remembered, so that nobody gets rid of its counter by leaving for a moment.
  if (++n_idle_ <= kMaxIdleTenants) return;
  const double lowest = LowestCounter();
  absl::erase_if(tenants_, [&](const auto& entry) {
    return entry.second->n_open == 0 &&
           (entry.second->virtual_tokens <= lowest || entry.second.get() == tenant);
  });
  n_idle_ =
      static_cast<int32_t>(std::count_if(tenants_.begin(), tenants_.end(), [](const auto& entry) {
        return entry.second->n_open == 0;
      }));
}

double FairQueue::LowestCounter() const {
  absl::optional<double> lowest;
  for (const auto& [name, tenant] : tenants_) {
    if (tenant->n_open == 0) continue;
    lowest = std::min(lowest.value_or(tenant->virtual_tokens), tenant->virtual_tokens);
  }
  return lowest.value_or(0);
}

void FairQueue::Push(Ticket* ticket) {
  Class& of = classes_[static_cast<int>(ticket->priority)];
  CHECK(of.by_age.insert(ticket).second);
  of.by_tenant[ticket->tenant].insert(ticket);
  of.n_tokens += ticket->n_waiting_tokens;
  ticket->tenant->n_waiting_tokens += ticket->n_waiting_tokens;
  ++ticket->tenant->n_waiting;
  ++n_waiting_;
}

void FairQueue::Remove(Ticket* ticket) {
  Class& of = classes_[static_cast<int>(ticket->priority)];
  if (of.by_age.erase(ticket) == 0) return;
  const auto it = of.by_tenant.find(ticket->tenant);
  it->second.erase(ticket);
  if (it->second.empty()) of.by_tenant.erase(it);
  of.n_tokens -= ticket->n_waiting_tokens;
  ticket->tenant->n_waiting_tokens -= ticket->n_waiting_tokens;
  --ticket->tenant->n_waiting;
  --n_waiting_;
}

Ticket* FairQueue::Front() const {
  CHECK(!empty());
  const Class* highest = nullptr;
  Ticket* oldest = nullptr;
  for (const Class& of : classes_) {
    if (of.by_age.empty()) continue;
    if (highest == nullptr) highest = &of;
    Ticket* first = *of.by_age.begin();
    if (oldest == nullptr || first->age < oldest->age) oldest = first;
  }
  // Its handicap is over before those of a higher class came.
  if (oldest->priority != (*highest->by_age.begin())->priority) return oldest;
  Ticket* best = nullptr;
  for (const auto& [tenant, tickets] : highest->by_tenant) {
    Ticket* first = *tickets.begin();
    if (best == nullptr || std::tie(tenant->virtual_tokens, first->age) <
                               std::tie(best->tenant->virtual_tokens, best->age)) {
      best = first;
    }
  }
  return IsMuchOlder(*oldest, *best) ? oldest : best;
}

bool FairQueue::Before(const Ticket& a, const Ticket& b) {
  if (a.priority != b.priority || IsMuchOlder(a, b) || IsMuchOlder(b, a)) return a.age < b.age;
  return std::tie(a.tenant->virtual_tokens, a.age) < std::tie(b.tenant->virtual_tokens, b.age);
}

FairQueue::Ahead FairQueue::AheadOf(absl::string_view tenant_name, Priority priority) const {
  Ahead ahead;
  for (int i = 0; i <= static_cast<int>(priority); ++i) {
    ahead.n_sequences += static_cast<int32_t>(classes_[i].by_age.size());
    ahead.n_tokens += classes_[i].n_tokens;
  }
  const auto it = tenants_.find(tenant_name);
  if (it != tenants_.end() && it->second->n_open > 0) {
    ahead.own_n_sequences = it->second->n_waiting;
    ahead.own_n_running = it->second->n_running;
    ahead.own_n_tokens = it->second->n_waiting_tokens;
    ahead.share = Share(*it->second);
  } else {
    const auto named = weights_.find(tenant_name);
    const double weight = named == weights_.end() ? 1 : named->second;
    ahead.share = weight / (sum_of_weights_ + weight);
  }
  return ahead;
}

double FairQueue::Share(const Tenant& tenant) const { return tenant.weight / sum_of_weights_; }

}  // namespace bora
