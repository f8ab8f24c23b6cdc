// Attention of one layer of a 7B model: 32 heads, 8 KV heads, heads of 128, blocks of 16 tokens.
#include <algorithm>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/int_math.h"
#include "kernels/paged_attention.h"
#include "tests/gpu/bench_kernels.h"
#include "tests/gpu/bench_timer.h"

namespace bora {
namespace {

constexpr int64_t kHeads = 32;
constexpr int64_t kKvHeads = 8;
constexpr int64_t kHeadDim = 128;
constexpr int64_t kBlockSize = 16;
// Keys and values of a token.
constexpr int64_t kTokenBytes = 2 * kKvHeads * kHeadDim * 2;
// Every launch reads another layer, until no L2 cache (60 MB at most) holds them all.
constexpr int64_t kLayersBytes = int64_t{512} << 20;

// Sequences with the last n_tokens of their context in this step.
struct AttentionCase {
  std::string name;
  std::vector<int64_t> contexts;
  int64_t n_tokens = 1;
  int64_t n_launches = 1;
};

// A case's rows and work in device memory.
class AttentionSetup {
 public:
  AttentionSetup(GpuBench& bench, const AttentionCase& c) : bench_(bench) {
    const int64_t n_rows = static_cast<int64_t>(c.contexts.size());
    const int64_t max_context = *std::max_element(c.contexts.begin(), c.contexts.end());
    n_tokens_ = n_rows * c.n_tokens;
    max_blocks_per_row_ = CeilDiv(max_context, kBlockSize);
    const AttentionLimits limits = {kHeads, kKvHeads, kHeadDim, n_rows, n_tokens_, max_context};
    PlanWork(limits, c);
    bench.NeedScratch(PagedAttentionScratchBytes(limits));
    MakeCache(c, max_context);
    const int64_t qkv_floats = n_tokens_ * (kHeads + 2 * kKvHeads) * kHeadDim;
    qkv_ = Allocate(qkv_floats * 4);
    FillRandom(*bench.device, 3, 1.0f, qkv_floats, As<float>(qkv_));
    out_ = Allocate(n_tokens_ * kHeads * kHeadDim * 2);
    bench.stream.Synchronize();
  }

  void Launch(int64_t launch_idx) const {
    const int64_t layer_elements = shape_.layer_elements();
    const Bf16* const keys = bench_.random() + 2 * (launch_idx % n_layers_) * layer_elements;
    const KvLayerView cache = {const_cast<Bf16*>(keys), const_cast<Bf16*>(keys + layer_elements),
                               shape_};
    PagedAttention(*bench_.device, view_, As<int32_t>(table_), max_blocks_per_row_, kHeads,
                   As<float>(qkv_), cache, As<Bf16>(out_));
  }

  // Keys and values of all contexts, and a step's queries and results.
  double n_bytes(const AttentionCase& c) const {
    const int64_t cached = std::accumulate(c.contexts.begin(), c.contexts.end(), int64_t{0});
    return static_cast<double>(cached * kTokenBytes + n_tokens_ * kHeads * kHeadDim * (4 + 2));
  }

 private:
  void PlanWork(const AttentionLimits& limits, const AttentionCase& c) {
    std::vector<AttentionRow> rows;
    for (size_t r = 0; r < c.contexts.size(); ++r) {
      rows.push_back({static_cast<int32_t>(r), static_cast<int32_t>(r * c.n_tokens),
                      static_cast<int32_t>(c.n_tokens),
                      static_cast<int32_t>(c.contexts[r] - c.n_tokens)});
    }
    AttentionWork work;
    PlanAttention(limits, rows, &work);
    decode_items_ = Upload(work.decode_items);
    prefill_items_ = Upload(work.prefill_items);
    merges_ = Upload(work.merges);
    counts_ = Upload(std::vector<int32_t>{static_cast<int32_t>(work.decode_items.size()),
                                          static_cast<int32_t>(work.prefill_items.size()),
                                          static_cast<int32_t>(work.merges.size())});
    view_ = {.decode_items = As<AttentionItem>(decode_items_),
             .prefill_items = As<AttentionItem>(prefill_items_),
             .merges = As<AttentionMerge>(merges_),
             .counts = As<int32_t>(counts_),
             .max_decode_items = static_cast<int64_t>(work.decode_items.size()),
             .max_prefill_items = static_cast<int64_t>(work.prefill_items.size()),
             .max_merges = static_cast<int64_t>(work.merges.size()),
             .max_partials = work.n_partials};
  }

