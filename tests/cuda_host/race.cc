#include "tests/cuda_host/race.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/cuda_host/block.h"
#include "tests/cuda_host/fiber.h"

namespace bora::cuda_host {
namespace {

constexpr uintptr_t kCellBytes = 2;
constexpr uintptr_t kPageBytes = 4096;
constexpr int kOneThread = -1;

// The last access of one kind: by thread `thread` of block `block` at its time `time`. Blocks are
// numbered over all launches, from 1 on.
struct Access {
  uint32_t block = 0;
  uint32_t time = 0;
  int thread = 0;
  const void* pc = nullptr;
};

// Accesses of one kind that are no race with one another: reads, or atomic operations.
struct Accesses {
  Access last;
  // Index into `thread_times` when several unordered threads of last.block took part.
  int times_idx = kOneThread;
  bool by_other_blocks = false;  // of the launch, before last.block
};

struct Cell {
  Access write;
  Accesses reads;
  Accesses atomics;
  bool unwritten = false;
};

struct Page {
  Cell cells[kPageBytes / kCellBytes];
};

bool instrumented = false;
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
uintptr_t last_page_key = 0;
Page* last_page = nullptr;

uint32_t launch_first_block = 1;  // accesses of earlier blocks happened before
uint32_t block_now = 0;
int n_threads_now = 0;
// clocks[t * n_threads + u]: up to which time of thread u everything happened before thread t's
// next access. A thread's own entry is its time.
std::vector<uint32_t> clocks;
std::vector<std::vector<uint32_t>> thread_times;  // [.][n_threads], 0: took no part

uint32_t& ClockOf(int thread_idx, int other_idx) {
  return clocks[static_cast<size_t>(thread_idx) * n_threads_now + other_idx];
}

Cell& CellOf(uintptr_t address) {
  const uintptr_t key = address / kPageBytes;
  if (last_page == nullptr || key != last_page_key) {
    std::unique_ptr<Page>& page = pages[key];
    if (page == nullptr) page = std::make_unique<Page>();
    last_page = page.get();
    last_page_key = key;
  }
  return last_page->cells[address % kPageBytes / kCellBytes];
}

// What addr2line needs to name the line.
std::string Describe(const void* pc) {
  std::ostringstream out;
  Dl_info info;
  if (dladdr(pc, &info) != 0) {
    // One byte back: a return address may belong to the next line.
    out << "addr2line -Cfie " << info.dli_fname << " 0x" << std::hex
        << static_cast<const char*>(pc) - static_cast<const char*>(info.dli_fbase) - 1;
  } else {
    out << pc;
  }
  return out.str();
}

[[noreturn]] void Report(const char* what, const Access* before, const Access& now,
                         uintptr_t address) {
  const bool shared = InSharedArray(reinterpret_cast<const void*>(address), 1);
  std::fprintf(stderr,
               "CUDA on the host: %s of %s memory by thread %d of block (%u,%u)\n  now: %s\n", what,
               shared ? "shared" : "global", now.thread, built_ins.block_idx.x,
               built_ins.block_idx.y, Describe(now.pc).c_str());
  if (before != nullptr) {
    const char* whose = before->block == block_now ? "this block" : "another block";
    std::fprintf(stderr, "  before: thread %d of %s: %s\n", before->thread, whose,
                 Describe(before->pc).c_str());
  }
  std::abort();
}

// Whether the access happened before what thread `thread_idx` does next.
bool Ordered(const Access& before, int thread_idx) {
  if (before.block < launch_first_block) return true;
  if (before.block != block_now) return false;
  return before.thread == thread_idx || ClockOf(thread_idx, before.thread) >= before.time;
}

void Add(Accesses& accesses, const Access& now) {
  const Access& last = accesses.last;
  if (last.block != block_now) {
    accesses.by_other_blocks = last.block >= launch_first_block;
    accesses.times_idx = kOneThread;
  } else if (accesses.times_idx == kOneThread && !Ordered(last, now.thread)) {
    accesses.times_idx = static_cast<int>(thread_times.size());
    thread_times.emplace_back(n_threads_now, 0);
    thread_times.back()[last.thread] = last.time;
  }
  if (accesses.times_idx != kOneThread) thread_times[accesses.times_idx][now.thread] = now.time;
  accesses.last = now;
}

// Ends the process with `what` unless all the accesses happened before.
void CheckOrdered(const Accesses& accesses, const Access& now, const char* what,
                  uintptr_t address) {
  const Access& last = accesses.last;
  if (!Ordered(last, now.thread)) Report(what, &last, now, address);
  if (last.block >= launch_first_block && accesses.by_other_blocks) {
    Report((std::string(what) + " by several blocks").c_str(), &last, now, address);
  }
  if (last.block == block_now && accesses.times_idx != kOneThread) {
    const std::vector<uint32_t>& times = thread_times[accesses.times_idx];
    for (int i = 0; i < n_threads_now; ++i) {
      const Access access = {block_now, times[i], i, last.pc};
      if (!Ordered(access, now.thread)) Report(what, &access, now, address);
    }
  }
}

void ReadCell(Cell& cell, const Access& now, uintptr_t address) {
  if (cell.unwritten) Report("read of what nobody has written", nullptr, now, address);
  if (!Ordered(cell.write, now.thread)) Report("read after write", &cell.write, now, address);
  CheckOrdered(cell.atomics, now, "read after atomic", address);
  Add(cell.reads, now);
}

void WriteCell(Cell& cell, const Access& now, uintptr_t address) {
  if (!Ordered(cell.write, now.thread)) Report("write after write", &cell.write, now, address);
  CheckOrdered(cell.reads, now, "write after read", address);
  CheckOrdered(cell.atomics, now, "write after atomic", address);
  cell = {.write = now};
}

void AtomicCell(Cell& cell, const Access& now, uintptr_t address) {
  if (cell.unwritten) Report("atomic on what nobody has written", nullptr, now, address);
  if (!Ordered(cell.write, now.thread)) Report("atomic after write", &cell.write, now, address);
  CheckOrdered(cell.reads, now, "atomic after read", address);
  Add(cell.atomics, now);
}

using CellFunction = void (*)(Cell&, const Access&, uintptr_t);

void Record(CellFunction function, int thread_idx, const void* address, int64_t n_bytes,
            const void* pc) {
  const Access now = {block_now, ClockOf(thread_idx, thread_idx), thread_idx, pc};
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const uintptr_t end = begin + static_cast<uintptr_t>(n_bytes);
  for (uintptr_t at = begin / kCellBytes * kCellBytes; at < end; at += kCellBytes) {
    function(CellOf(at), now, at);
  }
}

// From a hook: host code, and what a thread keeps on its stack, are nobody else's.
void RecordHook(CellFunction function, const void* address, int64_t n_bytes, const void* pc) {
  const int thread_idx = CurrentThread();
  if (thread_idx < 0 || OnFiberStack(address)) return;
  Record(function, thread_idx, address, n_bytes, pc);
}

}  // namespace

bool HasRaceDetector() { return instrumented; }

void BeginRaceLaunch() { launch_first_block = block_now + 1; }

void BeginRaceBlock(int n_threads) {
  ++block_now;
  if (!instrumented) return;
  n_threads_now = n_threads;
  clocks.assign(static_cast<size_t>(n_threads) * n_threads, 0);
  for (int i = 0; i < n_threads; ++i) ClockOf(i, i) = 1;
  thread_times.clear();
}

void JoinAllClocks() {
  if (!instrumented) return;
  // Nobody knows more of a thread than itself.
  std::vector<uint32_t> joined(n_threads_now);
  for (int i = 0; i < n_threads_now; ++i) joined[i] = ClockOf(i, i);
  for (int i = 0; i < n_threads_now; ++i) {
    std::copy(joined.begin(), joined.end(), &ClockOf(i, 0));
    ++ClockOf(i, i);
  }
}

void JoinWarpClocks(unsigned mask) {
  if (!instrumented) return;
  const int warp_begin = CurrentThread() / kWarpSize * kWarpSize;
  std::vector<uint32_t> joined(n_threads_now, 0);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    for (int i = 0; i < n_threads_now; ++i) {
      joined[i] = std::max(joined[i], ClockOf(warp_begin + lane, i));
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    std::copy(joined.begin(), joined.end(), &ClockOf(warp_begin + lane, 0));
    ++ClockOf(warp_begin + lane, warp_begin + lane);
  }
}

void RecordRead(int thread_idx, const void* address, int64_t n_bytes, const void* pc) {
  if (instrumented) Record(ReadCell, thread_idx, address, n_bytes, pc);
}

void RecordWrite(int thread_idx, const void* address, int64_t n_bytes, const void* pc) {
  if (instrumented) Record(WriteCell, thread_idx, address, n_bytes, pc);
}

void RecordAtomic(int thread_idx, const void* address, int64_t n_bytes, const void* pc) {
  if (instrumented) Record(AtomicCell, thread_idx, address, n_bytes, pc);
}

void SetWritten(const void* address, int64_t n_bytes, bool written) {
  if (!instrumented) return;
  const auto begin = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t at = begin; at < begin + static_cast<uintptr_t>(n_bytes); at += kCellBytes) {
    Cell& cell = CellOf(at);
    cell = {};
    cell.unwritten = !written;
  }
}

}  // namespace bora::cuda_host

