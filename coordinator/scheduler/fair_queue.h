// Who is served next: by priority class, with ageing, and inside a class by fair shares of tenants.
//
// Age. A lower class counts as if it had come later by its handicap; sequences are compared by that
// time. A sequence of a lower class is overtaken by those of higher classes only as long as they
// come before its handicap is over: nobody waits for ever.
//
// Fairness. Each tenant has a counter of tokens that were computed for it, divided by its weight;
// an output token counts as kOutputTokenCost prompt tokens. The tenant with the lowest counter is
// served next. Who has not been there for a while begins at the lowest counter of those who are:
// what it did not use before is lost, and it does not lock them out. Nobody is overtaken by those
// who came more than kTenantPatienceUs later, so that ever new tenants starve nobody. (The virtual
// token counter of Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024.)
//
// Names. Anybody can make up names, and a new one begins at the lowest counter. So only
// kMaxUnnamedTenants of those that the weights do not name have a counter of their own, until they
// have had no sequence for kTenantWindowUs; all other names together are one tenant.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "coordinator/scheduler/priority.h"

namespace bora {

inline constexpr double kOutputTokenCost = 2;
inline constexpr int64_t kTenantPatienceUs = 60'000'000;
inline constexpr int32_t kMaxUnnamedTenants = 64;
inline constexpr int64_t kTenantWindowUs = 60'000'000;
// The name of the tenant of all names that have no counter of their own; no request's name is so.
inline constexpr char kOtherTenants[] = "\xff others";

// The smaller, the older.
struct Age {
  int64_t us = 0;      // of arrival, the class's handicap included
  uint64_t order = 0;  // of arrival among equals

  auto operator<=>(const Age&) const = default;
};

// Of a sequence that comes at arrival_us.
Age AgeOf(int64_t arrival_us, Priority priority, uint64_t order);

// Somebody whose sequences share. Valid while a sequence of its own is open.
struct Tenant {
  std::string name;
  double weight = 1;
  double virtual_tokens = 0;  // computed for it, by weight
  int64_t last_use_us = 0;    // when a sequence of it last came or ended
  int32_t n_open = 0;         // sequences, waiting or not
  int32_t n_running = 0;      // kept by the scheduler
  int32_t n_waiting = 0;
  int64_t n_waiting_tokens = 0;
};

// What the queue orders. The tenant is from FairQueue::Open.
struct Ticket {
  Priority priority = Priority::kStandard;
  Age age;
  Tenant* tenant = nullptr;
  int32_t n_waiting_tokens = 0;  // to compute before its next token; not changed in the queue
};

// Whether `a` came so long before `b` that it is not overtaken.
inline bool IsMuchOlder(const Ticket& a, const Ticket& b) {
  return b.age.us - a.age.us > kTenantPatienceUs;
}

// Pure. Owned by the engine thread.
class FairQueue {
 public:
  // Weights > 0 of tenants by name; those that are not named have 1.
  explicit FairQueue(absl::flat_hash_map<std::string, double> weights)
      : weights_(std::move(weights)) {}

  // A sequence of the tenant comes to be, or ends, at now_us on the clock of arrivals. Open returns
  // the tenant that counts for it, which may be that of all other names.
  Tenant* Open(absl::string_view tenant_name, int64_t now_us);
  void Close(Tenant* tenant, int64_t now_us);

  // Into and out of the queue. A ticket is in it once (CHECK); removing one that is not is fine.
  void Push(Ticket* ticket);
  void Remove(Ticket* ticket);
  bool empty() const { return n_waiting_ == 0; }
  // Whose turn it is. Not empty (CHECK).
  Ticket* Front() const;

  // Whether a goes before b: by class and tenant, unless one is aged.
  static bool Before(const Ticket& a, const Ticket& b);

  // What waits before a sequence that comes now.
  struct Ahead {
    int32_t n_sequences = 0;  // of its class and higher ones
    int64_t n_tokens = 0;
    int32_t own_n_sequences = 0;  // of its tenant
    int32_t own_n_running = 0;
    int64_t own_n_tokens = 0;
    double share = 1;  // its tenant's
  };
  Ahead AheadOf(absl::string_view tenant_name, Priority priority) const;

  // So many tokens were computed for the tenant.
  static void Charge(Tenant* tenant, double tokens) {
    tenant->virtual_tokens += tokens / tenant->weight;
  }
  // Those with open sequences and those that are remembered.
  int64_t n_tenants() const { return static_cast<int64_t>(tenants_.size()); }
  // Of all tenants with open sequences, this one's part by weight, (0, 1].
  double Share(const Tenant& tenant) const;

 private:
  struct OlderFirst {
    bool operator()(const Ticket* a, const Ticket* b) const { return a->age < b->age; }
  };
  using Tickets = absl::btree_set<Ticket*, OlderFirst>;
  // One priority class.
  struct Class {
    Tickets by_age;
    absl::flat_hash_map<Tenant*, Tickets> by_tenant;  // those that wait
    int64_t n_tokens = 0;
  };

  // Of tenants with open sequences; 0 without.
  double LowestCounter() const;
  // Whether one more name may have a counter of its own; forgets those that were not used lately.
  bool HasRoomForName(int64_t now_us);

  const absl::flat_hash_map<std::string, double> weights_;
  absl::flat_hash_map<std::string, std::unique_ptr<Tenant>> tenants_;
  double sum_of_weights_ = 0;  // of tenants with open sequences
  int32_t n_unnamed_ = 0;      // tenants that the weights do not name, but for that of all others
  std::array<Class, kNumPriorities> classes_;
  int32_t n_waiting_ = 0;
};

}  // namespace bora
