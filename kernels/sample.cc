#include "kernels/sample.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/philox.h"
#include "kernels/exact_math.h"
#include "kernels/simd.h"
#include "kernels/token_order.h"

namespace bora {
namespace {

// First piece of the vocabulary that is sorted; each further piece is four times as long. Most
// draws at temperature 1 end within it.
constexpr int64_t kFirstSorted = 256;

// Sums run over 8 lanes (index modulo 8), each ascending, added up in a fixed tree.
constexpr int64_t kSumLanes = 8;

double SumLanes(const double (&lanes)[kSumLanes]) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// lanes[i % 8] += values[i], ascending.
void AddToLanes(const double* values, int64_t n, double (&lanes)[kSumLanes]) {
  double sums[kSumLanes];
  std::copy_n(lanes, kSumLanes, sums);
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes) {
    for (int64_t lane = 0; lane < kSumLanes; ++lane) sums[lane] += values[i + lane];
  }
  for (; i < n; ++i) sums[i % kSumLanes] += values[i];
  std::copy_n(sums, kSumLanes, lanes);
}

// log(sum exp(logits)), max being the greatest of them.
double LogSumExp(const SimdKernels& simd, absl::Span<const float> logits, double max) {
  constexpr int64_t kPiece = 512;  // a multiple of kSumLanes
  double exps[kPiece];
  double lanes[kSumLanes] = {};
  const int64_t n = static_cast<int64_t>(logits.size());
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t n_piece = std::min(kPiece, n - begin);
    simd.exp_logits(logits.data() + begin, n_piece, max, 1.0, exps);
    AddToLanes(exps, n_piece, lanes);
  }
  return max + Log(SumLanes(lanes));
}

// The n smallest keys of the row, ascending, in one pass: the best n <= 20 so far stay sorted.
void TopTokens(absl::Span<const float> logits, int64_t n, double log_sum_exp,
               std::vector<TokenLogprob>* top) {
  uint64_t best[kMaxLogprobs];
  n = std::min<int64_t>({n, kMaxLogprobs, static_cast<int64_t>(logits.size())});
  int64_t n_best = 0;
  float worst = -std::numeric_limits<float>::infinity();  // of the best, once they are n
  for (int64_t id = 0; n > 0 && id < static_cast<int64_t>(logits.size()); ++id) {
    if (logits[id] < worst) continue;
    const uint64_t key = OrderKey(logits[id], id);
    if (n_best == n && key > best[n - 1]) continue;
    int64_t i = n_best < n ? n_best++ : n - 1;
    for (; i > 0 && best[i - 1] > key; --i) best[i] = best[i - 1];
    best[i] = key;
    if (n_best == n) worst = logits[TokenOf(best[n - 1])];
  }
  for (int64_t i = 0; i < n_best; ++i) {
    const int32_t id = TokenOf(best[i]);
    top->push_back({id, static_cast<float>(static_cast<double>(logits[id]) - log_sum_exp)});
  }
}

// Fills in the token's log-probability and rank, and the n_top best tokens.
void FillLogprobs(const SimdKernels& simd, absl::Span<const float> logits, float max, int64_t n_top,
                  SampledToken* token) {
  const double log_sum_exp = LogSumExp(simd, logits, max);
  token->logprob = static_cast<float>(static_cast<double>(logits[token->token_id]) - log_sum_exp);
  const int64_t n = static_cast<int64_t>(logits.size());
  token->rank = static_cast<int32_t>(1 + simd.count_before(logits.data(), n, token->token_id));
  TopTokens(logits, n_top, log_sum_exp, &token->top);
}

// The candidates of one row in the order of their keys, sorted only as far as anyone looks.
class LazyOrder {
 public:
  // `keys` must outlive this object and is reordered.
  explicit LazyOrder(std::vector<uint64_t>* keys) : keys_(*keys) {}

  int64_t n_tokens() const { return static_cast<int64_t>(keys_.size()); }

  uint64_t At(int64_t i) {
    while (i >= n_sorted_) SortMore();
    return keys_[i];
  }

