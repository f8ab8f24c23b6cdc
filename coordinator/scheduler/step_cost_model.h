// How long a step takes: the coefficients of the formula in model/step/step_cost.h, learnt from the
// steps that have been run.
//
// The part of the time that does not depend on contexts, products with the weights above all, is
// bound by memory for few tokens and by arithmetic for many. It is interpolated between knots,
// which are at powers of two of the number of tokens. After a step each part of the prediction is
// scaled by its share of the error (a multiplicative gradient step). So all parts stay positive,
// and the model follows workers of any speed from any beginning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/step/step_cost.h"

namespace bora {

// Pure: no clock, I/O or thread. Owned by the engine thread.
class StepCostModel {
 public:
  // For steps of up to max_tokens tokens. REQUIRES: max_tokens > 0.
  explicit StepCostModel(int32_t max_tokens);

  // Microseconds of a step that does `work`; 0 before the first observation.
  double Predict(const StepWork& work) const;
  // Microseconds of a step of n_tokens decode rows of sequences whose contexts are short.
  double PredictDecodeStep(int64_t n_tokens) const { return Base(n_tokens); }
  // Microseconds that one more decode row at `position` adds to a step of n_tokens tokens, always
  // > 0; 1 before the first observation. REQUIRES: n_tokens > 0.
  double PredictDecodeRow(int64_t position, int64_t n_tokens) const;
  // Learns that a step took `us` microseconds. Ignored if the step had no tokens, or if `us` is not
  // positive or above ten minutes.
  void Observe(const StepWork& work, double us);

  // The 90th percentile of |predicted - measured| / measured over the last observations, each
  // predicted just before it was learnt from; 0 before the second observation.
  double RelativeErrorP90() const;
  // Forgets the errors so far, but nothing learnt: errors of a model that was being taught say
  // nothing about later ones.
  void ForgetErrors() { errors_.clear(); }
  int64_t n_observations() const { return n_observations_; }

 private:
  struct Knot {
    double us = 0;
    bool seen = false;  // whether an observation was next to it; otherwise its time is a guess
  };
  // The two knots that a number of tokens is between: knots i and i + 1, which count with weights
  // 1 - part and part.
  struct Bucket {
    size_t i;
    double part;
  };

  static int64_t KnotTokens(size_t i) { return int64_t{1} << i; }
  Bucket BucketOf(int64_t n_tokens) const;
  // Microseconds of a step of n_tokens tokens, their contexts left out.
  double Base(int64_t n_tokens) const;
  // Corrects the parts of the model that predicted `predicted` for a step that took `us`.
  void Learn(const StepWork& work, double us, double predicted);
  // Guesses the knots that no step has been next to: between two seen knots by interpolation; above
  // all seen knots in proportion to the tokens, which is too much rather than too little; below all
  // of them like the lowest.
  void FillUnseenKnots();
  // Makes the knots consistent: more tokens take no less time, and twice as many tokens at most
  // twice the time. Observations that contradict this are due to contexts.
  void OrderKnots();

  std::vector<Knot> knots_;  // knot i is at KnotTokens(i) tokens
  ContextCost context_cost_;
  int64_t n_observations_ = 0;
  int64_t max_tokens_seen_ = 0;  // the most tokens of one observed step
  std::vector<float> errors_;    // relative errors of the last kErrors predictions, a ring
  size_t next_error_ = 0;        // where the full ring is written next, modulo kErrors
};

}  // namespace bora
