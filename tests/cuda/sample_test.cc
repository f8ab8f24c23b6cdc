// Sample of CUDA against the draw's definition, the float64 reference, and the CPU's form.
#include "kernels/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/cpu_device.h"
#include "tests/cuda/cuda_testing.h"
#include "tests/kernels/draw_model.h"
#include "tests/kernels/op_testing.h"
#include "tests/reference/reference.h"

namespace bora {
namespace {

using testing::AnyOf;
using testing::ElementsAre;

// Logits with ties, in no order.
std::vector<float> Logits(int64_t vocab_size, float scale, uint64_t seed) {
  std::vector<float> logits = RandomFloats(vocab_size, seed);
  for (float& logit : logits) logit = std::round(logit * 16) / 16 * scale;
  return logits;
}

// What one test row asks for.
struct Request {
  std::vector<float> logits;
  SamplingParams sampling;
  int32_t position = 0;
  int32_t n_generated_tokens = 0;
  int32_t target_token_id = -1;
  bool skipped = false;
  std::vector<int32_t> known_tokens;  // of the sequence
  int32_t n_prompt_tokens = 0;        // the first of them
};

// By the draw's definition.
int32_t DrawOf(const Request& request) {
  const SamplingParams& sampling = request.sampling;
  const auto n_prompt = request.known_tokens.begin() + request.n_prompt_tokens;
  const std::vector<double> penalized =
      reference::Penalize(ToDoubles(request.logits), {request.known_tokens.begin(), n_prompt},
                          {n_prompt, request.known_tokens.end()}, sampling.repetition_penalty,
                          sampling.frequency_penalty, sampling.presence_penalty);
  return ModelDraw({penalized.begin(), penalized.end()}, sampling, request.position,
                   request.n_generated_tokens);
}

class CudaSampleTest : public CudaTest {
 protected:
  // One launch; row i has slot i. All logits are of one vocabulary.
  std::vector<SampledToken> Run(const std::vector<Request>& requests) {
    const int64_t n = static_cast<int64_t>(requests.size());
    const int64_t vocab_size = n == 0 ? 1 : static_cast<int64_t>(requests[0].logits.size());
    // A row has logits and counts behind those of its tokens that must not be looked at.
    const int64_t row_stride = vocab_size + kBehindRow;
    std::vector<float> logits;
    std::vector<CudaSampleRow> rows;
    std::vector<CudaSampling> sampling;
    std::vector<uint32_t> counts(n * row_stride, kUntouchedCount);
    for (const Request& request : requests) {
      CHECK_EQ(static_cast<int64_t>(request.logits.size()), vocab_size);
      logits.insert(logits.end(), request.logits.begin(), request.logits.end());
      logits.insert(logits.end(), kBehindRow, NAN);
      const auto slot = static_cast<int32_t>(rows.size());
      rows.push_back({request.skipped ? -1 : slot, request.position, request.n_generated_tokens,
                      request.target_token_id});
      sampling.push_back(ToCudaSampling(request.sampling));
      if (!request.sampling.has_penalties()) continue;
      CountTokens(request.known_tokens, request.n_prompt_tokens,
                  absl::MakeSpan(counts).subspan(slot * row_stride, vocab_size));
    }
    const DeviceArray<float> device_logits(logits);
    const DeviceArray<CudaSampleRow> device_rows(rows);
    const DeviceArray<CudaSampling> device_sampling(sampling);
    DeviceArray<CudaSampledToken> sampled(n);
    DeviceArray<int32_t> last_tokens(std::vector<int32_t>(n, kUntouched));
    DeviceArray<uint32_t> device_counts(counts);
    Sample(Device(SampleScratchBytes(n, vocab_size)), {.n_rows = n,
                                                       .n_tokens = vocab_size,
                                                       .row_stride = row_stride,
                                                       .logits = device_logits.data(),
                                                       .rows = device_rows.data(),
                                                       .sampling = device_sampling.data(),
                                                       .sampled = sampled.data(),
                                                       .last_tokens = last_tokens.data(),
                                                       .token_counts = device_counts.data()});
    last_tokens_ = last_tokens.ToHost();
    raw_ = sampled.ToHost();
    std::vector<SampledToken> tokens;
    for (int64_t i = 0; i < n; ++i) {
      tokens.push_back(rows[i].slot < 0 ? SampledToken() : ToSampledToken(raw_[i], rows[i]));
      // A draw with penalties is counted, and nothing else.
      const bool is_draw =
          rows[i].slot >= 0 && rows[i].target_token_id < 0 && raw_[i].token_id >= 0;
      if (is_draw && requests[i].sampling.has_penalties()) {
        ++counts[i * row_stride + raw_[i].token_id];
      }
    }
    EXPECT_EQ(device_counts.ToHost(), counts);
    return tokens;
  }

