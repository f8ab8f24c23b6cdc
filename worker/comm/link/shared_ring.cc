#include "worker/comm/link/shared_ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/comm/link/socket_util.h"

namespace bora {
namespace {

// No process can change the size any more, or take these seals away (F_SEAL_SEAL).
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

int64_t TotalBytes(int64_t ring_bytes) { return kSharedHeaderBytes + 2 * ring_bytes; }

}  // namespace

SharedMapping::SharedMapping(SharedMapping&& other) noexcept { *this = std::move(other); }

SharedMapping& SharedMapping::operator=(SharedMapping&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(ring_bytes_, other.ring_bytes_);
  return *this;
}

SharedMapping::~SharedMapping() {
  if (base_ != nullptr) munmap(base_, static_cast<size_t>(TotalBytes(ring_bytes_)));
}

absl::StatusOr<UniqueFd> SharedMapping::CreateMemory(int64_t ring_bytes) {
  UniqueFd fd(memfd_create("bora-link", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoStatus("memfd_create", errno);
  if (ftruncate(fd.get(), TotalBytes(ring_bytes)) != 0) return ErrnoStatus("ftruncate", errno);
  if (fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) return ErrnoStatus("F_ADD_SEALS", errno);
  return fd;
}

absl::StatusOr<SharedMapping> SharedMapping::Map(int memory_fd, int64_t ring_bytes) {
  struct stat info = {};
  if (fstat(memory_fd, &info) != 0) return ErrnoStatus("fstat", errno);
  if (info.st_size != TotalBytes(ring_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("shared memory of ", info.st_size,
                                                   " bytes, expected ", TotalBytes(ring_bytes)));
  }
  const int seals = fcntl(memory_fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) {
    return absl::InvalidArgumentError("shared memory is not sealed against resizing");
  }
  // Populated now, so that no step pays for page faults.
  void* base = mmap(nullptr, static_cast<size_t>(TotalBytes(ring_bytes)), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_POPULATE, memory_fd, 0);
  if (base == MAP_FAILED) return ErrnoStatus("mmap", errno);
  SharedMapping mapping;
  mapping.base_ = base;
  mapping.ring_bytes_ = ring_bytes;
  return mapping;
}

}  // namespace bora
