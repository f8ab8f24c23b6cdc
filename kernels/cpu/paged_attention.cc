#include "kernels/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

#include "base/check.h"
#include "base/int_math.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/simd/simd.h"

namespace bora {
namespace {

// Queries of an item at most. Tokens x heads of a group share a split of keys and values while it
// lies in the second-level cache, kAttentionQueries at a time; at the bf16 peak they use a split as
// fast as 5 GB/s bring the next one.
constexpr int64_t kTileQueries = 48;
// A decoding token takes several KV heads together where each has at most so many queries: their
// keys and values are then read in the order in which they lie in memory.
constexpr int64_t kStreamedQueries = 8;
constexpr int64_t kFewQueries = 8;  // as SimdChoice::bf16_attention divides them
// Lanes of a block's maxima and sums; there are at most as many blocks as queries.
constexpr int64_t kBlockLanes = 16;
constexpr int64_t kTileLanes = kTileQueries * kBlockLanes;
// An item's time for the division of work: it streams 20 bytes/ns from memory or does 100 (bf16) or
// 50 (float) multiply-adds/ns, whichever takes longer, and begins and ends in 200 ns. Waking a
// helper takes 5 us.
constexpr double kBytesPerNs = 20;
constexpr double kMultiplyAddsPerNs[] = {50, 100};
constexpr double kWakeNs = 5000;
constexpr double kItemNs = 200;

// Floats of a query's sums of values.
int64_t SumStride(const KvCacheShape& cache) { return RoundUp(cache.head_dim, kSimdLanes); }

struct AttentionCall {
  const SimdKernels& simd;
  // For up to kFewQueries queries of a KV head, and for more.
  const AttentionKernels* few_queries;
  const AttentionKernels* many_queries;
  const StepTokensView& tokens;
  const KvLayerView& cache;
  const float* qkv;
  float* out;
  int64_t n_heads;
  int64_t group;          // query heads per KV head
  int64_t run_positions;  // block_size, but at most 16
  float scale;            // of a score q . k: log2(e) / sqrt(head_dim), for weights 2^score

  int64_t qkv_stride() const {
    return (n_heads + 2 * cache.shape.local_n_kv_heads) * cache.shape.head_dim;
  }
  int64_t sum_stride() const { return SumStride(cache.shape); }
  const AttentionKernels& KernelsFor(int64_t n_queries) const {
    return n_queries <= kFewQueries ? *few_queries : *many_queries;
  }
};

// Neighbouring queries of a row and a range of their splits: some tokens x some heads of one KV
// head, or one token x all heads of several KV heads. Every item is computed by itself.
struct Item {
  int32_t row = 0;
  int32_t token_begin = 0;
  int32_t n_tokens = 0;
  int32_t kv_head_idx = 0;
  int32_t n_kv_heads = 0;
  int32_t head_begin = 0;  // of a KV head
  int32_t n_heads = 0;     // of a KV head
  int32_t split_begin = 0;
  int32_t split_end = 0;
  // Where the splits leave their results, [all splits, SplitFloats]; null: the item has all splits
  // and merges them itself.
  float* partials = nullptr;

  // Queries lie KV head by KV head, in that token by token, in ascending position.
  int64_t queries_of_kv_head() const { return int64_t{n_tokens} * n_heads; }
  int64_t n_queries() const { return n_kv_heads * queries_of_kv_head(); }
  int64_t n_blocks() const {
    return n_kv_heads > 1 ? n_kv_heads : CeilDiv(n_queries(), kAttentionQueries);
  }
};

// Queries [begin, begin + n) of an item, which the kernels take at once.
struct Block {
  int64_t begin = 0;
  int64_t n = 0;
};

// Blocks of one KV head, of nearly equal height: 13 queries as 6 + 7.
Block BlockOf(const Item& item, int64_t i) {
  const int64_t begin = item.n_queries() * i / item.n_blocks();
  return {begin, item.n_queries() * (i + 1) / item.n_blocks() - begin};
}

// What one split gives an item's queries.
struct SplitResult {
  float* values = nullptr;  // [n_queries, AttentionCall::sum_stride()]
  float* max = nullptr;     // [Item::n_blocks(), kBlockLanes]
  float* sum = nullptr;     // [Item::n_blocks(), kBlockLanes]
};

int64_t SplitFloats(const Item& item, int64_t sum_stride) {
  return item.n_queries() * sum_stride + 2 * kBlockLanes * item.n_blocks();
}

// The runs of a split's keys, then of its values, then of what is read next.
struct Runs {
  int64_t n = 0;
  const char* pointers[2 * kAttentionSplitTokens + kExtraRuns];

