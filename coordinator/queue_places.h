// How many sequences may wait, and that one tenant's flood does not keep the others out. A request
// waits with as many sequences as it has candidates, since each of them takes memory and a slot.
//
// `limit` places are for anybody. A quarter more are for tenants that have less than an equal part
// of `limit` waiting, so that a tenant that sends little finds a place when another has taken all.
// An empty queue takes any one request, so that none can be too large for ever.
#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace bora {

// Thread-safe.
class QueuePlaces {
 public:
  // limit >= 0.
  explicit QueuePlaces(int32_t limit) : limit_(limit) {}

  struct Answer {
    bool taken = false;
    int32_t n_waiting = 0;  // sequences, before the places were asked for
  };
  // Places for n > 0 sequences of a tenant: all or none.
  Answer Take(absl::string_view tenant, int32_t n);
  // Gives n of the tenant's places back (CHECK: it has them).
  void Give(absl::string_view tenant, int32_t n);

 private:
  const int32_t limit_;
  absl::Mutex mutex_;
  int32_t n_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int32_t> by_tenant_ ABSL_GUARDED_BY(mutex_);  // > 0
};

}  // namespace bora