namespace {

void HookRead(const void* address, int64_t n_bytes, const void* pc) {
  bora::cuda_host::RecordHook(bora::cuda_host::ReadCell, address, n_bytes, pc);
}

void HookWrite(const void* address, int64_t n_bytes, const void* pc) {
  bora::cuda_host::RecordHook(bora::cuda_host::WriteCell, address, n_bytes, pc);
}

}  // namespace

// The hooks that -fsanitize=thread calls.
extern "C" {
void __tsan_init() { bora::cuda_host::instrumented = true; }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_read_range(void* a, unsigned long n) { HookRead(a, n, __builtin_return_address(0)); }
void __tsan_write_range(void* a, unsigned long n) { HookWrite(a, n, __builtin_return_address(0)); }
void __tsan_read1(void* a) { HookRead(a, 1, __builtin_return_address(0)); }
void __tsan_read2(void* a) { HookRead(a, 2, __builtin_return_address(0)); }
void __tsan_read4(void* a) { HookRead(a, 4, __builtin_return_address(0)); }
void __tsan_read8(void* a) { HookRead(a, 8, __builtin_return_address(0)); }
void __tsan_read16(void* a) { HookRead(a, 16, __builtin_return_address(0)); }
void __tsan_unaligned_read2(void* a) { HookRead(a, 2, __builtin_return_address(0)); }
void __tsan_unaligned_read4(void* a) { HookRead(a, 4, __builtin_return_address(0)); }
void __tsan_unaligned_read8(void* a) { HookRead(a, 8, __builtin_return_address(0)); }
void __tsan_unaligned_read16(void* a) { HookRead(a, 16, __builtin_return_address(0)); }
void __tsan_write1(void* a) { HookWrite(a, 1, __builtin_return_address(0)); }
void __tsan_write2(void* a) { HookWrite(a, 2, __builtin_return_address(0)); }
void __tsan_write4(void* a) { HookWrite(a, 4, __builtin_return_address(0)); }
void __tsan_write8(void* a) { HookWrite(a, 8, __builtin_return_address(0)); }
void __tsan_write16(void* a) { HookWrite(a, 16, __builtin_return_address(0)); }
void __tsan_unaligned_write2(void* a) { HookWrite(a, 2, __builtin_return_address(0)); }
void __tsan_unaligned_write4(void* a) { HookWrite(a, 4, __builtin_return_address(0)); }
void __tsan_unaligned_write8(void* a) { HookWrite(a, 8, __builtin_return_address(0)); }
void __tsan_unaligned_write16(void* a) { HookWrite(a, 16, __builtin_return_address(0)); }
}
