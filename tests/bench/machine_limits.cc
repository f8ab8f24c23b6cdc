// bora-bench-limits: what this machine can do at most, so that other figures can be read as
// fractions of it.
//
// Prints "figure NAME VALUE UNIT" rows, median and best of the rounds, for --threads threads at
// once:
//   limit_read_bandwidth   sequential reads of memory in huge pages, one stream a thread
//   limit_fp32             multiply-adds of floats, registers only, in the widest vectors there are
//   limit_bf16             vdpbf16ps, where the machine has it
//   limit_int8             vpdpbusd, where the machine has it
// A multiply-add counts as two operations. Rounds of all probes alternate, so that a noisy minute
// meets all of them.
#include <sys/mman.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "base/check.h"
#include "base/flag_names.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

ABSL_FLAG(int, threads, 2, "Threads that work at the same time.");
ABSL_FLAG(int, rounds, 9, "Rounds of each probe.");
ABSL_FLAG(int64_t, buffer_mib, 1024, "Memory that a round reads, over all threads; MiB.");

namespace bora {
namespace {

// Makes the compiler believe that somebody reads what `data` points to.
inline void KeepAlive(const void* data) { asm volatile("" : : "r"(data) : "memory"); }

// Enough independent chains to hide the latency of a multiply-add (4 cycles, up to two a cycle) and
// few enough for 16 vector registers of AVX2 with two constants.
constexpr int kChains = 12;

// Loops of kChains operations that take a few milliseconds: long beside a thread's wake-up.
constexpr int64_t kPeakLoops = 2'000'000;

// Sums [data, data + n) bytes, n a multiple of 4096, asking for memory `ahead` bytes early (0:
// not).
using ReadFunction = void (*)(const uint8_t* data, int64_t n, int64_t ahead);
// Does n_loops * kChains operations.
using PeakFunction = void (*)(int64_t n_loops);

void ReadPortable(const uint8_t* data, int64_t n, int64_t ahead) {
  uint64_t lanes[8] = {};
  for (int64_t i = 0; i < n; i += 64) {
    if (ahead > 0) __builtin_prefetch(data + i + ahead);
    for (int lane = 0; lane < 8; ++lane) {
      uint64_t word;
      std::memcpy(&word, data + i + 8 * lane, 8);
      lanes[lane] ^= word;
    }
  }
  KeepAlive(lanes);
}

#if defined(__x86_64__)

__attribute__((target("avx512f"))) void ReadAvx512(const uint8_t* data, int64_t n, int64_t ahead) {
  __m512i lanes[4] = {};
  for (int64_t i = 0; i < n; i += 256) {
#pragma GCC unroll 4
    for (int lane = 0; lane < 4; ++lane) {
      const uint8_t* const line = data + i + 64 * lane;
      if (ahead > 0) _mm_prefetch(reinterpret_cast<const char*>(line + ahead), _MM_HINT_T0);
      lanes[lane] = _mm512_xor_si512(lanes[lane], _mm512_load_si512(line));
    }
  }
  KeepAlive(lanes);
}

// acc = acc / 2 + 1 stays near 2: neither infinite nor denormal.
__attribute__((target("avx2,fma"))) void FmaAvx2(int64_t n_loops) {
  const __m256 half = _mm256_set1_ps(0.5f);
  const __m256 one = _mm256_set1_ps(1.0f);
  __m256 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));
  for (int64_t loop = 0; loop < n_loops; ++loop) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm256_fmadd_ps(acc[i], half, one);
  }
  KeepAlive(acc);
}

__attribute__((target("avx512f"))) void FmaAvx512(int64_t n_loops) {
  const __m512 half = _mm512_set1_ps(0.5f);
  const __m512 one = _mm512_set1_ps(1.0f);
  __m512 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t loop = 0; loop < n_loops; ++loop) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_fmadd_ps(acc[i], half, one);
  }
  KeepAlive(acc);
}

__attribute__((target("avx512f,avx512bf16"))) void DotBf16(int64_t n_loops) {
  const __m512 ones = _mm512_set1_ps(1.0f);
  const __m512bh pairs = _mm512_cvtne2ps_pbh(ones, ones);
  __m512 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int64_t loop = 0; loop < n_loops; ++loop) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_dpbf16_ps(acc[i], pairs, pairs);
  }
  KeepAlive(acc);
}

__attribute__((target("avx512f,avx512vnni"))) void DotInt8(int64_t n_loops) {
  const __m512i bytes = _mm512_set1_epi32(0x01020304);
  __m512i acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_epi32(i);
  for (int64_t loop = 0; loop < n_loops; ++loop) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], bytes, bytes);
  }
  KeepAlive(acc);
}

#endif

// Threads that start a piece of work together; run from one thread.
class Team {
 public:
  explicit Team(int n_threads) : n_threads_(n_threads), start_(n_threads), finish_(n_threads) {
    for (int thread = 1; thread < n_threads; ++thread) {
      helpers_.emplace_back([this, thread] { Help(thread); });
    }
  }
  ~Team() {
    work_ = nullptr;
    start_.arrive_and_wait();
    for (std::thread& helper : helpers_) helper.join();
  }

  int n_threads() const { return n_threads_; }

