#include "tests/coordinator/transcript.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <istream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"

namespace bora {
namespace {

SchedulerOptions Options(const GroupLimits& limits, int32_t n_stages, bool run_ahead) {
  SchedulerOptions options;
  options.limits = limits;
  options.epoch = 1;
  options.n_stages = n_stages;
  options.run_ahead = run_ahead;
  return options;
}

std::string RowText(const StepPlan& plan, size_t i) {
  const StepRow& row = plan.rows[i];
  std::string text = absl::StrCat(row.slot, "[", row.position);
  if (row.use_last_sampled) {
    absl::StrAppend(&text, "]*");
  } else {
    absl::StrAppend(&text, ",", row.position + row.n_tokens, ")");
  }
  // A decode row samples unless something is wrong.
  if (row.sample != row.use_last_sampled) absl::StrAppend(&text, row.sample ? "s" : "!");
  if (row.prompt_logprobs) absl::StrAppend(&text, "p");
  if (!plan.next_tokens.empty() && plan.next_tokens[i] >= 0) {
    absl::StrAppend(&text, "=", plan.next_tokens[i]);
  }
  return text;
}

struct Golden {
  std::string comment;  // the lines at the top that begin with '#'
  std::string text;     // all lines after them
};

Golden ReadGolden(std::istream& file) {
  Golden golden;
  std::string line;
  while (std::getline(file, line)) {
    const bool is_comment = golden.text.empty() && line.starts_with('#');
    absl::StrAppend(is_comment ? &golden.comment : &golden.text, line, "\n");
  }
  return golden;
}

}  // namespace

std::string PlanText(const StepPlan& plan) {
  std::string text = absl::StrCat("step ", plan.step_id, ":");
  if (!plan.closed.empty()) absl::StrAppend(&text, " close ", absl::StrJoin(plan.closed, " "), ";");
  for (const SlotOpen& open : plan.opened) {
    absl::StrAppend(&text, " open ", open.slot, "(", open.n_prompt_tokens, " prompt tokens");
    if (open.n_generated_tokens > 0) {
      absl::StrAppend(&text, ", ", open.n_generated_tokens, " generated");
    }
    if (open.n_cached_tokens > 0) absl::StrAppend(&text, ", ", open.n_cached_tokens, " cached");
    absl::StrAppend(&text, ");");
  }
  if (!plan.grants.empty()) absl::StrAppend(&text, " grant");
  for (const BlockGrant& grant : plan.grants) {
    absl::StrAppend(&text, " ", grant.slot, ":", grant.block_idx, "=", grant.block_id);
  }
  if (!plan.grants.empty()) absl::StrAppend(&text, ";");
  absl::StrAppend(&text, " rows");
  for (size_t i = 0; i < plan.rows.size(); ++i) absl::StrAppend(&text, " ", RowText(plan, i));
  return text;
}

Transcript::Transcript(const GroupLimits& limits, int32_t n_stages, bool run_ahead)
    : scheduler_(Options(limits, n_stages, run_ahead)),
      group_(limits, [](const SamplingParams&, int32_t) { return SampledToken{.token_id = 1}; }) {}

void Transcript::Add(uint64_t handle, int32_t n_prompt, int32_t max_tokens,
                     int32_t n_prompt_logprobs, std::optional<uint64_t> like) {
  SequenceSpec spec;
  spec.handle = handle;
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < n_prompt; ++i) {
    prompt.push_back(static_cast<int32_t>(like.value_or(handle) * 10 + i) % 1000);
  }
  spec.prompt_tokens = std::move(prompt);
  spec.max_tokens = max_tokens;
  spec.sampling.n_prompt_logprobs = n_prompt_logprobs;
  if (like.has_value()) absl::StrAppend(&text_, "like ", *like, ": ");
  Add(std::move(spec));
}

