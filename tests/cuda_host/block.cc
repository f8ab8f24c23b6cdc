#include "tests/cuda_host/block.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/int_math.h"
#include "kernels/cuda/runtime/shared_layout.h"
#include "tests/cuda_host/async.h"
#include "tests/cuda_host/fiber.h"
#include "tests/cuda_host/race.h"

// Absent (null) unless the program is linked with AddressSanitizer.
extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void* address, size_t bytes);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void* address,
                                                         size_t bytes);
__attribute__((weak)) void* __asan_region_is_poisoned(void* address, size_t bytes);
}

namespace bora::cuda_host {
namespace {

struct Thread {
  bool exited = false;
  // While it waits: what for and where; for a collective its mask and record.
  const char* operation = nullptr;
  Place place;
  unsigned mask = 0;
  void* record = nullptr;
};

// The lanes of a warp that wait in one collective of all lanes.
struct WarpWait {
  int n_exited = 0;  // of the warp's lanes
  int n_waiting = 0;
  const char* operation = nullptr;
  Place place;
  void* records[kWarpSize];
};

struct SharedBlock {
  uint8_t* bytes = nullptr;
  int64_t offset = 0;
  int64_t n_bytes = 0;
  int64_t n_allocated = 0;
  bool taken = false;  // by a thread of the running block
};

RunOptions options_now;
std::mt19937_64 random_order;

// The running launch.
LaunchShape launch;
void (*launch_body)(void*) = nullptr;
void* launch_arguments = nullptr;
std::vector<Thread> threads;
std::vector<WarpWait> warps;
std::vector<int> ready;  // threads that can run: [n_resumed, end)
size_t n_resumed = 0;
int n_at_barrier = 0;
Place barrier_place;  // of those who wait at the barrier
int n_exited = 0;
int current_thread = -1;
// Of the threads of the process, the one that runs the grid: instrumented host code of others is no
// part of it.
thread_local bool runs_grid = false;
std::vector<SharedBlock> shared_blocks;

std::string Names(Place place) {
  const std::string_view path = place.file;
  const size_t slash = path.rfind('/');
  return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1)) + ":" +
         std::to_string(place.line);
}

bool Same(Place a, Place b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

std::string BlockName() {
  std::ostringstream out;
  out << "block (" << built_ins.block_idx.x << "," << built_ins.block_idx.y << ")";
  return out.str();
}

std::string WaitsIn(const Thread& thread) {
  if (thread.exited) return "have exited";
  if (thread.operation == nullptr) return "can run";
  return std::string("wait in ") + thread.operation + " at " + Names(thread.place);
}

// Where every thread stands, neighbours with the same place in one line.
std::string WhereThreadsStand() {
  std::ostringstream out;
  for (size_t begin = 0; begin < threads.size();) {
    const std::string what = WaitsIn(threads[begin]);
    size_t end = begin + 1;
    while (end < threads.size() && WaitsIn(threads[end]) == what) ++end;
    out << "  threads " << begin << ".." << end - 1 << ": " << what << "\n";
    begin = end;
  }
  return out.str();
}

[[noreturn]] void FailBlock(const std::string& message) {
  std::fprintf(stderr, "CUDA on the host: %s in %s\n%s", message.c_str(), BlockName().c_str(),
               WhereThreadsStand().c_str());
  std::abort();
}

void MakeReady(int thread_idx) {
  threads[thread_idx].operation = nullptr;
  ready.push_back(thread_idx);
}

int NextReady() {
  if (options_now.order_seed != 0) {
    const size_t i = n_resumed + random_order() % (ready.size() - n_resumed);
    std::swap(ready[n_resumed], ready[i]);
  }
  const int next = ready[n_resumed++];
  if (n_resumed == ready.size()) {
    ready.clear();
    n_resumed = 0;
  }
  return next;
}

void ThreadMain() {
  launch_body(launch_arguments);
  const int me = current_thread;
  threads[me].exited = true;
  ++n_exited;
  ++warps[me / kWarpSize].n_exited;
  if (n_at_barrier > 0) {
    FailBlock("thread " + std::to_string(me) + " exits while others wait in __syncthreads");
  }
  EndFiber();
}

void Suspend(const char* operation, Place place) {
  Thread& thread = threads[current_thread];
  thread.operation = operation;
  thread.place = place;
  SuspendFiber();
}

// Shared memory begins undefined in every block.
void ForgetSharedContents() {
  for (SharedBlock& block : shared_blocks) block.taken = false;
}

void FreeShared() {
  for (SharedBlock& block : shared_blocks) {
    Unpoison(block.bytes, block.n_allocated);
    SetWritten(block.bytes, block.n_allocated, true);
    std::free(block.bytes);
  }
  shared_blocks.clear();
}

void RunBlock() {
  const int n_threads = static_cast<int>(launch.n_threads);
  threads.assign(n_threads, Thread());
  warps.assign(CeilDiv(n_threads, kWarpSize), WarpWait());
  n_at_barrier = n_exited = 0;
  ForgetSharedContents();
  BeginRaceBlock(n_threads);
  BeginCopies(n_threads);
  for (int i = 0; i < n_threads; ++i) {
    StartFiber(i, ThreadMain);
    ready.push_back(i);
  }
  while (n_exited < n_threads) {
    if (ready.empty()) FailBlock("DEADLOCK, no thread can run,");
    current_thread = NextReady();
    built_ins.thread_idx = {static_cast<unsigned>(current_thread), 0, 0};
    ResumeFiber(current_thread);
    current_thread = -1;
  }
}

}  // namespace

