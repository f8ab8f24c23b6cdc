// A block of host memory for weights, KV cache or activations. It is allocated when a model is
// loaded or an epoch begins, never during a step.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Deleter of AlignedBuffer's memory: unmaps mapped_bytes bytes, or if that is 0 gives memory back
// to the heap.
struct AlignedDelete {
  int64_t mapped_bytes = 0;
  void operator()(uint8_t* data) const;
};

// Owns a block of memory that is zero at first. The block is aligned to a cache line (64 bytes),
// and to a huge page (2 MiB) if it is at least that large, so that the kernel can back it with huge
// pages. Movable; empty by default. Owned by one thread; the memory itself is not guarded.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;

  // Returns a buffer of `bytes` bytes. The kernel may provide its pages only when they are first
  // touched. RESOURCE_EXHAUSTED names `what` (the purpose, for messages) and `bytes`. REQUIRES:
  // bytes >= 0 (CHECK).
  static absl::StatusOr<AlignedBuffer> Allocate(int64_t bytes, absl::string_view what);

  // Like Allocate, except that the kernel provides every page now, so that a lack of memory is an
  // error here and not a crash in a step. RESOURCE_EXHAUSTED names `bytes` and the available bytes
  // if `bytes` exceeds AvailableMemoryBytes(). Up to 8 threads, which end before the return, touch
  // the pages of a large buffer, since one thread zeroes only 2-4 GB per second.
  static absl::StatusOr<AlignedBuffer> AllocatePopulated(int64_t bytes, absl::string_view what);

  // The memory [bytes()]; null if bytes() is 0.
  uint8_t* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<uint8_t, AlignedDelete> data_;
  int64_t bytes_ = 0;
};

}  // namespace bora
