#include "kernels/sample.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/draw.h"
#include "kernels/exact_math.h"
#include "kernels/token_order.h"

namespace bora {
namespace {

// Tokens of the vocabulary that are sorted first; each further piece makes the sorted part four
// times as long. Most sums of top_p end within the first piece.
constexpr int64_t kFirstSorted = 256;

// Sums of doubles run over 8 lanes (index modulo 8), each in ascending order, and are then added in
// a fixed tree.
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

// log(sum exp(logits)). max: the greatest logit.
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

// Appends the n tokens with the greatest logits to `top`, best first, with their log-probabilities;
// n is cut to kMaxLogprobs. One pass: the best n <= 20 keys so far stay sorted.
void TopTokens(absl::Span<const float> logits, int64_t n, double log_sum_exp,
               std::vector<TokenLogprob>* top) {
  uint64_t best[kMaxLogprobs];
  n = std::min<int64_t>({n, kMaxLogprobs, static_cast<int64_t>(logits.size())});
  int64_t n_best = 0;
  float worst = -std::numeric_limits<float>::infinity();  // the n-th best, once there is one
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

// Fills in the log-probability and rank of token->token_id, and the n_top best tokens. max: the
// greatest logit.
void FillLogprobs(const SimdKernels& simd, absl::Span<const float> logits, float max, int64_t n_top,
                  SampledToken* token) {
  const double log_sum_exp = LogSumExp(simd, logits, max);
  token->logprob = static_cast<float>(static_cast<double>(logits[token->token_id]) - log_sum_exp);
  const int64_t n = static_cast<int64_t>(logits.size());
  token->rank = static_cast<int32_t>(1 + simd.count_before(logits.data(), n, token->token_id));
  TopTokens(logits, n_top, log_sum_exp, &token->top);
}

// The candidate tokens of one row in the order of their keys. Only as much of the order is sorted
// as is read.
class LazyOrder {
 public:
  // `keys` must outlive this object and is reordered.
  explicit LazyOrder(std::vector<uint64_t>* keys) : keys_(*keys) {}

  int64_t n_tokens() const { return static_cast<int64_t>(keys_.size()); }

  // The key at place i of the order.
  uint64_t At(int64_t i) {
    while (i >= n_sorted_) SortMore();
    return keys_[i];
  }

  // Keeps only the first n tokens of the order. REQUIRES: At has not been called.
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

// Working memory of one thread; grows to the largest vocabulary and is then reused.
struct DrawScratch {
  std::vector<uint64_t> keys;
  std::vector<uint64_t> weights;
  std::vector<DrawCandidate> candidates;
};

// The token ids that must not be drawn now, in ascending order: the stop tokens while min_tokens is
// not reached. Empty if they are the whole vocabulary.
absl::Span<const int32_t> Banned(const SampleRow& row, int64_t vocab_size) {
  const std::vector<int32_t>& ids = row.sampling->stop_token_ids;
  if (row.n_generated_tokens >= row.sampling->min_tokens) return {};
  const int64_t n_banned = std::lower_bound(ids.begin(), ids.end(), vocab_size) - ids.begin();
  return n_banned == vocab_size ? absl::Span<const int32_t>() : absl::MakeConstSpan(ids);
}

// The best token that is not banned. argmax: the best of all tokens.
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

// The inputs of a row's draw.
struct DrawRow {
  absl::Span<const float> logits;
  absl::Span<const int32_t> banned;
  const SamplingParams& sampling;
  int32_t position;
  int32_t best;  // the token with the greatest logit that is not banned
};

// Fills weights[id] for the tokens in `keys` with their integer weights; the other elements are
// undefined. Returns the sum of those weights.
uint64_t FillWeights(const SimdKernels& simd, const DrawRow& row, const std::vector<uint64_t>& keys,
                     std::vector<uint64_t>* weights) {
  const double best = WithoutSubnormal(row.logits[row.best]);
  const double temperature = row.sampling.temperature;
  weights->resize(row.logits.size());
  uint64_t total = 0;
  if (keys.size() == row.logits.size()) {
    simd.weigh_logits(row.logits.data(), static_cast<int64_t>(row.logits.size()), best, temperature,
                      weights->data());
    for (const uint64_t weight : *weights) total += weight;
  } else {
    for (const uint64_t key : keys) {
      const int32_t id = TokenOf(key);
      (*weights)[id] = IntegerWeight(WeightOf(row.logits[id], best, temperature));
      total += (*weights)[id];
    }
  }
  return total;
}

// The key of the last token that remains after bans, top_k and top_p, in the order of keys; all
// ones if nothing is restricted. Banned tokens may lie before it.
uint64_t LastKept(const SimdKernels& simd, const DrawRow& row, DrawScratch* scratch) {
  const SamplingParams& sampling = row.sampling;
  const auto n_tokens = static_cast<int64_t>(row.logits.size());
  const bool has_top_k = sampling.top_k > 0 && sampling.top_k < n_tokens;
  if (!has_top_k && sampling.top_p == 1.0f) return std::numeric_limits<uint64_t>::max();

  std::vector<uint64_t>& keys = scratch->keys;
  keys.resize(row.logits.size());
  for (int64_t id = 0; id < n_tokens; ++id) keys[id] = OrderKey(row.logits[id], id);
  if (!row.banned.empty()) {
    std::erase_if(keys, [&](uint64_t key) {
      return std::binary_search(row.banned.begin(), row.banned.end(), TokenOf(key));
    });
  }
  LazyOrder order(&keys);
  if (has_top_k) order.Truncate(sampling.top_k);
  if (sampling.top_p == 1.0f) return *std::max_element(keys.begin(), keys.end());

  const uint64_t total = FillWeights(simd, row, keys, &scratch->weights);
  const uint64_t enough = EnoughOf(sampling.top_p, total);
  int64_t n_kept = 0;
  for (uint64_t kept = 0; kept < enough;) kept += scratch->weights[TokenOf(order.At(n_kept++))];
  return order.At(n_kept - 1);
}

// The token with the best score among the tokens up to last_key that are neither banned nor below
// min_p.
int32_t BestScore(const SimdKernels& simd, const DrawRow& row, uint64_t last_key,
                  std::vector<DrawCandidate>* candidates) {
  constexpr int64_t kPiece = 16 * kDrawTokensAtOnce;  // the threshold is renewed after each piece
  const SamplingParams& sampling = row.sampling;
  const auto n_tokens = static_cast<int64_t>(row.logits.size());
  const double best_logit = WithoutSubnormal(row.logits[row.best]);
  // A cheap filter in front of last_key: no token beyond it has a greater logit.
  DrawTask task = {.logits = row.logits.data(),
                   .seed = sampling.seed,
                   .position = row.position,
                   .temperature = sampling.temperature,
                   .least_logit = last_key == std::numeric_limits<uint64_t>::max()
                                      ? std::numeric_limits<float>::lowest()
                                      : row.logits[TokenOf(last_key)]};
  int32_t winner = row.best;
  double best_score = DrawScore(row.logits[winner], sampling.temperature,
                                DrawWord(sampling.seed, row.position, winner));
  candidates->resize(kPiece);
  for (int64_t begin = 0; begin < n_tokens; begin += kPiece) {
    task.least = LeastToBeat(best_score, sampling.temperature);
    const int64_t n =
        simd.draw_candidates(task, begin, std::min(n_tokens, begin + kPiece), candidates->data());
    for (const auto& [id, word] : absl::MakeConstSpan(candidates->data(), n)) {
      const float logit = row.logits[id];
      const double score = DrawScore(logit, sampling.temperature, word);
      if (score < best_score || (score == best_score && id >= winner)) continue;
      if (OrderKey(logit, id) > last_key) continue;
      if (std::binary_search(row.banned.begin(), row.banned.end(), id)) continue;
      if (sampling.min_p > 0 && WeightOf(logit, best_logit, sampling.temperature) < sampling.min_p)
        continue;
      best_score = score;
      winner = id;
    }
  }
  return winner;
}

// Draws a token from the logits after penalties. argmax: the token of the greatest logit.
int32_t Draw(const SimdKernels& simd, const SampleRow& row, absl::Span<const float> logits,
             int32_t argmax) {
  static thread_local DrawScratch scratch;
  const SamplingParams& sampling = *row.sampling;
  const absl::Span<const int32_t> banned = Banned(row, static_cast<int64_t>(logits.size()));
  const int32_t best = Greedy(logits, banned, argmax);
  if (IsGreedy(sampling.temperature, sampling.top_k)) return best;
  const DrawRow draw = {logits, banned, sampling, row.position, best};
  return BestScore(simd, draw, LastKept(simd, draw, &scratch), &scratch.candidates);
}

// The row's logits after its penalties. The memory is the thread's and valid until its next call.
absl::Span<const float> Penalized(const SampleRow& row, absl::Span<const float> logits) {
  static thread_local std::vector<float> penalized;
  CHECK(row.token_counts != nullptr) << "a row with penalties has no counts";
  penalized.resize(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    penalized[id] = PenalizedLogit(logits[id], row.token_counts[id], *row.sampling);
  }
  return penalized;
}

// Samples one row, by the rules of kernels/sample.h. Log-probabilities come from the logits without
// penalties.
void SampleOne(const SimdKernels& simd, int64_t n_tokens, const SampleRow& row,
               SampledToken* token) {
  const absl::Span<const float> logits(row.logits, n_tokens);
  token->slot = row.slot;
  token->position = row.position;
  token->token_id = -1;
  token->logprob = 0;
  token->rank = 0;
  token->top.clear();
  const LogitScan scan = simd.scan_logits(row.logits, n_tokens);
  token->non_finite = !scan.all_finite;
  if (token->non_finite) return;
  const bool is_target = row.target_token_id >= 0;
  if (is_target) {
    CHECK_LT(row.target_token_id, n_tokens);
    token->token_id = row.target_token_id;
  } else if (row.sampling->has_penalties()) {
    const absl::Span<const float> penalized = Penalized(row, logits);
    const int64_t argmax = simd.scan_logits(penalized.data(), n_tokens).argmax;
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

void Sample(CpuDevice& device, int64_t n_tokens, absl::Span<const SampleRow> rows,
            std::vector<SampledToken>* out) {
  CHECK_GT(n_tokens, 0);
  CHECK_LE(n_tokens, kMaxDrawTokens);
  out->resize(rows.size());
  // A greedy row of 32768 tokens takes as long as waking a helper (5 us); drawing takes longer than
  // that.
  const int64_t grain = 1 + 16384 / n_tokens;
  device.ParallelFor(rows.size(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) SampleOne(device.simd(), n_tokens, rows[i], &(*out)[i]);
  });
}

}  // namespace bora