  // Drops all but the first n.
  void Truncate(int64_t n) {
    if (n >= n_tokens()) return;
    std::nth_element(keys_.begin(), keys_.begin() + n, keys_.end());
    keys_.resize(n);
  }

 private:
  void SortMore() {
    const int64_t end = std::min(n_tokens(), std::max(kFirstSorted, n_sorted_ * 4));
    if (end < n_tokens()) {
      std::nth_element(keys_.begin() + n_sorted_, keys_.begin() + end, keys_.end());
    }
    std::sort(keys_.begin() + n_sorted_, keys_.begin() + end);
    n_sorted_ = end;
  }

  std::vector<uint64_t>& keys_;
  int64_t n_sorted_ = 0;
};

// weights[id] = exp((logit - max) / temperature) of the candidates, 0 of others. Returns their sum
// in an order that does not depend on how far the candidates are sorted: 8 lanes, ascending ids.
double FillWeights(const SimdKernels& simd, absl::Span<const float> logits, double max,
                   double temperature, const std::vector<uint64_t>& keys,
                   std::vector<double>* weights) {
  const int64_t n = static_cast<int64_t>(logits.size());
  weights->resize(n);
  double* out = weights->data();
  if (static_cast<int64_t>(keys.size()) == n) {
    simd.exp_logits(logits.data(), n, max, temperature, out);
  } else {
    std::fill_n(out, n, 0.0);
    for (uint64_t key : keys) {
      const int32_t id = TokenOf(key);
      out[id] = Exp((static_cast<double>(logits[id]) - max) / temperature);
    }
  }
  double lanes[kSumLanes] = {};
  AddToLanes(out, n, lanes);
  return SumLanes(lanes);
}

// Working memory of a thread; grows to the largest vocabulary and is reused.
struct DrawScratch {
  std::vector<uint64_t> keys;
  std::vector<double> weights;
};

// The ids that must not be drawn now: ascending. None, if that left nothing to draw.
absl::Span<const int32_t> Banned(const SampleRow& row, int64_t vocab_size) {
  const std::vector<int32_t>& ids = row.sampling->stop_token_ids;
  if (row.n_generated_tokens >= row.sampling->min_tokens) return {};
  const int64_t n_banned = std::lower_bound(ids.begin(), ids.end(), vocab_size) - ids.begin();
  return n_banned == vocab_size ? absl::Span<const int32_t>() : absl::MakeConstSpan(ids);
}

// The best token that is not banned.
int32_t Greedy(absl::Span<const float> logits, absl::Span<const int32_t> banned, int32_t argmax) {
  if (!std::binary_search(banned.begin(), banned.end(), argmax)) return argmax;
  uint64_t best = std::numeric_limits<uint64_t>::max();
  auto next_banned = banned.begin();
  for (int64_t id = 0; id < static_cast<int64_t>(logits.size()); ++id) {
    if (next_banned != banned.end() && *next_banned == id) {
      ++next_banned;
      continue;
    }
    best = std::min(best, OrderKey(logits[id], id));
  }
  return TokenOf(best);
}

