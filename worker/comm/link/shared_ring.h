// The memory that two ranks of one host share: a pair of single-producer single-consumer byte rings
// in a sealed memfd, one for each direction, and the flags with which a side says that it sleeps.
// How the flags and indices are used is described in shm_link.cc.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "base/host/unique_fd.h"

namespace bora {

// Bits of SharedSide::waiting: for what the sleeping side wants to be woken.
inline constexpr uint32_t kWaitsForData = 1;
inline constexpr uint32_t kWaitsForSpace = 2;

// One rank's flags. Fields that different ranks write lie on different cache lines (64 bytes), here
// and in SharedRing, so that the ranks do not take the lines from each other.
struct alignas(64) SharedSide {
  std::atomic<uint32_t> waiting;  // kWaitsFor bits while this side sleeps; 0: awake, or rung
  std::atomic<uint32_t> closed;   // 1: this side destroyed a healthy Mesh
};

// One direction. Both indices count bytes since the link was made and never wrap in practice (2^64
// bytes); the byte with index i lies at offset i % ring_bytes of the ring's data. The ring is empty
// if n_written == n_read and full if n_written == n_read + ring_bytes.
struct SharedRing {
  alignas(64) std::atomic<uint64_t> n_written;
  alignas(64) std::atomic<uint64_t> n_read;
};

// The first page of the memory. sides[0] is written by the rank with the lower id; rings[0] carries
// bytes from that rank to the other, so that rings[0].n_read is the other rank's to write. The data
// of the two rings follows after kSharedHeaderBytes, each ring_bytes long. A new memfd is all
// zeros, which is the valid initial state.
struct SharedHeader {
  SharedSide sides[2];
  SharedRing rings[2];
};
// A lock would be private to each process and protect nothing.
static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(std::atomic<uint32_t>::is_always_lock_free);
// The header takes one page, so that ring data starts on a page.
inline constexpr int64_t kSharedHeaderBytes = 4096;
static_assert(sizeof(SharedHeader) <= kSharedHeaderBytes);

// One mapping of the shared memory into this process. Move-only owner; not thread-safe, but any
// thread may use the memory itself under the rules of shm_link.cc.
class SharedMapping {
 public:
  SharedMapping() = default;
  SharedMapping(SharedMapping&& other) noexcept;
  SharedMapping& operator=(SharedMapping&& other) noexcept;
  ~SharedMapping();

  // Makes a new memfd for two rings of `ring_bytes` each, all zeros and sealed against resizing: a
  // peer that shrank it could otherwise kill this process with SIGBUS. UNAVAILABLE on failure.
  // REQUIRES: ring_bytes is a power of two and a multiple of the page size.
  static absl::StatusOr<UniqueFd> CreateMemory(int64_t ring_bytes);
  // Maps memory that CreateMemory(ring_bytes) made in this process or in the peer; the caller may
  // close `memory_fd` afterwards. INVALID_ARGUMENT if its size or its seals are not those of
  // CreateMemory, UNAVAILABLE if the kernel refuses.
  static absl::StatusOr<SharedMapping> Map(int memory_fd, int64_t ring_bytes);

  // Null if this is a default-constructed or moved-from mapping.
  SharedHeader* header() const { return static_cast<SharedHeader*>(base_); }
  // The ring_bytes() bytes of SharedHeader::rings[ring_idx], ring_idx 0 or 1.
  uint8_t* ring_data(int ring_idx) const {
    return static_cast<uint8_t*>(base_) + kSharedHeaderBytes + ring_idx * ring_bytes_;
  }
  int64_t ring_bytes() const { return ring_bytes_; }

 private:
  void* base_ = nullptr;  // null: nothing is mapped
  int64_t ring_bytes_ = 0;
};

}  // namespace bora