  const char* const* keys() const { return pointers; }
  const char* const* values() const { return pointers + n; }
};

// One item at work. 230 KB of stack, of which small items touch a few. Owned by one thread.
class ItemWork {
 public:
  ItemWork(const AttentionCall& call, const Item& item) : call_(call), item_(item) {
    for (int64_t i = 0; i < n_queries_; ++i) {
      const auto [t, head] = PlaceOf(i);
      n_positions_[i] = call.tokens.positions[t] + 1;
      out_[i] = call.out + (t * call.n_heads + head) * call.cache.shape.head_dim;
    }
    std::fill_n(split_max_, item.n_blocks() * kBlockLanes, 0.0f);
    std::fill_n(split_sum_, item.n_blocks() * kBlockLanes, 0.0f);
  }

  // Computes the item's splits, and the result unless they are partials.
  void Attend();

  // Computes the result from the partials of all splits.
  void MergePartials();

 private:
  struct Place {
    int64_t t = 0;
    int64_t head = 0;
  };

  Place PlaceOf(int64_t query) const {
    const int64_t of_kv_head = query % item_.queries_of_kv_head();
    const int64_t kv_head_idx = item_.kv_head_idx + query / item_.queries_of_kv_head();
    return {item_.token_begin + of_kv_head / item_.n_heads,
            kv_head_idx * call_.group + item_.head_begin + of_kv_head % item_.n_heads};
  }

  void LoadQueries();
  void FindRuns(int64_t split);
  // Block i, or all blocks of several KV heads (i = 0).
  void AttendBlock(int64_t i, int64_t split, const SplitResult& result);
  void MergeBlock(int64_t i, int64_t split, const SplitResult& result);
  void Finish();

  // Positions of the split that the query attends to.
  int64_t PositionsOf(int64_t query, int64_t split) const {
    return std::clamp<int64_t>(n_positions_[query] - split * kAttentionSplitTokens, 0,
                               kAttentionSplitTokens);
  }
  // How many queries of the block do not reach the split; they are its first.
  int64_t QueriesBefore(const Block& block, int64_t split) const {
    int64_t n = 0;
    while (n < block.n && PositionsOf(block.begin + n, split) == 0) ++n;
    return n;
  }
  SplitResult Partial(int64_t split) const {
    float* const values = item_.partials + split * SplitFloats(item_, call_.sum_stride());
    float* const max = values + n_queries_ * call_.sum_stride();
    return {values, max, max + item_.n_blocks() * kBlockLanes};
  }

