#include "worker/weights/aligned_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/host/host_cpus.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "worker/weights/host_memory.h"

#ifndef MADV_POPULATE_WRITE  // Linux 5.14; the headers may be older than the kernel
#define MADV_POPULATE_WRITE 23
#endif

namespace bora {
namespace {

constexpr int64_t kCacheLineBytes = 64;
constexpr int64_t kPageBytes = 4096;
constexpr int64_t kHugePageBytes = int64_t{2} << 20;  // x86-64 and arm64 with 4 KiB pages

// Bytes that a thread populates with one call, which takes about 20 ms of zeroing.
constexpr int64_t kPopulateBytes = int64_t{64} << 20;
// More threads do not zero faster: memory bandwidth is used up.
constexpr int64_t kMaxPopulateThreads = 8;

// RESOURCE_EXHAUSTED for a request that the kernel refused.
absl::Status NotAvailable(absl::string_view what, int64_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": ", bytes, " bytes of memory are not available"));
}

// Maps `bytes` bytes, a multiple of kHugePageBytes, at an address that is one too; nullptr if the
// kernel refuses. mmap aligns to small pages only, so it maps one huge page more and unmaps what is
// left over on both sides.
uint8_t* MapHugePages(int64_t bytes) {
  const int64_t with_slack = bytes + kHugePageBytes;
  void* const base = mmap(nullptr, static_cast<size_t>(with_slack), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  const auto address = reinterpret_cast<uintptr_t>(base);
  const int64_t before =
      (kHugePageBytes - static_cast<int64_t>(address % kHugePageBytes)) % kHugePageBytes;
  const int64_t after = with_slack - before - bytes;
  auto* const data = static_cast<uint8_t*>(base) + before;
  if (before > 0) munmap(base, static_cast<size_t>(before));
  if (after > 0) munmap(data + bytes, static_cast<size_t>(after));
  // Advice only: without huge pages the same memory is merely slower.
  madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return data;
}

// Makes the kernel provide all pages of [data, data + bytes) now; returns false if there is not
// enough memory.
bool Populate(uint8_t* data, int64_t bytes) {
  int result = 0;
  do {
    result = madvise(data, static_cast<size_t>(bytes), MADV_POPULATE_WRITE);
  } while (result != 0 && (errno == EINTR || errno == EAGAIN));
  if (result == 0) return true;
  if (errno != EINVAL) return false;
  // Kernels before Linux 5.14 have no MADV_POPULATE_WRITE. Writing a byte of each page makes them
  // provide it; the bytes are zero already.
  for (int64_t at = 0; at < bytes; at += kPageBytes) {
    *static_cast<volatile uint8_t*>(data + at) = 0;
  }
  return true;
}

}  // namespace

void AlignedDelete::operator()(uint8_t* data) const {
  if (mapped_bytes > 0) {
    munmap(data, static_cast<size_t>(mapped_bytes));
  } else {
    ::operator delete(data, std::align_val_t(kCacheLineBytes));
  }
}

absl::StatusOr<AlignedBuffer> AlignedBuffer::Allocate(int64_t bytes, absl::string_view what) {
  CHECK_GE(bytes, 0) << what;
  AlignedBuffer buffer;
  buffer.bytes_ = bytes;
  if (bytes == 0) return buffer;
  uint8_t* data = nullptr;
  int64_t mapped_bytes = 0;
  if (bytes < kHugePageBytes) {
    data = static_cast<uint8_t*>(::operator new(static_cast<size_t>(bytes),
                                                std::align_val_t(kCacheLineBytes), std::nothrow));
    if (data != nullptr) std::memset(data, 0, static_cast<size_t>(bytes));
  } else if (bytes <= INT64_MAX - 2 * kHugePageBytes) {
    mapped_bytes = RoundUp(bytes, kHugePageBytes);
    data = MapHugePages(mapped_bytes);
  }
  if (data == nullptr) return NotAvailable(what, bytes);
  buffer.data_ =
      std::unique_ptr<uint8_t, AlignedDelete>(data, AlignedDelete{.mapped_bytes = mapped_bytes});
  return buffer;
}

absl::StatusOr<AlignedBuffer> AlignedBuffer::AllocatePopulated(int64_t bytes,
                                                               absl::string_view what) {
  // A process that touches more memory than its control group's limit is killed by the kernel: it
  // gets no error. So the limit is checked before any page is touched.
  const int64_t available_bytes = AvailableMemoryBytes();
  if (bytes > available_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": ", bytes, " bytes are needed, ",
                                                     available_bytes, " are available (",
                                                     MemoryBoundText(), ")"));
  }
  ASSIGN_OR_RETURN(AlignedBuffer buffer, Allocate(bytes, what));
  // 0 for memory of the heap: Allocate has written all its pages.
  const int64_t mapped_bytes = buffer.data_.get_deleter().mapped_bytes;
  const int64_t n_parts = CeilDiv(mapped_bytes, kPopulateBytes);
  std::atomic<int64_t> next{0};
  std::atomic<bool> is_short{false};
  // Takes parts until none is left. Runs on all threads.
  const auto populate = [&] {
    for (int64_t i = next++; i < n_parts && !is_short; i = next++) {
      const int64_t begin = i * kPopulateBytes;
      const int64_t n_bytes = std::min(kPopulateBytes, mapped_bytes - begin);
      if (!Populate(buffer.data() + begin, n_bytes)) is_short = true;
    }
  };
  const int64_t n_threads = std::min<int64_t>({n_parts, UsableCpuCount(), kMaxPopulateThreads});
  std::vector<std::thread> helpers;
  for (int64_t i = 1; i < n_threads; ++i) helpers.emplace_back(populate);
  populate();
  for (std::thread& helper : helpers) helper.join();
  if (is_short) return NotAvailable(what, bytes);
  return buffer;
}

}  // namespace bora
