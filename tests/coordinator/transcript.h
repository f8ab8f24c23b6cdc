// A scheduler's life as text: what happens to it and what it plans, compared with a file in
// testdata/. Such a file begins with lines that start with '#' and say what the file proves; they
// are not part of the text. With BORA_REWRITE_GOLDENS=1 in the environment the text is written anew
// below them; read the difference before committing it.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>

#include "coordinator/scheduler/scheduler.h"
#include "tests/coordinator/scripted_group.h"

namespace bora {

// One line for a plan:
//
//   step 3: close 1; open 2(7 prompt tokens, 4 cached); grant 2:0=5; rows 0[6]* 2[0,4)p 1[8,12)s
//
// A row is slot[first position, end), or slot[position] with the last sampled token (*); s samples,
// p reports prompt log-probabilities, p=9 names the next token.
std::string PlanText(const StepPlan& plan);

// Owned by the test's thread. Every plan is checked by the group's SlotTracker. A sequence is
// removed when it has max_tokens.
class Transcript {
 public:
  Transcript(const GroupLimits& limits, int32_t n_stages, bool run_ahead = true);

  // Prompt token i of sequence h is (h * 10 + i) modulo the vocabulary. With `like` it has the
  // tokens of that sequence.
  void Add(uint64_t handle, int32_t n_prompt, int32_t max_tokens, int32_t n_prompt_logprobs = -1,
           std::optional<uint64_t> like = std::nullopt);
  void Add(SequenceSpec spec);
  void Remove(uint64_t handle);
  void Hold(uint64_t handle, bool held);
  // Plans once; false if there was nothing to plan.
  bool Plan();
  // Plans as long as there is something to plan.
  void PlanAll();
  // Takes the result of the oldest plan in flight.
  void Complete();
  // Plans and completes until nothing is left to do.
  void Finish();

  Scheduler& scheduler() { return scheduler_; }
  // Expects what happened to be the text of testdata/<name>.txt, and that the file says what it
  // proves.
  void ExpectGolden(const std::string& name) const;

 private:
  struct Sequence {
    int32_t max_tokens = 0;
    int32_t n_sampled = 0;
  };

  Scheduler scheduler_;
  ScriptedGroup group_;
  std::map<uint64_t, Sequence> sequences_;
  std::deque<StepResult> in_flight_;
  std::string text_;
};

}  // namespace bora
