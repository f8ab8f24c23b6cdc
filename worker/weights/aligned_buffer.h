// One block of memory for weights, KV cache or activations: obtained at load, never during a step.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Returns memory to where it came from: mapped_bytes of address space, or the heap when that is 0.
struct AlignedDelete {
  int64_t mapped_bytes = 0;
  void operator()(uint8_t* data) const;
};

// Owns its memory; movable. Aligned to a cache line, and to a huge page when it is at least that
// large, so that the kernel can back weights with huge pages. Contents are zeros. Owned by one
// thread.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;

  // RESOURCE_EXHAUSTED names `what` and the bytes that could not be had. bytes >= 0. The machine
  // may find the pages only when they are first touched, each by the thread that touches it.
  static absl::StatusOr<AlignedBuffer> Allocate(int64_t bytes, absl::string_view what);

  // Allocate with every page there, so that memory which does not exist is missed now and not in a
  // step. RESOURCE_EXHAUSTED names both numbers when more is asked for than AvailableMemoryBytes.
  // Several threads ask for the pages of a large buffer: one zeroes 2-4 GB a second.
  static absl::StatusOr<AlignedBuffer> AllocatePopulated(int64_t bytes, absl::string_view what);

  uint8_t* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<uint8_t, AlignedDelete> data_;
  int64_t bytes_ = 0;
};

}  // namespace bora
