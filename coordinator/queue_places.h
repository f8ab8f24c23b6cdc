// How many requests may wait, and that one tenant's flood does not keep the others out.
//
// `limit` places are for anybody. A quarter more are for tenants that have less than an equal part
// of `limit` waiting, so that who sends little finds a place when somebody else has taken all.
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

  // What was there when a place was asked for.
  struct Answer {
    bool taken = false;
    int32_t n_waiting = 0;
  };
  Answer Take(absl::string_view tenant);
  void Give(absl::string_view tenant);

 private:
  const int32_t limit_;
  absl::Mutex mutex_;
  int32_t n_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<std::string, int32_t> by_tenant_ ABSL_GUARDED_BY(mutex_);  // > 0
};

}  // namespace bora
