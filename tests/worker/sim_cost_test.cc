#include "worker/sim/sim_cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace bora {
namespace {

using ::testing::HasSubstr;

void ExpectRefused(const std::string& list, const std::string& message) {
  const auto cost = ParseSimCost(list);
  EXPECT_EQ(cost.status().code(), absl::StatusCode::kInvalidArgument) << list;
  EXPECT_THAT(std::string(cost.status().message()), HasSubstr(message));
}

TEST(SimCostTest, WhatIsNotNamedKeepsItsDefault) {
  EXPECT_EQ(*ParseSimCost(""), SimCost());
  EXPECT_EQ(*ParseSimCost("token_us=2.5"), (SimCost{.token_us = 2.5}));
  EXPECT_EQ(*ParseSimCost("context_us=0,base_us=1000000,token_us=1e-3"),
            (SimCost{.base_us = 1e6, .token_us = 1e-3, .context_us = 0}));
}

TEST(SimCostTest, RefusesWhatItDoesNotKnow) {
  ExpectRefused("base=1", "'base' is none of base_us, token_us and context_us");
  ExpectRefused("base_us=1,", "'' is none of");
  ExpectRefused(",", "'' is none of");
  ExpectRefused("base_us=1,token_us=1,base_us=1", "base_us is given twice");
}

TEST(SimCostTest, RefusesWhatIsNoCost) {
  for (const char* value :
       {"", "x", "1ms", "-1", "-0.001", "1000001", "1e9", "inf", "nan", "1=2"}) {
    ExpectRefused(std::string("token_us=") + value,
                  std::string("token_us is '") + value + "', not a number in [0, 1000000]");
  }
  ExpectRefused("token_us", "token_us is '', not a number");
}

TEST(SimCostTest, NamesItsNumbers) {
  EXPECT_EQ(ToString(SimCost()), "base_us=2000, token_us=10, context_us=0.01");
}

TEST(SimCostTest, AStepCostsItsTokensAndContexts) {
  const SimCost cost = {.base_us = 1000, .token_us = 10, .context_us = 0.5};
  StepPlan plan;
  EXPECT_EQ(SimStepTime(cost, plan), absl::ZeroDuration());
  plan.rows.push_back({.slot = 0, .position = 100, .n_tokens = 20});
  EXPECT_EQ(SimStepTime(cost, plan), absl::Microseconds(1000 + 10 * 20 + 60));
  plan.rows.push_back({.slot = 1, .position = 9, .n_tokens = 1, .use_last_sampled = true});
  EXPECT_EQ(SimStepTime(cost, plan), absl::Microseconds(1000 + 10 * 21 + 60 + 5));
}

}  // namespace
}  // namespace bora
