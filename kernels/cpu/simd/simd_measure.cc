// Measures the ways to do bf16 and float16 products and attention on this machine, for ChooseSimd.
#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/host/flush_subnormals.h"
#include "base/int_math.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/cpu/simd/simd_choice.h"
#include "kernels/packed_weight.h"

namespace bora {
namespace {

// The matrix: 1024 x 2048 weights of 2 bytes are 4 MiB, more than a second-level cache, as weights
// in service are.
constexpr int64_t kCols = 2048;
constexpr int64_t kPanels = 32;
constexpr int64_t kLeaves = 8;
// For each class of rows: the rows that are timed and the panels that they are multiplied with, so
// that a sample takes 0.1 to 0.6 ms.
constexpr int64_t kTimedRows[] = {1, 4, 8, 24, 96};
constexpr int64_t kTimedPanels[] = {32, 16, 8, 8, 4};
constexpr int64_t kMaxTimedRows = 96;

// Attention over 512 positions of heads of 64: [0] a decoding token's 8 KV heads with 4 queries
// each, [1] a tile of one KV head.
constexpr int64_t kPositions = 512;
constexpr int64_t kHeadDim = 64;
constexpr int64_t kRuns = kPositions / kSimdLanes;
constexpr int64_t kRunBytes = kSimdLanes * kHeadDim * 2;  // of one head
constexpr int64_t kHeads[] = {8, 1};
constexpr int64_t kQueries[] = {4, kAttentionQueries};
constexpr int kRepeats[] = {1, 6};

// Rounds of ChooseSimd at most, and the processor time after which no further round begins.
constexpr int kRounds = 5;
constexpr double kProcessorSeconds = 0.020;

// The processor time of the calling thread. Time during which other threads run on its core does
// not count.
double ProcessorSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct FreeMemory {
  void operator()(char* memory) const { std::free(memory); }
};

// Memory for the probes and the functions that time them.
class Probes {
 public:
  Probes()
      : weight_{.format = WeightFormat::kBf16,
                .n_rows = kPanels * kPanelRows,
                .n_cols = kCols,
                .n_leaves = kLeaves},
        memory_(static_cast<char*>(std::aligned_alloc(64, weight_.bytes()))),
        rows_(kMaxTimedRows * kCols, 0.5f),
        packed_(kMaxTimedRows * kCols),
        out_(kMaxTimedRows * weight_.n_rows),
        queries_(kQueries[0] * kHeads[0] * kQueryFloats),
        scores_(kQueries[0] * kHeads[0] * kScoreFloats) {
    CHECK(memory_ != nullptr) << "no memory for " << weight_.bytes() << " bytes";
    // The same bits are 0.0078 in bf16 and 1 in float16, whose panels have the same size.
    std::fill_n(reinterpret_cast<uint32_t*>(memory_.get()), weight_.bytes() / 4, 0x3c003c00u);
    std::fill_n(reinterpret_cast<uint32_t*>(queries_.data()), queries_.size(), 0x3c003c00u);
  }

  // Does the probe's operation once; returns the processor time that it took.
  double Seconds(const SimdProbe& probe) {
    return probe.operation == SimdProbe::Operation::kBf16Attention ? AttentionSeconds(probe)
                                                                   : ProductSeconds(probe);
  }

 private:
  double ProductSeconds(const SimdProbe& probe) {
    const SimdKernels& simd = GetSimdKernels(probe.loops.level);
    const bool is_f16 = probe.operation == SimdProbe::Operation::kF16Product;
    const MatMulKernels& kernels =
        simd.matmul[static_cast<int>(is_f16 ? WeightFormat::kF16 : WeightFormat::kBf16)];
    MatMulTask task = {.m = kTimedRows[probe.index],
                       .w = memory_.get(),
                       .n_panels = kTimedPanels[probe.index],
                       .n_panels_ahead = kTimedPanels[probe.index],
                       .panel_bytes = weight_.panel_bytes(),
                       .n_leaves = kLeaves,
                       .leaf_cols = weight_.leaf_cols(),
                       .group_cols = weight_.group_cols(),
                       .y = out_.data(),
                       .y_stride = weight_.n_rows,
                       .n_outputs = kTimedPanels[probe.index] * kPanelRows};
    task.n_tiles = CeilDiv(task.m, simd.matmul_tile_rows);
    task.row_floats = kCols / weight_.step_cols() * kernels.step_floats;
    task.x = packed_.data();
    for (int64_t tile = 0; tile < task.n_tiles; ++tile) {
      const int64_t row = task.m * tile / task.n_tiles;
      kernels.pack(rows_.data(), task.m * (tile + 1) / task.n_tiles - row, kCols, task,
                   packed_.data() + row * task.row_floats);
    }
    if (probe.loops.widened) {
      wide_.resize(WideFloats(weight_, task.n_tiles));
      task.wide = wide_.data();
    }
    const double begin = ProcessorSeconds();
    kernels.multiply(task);
    return ProcessorSeconds() - begin;
  }

  double AttentionSeconds(const SimdProbe& probe) {
    const AttentionKernels& kernels =
        GetSimdKernels(probe.loops.level).attention[static_cast<int>(DType::kBf16)];
    const HeadsOfRun heads = {.n = kHeads[probe.index], .bytes = kRunBytes};
    const int64_t n_queries = kQueries[probe.index];
    // The weights' memory also serves as the cache: keys in the first half, values in the second.
    const char* runs[2 * kRuns + kExtraRuns];
    for (int64_t i = 0; i < 2 * kRuns + kExtraRuns; ++i) {
      const int64_t run = std::min(i, 2 * kRuns - 1);
      runs[i] = memory_.get() + run * heads.n * kRunBytes;
    }
    const double begin = ProcessorSeconds();
    for (int repeat = 0; repeat < kRepeats[probe.index]; ++repeat) {
      kernels.scores({.queries = queries_.data(),
                      .n_queries = n_queries,
                      .heads = heads,
                      .keys = runs,
                      .n_runs = kRuns,
                      .run_positions = kSimdLanes,
                      .n_steps = kHeadDim / 2,
                      .step_bytes = kSimdLanes * 4,
                      .scores = scores_.data()});
      for (int64_t q = 0; q < heads.n * n_queries; ++q) {
        kernels.softmax(scores_.data() + q * kScoreFloats, kPositions, kPositions, 1.0f);
      }
      kernels.values({.probs = scores_.data(),
                      .n_queries = n_queries,
                      .heads = heads,
                      .values = runs + kRuns,
                      .run_positions = kSimdLanes,
                      .n_positions = kPositions,
                      .head_dim = kHeadDim,
                      .sums = out_.data(),
                      .sum_stride = kHeadDim});
    }
    return ProcessorSeconds() - begin;
  }

  const PackedWeight weight_;
  const std::unique_ptr<char, FreeMemory> memory_;
  const std::vector<float> rows_;
  std::vector<float> packed_;
  std::vector<float> wide_;
  std::vector<float> out_;
  std::vector<float> queries_;
  std::vector<float> scores_;
};

}  // namespace

SimdChoice MeasureSimdChoice(SimdLevel newest, SimdLevel below) {
  // With one level there is only widening to choose, which older levels do not have.
  if (newest == below && newest < SimdLevel::kAvx512) return SimdChoice(newest);
  const FlushSubnormals flush;
  const double begin = ProcessorSeconds();
  Probes probes;
  return ChooseSimd(
      newest, below, kRounds, [&](const SimdProbe& probe) { return probes.Seconds(probe); },
      [&] { return ProcessorSeconds() - begin < kProcessorSeconds; });
}

}  // namespace bora
