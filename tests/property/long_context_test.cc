// One sequence of 32,768 tokens, the whole context of Mistral 7B, against the float64 reference and
// against itself.
//
// What is real: Mistral's attention, 32 heads of 128 over 8 KV heads, rope theta 1e6, KV blocks of
// 16 tokens; a prompt of 32,700 tokens in chunks, then one token after the other up to the last
// position there is. What is small, since the context's length does not touch it: dim, hidden_dim,
// vocabulary. And the layers: attention over the whole context takes 8.8e12 operations in each,
// some 50 s of a core in bf16. So each test has what it can afford:
//
//   32 heads over 8, one layer, bf16, 32,768 tokens   against the reference
//   4 heads over 1 (what one of eight tensor ranks has of Mistral), one layer, float,
//     32,768 tokens                                   against the reference
//   32 heads over 8, two layers, float and bf16,
//     3,000 tokens                                    against the reference
//   2 heads over 2, two layers, bf16, 32,768 tokens   four ranks and other chunks against one rank,
//                                                     every bit of every position
//
// In a last or only layer the reference costs little at a few hundred positions; layers before it
// must be computed at all positions, hence the 3,000.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "coordinator/scheduler/scheduler.h"
#include "kernels/paged_attention.h"
#include "model/checkpoint/dummy_weights.h"
#include "tests/base/sanitizers.h"
#include "tests/reference/forward_at.h"
#include "tests/worker/local_group.h"
#include "tests/worker/plan_builder.h"
#include "tests/worker/reference_inputs.h"
#include "tests/worker/workload.h"

namespace bora {
namespace {

// A 256th of the work, at a tenth of the speed or less.
constexpr int32_t kLengthDivisor = kSanitized ? 16 : 1;

constexpr uint64_t kSeed = 12;
constexpr int32_t kMaxModelLen = 32768 / kLengthDivisor;
constexpr int32_t kGenerated = 68;
constexpr int32_t kPrompt = kMaxModelLen - kGenerated;  // 32,700
constexpr int32_t kChunk = 2048 / kLengthDivisor;

// The standard deviation of the scores. With the 1 that random weights have, attention over n
// tokens is a mean of n / e values and vanishes beside the residual: no check of the logits could
// see it. With 4 the best of 32,768 positions takes an eighth of the weight on average, and each
// query looks at a few places anywhere in the context.
constexpr int64_t kSharpness = 4;

ModelConfig MistralHeads(int64_t n_heads, int64_t n_kv_heads, int64_t n_layers) {
  ModelConfig config;
  config.architecture = "mistral";
  config.dim = 128;
  config.hidden_dim = 256;
  config.n_layers = n_layers;
  config.n_heads = n_heads;
  config.n_kv_heads = n_kv_heads;
  config.head_dim = 128;
  config.vocab_size = 512;
  config.max_position = 32768;
  config.rope_theta = 1e6;
  config.norm_eps = 1e-5;
  return config;
}

// Dummy weights with queries kSharpness times as long, which is exact. Matrices are bf16 numbers
// for ranks of floats too, so that the reference is the same for both.
class SharpWeights final : public WeightSource {
 public:
  explicit SharpWeights(const ModelConfig& config) : dummy_(config, kSeed) {}

  const ModelConfig& config() const override { return dummy_.config(); }
  Fingerprint fingerprint() const override { return dummy_.fingerprint(); }

 private:
  absl::Status Read(TensorId id, const TensorSlice& slice, ElementSpan dst,
                    DigestSum* digest) const override {
    RETURN_IF_ERROR(dummy_.ReadSlice(id, slice, dst, digest));
    std::visit([&](const auto& elements) { Sharpen(id, elements); }, dst);
    return absl::OkStatus();
  }
  void Sharpen(TensorId id, absl::Span<float> elements) const {
    if (ShapeOf(config(), id).is_vector) return;
    for (float& value : elements) value = RoundToBf16(value) * Scale(id);
  }
  static void Sharpen(TensorId id, absl::Span<Bf16> elements) {
    for (Bf16& value : elements) value = ToBf16(ToFloat(value) * Scale(id));
  }
  static void Sharpen(TensorId id, absl::Span<Half> elements) {
    for (Half& value : elements) value = ToHalf(ToFloat(value) * Scale(id));
  }
  static float Scale(TensorId id) { return id.kind == TensorKind::kWq ? kSharpness : 1; }

