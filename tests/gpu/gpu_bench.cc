// bora-bench-gpu: operations on one GPU beside what it can do at most, measured in the same run.
//
// Usage: bora-bench-gpu [PART...], the parts being wgmma, limits, skinny, large, decode, prefill
// and operations; all of them without arguments, and limits in any case. Prints
//   figure NAME VALUE UNIT p10 A p90 B [limit L] [peer P] [ratio R]
// VALUE is the median of 31 samples, A and B are their tenth and ninetieth percentile. GB/s count
// each operand once, beside a plain read's where nearly all bytes are read (products of few rows,
// decoding attention) and otherwise beside a copy's bytes read and written; TFLOP/s are beside
// cuBLASLt's with 8192 x 8192 x 8192; a peer is cuBLASLt with the same product, timed in turns.
// Inputs are random; weights and caches rotate so that no L2 cache holds them. Without a GPU it
// prints "skipped" and why, and ends well.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <set>
#include <string>

#include "tests/gpu/bench_timer.h"

namespace bora {
namespace {

struct Part {
  const char* name;
  void (*run)(GpuBench& bench);
};
constexpr Part kParts[] = {{"wgmma", BenchWgmma},    // an answer in a second
                           {"limits", BenchLimits},  // before all other figures
                           {"skinny", BenchSkinnyMatMul},
                           {"large", BenchLargeMatMul},
                           {"decode", BenchDecodeAttention},
                           {"prefill", BenchPrefillAttention},
                           {"operations", BenchOperations}};

void PrintMachine(const GpuBench& bench) {
  int driver = 0;
  int runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  std::printf("gpu %s, compute capability %d.%d, %d multiprocessors, %lld MiB\n",
              bench.info.name.c_str(), bench.info.major, bench.info.minor,
              bench.info.limits.n_multiprocessors,
              static_cast<long long>(bench.info.memory_bytes >> 20));
  std::printf("driver's CUDA %d.%d, runtime %d.%d, cuBLASLt %s\n", driver / 1000,
              driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10,
              bench.library == nullptr ? "none" : bench.library->version().c_str());
}

int Run(const std::set<std::string>& wanted) {
  const auto bench = GpuBench::Create();
  if (absl::IsUnavailable(bench.status()) || absl::IsNotFound(bench.status())) {
    std::printf("skipped bora-bench-gpu: %s\n", std::string(bench.status().message()).c_str());
    return 0;
  }
  if (!bench.ok()) {
    std::fprintf(stderr, "bora-bench-gpu: %s\n", bench.status().ToString().c_str());
    return 1;
  }
  PrintMachine(**bench);
  for (const Part& part : kParts) {
    const std::string name = part.name;
    if (wanted.empty() || wanted.count(name) > 0 || name == "limits") part.run(**bench);
  }
  return 0;
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  const std::set<std::string> wanted(argv + 1, argv + argc);
  for (const std::string& name : wanted) {
    if (std::none_of(std::begin(bora::kParts), std::end(bora::kParts),
                     [&name](const bora::Part& part) { return name == part.name; })) {
      std::fprintf(stderr,
                   "usage: bora-bench-gpu [wgmma] [limits] [skinny] [large] [decode] [prefill] "
                   "[operations]\n");
      return 2;
    }
  }
  return bora::Run(wanted);
}
