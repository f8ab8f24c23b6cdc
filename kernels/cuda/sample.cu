// Sample on a GPU, with one block per row. Which token is drawn depends only on sums of integers
// and on comparisons of numbers that each belong to one token (kernels/draw.h), so it does not
// depend on the number of threads or their order. This file is compiled without fused multiply-add
// (kernels/CMakeLists.txt): scores and weights have the same bits as from the same source on a CPU.
//
// The vocabulary is not sorted. A restriction keeps a prefix of the order of tokens, up to a last
// token. A radix select finds that token: four passes over the row, each of which fixes 8 bits of
// the last token's logit by a histogram of 256 bins, and one pass over the tokens with exactly that
// logit.
#include <algorithm>
#include <limits>

#include "base/int_math.h"
#include "kernels/cuda/block_sums.h"
#include "kernels/cuda/runtime/cuda_device.h"
#include "kernels/cuda/runtime/cuda_prelude.h"
#include "kernels/cuda/runtime/load_kernels.h"
#include "kernels/draw.h"
#include "kernels/exact_math.h"
#include "kernels/sample.h"
#include "kernels/token_order.h"

namespace bora {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kMinThreads = 2 * kWarpSize;  // at least 2 warps, for FindInBlock

// Keys above and below those of all finite logits.
constexpr uint64_t kBannedKey = ~uint64_t{0};
constexpr uint64_t kNonFiniteKey = 0;

// A digit of the radix select, and its values.
constexpr int kDigitBits = 8;
constexpr int kBins = 1 << kDigitBits;
// Counters per bin, each for two lanes. Logits are concentrated on few bins, so lanes would queue
// for a single counter. All counters take 33 KB; a counter for each lane would need more shared
// memory than a launch gets without a permission.
constexpr int kColumns = 16;
// Counters from one column to the next: one more than the bins, so that a bin's counters are in
// different banks.
constexpr int kColumnStride = kBins + 1;

// A histogram of 64-bit sums, kept in two halves because a GPU has no 64-bit addition in shared
// memory.
struct Histogram {
  uint32_t* low = nullptr;   // [kColumns, kColumnStride], in shared memory
  uint32_t* high = nullptr;  // the same
  uint64_t* bins = nullptr;  // [kBins], in shared memory

  // Adds to a bin, through the column of the calling lane; a carry goes to the high half.
  __device__ void Add(int column, int bin, uint64_t value) const {
    const int at = column * kColumnStride + bin;
    const auto value_low = static_cast<uint32_t>(value);
    auto value_high = static_cast<uint32_t>(value >> 32);
    const uint32_t sum_low = atomicAdd(&low[at], value_low) + value_low;
    if (sum_low < value_low) ++value_high;
    if (value_high != 0) atomicAdd(&high[at], value_high);
  }
};

// The shared memory of a block.
struct Workspace {
  BlockThreads block;
  Histogram histogram;
  uint64_t* top_keys = nullptr;  // [kMaxLogprobs], in shared memory
  uint32_t* n_top = nullptr;     // [1], in shared memory: keys in top_keys
};

// Takes the arrays; WorkspaceBytes must list the same ones in the same order.
__device__ Workspace TakeWorkspace() {
  Shared shared;
  Workspace work;
  work.block = ThisBlock(shared.Take<uint64_t>(kWarpSize));
  work.histogram.low = shared.Take<uint32_t>(kColumns * kColumnStride);
  work.histogram.high = shared.Take<uint32_t>(kColumns * kColumnStride);
  work.histogram.bins = shared.Take<uint64_t>(kBins);
  work.top_keys = shared.Take<uint64_t>(kMaxLogprobs);
  work.n_top = shared.Take<uint32_t>(1);
  return work;
}

constexpr int64_t WorkspaceBytes() {
  return SharedBytes()
      .Add<uint64_t>(kWarpSize)
      .Add<uint32_t>(kColumns * kColumnStride)
      .Add<uint32_t>(kColumns * kColumnStride)
      .Add<uint64_t>(kBins)
      .Add<uint64_t>(kMaxLogprobs)
      .Add<uint32_t>(1)
      .bytes();
}
static_assert(WorkspaceBytes() <= kPlainSharedBytes);

// The tokens to choose from, with their logits.
struct Candidates {
  const float* logits = nullptr;  // [n_tokens]
  int n_tokens = 0;
  const int32_t* banned = nullptr;  // [n_banned], ascending
  int n_banned = 0;

