// Limits and products with the weights of a 7B model.
#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "kernels/matmul.h"
#include "tests/gpu/bench_kernels.h"
#include "tests/gpu/bench_timer.h"

namespace bora {
namespace {

// Every launch reads another copy: eight of the smallest (o, 34 MB) are 268 MB, more than four
// times the largest L2 cache.
constexpr int64_t kCopies = 8;
// Launches of a sample: a quarter of a millisecond of the smallest.
constexpr int64_t kSkinnyLaunches = 4 * kCopies;

struct WeightShape {
  const char* name;
  int64_t n_rows, n_cols;
};
constexpr WeightShape kShapes[] = {{"qkv", 6144, 4096},
                                   {"o", 4096, 4096},
                                   {"gate_up", 28672, 4096},
                                   {"down", 4096, 14336},
                                   {"lm_head", 32000, 4096}};
constexpr int64_t kGateUp = 2;
// The LM head sees only the rows that sample.
constexpr int64_t kLayerShapes = 4;

constexpr int64_t kSkinnyRows[] = {1, 8, 16, 32, 64};
constexpr int64_t kLargeRows[] = {128, 2048, 8192};
constexpr int64_t kMaxRows = 8192;

PackedWeight WeightOf(const GpuBench& bench, const WeightShape& shape, WeightLayout layout,
                      int64_t launch_idx) {
  return {.format = WeightFormat::kBf16,
          .layout = layout,
          .data = bench.random() + launch_idx % kCopies * shape.n_rows * shape.n_cols,
          .n_rows = shape.n_rows,
          .n_cols = shape.n_cols,
          .n_leaves = CudaLeafCount(shape.n_cols, 256)};
}

// Each operand once.
double ProductBytes(const WeightShape& shape, int64_t m) {
  return 2.0 * static_cast<double>(shape.n_rows * shape.n_cols + m * shape.n_cols) +
         4.0 * static_cast<double>(m * shape.n_rows);
}
double ProductFlops(const WeightShape& shape, int64_t m) {
  return 2.0 * static_cast<double>(m * shape.n_rows) * static_cast<double>(shape.n_cols);
}

// A product by our own kernels, and by the library whatever m is.
GpuWork OwnProduct(GpuBench& bench, const WeightShape& shape, int64_t m, int64_t n_launches,
                   const Bf16* x, float* y) {
  bench.NeedScratch(
      MatMulScratchBytes(*bench.device, m, WeightOf(bench, shape, WeightLayout::kRows, 0)));
  return {n_launches, [&bench, shape, m, x, y](int64_t i) {
            MatMul(*bench.device, x, m, WeightOf(bench, shape, WeightLayout::kRows, i), y);
          }};
}
GpuWork LibraryProduct(GpuBench& bench, const WeightShape& shape, int64_t m, int64_t n_launches,
                       const Bf16* x, float* y) {
  bench.library->Prepare(WeightOf(bench, shape, WeightLayout::kRows, 0), kMaxRows);
  return {n_launches, [&bench, shape, m, x, y](int64_t i) {
            bench.library->MatMul(*bench.device, x, m,
                                  WeightOf(bench, shape, WeightLayout::kRows, i), y);
          }};
}

// Floats of a row of the widest product.
int64_t MaxOutputFloats() {
  int64_t n_rows = 0;
  for (const WeightShape& shape : kShapes) n_rows = std::max(n_rows, shape.n_rows);
  return n_rows;
}

CudaBuffer RandomRows(GpuBench& bench, int64_t n) {
  CudaBuffer x = Allocate(n * 2);
  FillRandom(*bench.device, 2, 1.0f, n, As<Bf16>(x));
  bench.stream.Synchronize();
  return x;
}

void BenchGated(GpuBench& bench, CudaDevice& device, const std::string& name, int64_t m,
                int64_t n_launches) {
  const WeightShape& shape = kShapes[kGateUp];
  const CudaBuffer x = RandomRows(bench, m * shape.n_cols);
  const CudaBuffer gate_up = Allocate(m * shape.n_rows * 4);
  const CudaBuffer hidden = Allocate(m * shape.n_rows);
  bench.NeedScratch(
      MatMulScratchBytes(device, m, WeightOf(bench, shape, WeightLayout::kGatedRows, 0)));
  const Timing timing =
      Time(bench, {n_launches, [&](int64_t i) {
                     MatMulSiluMul(device, As<Bf16>(x), m,
                                   WeightOf(bench, shape, WeightLayout::kGatedRows, i),
                                   As<float>(gate_up), As<Bf16>(hidden));
                   }});
  // Half as many outputs, of two bytes.
  const double n_bytes = ProductBytes(shape, m) - 3.0 * static_cast<double>(m * shape.n_rows);
  if (m <= kOwnKernelRows) {
    PrintGigabytes(name, timing, n_bytes, bench.limits.read_gb_per_s);
  } else {
    PrintTeraflops(name, timing, ProductFlops(shape, m), bench.limits.gemm_tflop_per_s);
  }
  PrintMicroseconds(name + "_us", timing);
}

}  // namespace

void BenchLimits(GpuBench& bench) {
  const int64_t n_bytes = bench.random_memory.bytes() / 2 / 256 * 256;
  uint8_t* const data = bench.random_memory.data();
  const CudaBuffer copy = Allocate(n_bytes);
  const CudaBuffer sink = Allocate(4);
  const std::vector<Timing> timings = TimeInTurns(
      bench,
      {{1, [&](int64_t) { CopyOnDevice(*bench.device, copy.data(), data, n_bytes); }},
       {1, [&](int64_t) { ReadOnly(*bench.device, data, n_bytes, 1, As<uint32_t>(sink)); }}});
  PrintGigabytes("gpu_limit_copy", timings[0], 2.0 * static_cast<double>(n_bytes), 0);
  PrintGigabytes("gpu_limit_read", timings[1], static_cast<double>(n_bytes), 0);
  bench.limits.copy_gb_per_s = 2e-3 * static_cast<double>(n_bytes) / timings[0].median_us;
  bench.limits.read_gb_per_s = 1e-3 * static_cast<double>(n_bytes) / timings[1].median_us;
  // What a second-level cache holds, again and again.
  constexpr int64_t kCachedBytes = int64_t{16} << 20;
  constexpr int kTimes = 64;
  const Timing cached =
      Time(bench, {1, [&](int64_t) {
                     ReadOnly(*bench.device, data, kCachedBytes, kTimes, As<uint32_t>(sink));
                   }});
  PrintGigabytes("gpu_limit_l2_read", cached, static_cast<double>(kTimes * kCachedBytes), 0);
  if (bench.library == nullptr) return;
  const WeightShape square = {"square", 8192, 8192};
  const CudaBuffer x = RandomRows(bench, 8192 * square.n_cols);
  const CudaBuffer y = Allocate(8192 * square.n_rows * 4);
  const GpuWork product = LibraryProduct(bench, square, 8192, 1, As<Bf16>(x), As<float>(y));
  // Twice, to show what a repetition differs by.
  for (const char* name : {"gpu_limit_gemm", "gpu_limit_gemm_again"}) {
    const Timing timing = Time(bench, product);
    PrintTeraflops(name, timing, ProductFlops(square, 8192), 0);
    bench.limits.gemm_tflop_per_s = std::max(bench.limits.gemm_tflop_per_s,
                                             1e-6 * ProductFlops(square, 8192) / timing.median_us);
  }
}

void BenchSkinnyMatMul(GpuBench& bench) {
  const int64_t max_m = *std::max_element(std::begin(kSkinnyRows), std::end(kSkinnyRows));
  const CudaBuffer x = RandomRows(bench, max_m * 14336);
  const CudaBuffer y = Allocate(max_m * MaxOutputFloats() * 4);
  for (const WeightShape& shape : kShapes) {
    for (const int64_t m : kSkinnyRows) {
      std::vector<GpuWork> works = {
          OwnProduct(bench, shape, m, kSkinnyLaunches, As<Bf16>(x), As<float>(y))};
      if (bench.library != nullptr) {
        works.push_back(
            LibraryProduct(bench, shape, m, kSkinnyLaunches, As<Bf16>(x), As<float>(y)));
      }
      const std::vector<Timing> timings = TimeInTurns(bench, works);
      const std::string name = absl::StrCat("gpu_matmul_", shape.name, "_m", m);
      PrintGigabytes(name, timings[0], ProductBytes(shape, m), bench.limits.read_gb_per_s);
      PrintMicroseconds(name + "_us", timings[0], timings.size() > 1 ? &timings[1] : nullptr);
    }
  }
  for (const int64_t m : kSkinnyRows) {
    BenchGated(bench, *bench.device, absl::StrCat("gpu_matmul_silu_mul_m", m), m, kSkinnyLaunches);
  }
}

void BenchLargeMatMul(GpuBench& bench) {
  const CudaBuffer x = RandomRows(bench, kMaxRows * 14336);
  const CudaBuffer y = Allocate(kMaxRows * MaxOutputFloats() * 4);
  for (int64_t shape_idx = 0; shape_idx < kLayerShapes; ++shape_idx) {
    const WeightShape& shape = kShapes[shape_idx];
    for (const int64_t m : kLargeRows) {
      // Enough of the small ones for a sample of a millisecond.
      const int64_t n_launches = m < 2048 ? kCopies : 1;
      std::vector<GpuWork> works = {
          OwnProduct(bench, shape, m, n_launches, As<Bf16>(x), As<float>(y))};
      if (bench.library != nullptr) {
        works.push_back(LibraryProduct(bench, shape, m, n_launches, As<Bf16>(x), As<float>(y)));
      }
      const std::vector<Timing> timings = TimeInTurns(bench, works);
      const std::string name = absl::StrCat(shape.name, "_m", m);
      PrintTeraflops("gpu_matmul_" + name, timings[0], ProductFlops(shape, m),
                     bench.limits.gemm_tflop_per_s);
      PrintMicroseconds("gpu_matmul_" + name + "_us", timings[0],
                        timings.size() > 1 ? &timings[1] : nullptr);
      if (timings.size() > 1) {
        PrintTeraflops("gpu_cublas_lt_" + name, timings[1], ProductFlops(shape, m),
                       bench.limits.gemm_tflop_per_s);
      }
    }
  }
  BenchGated(bench, *bench.device, "gpu_matmul_silu_mul_m2048", 2048, 1);
  if (bench.library != nullptr) {
    bench.library->Prepare(WeightOf(bench, kShapes[kGateUp], WeightLayout::kGatedRows, 0),
                           kMaxRows);
    BenchGated(bench, *bench.library_device, "gpu_library_matmul_silu_mul_m2048", 2048, 1);
  }
}

}  // namespace bora
