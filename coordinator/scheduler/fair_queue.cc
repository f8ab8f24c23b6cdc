#include "coordinator/scheduler/fair_queue.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "base/check.h"

namespace bora {

Age AgeOf(int64_t arrival_us, Priority priority, uint64_t order) {
  return {arrival_us + kPriorityHandicapUs[static_cast<int>(priority)], order};
}

Tenant* FairQueue::Open(absl::string_view tenant_name, int64_t now_us) {
  const auto weight = weights_.find(tenant_name);
  if (weight == weights_.end() && !tenants_.contains(tenant_name)) {
    if (HasRoomForName(now_us)) {
      ++n_unnamed_;
    } else {
      tenant_name = kOtherTenants;
    }
  }
  std::unique_ptr<Tenant>& tenant = tenants_[tenant_name];
  if (tenant == nullptr) {
    tenant = std::make_unique<Tenant>();
    tenant->name = std::string(tenant_name);
    if (weight != weights_.end()) tenant->weight = weight->second;
  }
  if (tenant->n_open == 0) {
    tenant->virtual_tokens = std::max(tenant->virtual_tokens, LowestCounter());
    sum_of_weights_ += tenant->weight;
  }
  ++tenant->n_open;
  tenant->last_use_us = std::max(tenant->last_use_us, now_us);
  return tenant.get();
}

// The tenant is remembered, so that no tenant gets rid of its counter by leaving for a moment.
void FairQueue::Close(Tenant* tenant, int64_t now_us) {
  CHECK_GT(tenant->n_open, 0);
  tenant->last_use_us = std::max(tenant->last_use_us, now_us);
  if (--tenant->n_open == 0) sum_of_weights_ -= tenant->weight;
}

bool FairQueue::HasRoomForName(int64_t now_us) {
  if (n_unnamed_ < kMaxUnnamedTenants) return true;
  absl::erase_if(tenants_, [&](const auto& entry) {
    const Tenant& tenant = *entry.second;
    const bool forgotten = tenant.n_open == 0 && tenant.name != kOtherTenants &&
                           now_us - tenant.last_use_us > kTenantWindowUs &&
                           !weights_.contains(tenant.name);
    n_unnamed_ -= forgotten ? 1 : 0;
    return forgotten;
  });
  return n_unnamed_ < kMaxUnnamedTenants;
}

double FairQueue::LowestCounter() const {
  std::optional<double> lowest;
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
  // Its handicap was over when the sequences of higher classes arrived.
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
  auto it = tenants_.find(tenant_name);
  if (it == tenants_.end() && n_unnamed_ >= kMaxUnnamedTenants && !weights_.contains(tenant_name)) {
    it = tenants_.find(kOtherTenants);
  }
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
