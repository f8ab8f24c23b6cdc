// Which waiting sequence is served next: by priority class, with ageing, and inside a class by fair
// shares of tenants.
//
// Age. Sequences are compared by their time of arrival, to which a class adds its handicap
// (coordinator/scheduler/priority.h). A sequence of a lower class is overtaken only by sequences of
// higher classes that arrive before its handicap is over, so no sequence waits for ever.
//
// Fairness. Each tenant has a counter of the tokens that were computed for it, divided by its
// weight; an output token counts as kOutputTokenCost prompt tokens. The tenant with the lowest
// counter is served next. The counter of a tenant that comes back is raised to the lowest counter
// of the tenants that have open sequences: service that it did not use before is lost, and it does
// not lock the others out. A sequence is not overtaken by one of its class that arrives more than
// kTenantPatienceUs later, so ever new tenants starve no sequence. (The virtual token counter of
// Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024.)
//
// Names. Any client can make up tenant names, and a new name begins at the lowest counter. So at
// most kMaxUnnamedTenants tenants that the weights do not name have counters of their own, each
// until it has had no open sequence for kTenantWindowUs; all other names together are one tenant.
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

// In prompt tokens.
inline constexpr double kOutputTokenCost = 2;
inline constexpr int64_t kTenantPatienceUs = 60'000'000;
inline constexpr int32_t kMaxUnnamedTenants = 64;
inline constexpr int64_t kTenantWindowUs = 60'000'000;
// The name of the one tenant of all names that have no counter of their own. No request can have
// this name, as the names that requests give are ASCII.
inline constexpr char kOtherTenants[] = "\xff others";

// When a sequence arrived. The smaller age is the older sequence.
struct Age {
  int64_t us = 0;      // time of arrival plus the class's handicap
  uint64_t order = 0;  // decides between equal times: order of arrival

  auto operator<=>(const Age&) const = default;
};

// The age of a sequence that arrives at arrival_us.
Age AgeOf(int64_t arrival_us, Priority priority, uint64_t order);

// A client, or several, that gets one fair share. Valid while a sequence of it is open.
struct Tenant {
  std::string name;
  double weight = 1;
  double virtual_tokens = 0;     // the counter: tokens computed for it, divided by its weight
  int64_t last_use_us = 0;       // when a sequence of it last came or ended
  int32_t n_open = 0;            // sequences, waiting or not
  int32_t n_running = 0;         // sequences with a slot; kept by RunningSequences
  int32_t n_waiting = 0;         // sequences in the queue
  int64_t n_waiting_tokens = 0;  // sum over the sequences in the queue
};

// A sequence as the queue sees it. The tenant is from FairQueue::Open.
struct Ticket {
  Priority priority = Priority::kStandard;
  Age age;
  Tenant* tenant = nullptr;
  // Tokens to compute before the sequence's next token. Constant while the ticket is in the queue.
  int32_t n_waiting_tokens = 0;
};

// Whether `a` arrived so long before `b` that `b` must not overtake it.
inline bool IsMuchOlder(const Ticket& a, const Ticket& b) {
  return b.age.us - a.age.us > kTenantPatienceUs;
}

// Pure: no clock. Owned by the engine thread. Refers to tickets, which the caller owns.
class FairQueue {
 public:
  // Weights > 0 of tenants by name. A tenant that is not named has weight 1.
  explicit FairQueue(absl::flat_hash_map<std::string, double> weights)
      : weights_(std::move(weights)) {}

  // A sequence of the tenant comes to be at now_us, on the clock of arrivals. Returns the tenant
  // that is charged for it, which may be the tenant of all other names.
  Tenant* Open(absl::string_view tenant_name, int64_t now_us);
  // A sequence of the tenant ends. REQUIRES: the tenant has an open sequence.
  void Close(Tenant* tenant, int64_t now_us);

  // Puts the ticket into the queue. REQUIRES: it is not in the queue.
  void Push(Ticket* ticket);
  // Takes the ticket out of the queue, if it is in it.
  void Remove(Ticket* ticket);
  bool empty() const { return n_waiting_ == 0; }
  // The ticket whose turn it is; it stays in the queue. REQUIRES: not empty. Linear in the number
  // of waiting tenants of a class.
  Ticket* Front() const;

  // Whether `a` goes before `b`: by class and tenant, unless one of them is too old for that.
  static bool Before(const Ticket& a, const Ticket& b);

  // Work queued ahead of a sequence added now.
  struct Ahead {
    // Queued sequences of its class and higher ones, and their tokens to compute.
    int32_t n_sequences = 0;
    int64_t n_tokens = 0;
    // The same of its own tenant in all classes, and the tenant's sequences that run.
    int32_t own_n_sequences = 0;
    int32_t own_n_running = 0;
    int64_t own_n_tokens = 0;
    double share = 1;  // of its tenant, (0, 1]
  };
  Ahead AheadOf(absl::string_view tenant_name, Priority priority) const;

  // Adds tokens that were computed for the tenant to its counter.
  static void Charge(Tenant* tenant, double tokens) {
    tenant->virtual_tokens += tokens / tenant->weight;
  }
  // Tenants with a counter of their own: with open sequences, or remembered for a while.
  int64_t n_tenants() const { return static_cast<int64_t>(tenants_.size()); }
  // The tenant's part, by weight, of all tenants with open sequences, (0, 1]. REQUIRES: the tenant
  // has an open sequence.
  double Share(const Tenant& tenant) const;

 private:
  struct OlderFirst {
    bool operator()(const Ticket* a, const Ticket* b) const { return a->age < b->age; }
  };
  using Tickets = absl::btree_set<Ticket*, OlderFirst>;
  // The tickets of one priority class.
  struct Class {
    Tickets by_age;
    absl::flat_hash_map<Tenant*, Tickets> by_tenant;  // no empty sets
    int64_t n_tokens = 0;                             // sum of n_waiting_tokens
  };

  // The lowest counter of the tenants with open sequences; 0 if there are none.
  double LowestCounter() const;
  // Whether one more name may have a counter of its own. Forgets tenants that were not used lately.
  bool HasRoomForName(int64_t now_us);

  const absl::flat_hash_map<std::string, double> weights_;
  absl::flat_hash_map<std::string, std::unique_ptr<Tenant>> tenants_;
  double sum_of_weights_ = 0;  // of tenants with open sequences
  // Tenants that the weights do not name, except the tenant of all other names.
  int32_t n_unnamed_ = 0;
  std::array<Class, kNumPriorities> classes_;
  int32_t n_waiting_ = 0;  // tickets in all classes
};

}  // namespace bora
