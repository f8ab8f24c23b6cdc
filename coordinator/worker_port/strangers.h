// The streams of the worker port whose peers have not proved yet that they know the credential.
// Their number is bounded. When the bound is reached, a new stream displaces an old one instead of
// being refused, so that strangers cannot keep a worker out.
#pragma once

#include <cstddef>
#include <list>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "base/check.h"

namespace bora {

// A bounded collection of streams, each from a host. Stream: a type with == (a shared pointer).
// Pure. Owned by one thread at a time.
template <typename Stream>
class Strangers {
 public:
  // REQUIRES: max_streams > 0.
  explicit Strangers(size_t max_streams) : max_streams_(max_streams) {
    CHECK_GT(max_streams, size_t{0});
  }

  // Adds a stream from `host`. If there are max_streams already, one of them is removed and
  // returned: the oldest stream of the host that has the most, so that a host that floods displaces
  // its own streams.
  std::optional<Stream> Add(Stream stream, const std::string& host) {
    std::optional<Stream> displaced;
    if (streams_.size() >= max_streams_) displaced = TakeOldestOfBusiestHost();
    streams_.push_back({std::move(stream), host});
    ++n_by_host_[host];
    return displaced;
  }

  // Removes the stream. Returns false if it is not in the collection, for example because it was
  // displaced.
  bool Remove(const Stream& stream) {
    for (auto it = streams_.begin(); it != streams_.end(); ++it) {
      if (!(it->stream == stream)) continue;
      Erase(it);
      return true;
    }
    return false;
  }

  size_t size() const { return streams_.size(); }

 private:
  struct Entry {
    Stream stream;
    std::string host;
  };

  void Erase(typename std::list<Entry>::iterator it) {
    const auto count = n_by_host_.find(it->host);
    if (--count->second == 0) n_by_host_.erase(count);
    streams_.erase(it);
  }

  // Linear in the number of streams, which max_streams_ bounds.
  Stream TakeOldestOfBusiestHost() {
    auto victim = streams_.begin();
    for (auto it = streams_.begin(); it != streams_.end(); ++it) {
      if (n_by_host_.at(it->host) > n_by_host_.at(victim->host)) victim = it;
    }
    Stream stream = std::move(victim->stream);
    Erase(victim);
    return stream;
  }

  const size_t max_streams_;
  std::list<Entry> streams_;                         // oldest first
  absl::flat_hash_map<std::string, int> n_by_host_;  // streams of each host, > 0
};

}  // namespace bora