  // Blocks of a sequence lie anywhere, as after some hours of service.
  void MakeCache(const AttentionCase& c, int64_t max_context) {
    int64_t n_blocks = 0;
    for (const int64_t context : c.contexts) n_blocks += CeilDiv(context, kBlockSize);
    shape_ = {DType::kBf16, 1, n_blocks, kKvHeads, kBlockSize, kHeadDim};
    CHECK_LE(shape_.total_bytes(), bench_.random_memory.bytes());
    n_layers_ = std::min(CeilDiv(kLayersBytes, shape_.total_bytes()),
                         bench_.random_memory.bytes() / shape_.total_bytes());
    std::vector<int32_t> ids(n_blocks);
    std::iota(ids.begin(), ids.end(), 0);
    std::mt19937_64 random(1);
    std::shuffle(ids.begin(), ids.end(), random);
    const int64_t width = CeilDiv(max_context, kBlockSize);
    std::vector<int32_t> table(c.contexts.size() * width, 0);
    auto next = ids.begin();
    for (size_t r = 0; r < c.contexts.size(); ++r) {
      const int64_t n = CeilDiv(c.contexts[r], kBlockSize);
      std::copy_n(next, n, table.begin() + static_cast<int64_t>(r) * width);
      next += n;
    }
    table_ = Upload(table);
  }

  GpuBench& bench_;
  KvCacheShape shape_;
  int64_t n_layers_ = 1;
  int64_t n_tokens_ = 0;
  int64_t max_blocks_per_row_ = 0;
  CudaBuffer decode_items_, prefill_items_, merges_, counts_, table_, qkv_, out_;
  AttentionWorkView view_;
};

}  // namespace

void BenchDecodeAttention(GpuBench& bench) {
  const auto same = [](int64_t n_rows, int64_t context) {
    return std::vector<int64_t>(n_rows, context);
  };
  std::vector<int64_t> ragged;
  for (int64_t r = 0; r < 32; ++r) ragged.push_back(100 + 251 * r);  // 100 to 7881
  for (const AttentionCase& c : std::vector<AttentionCase>{{"1x1k", same(1, 1024), 1, 64},
                                                           {"1x8k", same(1, 8192), 1, 32},
                                                           {"1x32k", same(1, 32768), 1, 16},
                                                           {"32x1k", same(32, 1024), 1, 16},
                                                           {"32x8k", same(32, 8192), 1, 2},
                                                           {"128x4k", same(128, 4096), 1, 1},
                                                           {"32xragged", ragged, 1, 4}}) {
    const AttentionSetup setup(bench, c);
    const Timing timing = Time(bench, {c.n_launches, [&](int64_t i) { setup.Launch(i); }});
    const std::string name = absl::StrCat("gpu_decode_attention_", c.name);
    PrintGigabytes(name, timing, setup.n_bytes(c), bench.limits.read_gb_per_s);
    PrintMicroseconds(name + "_us", timing);
  }
}

void BenchPrefillAttention(GpuBench& bench) {
  for (const AttentionCase& c : std::vector<AttentionCase>{{"2k", {2048}, 2048, 4},
                                                           {"8k", {8192}, 8192, 1},
                                                           {"32k", {32768}, 32768, 1},
                                                           {"2k_at_30k", {32768}, 2048, 1}}) {
    const AttentionSetup setup(bench, c);
    const Timing timing = Time(bench, {c.n_launches, [&](int64_t i) { setup.Launch(i); }});
    // Two products of head_dim for each pair of a query and a position that it sees.
    const double first = static_cast<double>(c.contexts[0] - c.n_tokens);
    const double n_tokens = static_cast<double>(c.n_tokens);
    const double pairs = n_tokens * (first + (n_tokens + 1) / 2);
    const std::string name = absl::StrCat("gpu_prefill_attention_", c.name);
    PrintTeraflops(name, timing, 4.0 * kHeadDim * kHeads * pairs, bench.limits.gemm_tflop_per_s);
    PrintMicroseconds(name + "_us", timing);
  }
}

}  // namespace bora