  const AttentionCall& call_;
  const Item& item_;
  const AttentionKernels& kernels_ = call_.KernelsFor(item_.queries_of_kv_head());
  const int64_t n_queries_ = item_.n_queries();
  int64_t n_positions_[kTileQueries];  // ascending: position + 1 of each query
  float* out_[kTileQueries];           // each [head_dim]; the running sum of values until Finish
  Runs runs_;
  alignas(64) float queries_[kTileQueries * kQueryFloats];
  alignas(64) float scores_[kTileQueries * kScoreFloats];
  alignas(64) float split_values_[kTileQueries * kMaxCacheHeadDim];
  alignas(64) float split_max_[kTileLanes];
  alignas(64) float split_sum_[kTileLanes];
  alignas(64) float max_[kTileLanes];
  alignas(64) float sum_[kTileLanes];
};

void ItemWork::LoadQueries() {
  const int64_t head_dim = call_.cache.shape.head_dim;
  for (int64_t i = 0; i < n_queries_; ++i) {
    const auto [t, head] = PlaceOf(i);
    const float* query = call_.qkv + t * call_.qkv_stride() + head * head_dim;
    kernels_.pack_query(query, head_dim, queries_ + i * kQueryFloats);
  }
}

void ItemWork::FindRuns(int64_t split) {
  const KvCacheShape& shape = call_.cache.shape;
  const int64_t run_positions = call_.run_positions;
  const int64_t runs_of_block = shape.block_size / run_positions;
  const int64_t key_bytes = 4 * run_positions;
  const int64_t value_bytes = run_positions * shape.head_dim * DTypeBytes(shape.dtype);
  const int32_t* const block_ids = call_.tokens.block_table +
                                   item_.row * call_.tokens.max_blocks_per_row +
                                   split * (kAttentionSplitTokens / shape.block_size);
  const auto block_offset = [&](int64_t block) {
    return call_.cache.BlockOffset(block_ids[block], item_.kv_head_idx) * DTypeBytes(shape.dtype);
  };
  const char* const keys = static_cast<const char*>(call_.cache.keys);
  const char* const values = static_cast<const char*>(call_.cache.values);
  runs_.n = CeilDiv(PositionsOf(n_queries_ - 1, split), run_positions);
  const char** const value_runs = runs_.pointers + runs_.n;
  for (int64_t i = 0, block = 0; i < runs_.n; ++block) {
    const int64_t offset = block_offset(block);
    for (int64_t j = 0; j < runs_of_block && i < runs_.n; ++j, ++i) {
      runs_.pointers[i] = keys + offset + j * key_bytes;
      value_runs[i] = values + offset + j * value_bytes;
    }
  }
  // After the last values come the first keys of the next split.
  const char** const extra = value_runs + runs_.n;
  const int64_t n_next = split + 1 < item_.split_end
                             ? CeilDiv(PositionsOf(n_queries_ - 1, split + 1), run_positions)
                             : 0;
  for (int64_t i = 0; i < kExtraRuns; ++i) {
    extra[i] =
        i < n_next
            ? keys + block_offset((kAttentionSplitTokens + i * run_positions) / shape.block_size) +
                  i % runs_of_block * key_bytes
            : extra[i - 1];
  }
}

void ItemWork::AttendBlock(int64_t i, int64_t split, const SplitResult& result) {
  const KvCacheShape& shape = call_.cache.shape;
  const Block block = BlockOf(item_, i);
  const HeadsOfRun heads = {.n = item_.n_kv_heads,
                            .bytes = shape.block_size * shape.head_dim * DTypeBytes(shape.dtype)};
  const int64_t first = QueriesBefore(block, split);
  std::fill_n(result.max + i * kBlockLanes, first, -std::numeric_limits<float>::infinity());
  std::fill_n(result.sum + i * kBlockLanes, first, 0.0f);
  if (first == block.n) return;
  const int64_t begin = block.begin + first, n = block.n - first;
  const int64_t n_positions = PositionsOf(begin + n - 1, split);
  kernels_.scores({.queries = queries_ + begin * kQueryFloats,
                   .n_queries = n,
                   .heads = heads,
                   .keys = runs_.keys(),
                   .n_runs = CeilDiv(n_positions, call_.run_positions),
                   .run_positions = call_.run_positions,
                   .n_steps = shape.head_dim * DTypeBytes(shape.dtype) / 4,
                   .step_bytes = shape.block_size * 4,
                   .scores = scores_});
  const int64_t n_padded = RoundUp(n_positions, 2 * kSimdLanes);
  for (int64_t head = 0; head < heads.n; ++head) {
    for (int64_t q = 0; q < n; ++q) {
      const SoftmaxSums sums =
          kernels_.softmax(scores_ + (head * n + q) * kScoreFloats, PositionsOf(begin + q, split),
                           n_padded, call_.scale);
      const int64_t lane = (i + head) * kBlockLanes + first + q;
      result.max[lane] = sums.max;
      result.sum[lane] = sums.sum;
    }
  }
  kernels_.values({.probs = scores_,
                   .n_queries = n,
                   .heads = heads,
                   .values = runs_.values(),
                   .run_positions = call_.run_positions,
                   .n_positions = n_positions,
                   .head_dim = shape.head_dim,
                   .sums = result.values + begin * call_.sum_stride(),
                   .sum_stride = call_.sum_stride()});
}

void ItemWork::MergeBlock(int64_t i, int64_t split, const SplitResult& result) {
  const Block block = BlockOf(item_, i);
  const int64_t lanes = i * kBlockLanes;
  const int64_t head_dim = call_.cache.shape.head_dim;
  if (split == 0) {
    std::copy_n(result.max + lanes, kBlockLanes, max_ + lanes);
    std::copy_n(result.sum + lanes, kBlockLanes, sum_ + lanes);
    for (int64_t q = block.begin; q < block.begin + block.n; ++q) {
      std::copy_n(result.values + q * call_.sum_stride(), head_dim, out_[q]);
    }
    return;
  }
  const int64_t first = QueriesBefore(block, split);
  if (first == block.n) return;
  call_.simd.merge_split({.first = first,
                          .n_queries = block.n,
                          .head_dim = head_dim,
                          .out = out_ + block.begin,
                          .max = max_ + lanes,
                          .sum = sum_ + lanes,
                          .split_values = result.values + block.begin * call_.sum_stride(),
                          .split_stride = call_.sum_stride(),
                          .split_max = result.max + lanes,
                          .split_sum = result.sum + lanes});
}

void ItemWork::Finish() {
  for (int64_t i = 0; i < item_.n_blocks(); ++i) {
    const Block block = BlockOf(item_, i);
    for (int64_t q = 0; q < block.n; ++q) {
      float* const out = out_[block.begin + q];
      call_.simd.divide_row(out, call_.cache.shape.head_dim, sum_[i * kBlockLanes + q], out);
    }
  }
}

void ItemWork::Attend() {
  LoadQueries();
  const int64_t n_blocks = item_.n_blocks();
  for (int64_t split = item_.split_begin; split < item_.split_end; ++split) {
    FindRuns(split);
    const bool is_partial = item_.partials != nullptr;
    const SplitResult result =
        is_partial ? Partial(split) : SplitResult{split_values_, split_max_, split_sum_};
    const int64_t n_attended = item_.n_kv_heads > 1 ? 1 : n_blocks;
    for (int64_t i = 0; i < n_attended; ++i) AttendBlock(i, split, result);
    for (int64_t i = 0; !is_partial && i < n_blocks; ++i) MergeBlock(i, split, result);
  }
  if (item_.partials == nullptr) Finish();
}

void ItemWork::MergePartials() {
  const int64_t n_splits = CeilDiv(n_positions_[n_queries_ - 1], kAttentionSplitTokens);
  for (int64_t split = 0; split < n_splits; ++split) {
    for (int64_t i = 0; i < item_.n_blocks(); ++i) MergeBlock(i, split, Partial(split));
  }
  Finish();
}

double ItemNs(const AttentionCall& call, const Item& item) {
  const KvCacheShape& shape = call.cache.shape;
  const double n_elements = static_cast<double>(2 * item.n_kv_heads * shape.head_dim);
  const double n_queries = static_cast<double>(item.queries_of_kv_head());
  const double rate = kMultiplyAddsPerNs[static_cast<int>(shape.dtype)];
  const double bytes = static_cast<double>(DTypeBytes(shape.dtype));
  const int64_t last = item.token_begin + item.n_tokens - 1;
  return kItemNs + static_cast<double>(call.tokens.positions[last] + 1) * n_elements *
                       std::max(bytes / kBytesPerNs, n_queries / rate);
}

// How rows are cut into tiles.
struct Tiling {
  int64_t head_parts = 1;  // that a group is cut into
  int64_t tokens = 1;      // of a tile at most
  int64_t kv_parts = 1;    // that the KV heads of a decoding token are cut into
};

// Rows of one token whose KV heads go together.
bool IsStreamed(const AttentionCall& call, int64_t row) {
  return call.group <= kStreamedQueries &&
         call.tokens.row_begin[row + 1] - call.tokens.row_begin[row] == 1;
}

Item DecodingItem(const AttentionCall& call, int64_t row) {
  const int64_t t = call.tokens.row_begin[row];
  return {.row = static_cast<int32_t>(row),
          .token_begin = static_cast<int32_t>(t),
          .n_tokens = 1,
          .n_kv_heads = static_cast<int32_t>(call.cache.shape.local_n_kv_heads),
          .n_heads = static_cast<int32_t>(call.group),
          .split_end =
              static_cast<int32_t>(CeilDiv(call.tokens.positions[t] + 1, kAttentionSplitTokens))};
}

Tiling ChooseTiling(const AttentionCall& call, int n_threads) {
  const int64_t n_kv_heads = call.cache.shape.local_n_kv_heads;
  Tiling tiling;
  tiling.head_parts = CeilDiv(call.group, kTileQueries);
  tiling.tokens = std::max<int64_t>(1, kTileQueries / CeilDiv(call.group, tiling.head_parts));
  // As many KV heads as fit a tile, at least one: groups beyond kStreamedQueries are not streamed.
  tiling.kv_parts = CeilDiv(n_kv_heads, std::max<int64_t>(1, kTileQueries / call.group));
  if (n_threads == 1) return tiling;
  // Smaller tiles where the threads would run out of them: four items a thread, but not below 2 us.
  const int64_t n_wanted = 4 * n_threads;
  tiling.tokens = std::clamp<int64_t>(
      call.tokens.n_tokens * n_kv_heads * tiling.head_parts / n_wanted, 1, tiling.tokens);
  int64_t n_splits = 0;
  double ns = 0;
  for (int64_t row = 0; row < call.tokens.n_rows; ++row) {
    if (!IsStreamed(call, row)) continue;
    const Item item = DecodingItem(call, row);
    n_splits += item.split_end;
    ns += ItemNs(call, item);
  }
  if (n_splits == 0) return tiling;
  const int64_t n_parts = std::min(CeilDiv(n_wanted, n_splits), static_cast<int64_t>(ns / 2000));
  tiling.kv_parts = std::clamp(n_parts, tiling.kv_parts, n_kv_heads);
  return tiling;
}

// Calls add(item) for every tile, with all of its splits: row by row, in a row head by head, so
// that neighbouring tiles find their keys and values in the cache.
template <typename Add>
void ForEachTile(const AttentionCall& call, const Tiling& tiling, Add add) {
  const StepTokensView& tokens = call.tokens;
  const int64_t n_kv_heads = call.cache.shape.local_n_kv_heads;
  for (int64_t row = 0; row < tokens.n_rows; ++row) {
    const int64_t begin = tokens.row_begin[row];
    const int64_t n_tokens = tokens.row_begin[row + 1] - begin;
    Item item = DecodingItem(call, row);
    if (IsStreamed(call, row)) {
      for (int64_t part = 0; part < tiling.kv_parts; ++part) {
        item.kv_head_idx = static_cast<int32_t>(n_kv_heads * part / tiling.kv_parts);
        item.n_kv_heads =
            static_cast<int32_t>(n_kv_heads * (part + 1) / tiling.kv_parts - item.kv_head_idx);
        add(item);
      }
      continue;
    }
    item.n_kv_heads = 1;
    const int64_t n_tiles = CeilDiv(n_tokens, tiling.tokens);
    for (int64_t i = 0; i < n_kv_heads * tiling.head_parts * n_tiles; ++i) {
      const int64_t tile = i % n_tiles;
      const int64_t part = i / n_tiles % tiling.head_parts;
      item.kv_head_idx = static_cast<int32_t>(i / n_tiles / tiling.head_parts);
      item.head_begin = static_cast<int32_t>(call.group * part / tiling.head_parts);
      item.n_heads =
          static_cast<int32_t>(call.group * (part + 1) / tiling.head_parts - item.head_begin);
      item.token_begin = static_cast<int32_t>(begin + n_tokens * tile / n_tiles);
      item.n_tokens =
          static_cast<int32_t>(begin + n_tokens * (tile + 1) / n_tiles - item.token_begin);
      item.split_end = static_cast<int32_t>(CeilDiv(
          tokens.positions[item.token_begin + item.n_tokens - 1] + 1, kAttentionSplitTokens));
      add(item);
    }
  }
}

// Into how many items a tile is cut. Long ones are where there are few, which would leave threads
// idle: this part of a thread's share is the longest.
constexpr int64_t kItemsPerThread = 4;
int64_t ItemsOf(const AttentionCall& call, const Item& tile, double share_ns) {
  const double n_items = ItemNs(call, tile) / std::max(kWakeNs, share_ns / kItemsPerThread);
  return std::clamp<int64_t>(static_cast<int64_t>(n_items + 0.5), 1, tile.split_end);
}

void Run(CpuDevice& device, const AttentionCall& call) {
  const Tiling tiling = ChooseTiling(call, device.n_threads());
  double total_ns = 0;
  ForEachTile(call, tiling, [&](const Item& tile) { total_ns += ItemNs(call, tile); });
  const double share_ns = total_ns / device.n_threads();
  const auto items_of = [&](const Item& tile) {
    return device.n_threads() == 1 ? 1 : ItemsOf(call, tile, share_ns);
  };
  const auto partial_floats = [&](const Item& tile) {
    return items_of(tile) == 1 ? 0 : tile.split_end * SplitFloats(tile, call.sum_stride());
  };
  int64_t n_items = 0, n_floats = 0;
  ForEachTile(call, tiling, [&](const Item& tile) {
    n_items += items_of(tile);
    n_floats += partial_floats(tile);
  });
  float* partials = device.Scratch(n_floats + CeilDiv(n_items * sizeof(Item), sizeof(float)));
  Item* const items = reinterpret_cast<Item*>(partials + n_floats);
  int64_t next = 0;
  ForEachTile(call, tiling, [&](Item tile) {
    const int64_t n = items_of(tile);
    if (n > 1) tile.partials = partials;
    partials += partial_floats(tile);
    const int32_t n_splits = tile.split_end;
    for (int64_t i = 0; i < n; ++i) {
      tile.split_begin = static_cast<int32_t>(n_splits * i / n);
      tile.split_end = static_cast<int32_t>(n_splits * (i + 1) / n);
      new (items + next++) Item(tile);
    }
  });
  const int64_t grain = 1 + static_cast<int64_t>(kWakeNs * static_cast<double>(n_items) / total_ns);
  device.ParallelFor(n_items, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ItemWork(call, items[i]).Attend();
  });
  if (n_floats == 0) return;
  // A tile's merge is short; it is its first item's.
  device.ParallelFor(n_items, 4 * grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (items[i].partials != nullptr && items[i].split_begin == 0) {
        ItemWork(call, items[i]).MergePartials();
      }
    }
  });
}

}  // namespace

