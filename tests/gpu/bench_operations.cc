// Operations between the products, the choice of tokens, and what a launch costs.
#include "absl/strings/str_cat.h"
#include "kernels/add_rms_norm.h"
#include "kernels/rope_store_kv.h"
#include "kernels/sample.h"
#include "kernels/silu_mul.h"
#include "tests/gpu/bench_kernels.h"
#include "tests/gpu/bench_timer.h"

namespace bora {
namespace {

constexpr int64_t kDim = 4096;
constexpr int64_t kHiddenDim = 14336;
constexpr int64_t kHeads = 32;
constexpr int64_t kKvHeads = 8;
constexpr int64_t kHeadDim = 128;
constexpr int64_t kVocab = 32000;
// One sequence, a batch, and a long prompt, whose data (134 MB and more) no L2 cache holds.
constexpr int64_t kTokens[] = {1, 32, 8192};
// Launches of a sample: some 2 us each, or 0.1 ms.
int64_t LaunchesFor(int64_t n_tokens) { return n_tokens > 32 ? 4 : 64; }

CudaBuffer RandomFloats(GpuBench& bench, int64_t n, float scale) {
  CudaBuffer buffer = Allocate(n * 4);
  FillRandom(*bench.device, 4, scale, n, As<float>(buffer));
  bench.stream.Synchronize();
  return buffer;
}

// Bandwidth says something only about data that comes from memory.
void Print(GpuBench& bench, const std::string& name, const Timing& timing, int64_t n_tokens,
           int64_t n_bytes) {
  PrintMicroseconds(name + "_us", timing);
  if (n_tokens <= 32) return;
  PrintGigabytes(name, timing, static_cast<double>(n_bytes), bench.limits.copy_gb_per_s);
}

void BenchAddRmsNorm(GpuBench& bench, int64_t n_tokens) {
  const CudaBuffer residual = RandomFloats(bench, n_tokens * kDim, 1.0f);
  const CudaBuffer delta = RandomFloats(bench, n_tokens * kDim, 1e-3f);
  const CudaBuffer gain = RandomFloats(bench, kDim, 1.0f);
  const CudaBuffer out = Allocate(n_tokens * kDim * 2);
  const Timing timing =
      Time(bench, {LaunchesFor(n_tokens), [&](int64_t) {
                     AddRmsNorm(*bench.device, {n_tokens, kDim, 1e-5f}, As<float>(residual),
                                As<float>(delta), As<float>(gain), As<Bf16>(out));
                   }});
  Print(bench, absl::StrCat("gpu_add_rms_norm_m", n_tokens), timing, n_tokens,
        n_tokens * kDim * 14);
}

void BenchSiluMul(GpuBench& bench, int64_t n_tokens) {
  const CudaBuffer gate_up = RandomFloats(bench, 2 * n_tokens * kHiddenDim, 4.0f);
  const CudaBuffer out = Allocate(n_tokens * kHiddenDim * 2);
  const Timing timing = Time(bench, {LaunchesFor(n_tokens), [&](int64_t) {
                                       SiluMul(*bench.device, n_tokens, kHiddenDim,
                                               As<float>(gate_up), As<Bf16>(out));
                                     }});
  Print(bench, absl::StrCat("gpu_silu_mul_m", n_tokens), timing, n_tokens,
        n_tokens * kHiddenDim * 10);
}

// Up to 32 tokens are as many sequences at their 1000th token, more are one sequence.
void BenchRope(GpuBench& bench, int64_t n_tokens) {
  constexpr int64_t kBlockSize = 16;
  const bool one_row = n_tokens > 32;
  const int64_t blocks_per_row = (one_row ? n_tokens : 1024) / kBlockSize;
  const int64_t n_rows = one_row ? 1 : n_tokens;
  std::vector<int32_t> positions, token_table_row, table, row_begin, row_position;
  for (int32_t t = 0; t < n_tokens; ++t) {
    positions.push_back(one_row ? t : 999);
    token_table_row.push_back(one_row ? 0 : t);
  }
  for (int32_t r = 0; r < n_rows; ++r) {
    row_begin.push_back(r);
    row_position.push_back(one_row ? 0 : 999);
  }
  row_begin.push_back(static_cast<int32_t>(n_tokens));
  for (int32_t i = 0; i < n_rows * blocks_per_row; ++i) table.push_back(i);
  const KvCacheShape shape = {DType::kBf16, 1,          n_rows * blocks_per_row,
                              kKvHeads,     kBlockSize, kHeadDim};
  const RopeTable rope(kHeadDim, 8192, 1e6);
  const int64_t rope_bytes = rope.n_positions() * kHeadDim / 2 * 4;
  const CudaBuffer cosines = AllocateBytes(rope.view().cosines, rope_bytes);
  const CudaBuffer sines = AllocateBytes(rope.view().sines, rope_bytes);
  const CudaBuffer d_positions = Upload(positions), d_token_row = Upload(token_table_row),
                   d_table = Upload(table), d_row_begin = Upload(row_begin),
                   d_row_position = Upload(row_position);
  const StepTokensView tokens = {.n_rows = n_rows,
                                 .n_tokens = n_tokens,
                                 .row_begin = As<int32_t>(d_row_begin),
                                 .row_position = As<int32_t>(d_row_position),
                                 .positions = As<int32_t>(d_positions),
                                 .token_table_row = As<int32_t>(d_token_row),
                                 .block_table = As<int32_t>(d_table),
                                 .max_blocks_per_row = blocks_per_row};
  const CudaBuffer qkv = RandomFloats(bench, n_tokens * (kHeads + 2 * kKvHeads) * kHeadDim, 1.0f);
  const CudaBuffer cache = Allocate(shape.total_bytes());
  const KvLayerView layer = {cache.data(), cache.data() + shape.total_bytes() / 2, shape};
  const Timing timing =
      Time(bench, {LaunchesFor(n_tokens), [&](int64_t) {
                     RopeAndStoreKv(*bench.device,
                                    RopeTableView{As<float>(cosines), As<float>(sines), 8192},
                                    tokens, kHeads, As<float>(qkv), layer);
                   }});
  // Queries are read and written, keys and values read and stored as bf16; angles once a position.
  Print(bench, absl::StrCat("gpu_rope_store_kv_m", n_tokens), timing, n_tokens,
        n_tokens * kHeadDim * (kHeads * 8 + 2 * kKvHeads * 6 + 4));
}

void BenchSample(GpuBench& bench, const char* name, int64_t n_rows,
                 const SamplingParams& sampling) {
  // About the spread of a model's logits.
  const CudaBuffer logits = RandomFloats(bench, n_rows * kVocab, 12.0f);
  std::vector<CudaSampleRow> rows;
  for (int32_t r = 0; r < n_rows; ++r) rows.push_back({.slot = r, .position = 1000 + r});
  const CudaBuffer d_rows = Upload(rows);
  const CudaBuffer d_sampling = Upload(std::vector<CudaSampling>(n_rows, ToCudaSampling(sampling)));
  const CudaBuffer sampled = Allocate(n_rows * static_cast<int64_t>(sizeof(CudaSampledToken)));
  const CudaBuffer last_tokens = Allocate(n_rows * 4);
  bench.NeedScratch(SampleScratchBytes(n_rows, kVocab));
  const CudaSampleCall call = {.n_rows = n_rows,
                               .n_tokens = kVocab,
                               .row_stride = kVocab,
                               .logits = As<float>(logits),
                               .rows = As<CudaSampleRow>(d_rows),
                               .sampling = As<CudaSampling>(d_sampling),
                               .sampled = As<CudaSampledToken>(sampled),
                               .last_tokens = As<int32_t>(last_tokens)};
  PrintMicroseconds(absl::StrCat("gpu_sample_", name, "_m", n_rows, "_us"),
                    Time(bench, {32, [&](int64_t) { Sample(*bench.device, call); }}));
}

}  // namespace

void BenchOperations(GpuBench& bench) {
  for (const int64_t n_tokens : kTokens) {
    BenchAddRmsNorm(bench, n_tokens);
    BenchRope(bench, n_tokens);
    BenchSiluMul(bench, n_tokens);
  }
  for (const int64_t n_rows : {1, 128}) {
    BenchSample(bench, "greedy", n_rows, {.temperature = 0});
    BenchSample(bench, "temperature", n_rows, {});
    BenchSample(bench, "top_p", n_rows, {.top_p = 0.9f});
    BenchSample(bench, "top_k", n_rows, {.top_k = 50});
    BenchSample(bench, "logprobs", n_rows, {.n_logprobs = 20});
  }
  // A graph of 256 nodes, each behind the one before: what a step of a model consists of at least.
  PrintMicroseconds("gpu_empty_kernel_in_graph_us",
                    Time(bench, {256, [&](int64_t) { LaunchEmpty(*bench.device); }}));
}

}  // namespace bora
