// Speed of the CPU operations beside the machine's limits, one row a figure:
//   figure NAME VALUE UNIT [limit L ratio R] [disturbed CORES]
// Usage: bora-bench-kernels [n_threads [cpu|wall [matmul|attention|sample|all [ISA [ROWS]]]]]
// With "cpu" a second is a second of processor time of each thread, which tells something on a
// machine that others use too (memory bandwidth excepted). Limits are measured at start, of bf16
// that of the better unit. A row during which others had more than 0.15 cores ends with
// "disturbed". ISA: as bora-worker's --isa; ROWS: products of these rows only (1,4,8).
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/int_math.h"
#include "base/philox.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/ops.h"
#include "tests/bench/peak_loops.h"

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

// Processor time, in seconds: of the whole machine, the host's theft included, and of this process.
double MachineBusySeconds() {
  std::ifstream file("/proc/stat");
  std::string name;
  double user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
  file >> name >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal;
  return (user + nice + system + irq + softirq + steal) / static_cast<double>(sysconf(_SC_CLK_TCK));
}
double ClockSeconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// What others had of the cores during the measurement before this.
constexpr double kForeignCoresMax = 0.15;
double foreign_cores = 0;

// Median seconds of one call, over at least 5 calls and 0.3 s.
double MedianSeconds(absl::FunctionRef<void()> body) {
  std::vector<double> seconds;
  double total = 0;
  body();
  const double wall = ClockSeconds(CLOCK_MONOTONIC);
  const double foreign = MachineBusySeconds() - ClockSeconds(CLOCK_PROCESS_CPUTIME_ID);
  while (seconds.size() < 5 || total < 0.3) {
    const double begin = Now();
    body();
    seconds.push_back(Now() - begin);
    total += seconds.back();
  }
  foreign_cores = (MachineBusySeconds() - ClockSeconds(CLOCK_PROCESS_CPUTIME_ID) - foreign) /
                  (ClockSeconds(CLOCK_MONOTONIC) - wall);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

void PrintFigure(const std::string& name, double value, const char* unit, double limit = 0) {
  std::printf("figure %s %.4g %s", name.c_str(), value, unit);
  if (limit > 0) std::printf(" limit %.4g ratio %.3f", limit, value / limit);
  if (foreign_cores > kForeignCoresMax) std::printf(" disturbed %.2f", foreign_cores);
  std::printf("\n");
  std::fflush(stdout);
}

// What all threads together can do at most, in 1e9 operations a second; 0: not known.
struct Peaks {
  double fp32 = 0;
  double bf16 = 0;  // the better of vdpbf16ps and fp32
  double int8 = 0;

  double Of(WeightFormat format) const {
    return format == WeightFormat::kInt8 ? int8 : format == WeightFormat::kBf16 ? bf16 : fp32;
  }
};

// The best of 15 short runs: whatever is slower was disturbed.
double PeakOf(CpuDevice& device, const std::optional<PeakLoop>& loop) {
  if (!loop) return 0;
  constexpr int64_t kLoops = 400'000;
  double best = 0;
  for (int i = 0; i < 15; ++i) {
    const double begin = Now();
    device.ParallelFor(device.n_threads(), 1, [&](int64_t first, int64_t last) {
      for (int64_t thread = first; thread < last; ++thread) loop->run(kLoops);
    });
    const double n = static_cast<double>(kLoops * kPeakChains * loop->operations);
    best = std::max(best, 1e-9 * n * device.n_threads() / (Now() - begin));
  }
  return best;
}

Peaks MeasurePeaks(CpuDevice& device) {
  const PeakLoops loops = ThisMachinesPeakLoops();
  Peaks peaks = {.fp32 = PeakOf(device, loops.fp32), .int8 = PeakOf(device, loops.int8)};
  const double dot = PeakOf(device, loops.bf16);
  peaks.bf16 = std::max(peaks.fp32, dot);
  PrintFigure("limit_fp32", peaks.fp32, "GFLOP/s");
  PrintFigure("limit_bf16", peaks.bf16, "GFLOP/s");
  if (dot > 0) PrintFigure("limit_vdpbf16ps", dot, "GFLOP/s");
  PrintFigure("limit_int8", peaks.int8, "Gop/s");
  return peaks;
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

// Gigabytes a second of plain reads of `data`, the limit of any product with one row.
double ReadBandwidth(CpuDevice& device, const std::vector<uint64_t>& data) {
  constexpr int64_t kPieceBytes = 64 << 10;
  const uint8_t* const begin = reinterpret_cast<const uint8_t*>(
      RoundUp(static_cast<int64_t>(reinterpret_cast<uintptr_t>(data.data())), 64));
  const int64_t n_pieces = (static_cast<int64_t>(data.size()) * 8 - 64) / kPieceBytes;
  if (n_pieces <= 0) return 0;
  double best = 0;
  for (const int64_t ahead : kPrefetchBytes) {
    const double seconds = MedianSeconds([&] {
      device.ParallelFor(n_pieces, 1, [&](int64_t first, int64_t last) {
        ReadMemory(begin + first * kPieceBytes, (last - first) * kPieceBytes, ahead);
      });
    });
    best = std::max(best, 1e-9 * static_cast<double>(n_pieces * kPieceBytes) / seconds);
  }
  return best;
}

// One shape in one format: weights that no cache holds, rows of x from decode to prefill.
void BenchMatMulShape(CpuDevice& device, const Peaks& peaks, const char* name, PackedWeight w,
                      const std::vector<int64_t>& rows) {
  const int64_t n_copies = std::max<int64_t>(1, (int64_t{512} << 20) / w.bytes());
  // Arbitrary bits would hold NaN; all bytes 0x3c are 0.0115 in float and bf16, and small integers.
  std::vector<uint64_t> memory(n_copies * w.bytes() / 8 + 8, 0x3c3c3c3c3c3c3c3c);
  char* const data = reinterpret_cast<char*>(
      RoundUp(static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory.data())), 64));
  const std::vector<float> x = RandomFloats(512 * w.n_cols);
  std::vector<float> y(512 * w.n_rows);
  for (int64_t m : rows) {
    int64_t copy = 0;
    const double seconds = MedianSeconds([&] {
      w.data = data + copy++ % n_copies * w.bytes();
      MatMul(device, x.data(), m, w, y.data());
    });
    const std::string figure = absl::StrCat("matmul_", name, "_", w.n_cols, "x", w.n_rows, "_m", m);
    PrintFigure(absl::StrCat(figure, "_flops"),
                2e-9 * static_cast<double>(m * w.n_rows * w.n_cols) / seconds, "GFLOP/s",
                peaks.Of(w.format));
    if (m <= 8) {
      PrintFigure(absl::StrCat(figure, "_weights"), 1e-9 * static_cast<double>(w.bytes()) / seconds,
                  "GB/s", ReadBandwidth(device, memory));
    }
  }
}

