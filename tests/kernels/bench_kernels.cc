// Speed of the CPU operations beside the machine's limits, one row a figure:
//   figure NAME VALUE UNIT [limit L ratio R]
// Usage: bora-bench-kernels [n_threads [cpu]]
// With "cpu" a second is a second of processor time of each thread, which tells something on a
// machine that others use too (memory bandwidth excepted).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <numeric>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "base/philox.h"
#include "kernels/ops.h"

namespace bora {
namespace {

// How time is taken; set once by main.
int processor_time_threads = 0;

double Now() {
  timespec now;
  clock_gettime(processor_time_threads > 0 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return (static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec)) /
         std::max(1, processor_time_threads);
}

// Median seconds of one call, over at least 5 calls and 0.3 s.
double MedianSeconds(absl::FunctionRef<void()> body) {
  std::vector<double> seconds;
  double total = 0;
  body();
  while (seconds.size() < 5 || total < 0.3) {
    const double begin = Now();
    body();
    seconds.push_back(Now() - begin);
    total += seconds.back();
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

void PrintFigure(const std::string& name, double value, const char* unit, double limit = 0) {
  std::printf("figure %s %.4g %s", name.c_str(), value, unit);
  if (limit > 0) std::printf(" limit %.4g ratio %.3f", limit, value / limit);
  std::printf("\n");
  std::fflush(stdout);
}

std::vector<float> RandomFloats(int64_t n) {
  std::vector<float> values(n);
  for (int64_t i = 0; i < n; i += 4) {
    const auto words = Philox4x32(1, i, 0);
    for (int64_t j = 0; j < std::min<int64_t>(4, n - i); ++j) {
      values[i + j] = UniformFloat(words[j]) - 0.5f;
    }
  }
  return values;
}

// Gigabytes a second of a plain sum over `data`, the limit of any product with one row.
double ReadBandwidth(CpuDevice& device, const std::vector<uint64_t>& data) {
  std::vector<uint64_t> sums(1 << 16);
  const double seconds = MedianSeconds([&] {
    device.ParallelFor(data.size(), 1 << 14, [&](int64_t begin, int64_t end) {
      uint64_t lanes[16] = {};
      for (int64_t i = begin; i + 16 <= end; i += 16) {
        for (int lane = 0; lane < 16; ++lane) lanes[lane] ^= data[i + lane];
      }
      sums[begin % sums.size()] = std::accumulate(lanes, lanes + 16, uint64_t{0});
    });
  });
  return static_cast<double>(data.size()) * 8e-9 / seconds;
}

// One shape in one format: weights that no cache holds, rows of x from decode to prefill.
void BenchMatMulShape(CpuDevice& device, const char* name, PackedWeight w, double peak) {
  const int64_t n_copies = std::max<int64_t>(1, (int64_t{512} << 20) / w.bytes());
  // Arbitrary bits would hold NaN; all bytes 0x3c are 0.0115 in float and bf16, and small integers.
  std::vector<uint64_t> memory(n_copies * w.bytes() / 8 + 8, 0x3c3c3c3c3c3c3c3c);
  char* const data = reinterpret_cast<char*>(
      RoundUp(static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory.data())), 64));
  const std::vector<float> x = RandomFloats(512 * w.n_cols);
  std::vector<float> y(512 * w.n_rows);
  for (int64_t m : {1, 4, 8, 16, 32, 64, 512}) {
    int64_t copy = 0;
    const double seconds = MedianSeconds([&] {
      w.data = data + copy++ % n_copies * w.bytes();
      MatMul(device, x.data(), m, w, y.data());
    });
    const std::string figure = absl::StrCat("matmul_", name, "_", w.n_cols, "x", w.n_rows, "_m", m);
    PrintFigure(absl::StrCat(figure, "_flops"),
                2e-9 * static_cast<double>(m * w.n_rows * w.n_cols) / seconds, "GFLOP/s",
                peak * device.n_threads());
    if (m <= 8) {
      PrintFigure(absl::StrCat(figure, "_weights"), 1e-9 * static_cast<double>(w.bytes()) / seconds,
                  "GB/s", ReadBandwidth(device, memory));
    }
  }
}

// Peaks of one thread at 3.57 GHz: 32, 64 and 128 operations a cycle with 512-bit registers.
void BenchMatMul(CpuDevice& device) {
  for (const auto& [n_rows, n_cols] : {std::pair{14336, 4096}, {5632, 2048}}) {
    BenchMatMulShape(device, "bf16", {WeightFormat::kBf16, nullptr, n_rows, n_cols, 8}, 228);
    BenchMatMulShape(device, "int8", {WeightFormat::kInt8, nullptr, n_rows, n_cols, 8}, 457);
    BenchMatMulShape(device, "f32", {WeightFormat::kF32, nullptr, n_rows, n_cols, 8}, 114);
  }
  for (int64_t dim : {128, 384, 1024}) {
    PackedWeight w = {WeightFormat::kBf16, nullptr, dim, dim, 1};
    const std::vector<uint64_t> memory(w.bytes() / 8 + 8, 0x3c3c3c3c3c3c3c3c);
    w.data = reinterpret_cast<const char*>(
        RoundUp(static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory.data())), 64));
    const std::vector<float> x = RandomFloats(64 * dim);
    std::vector<float> y(64 * dim);
    for (int64_t m : {1, 64}) {
      const double seconds = MedianSeconds([&] { MatMul(device, x.data(), m, w, y.data()); });
      PrintFigure(absl::StrCat("matmul_bf16_", dim, "x", dim, "_m", m), seconds * 1e6, "us");
    }
  }
}

