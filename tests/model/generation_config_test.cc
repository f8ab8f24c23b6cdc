// generation_config.json: which fields count, and how wrong ones are refused.
#include "model/generation_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/model_test_util.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

GenerationConfig ParseOk(const std::string& text) {
  const auto config = ParseGenerationConfig(text);
  EXPECT_TRUE(config.ok()) << text << ": " << config.status();
  return config.ok() ? *config : GenerationConfig();
}

TEST(GenerationConfigTest, TakesWhatVllmTakes) {
  const GenerationConfig config = ParseOk(R"({"bos_token_id": 128000, "do_sample": true,
      "eos_token_id": [128009, 128001, 128009], "temperature": 0.6, "top_p": 0.9, "top_k": 50,
      "min_p": 0.05, "repetition_penalty": 1.05, "max_new_tokens": 2048,
      "transformers_version": "4.42.3", "num_beams": 4})");
  EXPECT_THAT(config.eos_ids, ElementsAre(128001, 128009));
  const SamplingDefaults want = {.temperature = 0.6f,
                                 .top_p = 0.9f,
                                 .top_k = 50,
                                 .min_p = 0.05f,
                                 .repetition_penalty = 1.05f,
                                 .max_tokens = 2048};
  EXPECT_EQ(config.sampling, want);
  EXPECT_FALSE(config.asks_for_greedy);
}

TEST(GenerationConfigTest, WhatIsAbsentOrNullHasNoValue) {
  for (const char* text : {"{}", R"({"eos_token_id": null, "temperature": null, "top_k": null})"}) {
    const GenerationConfig config = ParseOk(text);
    EXPECT_THAT(config.eos_ids, IsEmpty());
    EXPECT_EQ(config.sampling, SamplingDefaults());
  }
  EXPECT_EQ(ParseOk(R"({"temperature": 0})").sampling.temperature, 0.0f);
  EXPECT_EQ(ParseOk(R"({"top_k": -1})").sampling.top_k, 0);
  EXPECT_THAT(ParseOk(R"({"eos_token_id": 7})").eos_ids, ElementsAre(7));
  EXPECT_TRUE(ParseOk(R"({"do_sample": false})").asks_for_greedy);
}

struct Wrong {
  const char* text;
  const char* message;
};

TEST(GenerationConfigTest, WrongValuesAreNamedWithTheirRange) {
  for (const Wrong& wrong :
       {Wrong{R"({"temperature": -0.1})", "temperature is -0.1, must be a number in [0, 100]"},
        {R"({"temperature": "1"})", "temperature is \"1\""},
        {R"({"temperature": 1e400})", "not valid JSON"},
        {R"({"top_p": 0})", "top_p is 0, must be a number in (0, 1]"},
        {R"({"top_p": 1.01})", "top_p is 1.01"},
        {R"({"top_k": 1.5})", "top_k is 1.5, must be an integer in [-1, 1048576]"},
        {R"({"top_k": -2})", "top_k is -2"},
        {R"({"top_k": 18446744073709551615})", "top_k is 18446744073709551615"},
        {R"({"min_p": 2})", "min_p is 2"},
        {R"({"repetition_penalty": 0})", "repetition_penalty is 0"},
        {R"({"max_new_tokens": 0})", "max_new_tokens is 0"},
        {R"({"eos_token_id": -1})", "eos_token_id is -1"},
        {R"({"eos_token_id": [2, "x"]})", "eos_token_id is \"x\""},
        {R"({"eos_token_id": [2, 4294967298]})", "eos_token_id is 4294967298"},
        {"[]", "must be a JSON object"},
        {"{", "not valid JSON"}}) {
    const auto config = ParseGenerationConfig(wrong.text);
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << wrong.text;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(wrong.message));
  }
}

TEST(GenerationConfigTest, AFileIsNamedAndMayBeAbsent) {
  const TempDir dir;
  ASSERT_TRUE(ReadGenerationConfig(dir.path()).ok());
  EXPECT_EQ(ReadGenerationConfig(dir.path())->sampling, SamplingDefaults());
  WriteFile(dir.File("generation_config.json"), R"({"top_p": 7})");
  EXPECT_THAT(std::string(ReadGenerationConfig(dir.path()).status().message()),
              HasSubstr(dir.File("generation_config.json") + ": top_p is 7"));
}

}  // namespace
}  // namespace bora