int32_t Draw(const SimdKernels& simd, const SampleRow& row, absl::Span<const float> logits,
             int32_t argmax) {
  static thread_local DrawScratch scratch;
  const SamplingParams& sampling = *row.sampling;
  const absl::Span<const int32_t> banned = Banned(row, logits.size());
  const int32_t best = Greedy(logits, banned, argmax);
  if (sampling.temperature == 0.0f || sampling.top_k == 1) return best;

  scratch.keys.resize(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) scratch.keys[id] = OrderKey(logits[id], id);
  if (!banned.empty()) {
    std::erase_if(scratch.keys, [&](uint64_t key) {
      return std::binary_search(banned.begin(), banned.end(), TokenOf(key));
    });
  }
  LazyOrder order(&scratch.keys);
  if (sampling.top_k > 0) order.Truncate(sampling.top_k);
  double total =
      FillWeights(simd, logits, logits[best], sampling.temperature, scratch.keys, &scratch.weights);

  // top_p and min_p keep a beginning of the order.
  int64_t n_kept = order.n_tokens();
  if (sampling.top_p < 1.0f || sampling.min_p > 0.0f) {
    const double enough =
        sampling.top_p < 1.0f ? sampling.top_p * total : std::numeric_limits<double>::infinity();
    double kept = 0;
    n_kept = 0;
    for (bool more = true; more;) {
      kept += scratch.weights[TokenOf(order.At(n_kept++))];
      more = n_kept < order.n_tokens() && kept < enough &&
             scratch.weights[TokenOf(order.At(n_kept))] >= sampling.min_p;
    }
    total = kept;
  }

  const uint64_t bits = SamplingBits(sampling.seed, row.position);
  const double target =
      UniformDouble(static_cast<uint32_t>(bits >> 32), static_cast<uint32_t>(bits)) * total;
  double cumulative = 0;
  int32_t token_id = best;
  for (int64_t i = 0; i < n_kept; ++i) {
    const int32_t id = TokenOf(order.At(i));
    const double weight = scratch.weights[id];
    // Rounding may leave the target at the very end: then the last token of any weight is drawn.
    if (weight == 0) break;
    token_id = id;
    cumulative += weight;
    if (cumulative > target) break;
  }
  return token_id;
}

// The row's logits after its penalties; valid until the thread's next call.
absl::Span<const float> Penalized(const SampleRow& row, absl::Span<const float> logits) {
  static thread_local std::vector<float> penalized;
  CHECK(row.token_counts != nullptr) << "a row with penalties has no counts";
  penalized.resize(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    penalized[id] = PenalizedLogit(logits[id], row.token_counts[id], *row.sampling);
  }
  return penalized;
}

void SampleOne(const SimdKernels& simd, int64_t vocab_size, const SampleRow& row,
               SampledToken* token) {
  const absl::Span<const float> logits(row.logits, vocab_size);
  token->slot = row.slot;
  token->position = row.position;
  token->token_id = -1;
  token->logprob = 0;
  token->rank = 0;
  token->top.clear();
  const LogitScan scan = simd.scan_logits(row.logits, vocab_size);
  token->non_finite = !scan.all_finite;
  if (token->non_finite) return;
  const bool is_target = row.target_token_id >= 0;
  if (is_target) {
    CHECK_LT(row.target_token_id, vocab_size);
    token->token_id = row.target_token_id;
  } else if (row.sampling->has_penalties()) {
    const absl::Span<const float> penalized = Penalized(row, logits);
    const int64_t argmax = simd.scan_logits(penalized.data(), vocab_size).argmax;
    token->token_id = Draw(simd, row, penalized, static_cast<int32_t>(argmax));
  } else {
    token->token_id = Draw(simd, row, logits, static_cast<int32_t>(scan.argmax));
  }
  const int32_t n_top = is_target ? row.sampling->n_prompt_logprobs : row.sampling->n_logprobs;
  if (is_target || n_top >= 0) FillLogprobs(simd, logits, scan.max, n_top, token);
}

}  // namespace

void CountTokens(absl::Span<const int32_t> known_tokens, int64_t n_prompt_tokens,
                 absl::Span<uint32_t> counts) {
  std::fill(counts.begin(), counts.end(), 0);
  for (const int32_t id : known_tokens.subspan(n_prompt_tokens)) ++counts.at(id);
  for (const int32_t id : known_tokens.first(n_prompt_tokens)) counts.at(id) |= kTokenInPrompt;
}

void Sample(CpuDevice& device, int64_t vocab_size, absl::Span<const SampleRow> rows,
            std::vector<SampledToken>* out) {
  CHECK_GT(vocab_size, 0);
  out->resize(rows.size());
  // A greedy row of 32768 tokens takes as long as waking a helper (5 us); drawing takes longer.
  const int64_t grain = 1 + 16384 / vocab_size;
  device.ParallelFor(rows.size(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) SampleOne(device.simd(), vocab_size, rows[i], &(*out)[i]);
  });
}

}  // namespace bora