void Transcript::Add(SequenceSpec spec) {
  sequences_[spec.handle] = {spec.max_tokens, 0};
  absl::StrAppend(&text_, "add ", spec.handle, ": prompt ", spec.prompt_tokens.size(),
                  ", max_tokens ", spec.max_tokens, "\n");
  scheduler_.Add(std::move(spec));
}

void Transcript::Remove(uint64_t handle) {
  scheduler_.Remove(handle);
  sequences_.erase(handle);
  absl::StrAppend(&text_, "remove ", handle, "\n");
}

void Transcript::Hold(uint64_t handle, bool held) {
  scheduler_.SetHeld(handle, held);
  absl::StrAppend(&text_, held ? "hold " : "go on ", handle, "\n");
}

bool Transcript::Plan() {
  const std::optional<StepPlan> plan = scheduler_.PlanStep();
  if (!plan.has_value()) {
    absl::StrAppend(&text_, "nothing to plan, ", scheduler_.n_in_flight(), " in flight\n");
    return false;
  }
  absl::StrAppend(&text_, PlanText(*plan));
  if (!scheduler_.newly_admitted().empty()) {
    absl::StrAppend(&text_, "; admitted");
    for (const Admission& admission : scheduler_.newly_admitted()) {
      absl::StrAppend(&text_, " ", admission.handle, admission.again ? " again" : "");
    }
  }
  absl::StrAppend(&text_, "\n");
  absl::StatusOr<StepResult> result = group_.Execute(*plan);
  EXPECT_TRUE(result.ok()) << result.status() << "\n" << text_;
  in_flight_.push_back(result.ok() ? *std::move(result) : StepResult());
  return true;
}

void Transcript::PlanAll() {
  while (Plan()) {
  }
}

void Transcript::Complete() {
  CHECK(!in_flight_.empty());
  StepResult result = std::move(in_flight_.front());
  in_flight_.pop_front();
  absl::StrAppend(&text_, "done ", result.step_id, ":");
  auto progress = scheduler_.CompleteStep(std::move(result));
  ASSERT_TRUE(progress.ok()) << progress.status() << "\n" << text_;
  std::string ended;
  for (const SequenceProgress& item : *progress) {
    absl::StrAppend(&text_, " ", item.handle);
    if (!item.prompt_logprobs.empty()) {
      absl::StrAppend(&text_, "(", item.prompt_logprobs.size(), " of the prompt)");
    }
    if (!item.sampled.has_value()) continue;
    absl::StrAppend(&text_, "@", item.sampled->position);
    Sequence& sequence = sequences_.at(item.handle);
    if (++sequence.n_sampled < sequence.max_tokens) continue;
    scheduler_.Remove(item.handle);
    sequences_.erase(item.handle);
    absl::StrAppend(&ended, " ", item.handle);
  }
  if (!ended.empty()) absl::StrAppend(&text_, "; ended", ended);
  absl::StrAppend(&text_, "\n");
}

void Transcript::Finish() {
  // Far more than any transcript needs: a scheduler that makes no progress ends the test.
  for (int round = 0; round < 1000; ++round) {
    PlanAll();
    if (in_flight_.empty()) return;
    Complete();
  }
  ADD_FAILURE() << "no end:\n" << text_;
}

void Transcript::ExpectGolden(const std::string& name) const {
  const std::string path =
      absl::StrCat(BORA_SOURCE_DIR, "/tests/coordinator/testdata/", name, ".txt");
  std::ifstream file(path);
  const bool exists = file.good();
  const Golden golden = ReadGolden(file);
  file.close();
  if (std::getenv("BORA_REWRITE_GOLDENS") != nullptr) {
    std::ofstream(path) << golden.comment << text_;
    return;
  }
  ASSERT_TRUE(exists) << path << " is missing; BORA_REWRITE_GOLDENS=1 writes it";
  EXPECT_FALSE(golden.comment.empty()) << path << " does not say at its top what it proves";
  EXPECT_EQ(text_, golden.text) << path << " differs; BORA_REWRITE_GOLDENS=1 rewrites it";
}

}  // namespace bora