BuiltIns built_ins;

void SetRunOptions(const RunOptions& options) {
  options_now = options;
  random_order.seed(options.order_seed);
}

const RunOptions& run_options() { return options_now; }

int CurrentThread() { return runs_grid ? current_thread : -1; }

void RunGrid(const LaunchShape& shape, void (*body)(void*), void* arguments) {
  CHECK_EQ(current_thread, -1) << "a kernel launches a kernel";
  launch = shape;
  launch_body = body;
  launch_arguments = arguments;
  built_ins.block_dim = {static_cast<unsigned>(shape.n_threads), 1, 1};
  built_ins.grid_dim = {static_cast<unsigned>(shape.n_blocks_x),
                        static_cast<unsigned>(shape.n_blocks_y), 1};
  runs_grid = true;
  BeginRaceLaunch();
  for (int64_t y = 0; y < shape.n_blocks_y; ++y) {
    for (int64_t x = 0; x < shape.n_blocks_x; ++x) {
      built_ins.block_idx = {static_cast<unsigned>(x), static_cast<unsigned>(y), 0};
      RunBlock();
    }
  }
  FreeShared();
  runs_grid = false;
}

void Fail(Place place, const std::string& message) {
  FailBlock(Names(place) + ": thread " + std::to_string(current_thread) + ": " + message);
}

void BlockBarrier(Place place) {
  const int n_threads = static_cast<int>(threads.size());
  if (n_exited > 0) Fail(place, "__syncthreads after other threads have exited");
  if (n_at_barrier == 0) barrier_place = place;
  if (!Same(barrier_place, place)) {
    Fail(place, "__syncthreads while others wait in another one, at " + Names(barrier_place));
  }
  if (++n_at_barrier < n_threads) {
    Suspend("__syncthreads", place);
    return;
  }
  n_at_barrier = 0;
  JoinAllClocks();
  for (int i = 0; i < n_threads; ++i) {
    if (i != current_thread) MakeReady(i);
  }
}

