// bora-bench-limits: what this machine can do at most, so that other figures can be read as
// fractions of it.
//
// Prints "figure NAME VALUE UNIT" rows, median and best of the rounds, for --threads threads at
// once:
//   limit_read_bandwidth   sequential reads of memory in huge pages, one stream a thread
//   limit_fp32             multiply-adds of floats, registers only, in the widest vectors there are
//   limit_bf16             products of bf16: the better of vdpbf16ps and of limit_fp32's
//   instruction,
//                          since bf16 may be multiplied as floats too
//   limit_vdpbf16ps        that instruction alone, where the machine has it
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
#include "base/flags/flag_names.h"
#include "tests/bench/peak_loops.h"

ABSL_FLAG(int, threads, 2, "Threads that work at the same time.");
ABSL_FLAG(int, rounds, 9, "Rounds of each probe.");
ABSL_FLAG(int64_t, buffer_mib, 1024, "Memory that a round reads, over all threads; MiB.");

namespace bora {
namespace {

// Loops that take a few milliseconds: long beside a thread's wake-up.
constexpr int64_t kPeakLoops = 2'000'000;

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

void AddReadProbes(const Buffer& buffer, int64_t bytes, int n_threads, std::vector<Probe>* probes) {
  const int64_t share = bytes / n_threads / 4096 * 4096;
  for (const int64_t ahead : kPrefetchBytes) {
    const uint8_t* const data = buffer.data();
    probes->push_back({"limit_read_bandwidth", "GB/s",
                       1e-9 * static_cast<double>(share * n_threads),
                       [=](int thread) { ReadMemory(data + thread * share, share, ahead); }});
  }
}

void AddPeakProbe(const char* name, const PeakLoop& peak, int n_threads,
                  std::vector<Probe>* probes) {
  const double giga = 1e-9 * static_cast<double>(kPeakLoops) * kPeakChains *
                      static_cast<double>(peak.operations) * n_threads;
  probes->push_back({name, peak.unit, giga, [peak](int) { peak.run(kPeakLoops); }});
}

void AddPeakProbes(int n_threads, std::vector<Probe>* probes) {
  const PeakLoops peaks = ThisMachinesPeakLoops();
  if (peaks.fp32) AddPeakProbe("limit_fp32", *peaks.fp32, n_threads, probes);
  // Two ways to one limit, which lie side by side.
  if (peaks.fp32) AddPeakProbe("limit_bf16", *peaks.fp32, n_threads, probes);
  if (peaks.bf16) AddPeakProbe("limit_bf16", *peaks.bf16, n_threads, probes);
  if (peaks.bf16) AddPeakProbe("limit_vdpbf16ps", *peaks.bf16, n_threads, probes);
  if (peaks.int8) AddPeakProbe("limit_int8", *peaks.int8, n_threads, probes);
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
