#include "tests/cuda_host/async.h"

#include <cstring>
#include <string>
#include <vector>

#include "tests/cuda_host/ptx.h"
#include "tests/cuda_host/race.h"

namespace bora::cuda_host {
namespace {

struct Copy {
  void* to;
  const void* from;
  int n_bytes;
  const void* pc;
};

constexpr int kCopyBytes = 16;

struct ThreadCopies {
  std::vector<std::vector<Copy>> groups;  // committed and not waited for, oldest first
  std::vector<Copy> open;
};
std::vector<ThreadCopies> copies;  // [n_threads]

void Perform(const Copy& copy) {
  Unpoison(copy.to, kCopyBytes);
  RecordRead(CurrentThread(), copy.from, copy.n_bytes, copy.pc);
  RecordWrite(CurrentThread(), copy.to, kCopyBytes, copy.pc);
  auto* to = static_cast<uint8_t*>(copy.to);
  std::memcpy(to, copy.from, static_cast<size_t>(copy.n_bytes));
  std::memset(to + copy.n_bytes, 0, static_cast<size_t>(kCopyBytes - copy.n_bytes));
}

bool IsAligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kCopyBytes == 0;
}

}  // namespace

void BeginCopies(int n_threads) { copies.assign(static_cast<size_t>(n_threads), ThreadCopies()); }

void CpAsync(void* shared, const void* global, int n_bytes, Place place) {
  if (n_bytes < 0 || n_bytes > kCopyBytes) {
    Fail(place, "cp.async of " + std::to_string(n_bytes) + " bytes");
  }
  if (!IsAligned(shared) || !IsAligned(global)) Fail(place, "cp.async is not 16-byte aligned");
  if (!InSharedArray(shared, kCopyBytes)) Fail(place, "cp.async does not go to a shared array");
  if (FirstPoisoned(shared, kCopyBytes) != nullptr) {
    Fail(place, "cp.async to where another copy is in flight");
  }
  if (n_bytes > 0 && FirstPoisoned(global, n_bytes) != nullptr) {
    Fail(place, "cp.async reads outside of its source");
  }
  const Copy copy = {shared, global, n_bytes, __builtin_return_address(0)};
  if (run_options().eager_copies) {
    Perform(copy);
  } else {
    Poison(shared, kCopyBytes);
    copies[CurrentThread()].open.push_back(copy);
  }
}

void CpAsyncCommit() {
  ThreadCopies& mine = copies[CurrentThread()];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}

void CpAsyncWait(int n_newest) {
  std::vector<std::vector<Copy>>& groups = copies[CurrentThread()].groups;
  while (static_cast<int>(groups.size()) > n_newest) {
    for (const Copy& copy : groups.front()) Perform(copy);
    groups.erase(groups.begin());
  }
}

}  // namespace bora::cuda_host
