// What no honest worker says of a token is refused by name.
#include "coordinator/scheduler/step_in_flight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kVocab = 100;

void ExpectRefused(const SampledToken& token, int32_t n_top, const std::string& reason) {
  EXPECT_THAT(std::string(CheckSampledToken(token, n_top, kVocab).message()), HasSubstr(reason));
}

TEST(SampledTokenCheckTest, TakesWhatCanBe) {
  SampledToken token = {.token_id = 99, .logprob = -1, .rank = 100, .top = {{0, -1}, {99, -2}}};
  EXPECT_TRUE(CheckSampledToken(token, 2, kVocab).ok());
  EXPECT_TRUE(CheckSampledToken(token, 20, kVocab).ok());
  token = {.token_id = 0};
  EXPECT_TRUE(CheckSampledToken(token, -1, kVocab).ok());
  token = {.token_id = -1, .logprob = std::nanf(""), .non_finite = true};
  EXPECT_TRUE(CheckSampledToken(token, 0, kVocab).ok());
}

TEST(SampledTokenCheckTest, RefusesTokensRanksAndAlternativesOfNoVocabulary) {
  for (const int32_t id : {-2, -1, 100, std::numeric_limits<int32_t>::max()}) {
    ExpectRefused({.token_id = id}, -1, absl::StrCat("token ", id, " is not in [0, 100)"));
    ExpectRefused({.token_id = 1, .top = {{id, -1}}}, 1,
                  absl::StrCat("alternative ", id, " is not in [0, 100)"));
  }
  ExpectRefused({.token_id = 100, .non_finite = true}, -1, "token 100");
  for (const int32_t rank : {-1, 101}) {
    ExpectRefused({.token_id = 1, .rank = rank}, 0, absl::StrCat("rank ", rank));
  }
}

TEST(SampledTokenCheckTest, RefusesMoreThanWasAskedFor) {
  const SampledToken token = {.token_id = 1, .top = {{1, -1}, {2, -1}}};
  ExpectRefused(token, 1, "2 alternatives, 1 were asked for");
  ExpectRefused(token, -1, "2 alternatives, 0 were asked for");
}

TEST(SampledTokenCheckTest, RefusesLogProbabilitiesThatAreNone) {
  ExpectRefused({.token_id = 1, .logprob = std::nanf("")}, 0, "not a number");
  ExpectRefused({.token_id = 1, .top = {{1, std::nanf("")}}}, 1, "not a number");
}

}  // namespace
}  // namespace bora
