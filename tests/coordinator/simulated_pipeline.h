// A scheduler and the stages of a pipeline that take the time of a stated cost model, on a clock
// that is simulated.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/scheduler/scheduler.h"
#include "tests/coordinator/scripted_group.h"

namespace bora {

struct PipelineCase {
  int32_t n_stages;
  // Of a plan or a result on its way between coordinator and workers, and of what passes between
  // stages. Microseconds.
  double coordinator_us;
  double link_us;
  bool run_ahead = true;
};

// One stage of a model: weights are read once, then a token costs arithmetic and a context memory.
inline double StageMicroseconds(const StepWork& work) {
  return std::max(2000.0, 20.0 * static_cast<double>(work.n_tokens)) +
         0.05 * static_cast<double>(work.context_tokens) + 0.001 * static_cast<double>(work.pairs);
}

// Runs sequences through a pipeline on a simulated clock.
class SimulatedPipeline {
 public:
  SimulatedPipeline(const PipelineCase& config, const GroupLimits& limits,
                    double step_time_budget_us)
      : config_(config),
        scheduler_({.limits = limits,
                    .epoch = 1,
                    .n_stages = config.n_stages,
                    .run_ahead = config.run_ahead,
                    .step_time_budget_us = step_time_budget_us}),
        group_(limits, [](const SamplingParams&, int32_t) { return SampledToken{.token_id = 1}; }),
        stages_(config.n_stages),
        token_us_(limits.max_num_seqs, 0) {}

  // Returns its handle.
  uint64_t Add(int32_t n_prompt, int32_t max_tokens, const std::string& tenant = "",
               Priority priority = Priority::kStandard) {
    SequenceSpec spec;
    spec.handle = next_handle_++;
    spec.tenant = tenant;
    spec.priority = priority;
    spec.arrival_us = static_cast<int64_t>(now_us_);
    arrival_us_[spec.handle] = now_us_;
    std::vector<int32_t> prompt;
    for (int32_t i = 0; i < n_prompt; ++i) {
      prompt.push_back((static_cast<int32_t>(spec.handle) * 131 + i) % 997);
    }
    spec.prompt_tokens = std::move(prompt);
    spec.max_tokens = max_tokens;
    n_tokens_left_[spec.handle] = max_tokens;
    const uint64_t handle = spec.handle;
    scheduler_.Add(std::move(spec));
    return handle;
  }

  static constexpr double kForever = 1e12;
  static constexpr double kPauseUs = 100e3;

  // Until nobody is left, or the clock says `end_us`.
  void Run(double end_us) {
    while (now_us_ < end_us) {
      scheduler_.AdvanceTo(static_cast<int64_t>(now_us_));
      while (const std::optional<StepPlan> plan = scheduler_.PlanStep()) Execute(*plan);
      if (in_flight_.empty()) {
        if (end_us < kForever) now_us_ = end_us;
        return;
      }
      InFlight step = std::move(in_flight_.front());
      in_flight_.pop_front();
      now_us_ = std::max(now_us_, step.result_us);
      auto progress = scheduler_.CompleteStep(std::move(step.result));
      ASSERT_TRUE(progress.ok()) << progress.status();
      for (const SequenceProgress& item : *progress) {
        if (!item.sampled.has_value()) continue;
        first_token_us_.emplace(item.handle, now_us_);
        const double gap_us =
            now_us_ -
            std::exchange(last_token_us_.try_emplace(item.handle, now_us_).first->second, now_us_);
        longest_gap_us_[item.handle] = std::max(longest_gap_us_[item.handle], gap_us);
        if (gap_us > kPauseUs) paused_us_[item.handle] += gap_us;
        if (--n_tokens_left_.at(item.handle) == 0) scheduler_.Remove(item.handle);
      }
    }
  }

  // Forgets the past of the stages.
  void ResetIdle() {
    for (Stage& stage : stages_) stage.busy_us = stage.idle_us = 0;
  }

  // Of the stage that idles most, the part of its time.
  double Bubble() const {
    double bubble = 0;
    for (const Stage& stage : stages_) {
      bubble = std::max(bubble, stage.idle_us / (stage.idle_us + stage.busy_us));
    }
    return bubble;
  }

  double now_us() const { return now_us_; }
  // From arrival to the first token; all of them must have it.
  std::vector<double> TimesToFirstToken(const std::vector<uint64_t>& handles) const {
    std::vector<double> times_us;
    for (const uint64_t handle : handles) {
      times_us.push_back(first_token_us_.at(handle) - arrival_us_.at(handle));
    }
    return times_us;
  }
  // Between two tokens of a sequence that goes on, or since the last.
  double LongestGapUs(uint64_t handle) const {
    return std::max(longest_gap_us_.at(handle), now_us_ - last_token_us_.at(handle));
  }
  // All gaps that are too long to be a step's.
  double PausedUs(uint64_t handle) const {
    const double gap_us = now_us_ - last_token_us_.at(handle);
    const auto it = paused_us_.find(handle);
    return (it == paused_us_.end() ? 0 : it->second) + (gap_us > kPauseUs ? gap_us : 0);
  }
  const Scheduler& scheduler() const { return scheduler_; }
  int32_t n_waiting() const { return scheduler_.n_waiting(); }

 private:
  struct Stage {
    double free_us = 0;
    double busy_us = 0;
    double idle_us = 0;
  };
  struct InFlight {
    StepResult result;
    double result_us;
  };

  void Execute(const StepPlan& plan) {
    StepWork work;
    double ready_us = now_us_ + config_.coordinator_us;
    for (const StepRow& row : plan.rows) {
      work.Add(row.position, row.n_tokens);
      if (row.use_last_sampled) ready_us = std::max(ready_us, token_us_[row.slot]);
    }
    const double step_us = StageMicroseconds(work);
    for (Stage& stage : stages_) {
      const double begin_us = std::max(ready_us, stage.free_us);
      stage.idle_us += begin_us - stage.free_us;
      stage.busy_us += step_us;
      stage.free_us = begin_us + step_us;
      ready_us = stage.free_us + config_.link_us;
    }
    auto result = group_.Execute(plan);
    ASSERT_TRUE(result.ok()) << result.status();
    for (const SampledToken& token : result->sampled) token_us_[token.slot] = ready_us;
    result->stage_us.assign(config_.n_stages, static_cast<int64_t>(step_us));
    in_flight_.push_back({*std::move(result), ready_us + config_.coordinator_us});
  }

  const PipelineCase config_;
  Scheduler scheduler_;
  ScriptedGroup group_;
  std::vector<Stage> stages_;
  std::vector<double> token_us_;  // [slot] when its last token is in the first stage
  std::deque<InFlight> in_flight_;
  std::map<uint64_t, int32_t> n_tokens_left_;
  std::map<uint64_t, double> arrival_us_;
  std::map<uint64_t, double> first_token_us_;
  std::map<uint64_t, double> last_token_us_;
  std::map<uint64_t, double> longest_gap_us_;
  std::map<uint64_t, double> paused_us_;
  uint64_t next_handle_ = 1;
  double now_us_ = 0;
};

}  // namespace bora