  // Whether the token is in `banned`; by binary search.
  __device__ bool IsBanned(int token_id) const {
    int begin = 0;
    int end = n_banned;
    while (begin < end) {
      const int middle = (begin + end) / 2;
      if (banned[middle] < token_id) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin < n_banned && banned[begin] == token_id;
  }

  // The token's place in the order; banned tokens come after all others.
  __device__ uint64_t KeyOf(int token_id, float logit) const {
    return IsBanned(token_id) ? kBannedKey : OrderKey(logit, token_id);
  }
};

// Calls visit(token_id, logit) for each token of the calling thread, in ascending order. A thread
// has every n_threads-th token.
template <typename Visit>
__device__ void ForEachToken(const BlockThreads& block, const Candidates& tokens, Visit visit) {
  constexpr int kLoads = 4;  // loads that are under way at the same time
  for (int first = block.thread_idx; first < tokens.n_tokens; first += kLoads * block.n_threads) {
    float logits[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) {
      const int token_id = first + k * block.n_threads;
      logits[k] = token_id < tokens.n_tokens ? tokens.logits[token_id] : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kLoads; ++k) {
      const int token_id = first + k * block.n_threads;
      if (token_id < tokens.n_tokens) visit(token_id, logits[k]);
    }
  }
}

// The smallest key of all tokens, or kNonFiniteKey if any logit is not finite.
__device__ uint64_t BestKey(const BlockThreads& block, const Candidates& tokens) {
  uint64_t best = kBannedKey;
  ForEachToken(block, tokens, [&](int token_id, float logit) {
    const bool is_finite = (std::bit_cast<uint32_t>(logit) & 0x7f800000u) != 0x7f800000u;
    best = std::min(best, is_finite ? tokens.KeyOf(token_id, logit) : kNonFiniteKey);
  });
  return BlockReduce(block, best, kBannedKey,
                     [](uint64_t a, uint64_t b) { return std::min(a, b); });
}

// A prefix of the order of tokens.
struct Prefix {
  uint64_t last_key = 0;  // key of the prefix's last token
  uint64_t sum = 0;       // sum of its tokens' values
};

// Fills the histogram's bins with sums of value_of(token_id). A token's bin is the 8 bits from
// `shift` on of its key's upper half. Only tokens count whose bits above those equal `digits`.
template <typename ValueOf>
__device__ void FillBins(const Workspace& work, const Candidates& tokens, int shift,
                         uint32_t digits, ValueOf value_of) {
  const BlockThreads& block = work.block;
  const Histogram& histogram = work.histogram;
  for (int i = block.thread_idx; i < kColumns * kColumnStride; i += block.n_threads) {
    histogram.low[i] = 0;
    histogram.high[i] = 0;
  }
  __syncthreads();
  ForEachToken(block, tokens, [&](int token_id, float logit) {
    const uint64_t key = tokens.KeyOf(token_id, logit);
    const uint64_t digits_of_key = key >> (32 + shift);
    if (digits_of_key >> kDigitBits != digits) return;
    const uint64_t value = value_of(token_id);
    if (value == 0) return;
    histogram.Add(block.lane % kColumns, static_cast<int>(digits_of_key % kBins), value);
  });
  __syncthreads();
  for (int bin = block.thread_idx; bin < kBins; bin += block.n_threads) {
    uint64_t sum = 0;
    for (int column = 0; column < kColumns; ++column) {
      const int at = column * kColumnStride + bin;
      sum += histogram.low[at] + (uint64_t{histogram.high[at]} << 32);
    }
    histogram.bins[bin] = sum;
  }
  __syncthreads();
}

// The shortest prefix of the order whose sum of value_of(token_id) reaches `enough`.
// REQUIRES: enough > 0, and enough is at most the sum over all tokens that are not banned.
template <typename ValueOf>
__device__ Prefix SelectPrefix(const Workspace& work, const Candidates& tokens, uint64_t enough,
                               ValueOf value_of) {
  uint32_t digits = 0;
  uint64_t before = 0;  // sum over the tokens with smaller digits
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    FillBins(work, tokens, shift, digits, value_of);
    const Found bin = FindInBlock(work.block, kBins, enough - before - 1,
                                  [&](int bin_idx) { return work.histogram.bins[bin_idx]; });
    before += bin.before;
    digits = digits << kDigitBits | static_cast<uint32_t>(bin.idx);
    if (before + bin.value == enough) {
      // The prefix ends with these digits: all tokens that have them are in it.
      return {((uint64_t{digits} + 1) << (32 + shift)) - 1, enough};
    }
  }
  // Among tokens with the same logit, those with the lowest ids are in the prefix.
  const Found last =
      FindInBlock(work.block, tokens.n_tokens, enough - before - 1, [&](int token_id) {
        const uint64_t key = tokens.KeyOf(token_id, tokens.logits[token_id]);
        return key >> 32 == digits ? value_of(token_id) : 0;
      });
  return {uint64_t{digits} << 32 | static_cast<uint32_t>(last.idx),
          before + last.before + last.value};
}

// The key of the last token that remains after top_k and top_p. best_key: of the best token.
// weights: [n_tokens], working memory.
__device__ uint64_t LastKept(const Workspace& work, const Candidates& tokens, uint64_t best_key,
                             const CudaSampling& sampling, uint64_t* weights) {
  uint64_t last_key = kBannedKey - 1;
  if (sampling.top_k > 0 && sampling.top_k < tokens.n_tokens - tokens.n_banned) {
    last_key = SelectPrefix(work, tokens, static_cast<uint64_t>(sampling.top_k), [](int) {
                 return uint64_t{1};
               }).last_key;
  }
  if (sampling.top_p == 1.0f) return last_key;
  const double best = WithoutSubnormal(tokens.logits[TokenOf(best_key)]);
  const double temperature = sampling.temperature;
  uint64_t total = 0;
  ForEachToken(work.block, tokens, [&](int token_id, float logit) {
    const bool kept = tokens.KeyOf(token_id, logit) <= last_key;
    weights[token_id] = kept ? IntegerWeight(WeightOf(logit, best, temperature)) : 0;
    total += weights[token_id];
  });
  total = BlockSum(work.block, total);
  // The prefix may end after tokens without weight, which are never drawn.
  return SelectPrefix(work, tokens, EnoughOf(sampling.top_p, total),
                      [=](int token_id) { return weights[token_id]; })
      .last_key;
}

// The token with the best score among the tokens up to last_key that have at least min_p;
// best_key's token is one of them.
__device__ int BestScore(const Workspace& work, const Candidates& tokens, uint64_t best_key,
                         uint64_t last_key, const CudaSampling& sampling, int32_t position) {
  const float temperature = sampling.temperature;
  int winner = TokenOf(best_key);
  const double best_logit = WithoutSubnormal(tokens.logits[winner]);
  double best =
      DrawScore(tokens.logits[winner], temperature, DrawWord(sampling.seed, position, winner));
  float least = LeastToBeat(best, temperature);
  const int n_blocks = CeilDiv(tokens.n_tokens, kTokensPerDrawBlock);
  for (int block_idx = work.block.thread_idx; block_idx < n_blocks;
       block_idx += work.block.n_threads) {
    const int first = block_idx * kTokensPerDrawBlock;
    const auto words = DrawWords(sampling.seed, position, block_idx);
    unsigned candidates = 0;
#pragma unroll
    for (int k = 0; k < kTokensPerDrawBlock; ++k) {
      if (first + k >= tokens.n_tokens) break;
      const float bound = tokens.logits[first + k] + temperature * GumbelBound(words[k]);
      candidates |= bound >= least ? 1u << k : 0u;
    }
    // Candidates are rare, so this loop is not unrolled.
#pragma unroll 1
    for (; candidates != 0; candidates &= candidates - 1) {
      const int k = __ffs(static_cast<int>(candidates)) - 1;
      const uint32_t word = WordAt(words, k);
      const int token_id = first + k;
      const float logit = tokens.logits[token_id];
      const double score = DrawScore(logit, temperature, word);
      if (score < best || (score == best && token_id >= winner)) continue;
      if (tokens.KeyOf(token_id, logit) > last_key) continue;
      if (WeightOf(logit, best_logit, static_cast<double>(temperature)) < sampling.min_p) continue;
      best = score;
      winner = token_id;
      least = LeastToBeat(best, temperature);
    }
  }
  // The block's best score, and among tokens with that score the lowest id.
  const double best_of_all = BlockReduce(work.block, best, -std::numeric_limits<double>::infinity(),
                                         [](double a, double b) { return std::max(a, b); });
  const uint64_t none = ~uint64_t{0};
  return static_cast<int>(BlockReduce(work.block,
                                      best == best_of_all ? static_cast<uint64_t>(winner) : none,
                                      none, [](uint64_t a, uint64_t b) { return std::min(a, b); }));
}

// Draws one of the tokens. best_key: of the best one. weights: [n_tokens], working memory.
__device__ int Draw(const Workspace& work, const Candidates& tokens, uint64_t best_key,
                    const CudaSampling& sampling, int32_t position, uint64_t* weights) {
  if (IsGreedy(sampling.temperature, sampling.top_k)) return TokenOf(best_key);
  const uint64_t last_key = LastKept(work, tokens, best_key, sampling, weights);
  return BestScore(work, tokens, best_key, last_key, sampling, position);
}

// The tokens that may be drawn: without the stop tokens while min_tokens is not reached, unless
// that would leave no token.
__device__ Candidates WithoutBanned(Candidates tokens, const CudaSampling& sampling,
                                    int32_t n_generated_tokens) {
  if (n_generated_tokens >= sampling.min_tokens) return tokens;
  int n_banned = sampling.n_stop_token_ids;
  while (n_banned > 0 && sampling.stop_token_ids[n_banned - 1] >= tokens.n_tokens) --n_banned;
  if (n_banned == tokens.n_tokens) return tokens;
  tokens.banned = sampling.stop_token_ids;
  tokens.n_banned = n_banned;
  return tokens;
}

// Fills penalized, [n_tokens], with the logits after the slot's penalties. token_counts: the
// slot's.
__device__ void Penalize(const BlockThreads& block, const Candidates& tokens,
                         const CudaSampling& sampling, const uint32_t* token_counts,
                         float* penalized) {
  ForEachToken(block, tokens, [&](int token_id, float logit) {
    penalized[token_id] = PenalizedLogit(logit, token_counts[token_id], sampling);
  });
  __syncthreads();
}

// Fills in the n_top best tokens, best first.
__device__ void FillTop(const Workspace& work, const Candidates& tokens, int n_top,
                        double log_sum_exp, CudaSampledToken* out) {
  const BlockThreads& block = work.block;
  const Prefix prefix =
      SelectPrefix(work, tokens, static_cast<uint64_t>(n_top), [](int) { return uint64_t{1}; });
  if (block.thread_idx == 0) *work.n_top = 0;
  __syncthreads();
  ForEachToken(block, tokens, [&](int token_id, float logit) {
    const uint64_t key = OrderKey(logit, token_id);
    if (key <= prefix.last_key) work.top_keys[atomicAdd(work.n_top, 1u)] = key;
  });
  __syncthreads();
  // The keys were written in any order; a token's place is the number of smaller keys.
  if (block.thread_idx < n_top) {
    const uint64_t mine = work.top_keys[block.thread_idx];
    int rank = 0;
    for (int i = 0; i < n_top; ++i) rank += work.top_keys[i] < mine ? 1 : 0;
    const double logit = tokens.logits[TokenOf(mine)];
    out->top[rank] = {TokenOf(mine), static_cast<float>(logit - log_sum_exp)};
  }
}

// Fills in the log-probability and rank of token_id, and n_top alternatives. max: the greatest
// logit.
__device__ void FillLogprobs(const Workspace& work, const Candidates& tokens, float max,
                             int token_id, int n_top, CudaSampledToken* out) {
  const uint64_t mine = OrderKey(tokens.logits[token_id], token_id);
  double sum = 0;
  uint64_t n_better = 0;
  ForEachToken(work.block, tokens, [&](int other_id, float logit) {
    sum += Exp(static_cast<double>(logit) - static_cast<double>(max));
    n_better += OrderKey(logit, other_id) < mine ? 1 : 0;
  });
  const double log_sum_exp = static_cast<double>(max) + Log(BlockSum(work.block, sum));
  n_better = BlockSum(work.block, n_better);
  n_top = std::min({n_top, kMaxLogprobs, tokens.n_tokens});
  if (work.block.thread_idx == 0) {
    out->logprob = static_cast<float>(static_cast<double>(tokens.logits[token_id]) - log_sum_exp);
    out->rank = static_cast<int32_t>(n_better) + 1;
    out->n_top = std::max(n_top, 0);
  }
  if (n_top > 0) FillTop(work, tokens, n_top, log_sum_exp, out);
}

__device__ bool HasPenalties(const CudaSampling& sampling) {
  return sampling.repetition_penalty != 1.0f || sampling.frequency_penalty != 0.0f ||
         sampling.presence_penalty != 0.0f;
}

// Working memory of all rows, [n_rows, n_tokens] each.
struct RowScratch {
  uint64_t* weights = nullptr;
  float* penalized = nullptr;  // logits after penalties
};

// One row per block; blockIdx.x is the row.
__global__ void __launch_bounds__(kMaxThreads, 1)
    SampleKernel(CudaSampleCall call, RowScratch scratch) {
  const CudaSampleRow row = call.rows[blockIdx.x];
  if (row.slot < 0) return;
  const Workspace work = TakeWorkspace();
  const int n_tokens = static_cast<int>(call.n_tokens);
  const int64_t scratch_begin = int64_t{blockIdx.x} * n_tokens;
  const Candidates all = {.logits = call.logits + blockIdx.x * call.row_stride,
                          .n_tokens = n_tokens};
  const CudaSampling& sampling = call.sampling[row.slot];
  CudaSampledToken* const out = &call.sampled[blockIdx.x];
  const bool is_target = row.target_token_id >= 0;
  const bool writes = work.block.thread_idx == 0;  // the thread that writes the block's result

  const uint64_t best_key = BestKey(work.block, all);
  const bool is_finite = best_key != kNonFiniteKey;
  int token_id = -1;
  if (is_target && is_finite) {
    token_id = row.target_token_id;
  } else if (is_finite) {
    Candidates tokens = WithoutBanned(all, sampling, row.n_generated_tokens);
    uint32_t* const counts =
        HasPenalties(sampling) ? call.token_counts + row.slot * call.row_stride : nullptr;
    if (counts != nullptr) {
      float* const penalized = scratch.penalized + scratch_begin;
      Penalize(work.block, all, sampling, counts, penalized);
      tokens.logits = penalized;
    }
    const bool has_changed = counts != nullptr || tokens.n_banned > 0;
    const uint64_t best_left = has_changed ? BestKey(work.block, tokens) : best_key;
    token_id =
        Draw(work, tokens, best_left, sampling, row.position, scratch.weights + scratch_begin);
    if (writes && counts != nullptr) ++counts[token_id];
  }
  if (writes) {
    out->token_id = token_id;
    out->rank = 0;
    out->logprob = 0;
    out->non_finite = is_finite ? 0 : 1;
    out->n_top = 0;
    if (!is_target && call.last_tokens != nullptr) {
      call.last_tokens[row.slot] = is_finite ? token_id : 0;
    }
  }
  const int n_top = is_target ? sampling.n_prompt_logprobs : sampling.n_logprobs;
  if (is_finite && (is_target || n_top >= 0)) {
    FillLogprobs(work, all, all.logits[TokenOf(best_key)], token_id, n_top, out);
  }
}

}  // namespace

