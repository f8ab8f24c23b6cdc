// What the team of threads costs, and what a foreign busy process costs it:
//   figure NAME VALUE UNIT [limit L ratio R]
// Usage: bora-bench-device [n_threads]
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/cpu/cpu_device.h"

namespace bora {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A process that never waits, for as long as it lives.
class BusyProcess {
 public:
  BusyProcess() : pid_(fork()) {
    if (pid_ != 0) return;
    volatile uint64_t n = 0;
    while (getppid() != 1) {
      for (int i = 0; i < 1 << 24; ++i) n = n + 1;
    }
    _exit(0);
  }
  ~BusyProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }

 private:
  const pid_t pid_;
};

// Seconds of processor time that the machine has spent so far, and this process and its children.
double MachineCpuSeconds() {
  std::FILE* file = std::fopen("/proc/stat", "r");
  long long user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
  const int n = std::fscanf(file, "cpu %lld %lld %lld %lld %lld %lld %lld %lld", &user, &nice,
                            &system, &idle, &iowait, &irq, &softirq, &steal);
  std::fclose(file);
  const double ticks = static_cast<double>(user + nice + system + irq + softirq + steal);
  return n == 8 ? ticks / static_cast<double>(sysconf(_SC_CLK_TCK)) : 0;
}

double CpuSecondsOf(clockid_t clock) {
  timespec now = {};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Calls of `body` in a second. Of up to 4 windows it takes the first in which everything else on
// the machine but `busy_pid` (0: none) took less than 0.06 of a core, or else the quietest.
double CallsPerSecond(double seconds, pid_t busy_pid, absl::FunctionRef<void()> body) {
  clockid_t busy_clock = CLOCK_PROCESS_CPUTIME_ID;
  if (busy_pid != 0) clock_getcpuclockid(busy_pid, &busy_clock);
  for (const double end = Now() + 0.05; Now() < end;) body();
  double best = 0;
  double least_foreign = 1e9;
  for (int window = 0; window < 4 && least_foreign > 0.06; ++window) {
    const double known =
        CpuSecondsOf(CLOCK_PROCESS_CPUTIME_ID) + (busy_pid != 0 ? CpuSecondsOf(busy_clock) : 0);
    const double machine = MachineCpuSeconds();
    int64_t n_calls = 0;
    const double begin = Now();
    double end = begin;
    for (; end < begin + seconds; end = Now(), ++n_calls) body();
    const double known_after =
        CpuSecondsOf(CLOCK_PROCESS_CPUTIME_ID) + (busy_pid != 0 ? CpuSecondsOf(busy_clock) : 0);
    const double foreign = (MachineCpuSeconds() - machine - (known_after - known)) / (end - begin);
    if (foreign > least_foreign) continue;
    least_foreign = foreign;
    best = static_cast<double>(n_calls) / (end - begin);
  }
  if (least_foreign > 0.06)
    std::printf("# the next figure was disturbed: others took %.2f cores\n", least_foreign);
  return best;
}

// Keeps a core busy without memory for about `n` nanoseconds.
float Compute(int64_t n) {
  float x = 1.0f;
  for (int64_t i = 0; i < n; ++i) {
    x = x * 1.0000001f + 1e-9f;
    asm volatile("" : "+x"(x));
  }
  return x;
}

void BenchCost(CpuDevice& device) {
  const int64_t n_threads = device.n_threads();
  const auto empty = [&] { device.ParallelFor(n_threads * 8, 1, [](int64_t, int64_t) {}); };
  std::printf("figure parallel_for_empty_us %.3f us\n", 1e6 / CallsPerSecond(0.2, 0, empty));
  // Serial work of about 5 us between calls, as between the operations of a step.
  const auto with_gap = [&] {
    Compute(2500);
    empty();
  };
  const double gap = 1 / CallsPerSecond(0.2, 0, [] { Compute(2500); });
  std::printf("figure parallel_for_after_%.1f_us_gap_us %.3f us\n", gap * 1e6,
              1e6 * (1 / CallsPerSecond(0.2, 0, with_gap) - gap));
  for (const int64_t n : {250, 500, 1000, 2500, 10000}) {
    const double alone = 1 / CallsPerSecond(0.2, 0, [&] { Compute(16 * n); });
    const double shared = 1 / CallsPerSecond(0.2, 0, [&] {
                            device.ParallelFor(16, 1, [&](int64_t begin, int64_t end) {
                              Compute(n * (end - begin));
                            });
                          });
    std::printf("figure parallel_for_%.1f_us_of_work_us %.3f us\n", alone * 1e6, shared * 1e6);
  }
}

void BenchNeighbour(CpuDevice& device) {
  // Bytes of one operation as in decoding: a small and a large matrix, and arithmetic alone.
  std::vector<float> memory(int64_t{256} << 20 >> 2, 1.0f);
  const int64_t n_lines = static_cast<int64_t>(memory.size()) / 16;
  for (const int64_t n_bytes : {int64_t{256} << 10, int64_t{8} << 20, int64_t{32} << 20}) {
    int64_t at = 0;
    const int64_t n = n_bytes / 64;
    const auto read = [&] {
      device.ParallelFor(n, 64, [&](int64_t begin, int64_t end) {
        float sum[16] = {};
        for (int64_t i = at + begin; i < at + end; ++i) {
          for (int64_t j = 0; j < 16; ++j) sum[j] += memory[i * 16 + j];
        }
        for (int64_t j = 0; j < 16; ++j) asm volatile("" : "+x"(sum[j]));
      });
      at = at + 2 * n <= n_lines ? at + n : 0;
    };
    const double idle = CallsPerSecond(0.2, 0, read);
    const BusyProcess busy;
    const double shared = CallsPerSecond(0.4, busy.pid(), read);
    std::printf("figure busy_neighbour_read_%ldk_gbps %.2f GB/s limit %.2f ratio %.3f\n",
                n_bytes >> 10, 1e-9 * shared * n_bytes, 1e-9 * idle * n_bytes, shared / idle);
  }
  for (const int64_t n : {1000, 10000, 100000}) {
    const auto compute = [&] {
      device.ParallelFor(128, 1,
                         [&](int64_t begin, int64_t end) { Compute(n * (end - begin) / 8); });
    };
    const double idle = CallsPerSecond(0.2, 0, compute);
    const BusyProcess busy;
    const double shared = CallsPerSecond(0.4, busy.pid(), compute);
    std::printf("figure busy_neighbour_compute_%.0f_us_per_s %.1f limit %.1f ratio %.3f\n",
                1e6 / idle, shared, idle, shared / idle);
  }
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  bora::CpuDevice device(argc > 1 ? std::atoi(argv[1]) : 2);
  bora::BenchCost(device);
  bora::BenchNeighbour(device);
  return 0;
}
