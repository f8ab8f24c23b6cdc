// The streams of the worker port that have not proved the credential yet. Their number is bounded,
// and a new one displaces another when the bound is reached: strangers never keep a worker out.
#pragma once

#include <cstddef>
#include <list>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "base/check.h"

namespace bora {

// Pure. Owned by one thread at a time.
template <typename Stream>
class Strangers {
 public:
  // max_streams > 0.
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

  // Removes the stream; false if it is not, or no longer, in the collection.
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
  std::list<Entry> streams_;  // oldest first
  absl::flat_hash_map<std::string, int> n_by_host_;
};

}  // namespace bora
