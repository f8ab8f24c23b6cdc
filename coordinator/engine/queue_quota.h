// Bounds the number of sequences that wait for a slot, and keeps one tenant from taking the whole
// queue. A request counts as many sequences as it has candidates, since each of them takes memory
// and a slot.
//
// The queue takes up to `limit` sequences of any tenants. Beyond that, up to limit / 4 more are
// taken from tenants that, with the new request, have no more than an equal part of `limit`
// waiting: so a tenant that sends little is admitted although another has filled the queue. An
// empty queue takes any one request: otherwise a request of more than `limit` candidates could
// never be served.
//
// Sequences are counted by account. A tenant with a weight has its own account. The names of all
// other tenants may be inventions of a client: the first kMaxUnnamedTenants of them that wait have
// an account each, and the rest share one (coordinator/scheduler/fair_queue.h).
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
  // limit: sequences, >= 0. `is_named` returns whether a tenant has a weight; it is called on the
  // threads of Take and Give and must be thread-safe.
  QueueQuota(int32_t limit, std::function<bool(absl::string_view)> is_named)
      : limit_(limit), is_named_(std::move(is_named)) {}

  struct Answer {
    bool taken = false;
    int32_t n_waiting = 0;  // sequences in the queue before this call, of all tenants
    std::string account;    // the account to Give the sequences back to; empty unless taken
  };
  // Counts n sequences of a tenant as waiting, if there is room for all of them. REQUIRES: n > 0.
  Answer Take(absl::string_view tenant, int32_t n);
  // Counts n sequences of the account as waiting no more, because they have a slot or have ended.
  // REQUIRES: Take has counted them for this account.
  void Give(absl::string_view account, int32_t n);

 private:
  const int32_t limit_;
  const std::function<bool(absl::string_view)> is_named_;
  absl::Mutex mutex_;
  int32_t n_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  // Waiting sequences of each account, > 0.
  absl::flat_hash_map<std::string, int32_t> by_account_ ABSL_GUARDED_BY(mutex_);
  int32_t n_unnamed_ ABSL_GUARDED_BY(mutex_) = 0;  // accounts of tenants without a weight
};

}  // namespace bora
