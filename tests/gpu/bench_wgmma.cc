// Whether wgmma gives the bits of mma.sync (tests/gpu/wgmma_probe.h).
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "tests/gpu/bench_timer.h"
#include "tests/gpu/wgmma_probe.h"

namespace bora {
namespace {

constexpr int64_t kOutputs = int64_t{kProbeTokens} * kProbeRows;

std::vector<float> ToHost(const CudaBuffer& buffer) {
  std::vector<float> values(kOutputs);
  CopyToHost(nullptr, values.data(), buffer.data(), buffer.bytes());
  return values;
}

// Sums of 1024 products of numbers below 1: where the layouts are as documented, orders of sums
// differ by 1e-4 at most.
void Compare(const std::string& name, const std::vector<float>& by_mma,
             const std::vector<float>& by_wgmma) {
  int n_other = 0;
  double difference = 0;
  for (int64_t i = 0; i < kOutputs; ++i) {
    if (std::memcmp(&by_mma[i], &by_wgmma[i], sizeof(float)) != 0) ++n_other;
    const double d = std::fabs(double{by_mma[i]} - by_wgmma[i]);
    if (d > difference || std::isnan(d)) difference = d;
  }
  std::printf("figure gpu_wgmma_%s_other_bits %d elements\n", name.c_str(), n_other);
  std::printf("figure gpu_wgmma_%s_difference %.3g max\n", name.c_str(), difference);
}

}  // namespace

void BenchWgmma(GpuBench& bench) {
  if (bench.info.major != 9) {
    std::printf("skipped 1 gpu_wgmma: compute capability %d.%d has no wgmma\n", bench.info.major,
                bench.info.minor);
    return;
  }
  // NaN is no sum: what was not written shows.
  std::vector<CudaBuffer> outputs;
  for (int i = 0; i < 3; ++i) {
    outputs.push_back(Upload(std::vector<float>(kOutputs, std::nanf(""))));
  }
  const Bf16* const w = bench.random();
  ProbeWgmma(*bench.device, w, w + kProbeRows * kProbeCols, As<float>(outputs[0]),
             As<float>(outputs[1]), As<float>(outputs[2]));
  bench.stream.Synchronize();
  const std::vector<float> by_mma = ToHost(outputs[0]);
  Compare("n8", by_mma, ToHost(outputs[1]));
  Compare("n128", by_mma, ToHost(outputs[2]));
}

}  // namespace bora
