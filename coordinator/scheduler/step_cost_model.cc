#include "coordinator/scheduler/step_cost_model.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace bora {
namespace {

// Share of a step's error that is corrected at once: one odd step moves the model little.
constexpr double kRate = 0.3;
// A step counts as at most this many times longer or shorter than predicted: the first step after
// an idle minute, or one that was disturbed, must not overturn the model.
constexpr double kMaxRatio = 4;
// First guess of the cost of a context token or pair, as a part of a token's cost. With heads of
// 128 and 32 layers a pair is 2^-13 of a 7B model's work for a token.
constexpr double kFirstPairShare = 1.0 / 8192;
// How many of the last errors are kept.
constexpr size_t kErrors = 256;
// Twice as many tokens take at least this part of a step's time more.
constexpr double kMinAddedShare = 0.01;
// No step takes longer; a longer time is a mistake of the sender's.
constexpr double kMaxStepUs = 600e6;
// Lower bound of every part of the model: parts change by factors, and from 0 there would be no way
// back. Far less than a context token costs on any GPU (1e-5 us).
constexpr double kMinPartUs = 1e-9;

}  // namespace

StepCostModel::StepCostModel(int32_t max_tokens) {
  CHECK_GT(max_tokens, 0);
  size_t n_knots = 2;
  while (KnotTokens(n_knots - 1) < max_tokens) ++n_knots;
  knots_.resize(n_knots);
  errors_.reserve(kErrors);
}

StepCostModel::Bucket StepCostModel::BucketOf(int64_t n_tokens) const {
  size_t i = 0;
  while (i + 2 < knots_.size() && KnotTokens(i + 1) <= n_tokens) ++i;
  const double part =
      static_cast<double>(n_tokens - KnotTokens(i)) / static_cast<double>(KnotTokens(i));
  return {i, std::clamp(part, 0.0, 1.0)};
}

double StepCostModel::Base(int64_t n_tokens) const {
  const auto [i, part] = BucketOf(n_tokens);
  return (1 - part) * knots_[i].us + part * knots_[i + 1].us;
}

double StepCostModel::Predict(const StepWork& work) const {
  return StepMicroseconds(Base(work.n_tokens), context_cost_, work);
}

double StepCostModel::PredictDecodeRow(int64_t position, int64_t n_tokens) const {
  if (n_observations_ == 0) return 1;
  const double base = Base(n_tokens);
  const double added = std::max(Base(2 * n_tokens) - base, base * kMinAddedShare);
  return added / static_cast<double>(n_tokens) +
         (context_cost_.context_token_us + context_cost_.pair_us) *
             static_cast<double>(position + 1);
}

void StepCostModel::Observe(const StepWork& work, double us) {
  if (!(us > 0) || us > kMaxStepUs || work.n_tokens <= 0) return;
  const auto [i, part] = BucketOf(work.n_tokens);
  const double pair_guess = us / static_cast<double>(work.n_tokens) * kFirstPairShare;
  const bool is_largest = work.n_tokens > max_tokens_seen_;
  max_tokens_seen_ = std::max(max_tokens_seen_, work.n_tokens);
  if (n_observations_++ == 0) {
    context_cost_.pair_us = context_cost_.context_token_us = pair_guess;
    knots_[i].us = knots_[i + 1].us = us;
  } else {
    // The more tokens a step has, the less of its time per token is waiting for the weights, so the
    // guess gets better.
    if (is_largest) {
      context_cost_.pair_us = std::min(context_cost_.pair_us, pair_guess);
      context_cost_.context_token_us = std::min(context_cost_.context_token_us, pair_guess);
    }
    const double predicted = Predict(work);
    const float error = static_cast<float>(std::abs(predicted - us) / us);
    if (errors_.size() < kErrors) {
      errors_.push_back(error);
    } else {
      errors_[next_error_++ % kErrors] = error;
    }
    Learn(work, us, predicted);
  }
  if (part < 1) knots_[i].seen = true;
  if (part > 0) knots_[i + 1].seen = true;
  FillUnseenKnots();
  OrderKnots();
}

void StepCostModel::Learn(const StepWork& work, double us, double predicted) {
  const auto [i, part] = BucketOf(work.n_tokens);
  const double base = Base(work.n_tokens);
  if (!knots_[i].seen && !knots_[i + 1].seen) {
    // Both knots are guesses: they take the time that the other parts leave.
    const double scale = std::max(us - (predicted - base), us / 10) / base;
    knots_[i].us *= scale;
    knots_[i + 1].us *= scale;
    return;
  }
  // Each part changes by its share of the prediction, so that the next prediction is closer by
  // kRate of the error.
  double* const values[] = {&knots_[i].us, &knots_[i + 1].us, &context_cost_.context_token_us,
                            &context_cost_.pair_us};
  const double factors[] = {1 - part, part, static_cast<double>(work.context_tokens),
                            static_cast<double>(work.pairs)};
  double shares[4];
  double sum_of_squares = 0;
  for (int k = 0; k < 4; ++k) {
    shares[k] = *values[k] * factors[k] / predicted;
    sum_of_squares += shares[k] * shares[k];
  }
  const double ratio = std::clamp(us / predicted, 1 / kMaxRatio, kMaxRatio);
  for (int k = 0; k < 4; ++k) {
    *values[k] *= std::max(0.5, 1 + kRate * shares[k] / sum_of_squares * (ratio - 1));
    *values[k] = std::max(*values[k], kMinPartUs);
  }
}

void StepCostModel::FillUnseenKnots() {
  for (size_t i = 0; i < knots_.size(); ++i) {
    if (knots_[i].seen) continue;
    size_t lower = i, upper = i;
    while (lower > 0 && !knots_[lower].seen) --lower;
    while (upper + 1 < knots_.size() && !knots_[upper].seen) ++upper;
    const double tokens = static_cast<double>(KnotTokens(i));
    const double lower_tokens = static_cast<double>(KnotTokens(lower));
    if (!knots_[lower].seen) {
      knots_[i].us = knots_[upper].us;
    } else if (!knots_[upper].seen) {
      knots_[i].us = knots_[lower].us * tokens / lower_tokens;
    } else {
      const double part =
          (tokens - lower_tokens) / (static_cast<double>(KnotTokens(upper)) - lower_tokens);
      knots_[i].us = (1 - part) * knots_[lower].us + part * knots_[upper].us;
    }
  }
}

void StepCostModel::OrderKnots() {
  // Twice, as a knot that was moved may be out of order with the one before it.
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i + 1 < knots_.size(); ++i) {
      double& low = knots_[i].us;
      double& high = knots_[i + 1].us;
      if (low > high) {
        low = high = (low + high) / 2;
      } else if (high > 2 * low) {
        const double excess = (high - 2 * low) / 4;
        low += excess;
        high = 2 * low;
      }
    }
  }
}

double StepCostModel::RelativeErrorP90() const {
  if (errors_.empty()) return 0;
  std::vector<float> sorted = errors_;
  const size_t rank = sorted.size() * 9 / 10;
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<int64_t>(rank), sorted.end());
  return sorted[rank];
}

}  // namespace bora
