#include "tests/gpu/bench_timer.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "tests/gpu/bench_kernels.h"

namespace bora {
namespace {

// An odd number of at least 30, so that the median is one of them.
constexpr size_t kSamples = 31;
// An idle GPU's clocks rise only under load, and a queue that is ahead of the device keeps the
// host's launches out of the samples.
constexpr std::chrono::milliseconds kWarmUp{60};

// Eight copies of the largest weight matrix (32000 x 4096: 262 MB) are 2.10e9 bytes, the largest
// cache (128 sequences of 4096 tokens, 4 KB each) 2.15e9; the largest L2 cache is 60 MB.
constexpr int64_t kRandomBytes = 2'200'000'000 / 256 * 256;

Timing Summarise(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  const size_t last = us.size() - 1;
  return {us[last / 2], us[last / 10], us[last - last / 10]};
}

void PrintRate(const std::string& name, const char* unit, const Timing& timing, double per_us,
               double limit) {
  const double value = per_us / timing.median_us;
  std::string row = absl::StrFormat("figure %s %.4g %s p10 %.4g p90 %.4g", name, value, unit,
                                    per_us / timing.p90_us, per_us / timing.p10_us);
  if (limit > 0) absl::StrAppendFormat(&row, " limit %.4g ratio %.3f", limit, value / limit);
  std::puts(row.c_str());
  std::fflush(stdout);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GpuBench>> GpuBench::Create() {
  auto bench = std::make_unique<GpuBench>();
  ASSIGN_OR_RETURN(bench->info, OpenCudaDevice(0));
  ASSIGN_OR_RETURN(bench->stream, CudaStream::Create());
  for (auto* device : {&bench->device, &bench->library_device}) {
    *device = std::make_unique<CudaDevice>(bench->stream.get(), bench->info.limits);
  }
  if (auto library = CublasLt::Create(); library.ok()) {
    bench->library = *std::move(library);
    bench->library_device->SetMatrixLibrary(bench->library.get());
  } else {
    std::printf("skipped figures of cuBLASLt: %s\n",
                std::string(library.status().message()).c_str());
  }
  ASSIGN_OR_RETURN(bench->random_memory, CudaBuffer::Allocate(kRandomBytes, "random numbers"));
  FillRandom(*bench->device, 1, 1.0f, kRandomBytes / 2, As<Bf16>(bench->random_memory));
  bench->stream.Synchronize();
  return bench;
}

void GpuBench::NeedScratch(int64_t n_bytes) {
  if (n_bytes <= scratch.bytes()) return;
  stream.Synchronize();
  scratch = CudaBuffer();
  scratch = Allocate(n_bytes);
  for (CudaDevice* user : {device.get(), library_device.get()}) {
    user->SetScratch(scratch.data(), n_bytes);
  }
}

CudaBuffer Allocate(int64_t n_bytes) {
  auto buffer = CudaBuffer::Allocate(n_bytes, "benchmark");
  CHECK_OK(buffer.status());
  return *std::move(buffer);
}

CudaBuffer AllocateBytes(const void* values, int64_t n_bytes) {
  CudaBuffer buffer = Allocate(n_bytes);
  if (n_bytes > 0) CopyToDevice(nullptr, buffer.data(), values, n_bytes);
  return buffer;
}

std::vector<Timing> TimeInTurns(const GpuBench& bench, const std::vector<GpuWork>& works) {
  std::vector<CudaGraph> graphs;
  for (const GpuWork& work : works) {
    const auto launch_all = [&work] {
      for (int64_t i = 0; i < work.n_launches; ++i) work.launch(i);
    };
    launch_all();  // the driver loads kernels at their first use, which must not be recorded
    bench.stream.Synchronize();
    auto graph = CudaGraph::Capture(bench.stream, launch_all);
    CHECK_OK(graph.status());
    graphs.push_back(*std::move(graph));
  }
  std::vector<CudaEvent> marks((kSamples * works.size() + 1));
  for (CudaEvent& mark : marks) {
    auto event = CudaEvent::CreateTimed();
    CHECK_OK(event.status());
    mark = *std::move(event);
  }
  const auto warm_until = std::chrono::steady_clock::now() + kWarmUp;
  while (std::chrono::steady_clock::now() < warm_until) {
    bench.stream.Synchronize();
    for (const CudaGraph& graph : graphs) graph.Launch(bench.stream);
  }
  marks[0].Record(bench.stream);
  for (size_t i = 1; i < marks.size(); ++i) {
    graphs[(i - 1) % works.size()].Launch(bench.stream);
    marks[i].Record(bench.stream);
  }
  bench.stream.Synchronize();
  std::vector<Timing> timings;
  for (size_t work = 0; work < works.size(); ++work) {
    std::vector<double> us;
    for (size_t i = work + 1; i < marks.size(); i += works.size()) {
      us.push_back(1e3 * marks[i].MillisecondsSince(marks[i - 1]) /
                   static_cast<double>(works[work].n_launches));
    }
    timings.push_back(Summarise(std::move(us)));
  }
  return timings;
}

Timing Time(const GpuBench& bench, const GpuWork& work) { return TimeInTurns(bench, {work})[0]; }

void PrintGigabytes(const std::string& name, const Timing& timing, double n_bytes, double limit) {
  PrintRate(name, "GB/s", timing, n_bytes * 1e-3, limit);
}

void PrintTeraflops(const std::string& name, const Timing& timing, double n_flops, double limit) {
  PrintRate(name, "TFLOP/s", timing, n_flops * 1e-6, limit);
}

void PrintMicroseconds(const std::string& name, const Timing& timing, const Timing* peer) {
  std::string row = absl::StrFormat("figure %s %.4g us p10 %.4g p90 %.4g", name, timing.median_us,
                                    timing.p10_us, timing.p90_us);
  if (peer != nullptr) {
    absl::StrAppendFormat(&row, " peer %.4g ratio %.3f", peer->median_us,
                          peer->median_us / timing.median_us);
  }
  std::puts(row.c_str());
  std::fflush(stdout);
}

}  // namespace bora
