// One block of memory for weights, KV cache or activations: obtained at load, never during a step.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Deleter of memory that was obtained with this alignment.
struct AlignedDelete {
  int64_t alignment = 0;
  void operator()(uint8_t* data) const;
};

// Owns its memory; movable. Aligned to a cache line, and to a huge page when it is at least that
// large, so that the kernel can back weights with huge pages. Contents are uninitialised. Owned by
// one thread.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;

  // RESOURCE_EXHAUSTED names `what` and the bytes that could not be had. bytes >= 0.
  static absl::StatusOr<AlignedBuffer> Allocate(int64_t bytes, absl::string_view what);

  uint8_t* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<uint8_t, AlignedDelete> data_;
  int64_t bytes_ = 0;
};

}  // namespace bora