int64_t SampleScratchBytes(int64_t max_rows, int64_t n_tokens) {
  return max_rows * n_tokens * static_cast<int64_t>(sizeof(uint64_t) + sizeof(float));
}

void Sample(CudaDevice& device, const CudaSampleCall& call) {
  CHECK_GT(call.n_tokens, 0);
  CHECK_LE(call.n_tokens, kMaxDrawTokens);
  CHECK_GE(call.row_stride, call.n_tokens);
  auto* weights =
      reinterpret_cast<uint64_t*>(device.Scratch(SampleScratchBytes(call.n_rows, call.n_tokens)));
  const RowScratch scratch = {weights,
                              reinterpret_cast<float*>(weights + call.n_rows * call.n_tokens)};
  // The number of threads depends on n_tokens alone, because the order of the sum in logsumexp
  // depends on it.
  const int64_t n_threads =
      std::clamp<int64_t>(RoundUp(call.n_tokens, kWarpSize), kMinThreads, kMaxThreads);
  LaunchKernel(
      device, {.n_blocks_x = call.n_rows, .n_threads = n_threads, .shared_bytes = WorkspaceBytes()},
      SampleKernel, call, scratch);
}

void LoadSampleKernels() { LoadKernels(SampleKernel); }

}  // namespace bora
