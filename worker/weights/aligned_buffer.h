// One block of memory for weights, KV cache or activations: obtained at load, never during a step.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Frees memory: mapped_bytes of address space, or memory of the heap if that is 0.
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

  // RESOURCE_EXHAUSTED names `what` and the bytes that could not be had. REQUIRES: bytes >= 0. The
  // kernel may provide pages only when they are first touched.
  static absl::StatusOr<AlignedBuffer> Allocate(int64_t bytes, absl::string_view what);

  // As Allocate, with every page provided now, so that a lack of memory is an error here and not in
  // a step. RESOURCE_EXHAUSTED names both numbers if `bytes` exceeds AvailableMemoryBytes. Several
  // threads touch the pages of a large buffer: one thread zeroes 2-4 GB a second.
  static absl::StatusOr<AlignedBuffer> AllocatePopulated(int64_t bytes, absl::string_view what);

  uint8_t* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<uint8_t, AlignedDelete> data_;
  int64_t bytes_ = 0;
};

}  // namespace bora