int64_t PagedAttentionScratchFloats(const CpuDevice& device, const KvCacheShape& cache,
                                    int64_t local_n_heads, int64_t max_tokens,
                                    int64_t max_positions) {
  const int64_t group = DivExact(local_n_heads, cache.local_n_kv_heads);
  const int64_t n_tiles = max_tokens * cache.local_n_kv_heads * CeilDiv(group, kTileQueries);
  // ItemsOf rounds to the nearest, so a tile that is cut has 1.5 items or more, and all tiles
  // together have kItemsPerThread items a thread and at most one each by rounding.
  const int64_t n_cut = device.n_threads() == 1 ? 0 : kItemsPerThread * device.n_threads() * 2 / 3;
  const int64_t n_items = n_tiles + kItemsPerThread * device.n_threads();
  const int64_t split_floats = kTileQueries * SumStride(cache) + 2 * kTileLanes;
  return n_cut * CeilDiv(max_positions, kAttentionSplitTokens) * split_floats +
         CeilDiv(n_items * static_cast<int64_t>(sizeof(Item)), static_cast<int64_t>(sizeof(float)));
}

void PagedAttention(CpuDevice& device, const StepTokensView& tokens, int64_t local_n_heads,
                    const float* qkv, const KvLayerView& cache, float* out) {
  const KvCacheShape& shape = cache.shape;
  CHECK(shape.head_dim > 0 && shape.head_dim <= kMaxCacheHeadDim && shape.head_dim % 2 == 0)
      << "head_dim " << shape.head_dim << " is not even or not in [2, " << kMaxCacheHeadDim << "]";
  CHECK(shape.block_size > 0 && kAttentionSplitTokens % shape.block_size == 0)
      << "block_size " << shape.block_size << " does not divide " << kAttentionSplitTokens;
  CHECK(shape.dtype == DType::kF32 || shape.block_size % 2 == 0)
      << "block_size " << shape.block_size << " is odd: a bf16 cache holds pairs of positions";
  if (tokens.n_tokens == 0) return;
  const auto kernels = [&](int i) {
    const SimdChoice& choice = device.simd_choice();
    const bool is_bf16 = shape.dtype == DType::kBf16;
    return &GetSimdKernels(is_bf16 ? choice.bf16_attention[i] : choice.level)
                .attention[static_cast<int>(shape.dtype)];
  };
  Run(device, {.simd = device.simd(),
               .few_queries = kernels(0),
               .many_queries = kernels(1),
               .tokens = tokens,
               .cache = cache,
               .qkv = qkv,
               .out = out,
               .n_heads = local_n_heads,
               .group = DivExact(local_n_heads, shape.local_n_kv_heads),
               .run_positions = std::min<int64_t>(shape.block_size, kSimdLanes),
               .scale = static_cast<float>(1 / std::log(2.0) /
                                           std::sqrt(static_cast<double>(shape.head_dim)))});
}

}  // namespace bora
