// Bounds the number of sequences that wait for a slot, and keeps the flood of one tenant from
// filling the queue. A request counts with as many sequences as it has candidates, since each of
// them takes memory and a slot.
//
// The queue takes `limit` sequences of any tenants. A quarter more are taken from tenants that have
// less than an equal part of `limit` waiting, so that a tenant that sends little is admitted while
// another has filled the queue. An empty queue takes any one request: otherwise a request of more
// than `limit` candidates could never be served.
//
// Tenants without a weight have names that a client may invent. The first kMaxUnnamedTenants of
// them that wait have an account each; all others share one (coordinator/scheduler/fair_queue.h).
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
  // limit: sequences, >= 0. `is_named` tells whether a tenant has a weight; it is called on any
  // thread.
  QueueQuota(int32_t limit, std::function<bool(absl::string_view)> is_named)
      : limit_(limit), is_named_(std::move(is_named)) {}

  struct Answer {
    bool taken = false;
    int32_t n_waiting = 0;  // sequences in the queue before this call
    std::string account;    // the tenant that the sequences are counted for
  };
  // Counts n > 0 sequences of a tenant as waiting: all of them or none.
  Answer Take(absl::string_view tenant, int32_t n);
  // n sequences of the account do not wait any more. REQUIRES: Take has counted them.
  void Give(absl::string_view account, int32_t n);

 private:
  const int32_t limit_;
  const std::function<bool(absl::string_view)> is_named_;
  absl::Mutex mutex_;
  int32_t n_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int32_t> by_account_ ABSL_GUARDED_BY(mutex_);  // > 0
  int32_t n_unnamed_ ABSL_GUARDED_BY(mutex_) = 0;  // accounts of tenants without a weight
};

}  // namespace bora
