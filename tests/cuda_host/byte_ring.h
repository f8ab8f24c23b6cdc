// A ring of bytes from one thread to another, in memory that their processes may share. All zeros
// is a valid empty ring.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

namespace bora::cuda_host {

struct ByteRing {
  static constexpr uint64_t kBytes = uint64_t{256} << 10;

  // Bytes since the beginning, a cache line each: they are written by different threads.
  alignas(64) std::atomic<uint64_t> n_written;
  alignas(64) std::atomic<uint64_t> n_read;
  alignas(64) uint8_t bytes[kBytes];

  // Takes as many bytes as there is room for, and returns how many. Of the writing thread.
  uint64_t Write(const uint8_t* data, uint64_t n_bytes) {
    const uint64_t begin = n_written.load(std::memory_order_relaxed);
    const uint64_t n = std::min(n_bytes, kBytes - (begin - n_read.load(std::memory_order_acquire)));
    const uint64_t n_first = std::min(n, kBytes - begin % kBytes);
    if (n == 0) return 0;
    std::memcpy(bytes + begin % kBytes, data, n_first);
    std::memcpy(bytes, data + n_first, n - n_first);
    n_written.store(begin + n, std::memory_order_release);
    return n;
  }

  // Gives as many bytes as there are, up to n_bytes, and returns how many. Of the reading thread.
  uint64_t Read(uint8_t* data, uint64_t n_bytes) {
    const uint64_t begin = n_read.load(std::memory_order_relaxed);
    const uint64_t n = std::min(n_bytes, n_written.load(std::memory_order_acquire) - begin);
    const uint64_t n_first = std::min(n, kBytes - begin % kBytes);
    if (n == 0) return 0;
    std::memcpy(data, bytes + begin % kBytes, n_first);
    std::memcpy(data + n_first, bytes, n - n_first);
    n_read.store(begin + n, std::memory_order_release);
    return n;
  }
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

}  // namespace bora::cuda_host