namespace {

// Collectives of all lanes, which is nearly all there are: only the first lane looks at the others.
// False when it is not one of these, or not in order: RendezvousOf finds out.
bool RendezvousOfAll(const char* operation, void* record, Combine combine, Place place) {
  const int me = current_thread;
  WarpWait& warp = warps[me / kWarpSize];
  if (warp.n_exited > 0 || warp.n_waiting == 0 || warp.operation != operation ||
      !Same(warp.place, place)) {
    return false;
  }
  warp.records[me % kWarpSize] = record;
  Thread& thread = threads[me];
  thread.mask = kFullMask;
  if (++warp.n_waiting < kWarpSize) {
    thread.record = record;
    Suspend(operation, place);
    return true;
  }
  warp.n_waiting = 0;
  thread.place = place;
  combine(warp.records, kFullMask);
  const int warp_begin = me / kWarpSize * kWarpSize;
  for (int i = warp_begin; i < warp_begin + kWarpSize; ++i) {
    if (i == me) continue;
    threads[i].record = nullptr;
    MakeReady(i);
  }
  return true;
}

// Of the lanes in the mask.
void RendezvousOf(const char* operation, unsigned mask, void* record, Combine combine,
                  Place place) {
  const int me = current_thread;
  const int warp_begin = me / kWarpSize * kWarpSize;
  if ((mask >> (me % kWarpSize) & 1) == 0) {
    Fail(place, std::string(operation) + " by a lane that is not in its own mask");
  }
  bool complete = true;
  int n_waiting = 0;  // in the mask
  void* records[kWarpSize] = {};
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Thread& other = threads[warp_begin + lane];
    if ((mask >> lane & 1) == 0 || warp_begin + lane == me) continue;
    if (other.exited) {
      Fail(place,
           std::string(operation) + " with lane " + std::to_string(lane) + ", which has exited");
    }
    // A lane may still be in an operation of other lanes, and come here after it.
    if (other.record == nullptr || (other.mask >> (me % kWarpSize) & 1) == 0) {
      complete = false;
      continue;
    }
    if (other.mask != mask || other.operation != operation || !Same(other.place, place)) {
      Fail(place, std::string(operation) + " while lane " + std::to_string(lane) +
                      ", in the mask, " + WaitsIn(other));
    }
    records[lane] = other.record;
    ++n_waiting;
  }
  Thread& thread = threads[me];
  thread.mask = mask;
  if (!complete) {
    thread.record = record;
    if (mask == kFullMask && n_waiting == 0) {
      WarpWait& warp = warps[warp_begin / kWarpSize];
      warp.n_waiting = 1;
      warp.operation = operation;
      warp.place = place;
      warp.records[me % kWarpSize] = record;
    }
    Suspend(operation, place);
    return;
  }
  records[me % kWarpSize] = record;
  thread.place = place;
  warps[warp_begin / kWarpSize].n_waiting = 0;
  combine(records, mask);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0 || warp_begin + lane == me) continue;
    threads[warp_begin + lane].record = nullptr;
    MakeReady(warp_begin + lane);
  }
}

}  // namespace

void Rendezvous(const char* operation, unsigned mask, void* record, Combine combine, Place place) {
  if (mask == kFullMask && RendezvousOfAll(operation, record, combine, place)) return;
  RendezvousOf(operation, mask, record, combine, place);
}

void* SharedArray(int take_idx, int64_t offset, int64_t n_bytes, int64_t alignment, Place place) {
  if (offset + n_bytes > launch.shared_bytes) {
    Fail(place, "shared memory: arrays need " + std::to_string(offset + n_bytes) +
                    " bytes, the launch asks for " + std::to_string(launch.shared_bytes));
  }
  if (take_idx == static_cast<int>(shared_blocks.size())) {
    SharedBlock block = {.offset = offset, .n_bytes = n_bytes};
    // At least a row of banks behind the array, so that overflow meets poison.
    block.n_allocated = RoundUp(n_bytes + kSharedAlignment, std::max(alignment, kSharedAlignment));
    block.bytes = static_cast<uint8_t*>(std::aligned_alloc(std::max(alignment, kSharedAlignment),
                                                           static_cast<size_t>(block.n_allocated)));
    CHECK(block.bytes != nullptr);
    shared_blocks.push_back(block);
  }
  SharedBlock& block = shared_blocks.at(take_idx);
  if (block.n_bytes != n_bytes || block.offset != offset) {
    Fail(place, "shared memory: array " + std::to_string(take_idx) + " has " +
                    std::to_string(n_bytes) + " bytes here, " + std::to_string(block.n_bytes) +
                    " in another thread or block");
  }
  if (!block.taken) {
    block.taken = true;
    Unpoison(block.bytes, block.n_allocated);
    std::memset(block.bytes, 0xff, static_cast<size_t>(block.n_allocated));
    Poison(block.bytes + n_bytes, block.n_allocated - n_bytes);
    SetWritten(block.bytes, n_bytes, false);
  }
  return block.bytes;
}

bool InSharedArray(const void* address, int64_t n_bytes) {
  const auto* begin = static_cast<const uint8_t*>(address);
  return std::any_of(shared_blocks.begin(), shared_blocks.end(), [&](const SharedBlock& block) {
    return block.taken && begin >= block.bytes && begin + n_bytes <= block.bytes + block.n_bytes;
  });
}

bool HasAddressSanitizer() { return __asan_poison_memory_region != nullptr; }

void Poison(void* address, int64_t n_bytes) {
  if (HasAddressSanitizer()) __asan_poison_memory_region(address, static_cast<size_t>(n_bytes));
}

void Unpoison(void* address, int64_t n_bytes) {
  if (HasAddressSanitizer()) __asan_unpoison_memory_region(address, static_cast<size_t>(n_bytes));
}

const void* FirstPoisoned(const void* address, int64_t n_bytes) {
  if (!HasAddressSanitizer()) return nullptr;
  return __asan_region_is_poisoned(const_cast<void*>(address), static_cast<size_t>(n_bytes));
}

}  // namespace bora::cuda_host
