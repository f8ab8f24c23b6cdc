// How long a step takes, learnt from the steps that have been run: the coefficients of the formula
// of model/step/step_cost.h.
//
// What does not depend on contexts, products with the weights above all, is bound by memory for few
// tokens and by arithmetic for many: it is interpolated between knots at powers of two. All parts
// are positive and scaled by their share of the error (a multiplicative gradient step), so that the
// model follows its workers at any speed, from any beginning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/step/step_cost.h"

namespace bora {

// Pure: no clock, I/O or thread. Owned by the engine thread.
class StepCostModel {
 public:
  // For steps of up to max_tokens tokens.
  explicit StepCostModel(int32_t max_tokens);

  // Microseconds; 0 before the first observation.
  double Predict(const StepWork& work) const;
  // A step of one row at each of n_tokens short sequences.
  double PredictDecodeStep(int64_t n_tokens) const { return Base(n_tokens); }
  // What one more token at `position` adds to a step of n_tokens > 0, > 0; 1 before the first
  // observation.
  double PredictDecodeRow(int64_t position, int64_t n_tokens) const;
  // A step took `us` microseconds, > 0; others are ignored.
  void Observe(const StepWork& work, double us);

  // The 90th percentile of |predicted - measured| / measured over the last observations, each
  // predicted just before it was made; 0 before the second.
  double RelativeErrorP90() const;
  // What it was wrong by until now says nothing of what comes: it was being taught.
  void ForgetErrors() { errors_.clear(); }
  int64_t n_observations() const { return n_observations_; }

 private:
  struct Knot {
    double us = 0;
    bool seen = false;  // an observation lay next to it
  };
  // The place of n_tokens between knots: knot i and i + 1 with weights 1 - part and part.
  struct Place {
    size_t i;
    double part;
  };

  static int64_t KnotTokens(size_t i) { return int64_t{1} << i; }
  Place PlaceOf(int64_t n_tokens) const;
  double Base(int64_t n_tokens) const;
  void Learn(const StepWork& work, double us, double predicted);
  // Knots that no step has been near: between those of both sides; above all that were seen as the
  // highest of those, in proportion to the tokens, which is too much rather than too little; below
  // all, as the lowest.
  void FillUnseenKnots();
  // More tokens take no less time, and twice as many at most twice as long: what contradicts that
  // is the contexts' doing.
  void OrderKnots();

  std::vector<Knot> knots_;
  ContextCost context_cost_;
  int64_t n_observations_ = 0;
  int64_t max_tokens_seen_ = 0;  // of one step
  std::vector<float> errors_;    // a ring
  size_t next_error_ = 0;        // of the ring when it is full
};

}  // namespace bora
