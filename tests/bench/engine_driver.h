// Drives a group of ranks as the coordinator would, for benchmarks: prompts in full steps, then
// steps of decoding that run ahead of their results.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/step/step.h"
#include "model/step/step_cost.h"
#include "tests/worker/local_group.h"
#include "tests/worker/plan_builder.h"

namespace bora {

// What a plan asks of the model.
struct PlanWork {
  StepWork work;
  int64_t n_sampled = 0;
};
PlanWork WorkOf(const StepPlan& plan);

// One step that has been run.
struct DrivenStep {
  double seconds = 0;       // since the result before it, or since the first plan was handed out
  double busy_seconds = 0;  // of them the (first) stage worked
  PlanWork asked;
};

struct DrivenSteps {
  double seconds = 0;  // from the first plan to the last result
  std::vector<DrivenStep> steps;

  // Of all steps.
  double busy_seconds() const;
};

// What the (first) stage worked in a step.
double BusySeconds(const StepResult& result);

// The next result; an error also where a token comes from logits that are not finite.
absl::StatusOr<StepResult> TakeFiniteResult(LocalGroup& group);

// Owned by the thread that owns the group, of which it drives one epoch from the beginning.
class EngineDriver {
 public:
  // Steps of prompts have `chunk` tokens.
  EngineDriver(LocalGroup* group, int n_sequences, int chunk, uint64_t seed);

  // Greedy sequences; all are opened and closed together.
  void OpenAll(int n_prompt_tokens);
  void CloseAll();

  // The next n_tokens of every sequence, random ones, sequence by sequence in steps that are full
  // but for the last, each step's result awaited. Each sequence samples once, after its last token.
  absl::StatusOr<DrivenSteps> Prefill(int n_tokens);
  // n_in_flight plans are handed out before the first of them comes back. random_tokens: instead of
  // those that were sampled.
  absl::StatusOr<DrivenSteps> Decode(int n_steps, int n_in_flight, bool random_tokens = false);

 private:
  absl::Status RunPrefillStep(DrivenSteps* done);
  StepPlan DecodePlan(bool random_tokens);
  std::vector<int32_t> RandomTokens(int n);

  LocalGroup* const group_;
  const int n_sequences_;
  const int chunk_;
  PlanBuilder builder_;
  std::mt19937_64 random_;
};

}  // namespace bora