  // Seconds until work(thread) has returned on every thread.
  double Seconds(const std::function<void(int)>& work) {
    work_ = &work;
    start_.arrive_and_wait();
    const auto begin = std::chrono::steady_clock::now();
    work(0);
    finish_.arrive_and_wait();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  void Help(int thread) {
    while (true) {
      start_.arrive_and_wait();
      if (work_ == nullptr) return;
      (*work_)(thread);
      finish_.arrive_and_wait();
    }
  }

  const int n_threads_;
  std::barrier<> start_;
  std::barrier<> finish_;
  const std::function<void(int)>* work_ = nullptr;  // written before start_, read after it
  std::vector<std::thread> helpers_;
};

// One limit: a way to spend a round, and what a round does.
struct Probe {
  std::string name;
  const char* unit = "";
  double giga_units = 0;  // of one round over all threads, in 1e9
  std::function<void(int thread)> work;
  std::vector<double> rates;
};

// Memory in huge pages where the system gives them, written once so that every page is its own.
class Buffer {
 public:
  explicit Buffer(int64_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(data_ != MAP_FAILED) << bytes << " bytes of memory are not available";
    madvise(data_, bytes, MADV_HUGEPAGE);
    std::memset(data_, 1, bytes);
  }
  ~Buffer() { munmap(data_, bytes_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  const uint8_t* data() const { return static_cast<const uint8_t*>(data_); }

 private:
  const int64_t bytes_;
  void* data_;
};

// Which distance is best depends on the machine, so the figure is the best of these.
constexpr int64_t kPrefetchBytes[] = {0, 1024, 4096};

void AddReadProbes(const Buffer& buffer, int64_t bytes, int n_threads, std::vector<Probe>* probes) {
  ReadFunction read = ReadPortable;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) read = ReadAvx512;
#endif
  const int64_t share = bytes / n_threads / 4096 * 4096;
  for (const int64_t ahead : kPrefetchBytes) {
    const uint8_t* const data = buffer.data();
    probes->push_back({"limit_read_bandwidth", "GB/s",
                       1e-9 * static_cast<double>(share * n_threads),
                       [=](int thread) { read(data + thread * share, share, ahead); }});
  }
}

void AddPeakProbe(const char* name, const char* unit, int operations, PeakFunction peak,
                  int n_threads, std::vector<Probe>* probes) {
  const double giga = 1e-9 * static_cast<double>(kPeakLoops) * kChains * operations * n_threads;
  probes->push_back({name, unit, giga, [peak](int) { peak(kPeakLoops); }});
}

void AddPeakProbes(int n_threads, std::vector<Probe>* probes) {
#if defined(__x86_64__)
  // Operations of one instruction: lanes times products in a lane times two.
  if (__builtin_cpu_supports("avx512f")) {
    AddPeakProbe("limit_fp32", "GFLOP/s", 32, FmaAvx512, n_threads, probes);
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    AddPeakProbe("limit_fp32", "GFLOP/s", 16, FmaAvx2, n_threads, probes);
  }
  if (__builtin_cpu_supports("avx512bf16")) {
    AddPeakProbe("limit_bf16", "GFLOP/s", 64, DotBf16, n_threads, probes);
  }
  if (__builtin_cpu_supports("avx512vnni")) {
    AddPeakProbe("limit_int8", "Gop/s", 128, DotInt8, n_threads, probes);
  }
#else
  (void)n_threads;
  (void)probes;
#endif
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Probes of one name are ways to reach the same limit: the best way counts.
void Print(const std::vector<Probe>& probes) {
  for (size_t i = 0; i < probes.size();) {
    double median = 0;
    double best = 0;
    size_t end = i;
    for (; end < probes.size() && probes[end].name == probes[i].name; ++end) {
      median = std::max(median, Median(probes[end].rates));
      best = std::max(best, *std::max_element(probes[end].rates.begin(), probes[end].rates.end()));
    }
    std::printf("figure %s %.4g %s\n", probes[i].name.c_str(), median, probes[i].unit);
    std::printf("figure %s_best %.4g %s\n", probes[i].name.c_str(), best, probes[i].unit);
    i = end;
  }
}

int Run() {
  const int n_threads = absl::GetFlag(FLAGS_threads);
  const int n_rounds = absl::GetFlag(FLAGS_rounds);
  const int64_t bytes = absl::GetFlag(FLAGS_buffer_mib) << 20;
  if (n_threads < 1 || n_rounds < 1 || bytes / std::max(1, n_threads) < 4096) {
    std::fprintf(stderr,
                 "bora-bench-limits: --threads, --rounds and --buffer_mib must be at least 1\n");
    return 2;
  }
  const Buffer buffer(bytes);
  Team team(n_threads);
  std::vector<Probe> probes;
  AddReadProbes(buffer, bytes, n_threads, &probes);
  AddPeakProbes(n_threads, &probes);
  for (int round = -1; round < n_rounds; ++round) {
    for (Probe& probe : probes) {
      const double seconds = team.Seconds(probe.work);
      if (round >= 0) probe.rates.push_back(probe.giga_units / seconds);  // the first warms up
    }
  }
  Print(probes);
  return 0;
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Measures memory bandwidth and arithmetic peaks of this machine.");
  bora::NormalizeFlagNames(argc, argv);
  absl::ParseCommandLine(argc, argv);
  return bora::Run();
}
