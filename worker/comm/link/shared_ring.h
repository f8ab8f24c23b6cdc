// The memory that two ranks of one host share: a pair of single-producer single-consumer byte rings
// in a sealed memfd, one for each direction, and the flags with which a side says that it sleeps.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "base/host/unique_fd.h"

namespace bora {

// Bits of SharedSide::waiting.
inline constexpr uint32_t kWaitsForData = 1;
inline constexpr uint32_t kWaitsForSpace = 2;

// Fields are one cache line apart when different ranks write them.
struct alignas(64) SharedSide {
  std::atomic<uint32_t> waiting;  // what the sleeping side wants its doorbell rung for; 0: awake
  std::atomic<uint32_t> closed;   // 1: this side destroyed a healthy Mesh
};

// Bytes written and read since the beginning; they never wrap in practice (2^64 bytes).
struct SharedRing {
  alignas(64) std::atomic<uint64_t> n_written;
  alignas(64) std::atomic<uint64_t> n_read;
};

// sides[0] and rings[0] are written by the lower rank (rings[i].n_read by the other side). The data
// of the two rings follows, each ring_bytes long. A new memfd is all zeros, which is the valid
// initial state.
struct SharedHeader {
  SharedSide sides[2];
  SharedRing rings[2];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(std::atomic<uint32_t>::is_always_lock_free);
// The first page holds the header, so that ring data starts on a page.
inline constexpr int64_t kSharedHeaderBytes = 4096;
static_assert(sizeof(SharedHeader) <= kSharedHeaderBytes);

// One mapping of the shared memory. Move-only owner.
class SharedMapping {
 public:
  SharedMapping() = default;
  SharedMapping(SharedMapping&& other) noexcept;
  SharedMapping& operator=(SharedMapping&& other) noexcept;
  ~SharedMapping();

  // A new memfd of the right size, sealed against resizing: a peer that shrank it could otherwise
  // kill this process with SIGBUS.
  static absl::StatusOr<UniqueFd> CreateMemory(int64_t ring_bytes);
  // Maps what CreateMemory made, here or in the peer, after checking its size and seals.
  static absl::StatusOr<SharedMapping> Map(int memory_fd, int64_t ring_bytes);

  SharedHeader* header() const { return static_cast<SharedHeader*>(base_); }
  uint8_t* ring_data(int ring_idx) const {
    return static_cast<uint8_t*>(base_) + kSharedHeaderBytes + ring_idx * ring_bytes_;
  }
  int64_t ring_bytes() const { return ring_bytes_; }

 private:
  void* base_ = nullptr;
  int64_t ring_bytes_ = 0;
};

}  // namespace bora