  SampledToken RunOne(const Request& request) { return Run({request})[0]; }

  // The token at each of n positions.
  std::vector<int32_t> Draws(const std::vector<float>& logits, const SamplingParams& sampling,
                             int32_t n) {
    std::vector<Request> requests;
    for (int32_t i = 0; i < n; ++i) requests.push_back({logits, sampling, i});
    std::vector<int32_t> ids;
    for (const SampledToken& token : Run(requests)) ids.push_back(token.token_id);
    return ids;
  }

  // Columns of each row behind the vocabulary, of NaN, as of a model whose matrices are padded.
  static constexpr int64_t kBehindRow = 3;
  static constexpr int32_t kUntouched = -7;
  static constexpr uint32_t kUntouchedCount = 0xdead;
  std::vector<CudaSampledToken> raw_;  // of the last run
  std::vector<int32_t> last_tokens_;
};
INSTANTIATE_TEST_SUITE_P(, CudaSampleTest, testing::ValuesIn(CudaRunModes()), CudaRunModeName);

SampledToken OnCpu(const Request& request, int32_t slot = 0) {
  CpuDevice device(1);
  std::vector<SampledToken> out;
  std::vector<uint32_t> counts(request.logits.size());
  CountTokens(request.known_tokens, request.n_prompt_tokens, absl::MakeSpan(counts));
  Sample(device, static_cast<int64_t>(request.logits.size()),
         {{request.logits.data(), &request.sampling, slot, request.position,
           request.n_generated_tokens, request.target_token_id, counts.data()}},
         &out);
  return out[0];
}

// Any combination of restrictions, from none to all.
Request RandomRequest(int64_t vocab_size, uint64_t seed) {
  const auto words = Philox4x32(seed, 99, 0), more = Philox4x32(seed, 99, 1);
  const auto penalties = Philox4x32(seed, 99, 2);
  Request request;
  request.logits = Logits(vocab_size, seed % 5 == 0 ? 40 : 5, seed);
  request.position = static_cast<int32_t>(more[0] % 10000);
  request.sampling = {
      .temperature = std::exp(4 * UniformFloat(words[0]) - 2),
      .top_p = words[1] % 3 == 0 ? 1.0f : 0.05f + 0.949f * UniformFloat(words[1]),
      .top_k = words[2] % 3 == 0 ? 0 : static_cast<int32_t>(words[2] % (vocab_size + 9)),
      .min_p = words[3] % 3 == 0 ? 0.05f * UniformFloat(words[3]) : 0.0f,
      .seed = seed};
  if (penalties[0] % 3 == 0) {
    // Exact: multiples of 1/8, and logits are of 1/16.
    request.sampling.repetition_penalty = std::exp2(static_cast<float>(penalties[1] % 5) - 2);
    request.sampling.frequency_penalty = (static_cast<float>(penalties[2] % 17) - 8) / 8;
    request.sampling.presence_penalty = (static_cast<float>(penalties[3] % 17) - 8) / 8;
    for (uint32_t i = 0; i < penalties[0] / 3 % 50; ++i) {
      request.known_tokens.push_back(
          static_cast<int32_t>(Philox4x32(seed, i, 3)[0] % std::min<int64_t>(vocab_size, 30)));
    }
    request.n_prompt_tokens =
        static_cast<int32_t>(penalties[1] / 5 % (request.known_tokens.size() + 1));
  }
  if (more[1] % 3 == 0) {
    request.sampling.min_tokens = 1;
    for (int32_t id = more[2] % 5; id < vocab_size && request.sampling.stop_token_ids.size() < 50;
         id += 1 + more[3] % 40) {
      request.sampling.stop_token_ids.push_back(id);
    }
  }
  return request;
}

TEST_P(CudaSampleTest, DrawsWhatTheDefinitionSaysAndTheCpuDraws) {
  struct Size {
    int64_t vocab_size;
    int n_rows;
  };
  for (const Size size : {Size{0, 0},
                          {1, 3},
                          {2, 8},
                          {7, 20},
                          {33, 20},
                          {96, 30},
                          {1000, 20},
                          {1024, 12},
                          {4099, 4}}) {
    std::vector<Request> requests;
    for (int i = 0; i < size.n_rows; ++i) {
      requests.push_back(RandomRequest(size.vocab_size, 1000 * size.vocab_size + i));
    }
    const std::vector<SampledToken> got = Run(requests);
    for (int i = 0; i < size.n_rows; ++i) {
      EXPECT_EQ(got[i].token_id, DrawOf(requests[i])) << size.vocab_size << " row " << i;
      EXPECT_EQ(got[i].token_id, OnCpu(requests[i]).token_id) << size.vocab_size << " row " << i;
      EXPECT_EQ(last_tokens_[i], got[i].token_id);
    }
  }
}

TEST_P(CudaSampleTest, DrawsFromAWholeVocabulary) {
  const int64_t vocab_size = 32000;
  Request nucleus = {RandomFloats(vocab_size, 3), {.temperature = 0.3f, .top_p = 0.9f, .seed = 7}};
  EXPECT_EQ(RunOne(nucleus).token_id, DrawOf(nucleus));
  Request plain = {RandomFloats(vocab_size, 4), {.top_k = 31000, .seed = 7}};
  EXPECT_EQ(RunOne(plain).token_id, DrawOf(plain));
}

TEST_P(CudaSampleTest, ExtremeParametersGiveTheirLimit) {
  const std::vector<float> logits = {0.5f, 2.0f, 1.9999f, 2.0f, -3e38f, 1.0f};
  const auto draws = [&](const SamplingParams& sampling) { return Draws(logits, sampling, 60); };
  // The two best tie; everything else is 100 temperatures away or more.
  EXPECT_THAT(draws({.temperature = 1e-6f}), testing::Each(AnyOf(1, 3)));
  EXPECT_THAT(draws({.temperature = 1e-45f}), testing::Each(AnyOf(1, 3)));
  EXPECT_THAT(draws({.min_p = 1}), testing::Each(AnyOf(1, 3)));
  EXPECT_THAT(draws({.top_p = 1e-9f}), testing::Each(1));
  EXPECT_THAT(draws({.top_p = 1e-45f}), testing::Each(1));
  EXPECT_THAT(draws({.top_k = 1}), testing::Each(1));
  // -3e38 has no weight even at temperature 1e6; all others have about the same.
  const std::vector<int32_t> hot = draws({.temperature = 1e6f, .top_k = kMaxTopK});
  for (int32_t id = 0; id < 6; ++id) {
    EXPECT_EQ(std::count(hot.begin(), hot.end(), id) > 0, id != 4) << id;
  }
  // What no token is ruled out by changes nothing.
  EXPECT_EQ(draws({.top_k = kMaxTopK}), draws({}));
  EXPECT_EQ(draws({.top_k = 6}), draws({}));
  EXPECT_EQ(draws({.min_p = 1e-30f}), draws({}));
}

// A restriction ends among equals: the lowest ids stay.
TEST_P(CudaSampleTest, TiesAtARestrictionGoToTheLowestIds) {
  const int64_t vocab_size = 1000;
  std::vector<float> equal(vocab_size, -0.0f);
  for (int64_t id = 0; id < vocab_size; id += 2) equal[id] = 0.0f;  // equal to -0
  // 0.25 of 1000 equal tokens are exactly 250.
  for (const SamplingParams& sampling :
       {SamplingParams{.top_k = 250, .seed = 3}, SamplingParams{.top_p = 0.25f, .seed = 3}}) {
    const std::vector<int32_t> drawn = Draws(equal, sampling, 12);
    for (int32_t position = 0; position < 12; ++position) {
      EXPECT_EQ(drawn[position], ModelDraw(equal, sampling, position));
      EXPECT_LT(drawn[position], 250);
    }
  }
  // One above the crowd, the second of which is at 501: top_k 3 takes 700, 1, 501.
  std::vector<float> few(vocab_size, -5.0f);
  few[700] = 1.0f;
  few[1] = few[501] = few[502] = 0.75f;
  EXPECT_THAT(Draws(few, {.top_k = 3}, 30), testing::Each(AnyOf(700, 1, 501)));
  EXPECT_THAT(Draws(few, {.top_k = 3}, 30), testing::Contains(501));
  // Their probabilities are 1, 0.78, 0.78, 0.78 of about 10: each is a prefix of its own.
  const double total = 1 + 3 * std::exp(-0.25) + 996 * std::exp(-6.0);
  for (int n_kept = 1; n_kept <= 4; ++n_kept) {
    const auto top_p = static_cast<float>((0.7 + (n_kept - 1) * std::exp(-0.25)) / total);
    const std::vector<int32_t> drawn = Draws(few, {.top_p = top_p}, 12);
    const std::vector<int32_t> order = {700, 1, 501, 502};
    for (const int32_t id : drawn) {
      EXPECT_LT(std::find(order.begin(), order.end(), id) - order.begin(), n_kept) << top_p;
    }
  }
}

TEST_P(CudaSampleTest, ARowDoesNotDependOnTheOthers) {
  for (int64_t vocab_size : {50, 1030}) {
    Request request = RandomRequest(vocab_size, 4);
    request.sampling.n_logprobs = 5;
    request.sampling.top_p = 0.8f;
    const SampledToken alone = RunOne(request);
    std::vector<Request> batch;
    for (uint64_t seed = 10; seed < 14; ++seed) batch.push_back(RandomRequest(vocab_size, seed));
    batch[1].logits[7] = NAN;
    for (size_t at : {0, 2, 4}) {
      std::vector<Request> with = batch;
      with.insert(with.begin() + static_cast<ptrdiff_t>(at), request);
      SampledToken got = Run(with)[at];
      EXPECT_EQ(got.slot, static_cast<int32_t>(at));
      got.slot = alone.slot;
      EXPECT_EQ(got, alone);
    }
  }
}

TEST_P(CudaSampleTest, GreedyIsTheCpus) {
  for (int64_t vocab_size : {1, 2, 31, 1000, 2049}) {
    std::vector<Request> requests;
    for (uint64_t seed = 0; seed < 4; ++seed) {
      Request request = RandomRequest(vocab_size, seed);
      request.sampling.temperature = seed % 2 == 0 ? 0 : 1;
      request.sampling.top_k = 1;
      // Bans the best one.
      request.sampling.stop_token_ids = {InOrder(request.logits)[0]};
      request.sampling.min_tokens = seed < 2 ? 0 : 1;
      requests.push_back(request);
    }
    const std::vector<SampledToken> got = Run(requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(got[i], OnCpu(requests[i], static_cast<int32_t>(i)));
    }
  }
}

TEST_P(CudaSampleTest, MinTokensBansStopTokensUntilReached) {
  const std::vector<float> logits = {9, 1, 8, 0};
  const SamplingParams sampling = {
      .temperature = 0, .n_logprobs = 2, .min_tokens = 3, .stop_token_ids = {0, 2, 50}};
  const std::vector<SampledToken> got =
      Run({{logits, sampling, 0, 2}, {logits, sampling, 0, 3}, {logits, {.n_logprobs = 2}}});
  EXPECT_EQ(got[0].token_id, 1);
  // Log-probabilities still include them.
  EXPECT_EQ(got[0].rank, 3);
  EXPECT_EQ(got[0].top, got[2].top);
  EXPECT_EQ(got[1].token_id, 0);
  // A ban of everything is void.
  const std::vector<int32_t> all = {0, 1, 2, 3, 50};
  EXPECT_EQ(RunOne({logits, {.temperature = 0, .min_tokens = 1, .stop_token_ids = all}}).token_id,
            0);
  // top_k counts what is left.
  const SamplingParams two = {
      .temperature = 100, .top_k = 2, .min_tokens = 1, .stop_token_ids = {0}};
  EXPECT_THAT(Draws(logits, two, 40), testing::Each(AnyOf(1, 2)));
  EXPECT_THAT(Draws(logits, two, 40), testing::Contains(1));
}

TEST_P(CudaSampleTest, NonFiniteRowFailsAlone) {
  const std::vector<float> good = Logits(70, 3, 1);
  const SamplingParams sampling = {.n_logprobs = 1, .n_prompt_logprobs = 1};
  const SampledToken want = RunOne({good, sampling});
  for (float poison : {NAN, -NAN, INFINITY, -INFINITY}) {
    std::vector<float> bad = good;
    bad[69] = poison;
    const std::vector<SampledToken> got =
        Run({{good, sampling}, {bad, sampling}, {bad, sampling, 0, 0, 5}});
    EXPECT_EQ(got[0], want);
    for (int i : {1, 2}) {
      EXPECT_TRUE(got[i].non_finite);
      EXPECT_EQ(got[i].token_id, -1);
      EXPECT_TRUE(got[i].top.empty());
    }
    EXPECT_THAT(last_tokens_, ElementsAre(want.token_id, 0, kUntouched));
  }
}

TEST_P(CudaSampleTest, SkippedRowsAndTargetsLeaveWhatIsNotTheirs) {
  const std::vector<float> logits = Logits(20, 3, 1);
  Request skipped = {logits, {}}, target = {logits, {.n_prompt_logprobs = 0}};
  skipped.skipped = true;
  target.target_token_id = 4;
  const std::vector<SampledToken> got = Run({skipped, target, {logits, {.temperature = 0}}});
  const CudaSampledToken& untouched = raw_[0];
  const auto* bytes = reinterpret_cast<const uint8_t*>(&untouched);
  EXPECT_EQ(std::count(bytes, bytes + sizeof(untouched), 0xff),
            static_cast<ptrdiff_t>(sizeof(untouched)));
  EXPECT_EQ(got[1].token_id, 4);
  EXPECT_EQ(got[1].rank, OnCpu(target).rank);
  EXPECT_THAT(last_tokens_, ElementsAre(kUntouched, kUntouched, InOrder(logits)[0]));
  // Nothing is reported that was not asked for.
  EXPECT_EQ(got[2].rank, 0);
  EXPECT_EQ(got[2].logprob, 0);
}

// Rounded to float once (kFloatEps of the result). In double: exponentials within 4 ulp (2^-50
// relative), whose sum has at most one addition for each token of a thread and 10 in the trees;
// the logarithm of a sum in [1, n] within 4 ulp; the additions to max and to the logit.
double LogprobTolerance(int64_t vocab_size, double max, double want) {
  const int64_t n_threads = std::clamp<int64_t>(RoundUp(vocab_size, 32), 64, 512);
  const double log_n = std::log(static_cast<double>(vocab_size));
  const double sum = 0x1p-50 + static_cast<double>(CeilDiv(vocab_size, n_threads) + 10) * 0x1p-53;
  const double in_double =
      sum + log_n * 0x1p-50 + (std::abs(max) + log_n + std::abs(want)) * 0x1p-53;
  // The reference is in double, too.
  return kFloatEps * std::abs(want) + 2 * in_double;
}

TEST_P(CudaSampleTest, LogprobsRanksAndAlternativesAgreeWithReferenceAndCpu) {
  WorstRatio worst("cuda logprob");
  for (int64_t vocab_size : {1, 2, 7, 100, 1000, 3001}) {
    const std::vector<float> logits = Logits(vocab_size, 8, vocab_size);
    const std::vector<double> want = reference::LogSoftmax(ToDoubles(logits));
    const double max = *std::max_element(logits.begin(), logits.end());
    std::vector<Request> requests;
    for (int32_t n : {-1, 0, 1, 5, 20}) {
      const auto last = static_cast<int32_t>(vocab_size - 1);
      requests.push_back({logits, {.n_prompt_logprobs = n}, 0, 0, n < 5 ? last : last / 2});
      requests.push_back({logits, {.temperature = 0, .n_logprobs = n}});
    }
    const std::vector<SampledToken> got = Run(requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      const SampledToken on_cpu = OnCpu(requests[i], static_cast<int32_t>(i));
      EXPECT_EQ(got[i].token_id, on_cpu.token_id);
      EXPECT_EQ(got[i].rank, on_cpu.rank);
      ASSERT_EQ(got[i].top.size(), on_cpu.top.size());
      const auto check = [&](int32_t id, float logprob) {
        worst.Add(logprob, want[id], LogprobTolerance(vocab_size, max, want[id]));
      };
      if (got[i].rank > 0) check(got[i].token_id, got[i].logprob);
      for (size_t k = 0; k < on_cpu.top.size(); ++k) {
        EXPECT_EQ(got[i].top[k].token_id, on_cpu.top[k].token_id);
        check(got[i].top[k].token_id, got[i].top[k].logprob);
      }
    }
  }
}

}  // namespace
}  // namespace bora
