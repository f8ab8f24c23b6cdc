#include "worker/aligned_buffer.h"

#include <sys/mman.h>

#include <new>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace bora {
namespace {

constexpr int64_t kCacheLineBytes = 64;
constexpr int64_t kHugePageBytes = int64_t{2} << 20;  // x86-64 and arm64 with 4 KiB pages

}  // namespace

void AlignedDelete::operator()(uint8_t* data) const {
  ::operator delete(data, std::align_val_t(alignment));
}

absl::StatusOr<AlignedBuffer> AlignedBuffer::Allocate(int64_t bytes, absl::string_view what) {
  CHECK_GE(bytes, 0) << what;
  AlignedBuffer buffer;
  buffer.bytes_ = bytes;
  if (bytes == 0) return buffer;
  const int64_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : kCacheLineBytes;
  void* data =
      ::operator new(static_cast<size_t>(bytes), std::align_val_t(alignment), std::nothrow);
  if (data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, ": ", bytes, " bytes of memory are not available"));
  }
  // Advice only: without huge pages the same memory is merely slower.
  if (bytes >= kHugePageBytes) madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  buffer.data_ = std::unique_ptr<uint8_t, AlignedDelete>(static_cast<uint8_t*>(data),
                                                         AlignedDelete{alignment});
  return buffer;
}

}  // namespace bora