struct AttentionCase {
  const char* name;
  int64_t n_heads, n_kv_heads, head_dim;
  int64_t n_tokens;  // at the end of the context
  int64_t n_context;
  DType dtype;
};

void BenchAttention(CpuDevice& device, const AttentionCase& c) {
  const int64_t n_blocks = c.n_context / 16;
  const KvCacheShape shape = {c.dtype, 1, n_blocks, c.n_kv_heads, 16, c.head_dim};
  std::vector<float> keys(shape.layer_elements()), values(shape.layer_elements());
  const std::vector<float> qkv =
      RandomFloats(c.n_tokens * (c.n_heads + 2 * c.n_kv_heads) * c.head_dim);
  std::vector<float> out(c.n_tokens * c.n_heads * c.head_dim);
  std::vector<int32_t> table(n_blocks), positions(c.n_tokens), token_row(c.n_tokens, 0);
  std::iota(table.begin(), table.end(), 0);
  std::iota(positions.begin(), positions.end(), c.n_context - c.n_tokens);
  const int32_t row_begin[] = {0, static_cast<int32_t>(c.n_tokens)};
  const StepTokensView tokens = {1,
                                 c.n_tokens,
                                 row_begin,
                                 positions.data(),
                                 positions.data(),
                                 token_row.data(),
                                 table.data(),
                                 n_blocks};
  const double seconds = MedianSeconds([&] {
    PagedAttention(device, tokens, c.n_heads, qkv.data(), {keys.data(), values.data(), shape},
                   out.data());
  });
  double attended = 0;
  for (int32_t position : positions) attended += position + 1;
  PrintFigure(absl::StrCat(c.name, "_flops"),
              4e-9 * attended * static_cast<double>(c.n_heads * c.head_dim) / seconds, "GFLOP/s",
              115.0 * device.n_threads());
  if (c.n_tokens == 1) {
    PrintFigure(absl::StrCat(c.name, "_cache"),
                1e-9 * static_cast<double>(shape.total_bytes()) / seconds, "GB/s");
  }
}

void BenchSample(CpuDevice& device) {
  constexpr int64_t kVocab = 32000;
  std::vector<float> logits = RandomFloats(kVocab);
  for (float& logit : logits) logit *= 24.0f;
  const auto bench = [&](const char* name, const SamplingParams& sampling) {
    std::vector<SampledToken> out;
    int32_t position = 0;
    const double seconds = MedianSeconds([&] {
      const SampleRow row = {logits.data(), &sampling, 0, position++};
      Sample(device, kVocab, absl::MakeConstSpan(&row, 1), &out);
    });
    PrintFigure(absl::StrCat("sample_32000_", name), seconds * 1e6, "us");
  };
  bench("greedy", {.temperature = 0});
  bench("temperature1", {});
  bench("temperature100", {.temperature = 100});
  bench("top_p", {.top_p = 0.9f});
  bench("top_k", {.top_k = 50});
  bench("greedy_logprobs", {.temperature = 0, .n_logprobs = 20});
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  using bora::DType;
  bora::CpuDevice device(argc > 1 ? std::atoi(argv[1]) : 2);
  if (argc > 2 && std::string(argv[2]) == "cpu") bora::processor_time_threads = device.n_threads();
  const double handover = bora::MedianSeconds([&] {
    for (int i = 0; i < 100; ++i) device.ParallelFor(2, 1, [](int64_t, int64_t) {});
  });
  bora::PrintFigure("parallel_for", handover * 1e4, "us");
  bora::BenchMatMul(device);
  for (const auto& c : std::vector<bora::AttentionCase>{
           {"attention_prefill_7b_4096_bf16", 32, 8, 128, 512, 4096, DType::kBf16},
           {"attention_prefill_7b_4096_f32", 32, 8, 128, 512, 4096, DType::kF32},
           {"attention_prefill_tiny_4096_bf16", 8, 2, 16, 512, 4096, DType::kBf16},
           {"attention_prefill_13b_4096_bf16", 40, 40, 128, 256, 4096, DType::kBf16},
           {"attention_decode_7b_8192_bf16", 32, 8, 128, 1, 8192, DType::kBf16},
           {"attention_decode_7b_32768_bf16", 32, 8, 128, 1, 32768, DType::kBf16},
           {"attention_decode_13b_8192_bf16", 40, 40, 128, 1, 8192, DType::kBf16}}) {
    bora::BenchAttention(device, c);
  }
  bora::BenchSample(device);
  return 0;
}