void BenchMatMul(CpuDevice& device, const Peaks& peaks, const std::vector<int64_t>& rows) {
  for (const auto& [n_rows, n_cols] : {std::pair{14336, 4096}, {5632, 2048}}) {
    for (const auto& [name, format] : {std::pair{"bf16", WeightFormat::kBf16},
                                       {"int8", WeightFormat::kInt8},
                                       {"f32", WeightFormat::kF32}}) {
      BenchMatMulShape(device, peaks, name,
                       {.format = format, .n_rows = n_rows, .n_cols = n_cols, .n_leaves = 8}, rows);
    }
  }
  for (int64_t dim : {128, 384, 1024}) {
    PackedWeight w = {.format = WeightFormat::kBf16, .n_rows = dim, .n_cols = dim};
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
  int64_t n_rows;
  int64_t n_tokens;   // of each row, at the end of its context
  int64_t n_context;  // of each row
  DType dtype;
};

// One call after the other on the next layer, as in a step: the cache of a layer comes from memory
// unless all layers together fit in the processor's cache (and then it does so in service too).
void BenchAttention(CpuDevice& device, const Peaks& peaks, const AttentionCase& c) {
  constexpr int64_t kBytes = 256 << 20;
  KvCacheShape shape = {c.dtype,      1,  c.n_rows * CeilDiv(c.n_context, 16),
                        c.n_kv_heads, 16, c.head_dim};
  const int64_t layer_bytes = shape.total_bytes();
  shape.n_layers = c.n_tokens == 1 ? std::min<int64_t>(32, CeilDiv(kBytes, layer_bytes)) : 1;
  // Huge pages, as in the worker; 0.0078 in both types.
  std::vector<uint64_t> memory;
  memory.reserve(shape.total_bytes() / 8);
  const int64_t page =
      RoundUp(static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory.data())), 4096);
  madvise(reinterpret_cast<void*>(page), shape.total_bytes() & ~4095, MADV_HUGEPAGE);
  memory.assign(shape.total_bytes() / 8, 0x3c003c003c003c00);
  const int64_t n_tokens = c.n_rows * c.n_tokens;
  const std::vector<float> qkv =
      RandomFloats(n_tokens * (c.n_heads + 2 * c.n_kv_heads) * c.head_dim);
  std::vector<float> out(n_tokens * c.n_heads * c.head_dim);
  std::vector<int32_t> table(shape.n_blocks), positions, token_table_row, row_begin = {0},
                                                                          row_position;
  std::iota(table.begin(), table.end(), 0);
  double attended = 0;
  for (int64_t row = 0; row < c.n_rows; ++row) {
    row_position.push_back(static_cast<int32_t>(c.n_context - c.n_tokens));
    for (int64_t t = c.n_context - c.n_tokens; t < c.n_context; ++t) {
      positions.push_back(static_cast<int32_t>(t));
      token_table_row.push_back(static_cast<int32_t>(row));
      attended += static_cast<double>(t + 1);
    }
    row_begin.push_back(static_cast<int32_t>(positions.size()));
  }
  const StepTokensView tokens = {c.n_rows,         n_tokens,
                                 row_begin.data(), row_position.data(),
                                 positions.data(), token_table_row.data(),
                                 table.data(),     shape.n_blocks / c.n_rows};
  int64_t layer = 0;
  const double seconds = MedianSeconds([&] {
    char* keys = reinterpret_cast<char*>(memory.data()) + layer++ % shape.n_layers * layer_bytes;
    PagedAttention(device, tokens, c.n_heads, qkv.data(), {keys, keys + layer_bytes / 2, shape},
                   out.data());
  });
  PrintFigure(absl::StrCat(c.name, "_us"), seconds * 1e6, "us");
  PrintFigure(absl::StrCat(c.name, "_flops"),
              4e-9 * attended * static_cast<double>(c.n_heads * c.head_dim) / seconds, "GFLOP/s",
              c.dtype == DType::kBf16 ? peaks.bf16 : peaks.fp32);
  if (c.n_tokens == 1) {
    PrintFigure(absl::StrCat(c.name, "_cache"), 1e-9 * static_cast<double>(layer_bytes) / seconds,
                "GB/s", ReadBandwidth(device, memory));
  }
}