  DummyWeights dummy_;
};

// KV blocks for exactly one request of full length.
GroupLimits FullLengthLimits(const ModelConfig& config) {
  return {.max_num_seqs = 4,
          .max_num_batched_tokens = kChunk,
          .max_model_len = kMaxModelLen,
          .block_size = 16,
          .n_blocks = kMaxModelLen / 16,
          .vocab_size = static_cast<int32_t>(config.vocab_size)};
}

std::unique_ptr<LocalGroup> StartGroup(const ModelConfig& config, LocalGroupOptions options) {
  if (options.limits.n_blocks == 0) options.limits = FullLengthLimits(config);
  options.rank.poison_kv = true;
  auto group = LocalGroup::Start(SharpWeights(config), options);
  CHECK_OK(group.status());
  return *std::move(group);
}

WorkRequest GreedyRequest(const ModelConfig& config, int32_t n_prompt, int32_t n_generate,
                          uint64_t seed) {
  std::mt19937_64 random(seed);
  WorkRequest request;
  for (int32_t i = 0; i < n_prompt; ++i) {
    request.prompt.push_back(static_cast<int32_t>(random() % config.vocab_size));
  }
  request.n_generate = n_generate;
  request.sampling = {
      .temperature = 0, .n_logprobs = kMaxLogprobs, .n_prompt_logprobs = kMaxLogprobs};
  return request;
}

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Where the rows of a prompt begin: whole chunks, and between them odd ones that neither blocks nor
// splits divide.
std::vector<int32_t> ChunkBegins(int32_t n_prompt) {
  std::vector<int32_t> begins;
  const int32_t chunks[] = {kChunk, kChunk, 1, kChunk - 1, kChunk, 13, kChunk * 3 / 4 + 5};
  for (int32_t at = 0; at < n_prompt;) {
    begins.push_back(at);
    at += chunks[(begins.size() - 1) % std::size(chunks)];
  }
  return begins;
}

// One request with plans by hand: the prompt in those rows, then token by token.
WorkOutcome RunInChunks(LocalGroup& group, const WorkRequest& request) {
  const Stopwatch stopwatch;
  const int32_t n_prompt = static_cast<int32_t>(request.prompt.size());
  std::vector<int32_t> begins = ChunkBegins(n_prompt);
  begins.push_back(n_prompt);
  PlanBuilder builder(group.options().limits, group.epoch(), kSeed);
  WorkOutcome outcome;
  const auto run = [&] {
    const auto result = group.RunStep(builder.Take());
    CHECK_OK(result.status());
    outcome.prompt_logprobs.insert(outcome.prompt_logprobs.end(), result->prompt_logprobs.begin(),
                                   result->prompt_logprobs.end());
    outcome.sampled.insert(outcome.sampled.end(), result->sampled.begin(), result->sampled.end());
  };
  builder.Open(0, request.prompt, n_prompt, request.sampling);
  for (size_t i = 0; i + 1 < begins.size(); ++i) {
    const int32_t begin = begins[i], end = begins[i + 1];
    builder.AddRow(0, absl::MakeSpan(request.prompt).subspan(begin, end - begin),
                   {.sample = end == n_prompt && request.n_generate > 0,
                    .prompt_logprobs = true,
                    .next_token = end < n_prompt ? request.prompt[end] : -1});
    run();
  }
  const double prefill_s = stopwatch.seconds();
  while (static_cast<int32_t>(outcome.sampled.size()) < request.n_generate) {
    builder.AddLastSampledRow(0, true);
    run();
  }
  if (n_prompt + request.n_generate == group.options().limits.max_model_len) {
    // The last token passes too, although no position is left for another.
    builder.AddLastSampledRow(0, false);
    run();
  }
  std::printf("prompt %.1f s, decoding %.1f s\n", prefill_s, stopwatch.seconds() - prefill_s);
  return outcome;
}

// Positions of tokens whose log-probabilities are compared, ascending, all > 0: the first ones,
// those around powers of two, beginnings of rows and splits, random ones, and all that were
// decoded.
std::vector<int64_t> CheckedPositions(int64_t n_prompt, int64_t n_tokens) {
  std::set<int64_t> boundaries;
  for (int64_t p = 1; p <= n_tokens; p *= 2) boundaries.insert(p);
  for (const int32_t begin : ChunkBegins(static_cast<int32_t>(n_prompt))) boundaries.insert(begin);
  for (int64_t p = 0; p < n_tokens; p += kAttentionSplitTokens) boundaries.insert(p);
  std::mt19937_64 random(kSeed);
  std::set<int64_t> positions;
  for (int i = 0; i < 64; ++i) positions.insert(random() % n_prompt);
  for (int64_t p = 0; p < 20; ++p) positions.insert(p);
  for (const int64_t boundary : boundaries) {
    // By the last token before the boundary and the first behind it.
    positions.insert({boundary, boundary + 1});
  }
  for (int64_t p = n_prompt - 1; p < n_tokens; ++p) positions.insert(p);
  std::vector<int64_t> inside;
  for (const int64_t p : positions) {
    if (p > 0 && p < n_tokens) inside.push_back(p);
  }
  return inside;
}

// As in reference_model_test.cc: rounding errors as independent errors relative to values of order
// one, which add up in squares; 6 standard deviations bound the maximum over some ten thousand
// values. A relative error e of a query, a key or a score moves the exponent of a weight by
// kSharpness * e.
//
// bf16: a rounding errs by 2^-9 / sqrt(3), the standard deviation of a uniform relative error up to
// 2^-9. Four in each layer go into a score: the inputs of wq and wk, the query, the key. Six more:
// the weight, the input of wv, the value, the inputs of wo, w13 and w2. One before the head.
//
// float: a sum of K terms errs by sqrt(K) 2^-24. Into a score go those of query and key, dim each,
// and its own, head_dim. Then wv, the values of a split, the merges of splits with two roundings
// each, wo, w13, w2, and the head.
double Tolerance(const ModelConfig& config, DType dtype, int64_t n_tokens) {
  constexpr double kSquaredSharpness = kSharpness * kSharpness;
  const double n_layers = static_cast<double>(config.n_layers);
  if (dtype == DType::kBf16) {
    return 6 * std::sqrt(n_layers * (4 * kSquaredSharpness + 6) + 1) * 0x1p-9 / std::sqrt(3.0);
  }
  const double dim = static_cast<double>(config.dim);
  const double score = 2 * dim + static_cast<double>(config.head_dim);
  const double values = dim + kAttentionSplitTokens +
                        2 * static_cast<double>(CeilDiv(n_tokens, kAttentionSplitTokens));
  const double products = static_cast<double>(config.n_heads * config.head_dim) + dim +
                          static_cast<double>(config.hidden_dim);
  return 6 * std::sqrt(n_layers * (kSquaredSharpness * score + values + products) + dim) * 0x1p-24;
}

// The reference's log-probabilities at `positions` of a sequence, by position.
std::map<int64_t, reference::Vector> ReferenceLogprobs(const ModelConfig& config,
                                                       const std::vector<int32_t>& tokens,
                                                       const std::vector<int64_t>& positions) {
  const Stopwatch stopwatch;
  std::vector<int64_t> rows;  // a token's logits are those after the token before it
  for (const int64_t position : positions) rows.push_back(position - 1);
  const reference::Vector logits = reference::ForwardAt(
      ReferenceConfig(config), ReferenceWeights(SharpWeights(config), DType::kF32), tokens, rows);
  std::map<int64_t, reference::Vector> logprobs;
  for (size_t i = 0; i < positions.size(); ++i) {
    const auto row = logits.begin() + i * config.vocab_size;
    logprobs[positions[i]] = reference::LogSoftmax(reference::Vector(row, row + config.vocab_size));
  }
  std::printf("reference at %d positions: %.1f s\n", static_cast<int>(positions.size()),
              stopwatch.seconds());
  return logprobs;
}

// Compares what a request reported with the reference, at the positions that the reference has.
void ExpectAgrees(const std::map<int64_t, reference::Vector>& logprobs, const WorkOutcome& outcome,
                  double tolerance) {
  double worst = 0;
  int64_t worst_position = 0, n_values = 0;
  int n_decided = 0;
  size_t n_positions = 0;
  const auto check = [&](const SampledToken& token, bool sampled) {
    ASSERT_FALSE(token.non_finite) << "position " << token.position;
    const auto at = logprobs.find(token.position);
    if (at == logprobs.end()) return;
    const reference::Vector& expected = at->second;
    ++n_positions;
    const auto compare = [&](int32_t token_id, double logprob) {
      const double difference = std::abs(logprob - expected[token_id]);
      ++n_values;
      if (difference <= worst) return;
      worst = difference;
      worst_position = token.position;
    };
    compare(token.token_id, token.logprob);
    for (const TokenLogprob& top : token.top) compare(top.token_id, top.logprob);
    if (!sampled) return;
    // Greedy: the reference's best, unless two are closer than rounding.
    reference::Vector sorted = expected;
    std::sort(sorted.rbegin(), sorted.rend());
    EXPECT_LE(sorted[0] - expected[token.token_id], 2 * tolerance)
        << "token " << token.token_id << " at position " << token.position;
    n_decided += sorted[0] - sorted[1] > 2 * tolerance ? 1 : 0;
  };
  for (const SampledToken& token : outcome.prompt_logprobs) check(token, false);
  for (const SampledToken& token : outcome.sampled) check(token, true);
  EXPECT_EQ(n_positions, logprobs.size());
  std::printf(
      "worst of %lld log-probabilities at %d positions: %.3g at %lld, tolerance %.3g; %d of %d "
      "greedy tokens decided\n",
      static_cast<long long>(n_values), static_cast<int>(n_positions), worst,
      static_cast<long long>(worst_position), tolerance, n_decided,
      static_cast<int>(outcome.sampled.size()));
  EXPECT_LE(worst, tolerance);
  if (!outcome.sampled.empty()) {
    EXPECT_GT(2 * n_decided, static_cast<int>(outcome.sampled.size()));
  }
}

void ExpectFullLengthAgrees(const ModelConfig& config, DType dtype) {
  const auto group = StartGroup(config, {.precision = dtype, .n_threads = 2});
  const WorkRequest request = GreedyRequest(config, kPrompt, kGenerated, kSeed);
  const WorkOutcome outcome = RunInChunks(*group, request);
  ASSERT_EQ(static_cast<int32_t>(outcome.prompt_logprobs.size()), kPrompt - 1);
  ASSERT_EQ(static_cast<int32_t>(outcome.sampled.size()), kGenerated);
  ASSERT_EQ(outcome.sampled.back().position, kMaxModelLen - 1);
  std::vector<int32_t> tokens = request.prompt;
  for (const int32_t token_id : outcome.token_ids()) tokens.push_back(token_id);
  ExpectAgrees(ReferenceLogprobs(config, tokens, CheckedPositions(kPrompt, kMaxModelLen)), outcome,
               Tolerance(config, dtype, kMaxModelLen));
}

TEST(LongContextTest, AllHeadsInBf16AgreeWithFloat64ToTheLastPosition) {
  ExpectFullLengthAgrees(MistralHeads(32, 8, 1), DType::kBf16);
}

TEST(LongContextTest, HeadsOfOneOfEightRanksInF32AgreeWithFloat64ToTheLastPosition) {
  ExpectFullLengthAgrees(MistralHeads(4, 1, 1), DType::kF32);
}

TEST(LongContextTest, TwoLayersAgreeWithFloat64) {
  const ModelConfig config = MistralHeads(32, 8, 2);
  const int32_t n_tokens = 3000 / (kLengthDivisor > 1 ? 4 : 1);
  const WorkRequest request = GreedyRequest(config, n_tokens, 0, kSeed);
  const std::map<int64_t, reference::Vector> logprobs =
      ReferenceLogprobs(config, request.prompt, CheckedPositions(n_tokens, n_tokens));
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    const auto group = StartGroup(config, {.precision = dtype, .n_threads = 2});
    ExpectAgrees(logprobs, RunInChunks(*group, request), Tolerance(config, dtype, n_tokens));
  }
}

// The request as the service runs it, by the scheduler, with short ones beside it that come and go.
// Fails when it takes more than it should.
WorkOutcome RunScheduled(LocalGroup& group, const ModelConfig& config, const WorkRequest& request) {
  const Stopwatch stopwatch;
  Scheduler scheduler({.limits = group.options().limits, .epoch = group.epoch(), .n_stages = 2});
  std::map<uint64_t, int32_t> n_left;  // of each request
  const auto add = [&](uint64_t handle, const WorkRequest& work) {
    scheduler.Add({.handle = handle,
                   .prompt_tokens = work.prompt,
                   .sampling = work.sampling,
                   .max_tokens = work.n_generate});
    n_left[handle] = work.n_generate;
  };
  constexpr uint64_t kLong = 1;
  add(kLong, request);
  WorkOutcome outcome;
  for (uint64_t next = kLong + 1; n_left.contains(kLong);) {
    // Two short ones at a time; prompts of odd lengths move the long one's chunks.
    for (; n_left.size() < 3; ++next) add(next, GreedyRequest(config, 1 + next * 5 % 60, 4, next));
    while (const auto plan = scheduler.PlanStep()) group.Submit(*plan);
    auto result = group.WaitResult();
    CHECK_OK(result.status());
    auto progress = scheduler.CompleteStep(*std::move(result));
    CHECK_OK(progress.status());
    for (SequenceProgress& item : *progress) {
      if (item.handle == kLong) {
        for (SampledToken& token : item.prompt_logprobs) {
          token.slot = 0;
          outcome.prompt_logprobs.push_back(std::move(token));
        }
        if (item.sampled.has_value()) {
          item.sampled->slot = 0;
          outcome.sampled.push_back(*std::move(item.sampled));
        }
      }
      if (item.sampled.has_value() && --n_left.at(item.handle) == 0) {
        n_left.erase(item.handle);
        scheduler.Remove(item.handle);
      }
    }
  }
  // What was planned for the short ones comes back too, so that no rank is in a step at the end.
  while (scheduler.n_in_flight() > 0) {
    auto result = group.WaitResult();
    CHECK_OK(result.status());
    CHECK_OK(scheduler.CompleteStep(*std::move(result)).status());
  }
  std::printf("by the scheduler, %d preemptions: %.1f s\n",
              static_cast<int>(scheduler.n_preemptions()), stopwatch.seconds());
  return outcome;
}

TEST(LongContextTest, FourRanksAndOtherChunksGiveTheBitsOfOneRank) {
  const ModelConfig config = MistralHeads(2, 2, 2);
  const WorkRequest request = GreedyRequest(config, kPrompt, kGenerated, kSeed);
  const auto one = StartGroup(config, {.precision = DType::kBf16, .n_threads = 2});
  const WorkOutcome alone = RunInChunks(*one, request);
  GroupLimits limits = FullLengthLimits(config);
  limits.max_num_batched_tokens = kChunk / 2 - 3;
  limits.n_blocks += 8;
  const auto four =
      StartGroup(config, {.tp_size = 2, .pp_size = 2, .limits = limits, .precision = DType::kBf16});
  const WorkOutcome scheduled = RunScheduled(*four, config, request);
  EXPECT_EQ(scheduled.sampled, alone.sampled);
  ASSERT_EQ(scheduled.prompt_logprobs.size(), alone.prompt_logprobs.size());
  for (size_t i = 0; i < alone.prompt_logprobs.size(); ++i) {
    ASSERT_EQ(scheduled.prompt_logprobs[i], alone.prompt_logprobs[i]) << "prompt token " << i + 1;
  }
}

}  // namespace
}  // namespace bora
