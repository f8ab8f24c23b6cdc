// How many sequences may wait, and that one tenant's flood does not keep the others out. A request
// waits with as many sequences as it has candidates, since each of them takes memory and a slot.
//
// `limit` places are for anybody. A quarter more are for tenants that have less than an equal part
// of `limit` waiting, so that a tenant that sends little finds a place when another has taken all.
// An empty queue takes any one request, so that none can be too large for ever.
//
// Names that anybody can make up are not tenants for that: of those that have no weight
// kMaxUnnamedTenants that wait count for themselves, all others together as one (fair_queue.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace bora {

// Thread-safe.
class QueueQuota {
 public:
  // limit >= 0. `is_named` says of a tenant whether it has a weight; it is called on any thread.
  QueueQuota(int32_t limit, std::function<bool(absl::string_view)> is_named)
      : limit_(limit), is_named_(std::move(is_named)) {}

  struct Answer {
    bool taken = false;
    int32_t n_waiting = 0;  // sequences, before the places were asked for
    std::string account;    // the tenant that they are counted for
  };
  // Places for n > 0 sequences of a tenant: all or none.
  Answer Take(absl::string_view tenant, int32_t n);
  // Gives n places back of those that Take counted for the account (CHECK: it has them).
  void Give(absl::string_view account, int32_t n);

 private:
  const int32_t limit_;
  const std::function<bool(absl::string_view)> is_named_;
  absl::Mutex mutex_;
  int32_t n_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int32_t> by_account_ ABSL_GUARDED_BY(mutex_);  // > 0
  int32_t n_unnamed_ ABSL_GUARDED_BY(mutex_) = 0;  // accounts that are not named
};

}  // namespace bora