void BenchAttentions(CpuDevice& device, const Peaks& peaks) {
  for (const AttentionCase& c : std::vector<AttentionCase>{
           {"attention_prefill_1b_512_bf16", 32, 8, 64, 1, 512, 512, DType::kBf16},
           {"attention_prefill_1b_2048_bf16", 32, 8, 64, 1, 512, 2048, DType::kBf16},
           {"attention_prefill_1b_8192_bf16", 32, 8, 64, 1, 512, 8192, DType::kBf16},
           {"attention_prefill_1b_16x32_bf16", 32, 8, 64, 16, 32, 32, DType::kBf16},
           {"attention_prefill_7b_4096_bf16", 32, 8, 128, 1, 512, 4096, DType::kBf16},
           {"attention_prefill_7b_4096_f32", 32, 8, 128, 1, 512, 4096, DType::kF32},
           {"attention_prefill_13b_4096_bf16", 40, 40, 128, 1, 256, 4096, DType::kBf16},
           {"attention_prefill_tiny_4096_bf16", 8, 2, 16, 1, 512, 4096, DType::kBf16},
           {"attention_decode_1b_8192_bf16", 32, 8, 64, 1, 1, 8192, DType::kBf16},
           {"attention_decode_1b_8x8192_bf16", 32, 8, 64, 8, 1, 8192, DType::kBf16},
           {"attention_decode_1b_32x200_bf16", 32, 8, 64, 32, 1, 200, DType::kBf16},
           {"attention_decode_7b_8192_bf16", 32, 8, 128, 1, 1, 8192, DType::kBf16},
           {"attention_decode_7b_8192_f32", 32, 8, 128, 1, 1, 8192, DType::kF32},
           {"attention_decode_13b_8192_bf16", 40, 40, 128, 1, 1, 8192, DType::kBf16},
           {"attention_decode_tiny64_128_bf16", 2, 1, 64, 1, 1, 128, DType::kBf16},
           {"attention_decode_tiny64_8192_bf16", 2, 1, 64, 1, 1, 8192, DType::kBf16},
           {"attention_decode_tiny64_32x200_bf16", 2, 1, 64, 32, 1, 200, DType::kBf16},
           {"attention_decode_demo_32x200_bf16", 8, 2, 16, 32, 1, 200, DType::kBf16}}) {
    BenchAttention(device, peaks, c);
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
  const absl::StatusOr<bora::SimdChoice> simd = bora::SimdChoiceByName(argc > 4 ? argv[4] : "auto");
  if (!simd.ok()) {
    std::fprintf(stderr, "bora-bench-kernels: %s\n", std::string(simd.status().message()).c_str());
    return 2;
  }
  std::printf("# %s\n", bora::DescribeSimdChoice(*simd).c_str());
  bora::CpuDevice device(argc > 1 ? std::atoi(argv[1]) : 2, *simd);
  if (argc > 2 && std::string(argv[2]) == "cpu") bora::processor_time_threads = device.n_threads();
  const bora::Peaks peaks = bora::MeasurePeaks(device);
  const double handover = bora::MedianSeconds([&] {
    for (int i = 0; i < 100; ++i) device.ParallelFor(2, 1, [](int64_t, int64_t) {});
  });
  bora::PrintFigure("parallel_for", handover * 1e4, "us");
  std::vector<int64_t> rows = {1, 4, 8, 16, 32, 64, 512};
  if (argc > 5) {
    rows.clear();
    for (absl::string_view word : absl::StrSplit(argv[5], ',')) {
      int64_t n = 0;
      if (absl::SimpleAtoi(word, &n) && n >= 1 && n <= 512) rows.push_back(n);
    }
  }
  const std::string only = argc > 3 ? argv[3] : "all";
  if (only == "all" || only == "matmul") bora::BenchMatMul(device, peaks, rows);
  if (only == "all" || only == "attention") bora::BenchAttentions(device, peaks);
  if (only == "all" || only == "sample") bora::BenchSample(device);
  return 0;
}
