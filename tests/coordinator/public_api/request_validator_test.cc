#include "coordinator/api/request_validator.h"

#include <google/protobuf/descriptor.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "base/utf8.h"
#include "coordinator/engine/completion_text.h"
#include "gtest/gtest.h"
#include "tests/coordinator/public_api/test_vocabulary.h"

namespace bora {
namespace {

namespace pb = google::protobuf;
namespace v1 = inference::v1;

ModelFacts Facts() {
  ModelFacts facts;
  facts.name = "test";
  facts.context_length = 512;
  facts.eos_token_ids = {2};
  return facts;
}

class RequestValidatorTest : public testing::Test {
 protected:
  RequestValidatorTest() : tokenizer_(MakeTestTokenizer()), validator_(facts_, tokenizer_) {}

  static v1::GenerateStreamRequest Valid() {
    v1::GenerateStreamRequest request;
    request.mutable_prompt()->set_text("ab");
    return request;
  }
  std::variant<ValidatedRequest, ApiError> Validate(const v1::GenerateStreamRequest& request) {
    CallFacts call;
    call.arrival = SteadyTime();
    return validator_.Validate(request, call);
  }
  // What is accepted must be what the engine relies on.
  void CheckSpec(const RequestSpec& spec) {
    EXPECT_GE(spec.prompt_tokens.size(), 1u);
    EXPECT_GE(spec.max_tokens, 1);
    EXPECT_LE(static_cast<int64_t>(spec.prompt_tokens.size()) + spec.max_tokens,
              facts_.context_length);
    EXPECT_TRUE(spec.sampling.temperature >= 0 && spec.sampling.temperature <= 100);
    EXPECT_TRUE(spec.sampling.top_p > 0 && spec.sampling.top_p <= 1);
    EXPECT_TRUE(spec.sampling.top_k >= 0 && spec.sampling.top_k <= kMaxTopK);
    EXPECT_TRUE(spec.sampling.min_p >= 0 && spec.sampling.min_p <= 1);
    EXPECT_TRUE(spec.sampling.min_tokens >= 0 && spec.sampling.min_tokens <= spec.max_tokens);
    EXPECT_LE(spec.sampling.stop_token_ids.size(), static_cast<size_t>(kMaxStopTokenIds));
    EXPECT_TRUE(spec.sampling.n_logprobs >= -1 && spec.sampling.n_logprobs <= kMaxLogprobs);
    EXPECT_GT(spec.time_limit, spec.arrival);
  }

  // Sets one numeric field to every hostile value; recursive over messages. Unset messages are
  // made.
  void TryFields(v1::GenerateStreamRequest* request, pb::Message* message,
                 const std::string& prefix);
  void TryValue(const v1::GenerateStreamRequest& request, const std::string& path);

  const ModelFacts facts_ = Facts();
  const Tokenizer tokenizer_;
  const RequestValidator validator_;
  int n_tried_ = 0;
  std::set<std::string> refused_fields_;
};

void RequestValidatorTest::TryValue(const v1::GenerateStreamRequest& request,
                                    const std::string& path) {
  ++n_tried_;
  const auto result = Validate(request);
  if (const auto* valid = std::get_if<ValidatedRequest>(&result)) {
    CheckSpec(valid->spec);
    return;
  }
  const ApiError& error = std::get<ApiError>(result);
  EXPECT_EQ(error.code, absl::StatusCode::kInvalidArgument);
  bool named = false;
  for (const FieldViolation& violation : error.violations) {
    // A part of the message, or the message as a whole, as for time_limit.
    named =
        named || absl::StartsWith(violation.field, path) || absl::StartsWith(path, violation.field);
  }
  EXPECT_TRUE(named) << path << ": " << error.message;
  refused_fields_.insert(path);
}

void RequestValidatorTest::TryFields(v1::GenerateStreamRequest* request, pb::Message* message,
                                     const std::string& prefix) {
  static const double kValues[] = {-1,
                                   0,
                                   1,
                                   -0.0,
                                   1e-45,
                                   1.0000001,
                                   100.00001,
                                   1e30,
                                   std::nan(""),
                                   std::numeric_limits<double>::infinity(),
                                   -std::numeric_limits<double>::infinity()};
  static const int64_t kIntegers[] = {
      -1,  0,   1,       20,      21,      255,           256,       257,      511,
      512, 513, 1 << 20, INT_MAX, INT_MIN, (1 << 20) + 1, INT64_MAX, INT64_MIN};
  const pb::Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const pb::FieldDescriptor* field = message->GetDescriptor()->field(i);
    const std::string path = prefix + std::string(field->name());
    const std::string before = message->SerializeAsString();
    const auto restore = [&] { EXPECT_TRUE(message->ParseFromString(before)); };
    switch (field->cpp_type()) {
      case pb::FieldDescriptor::CPPTYPE_FLOAT:
        for (const double value : kValues) {
          reflection.SetFloat(message, field, static_cast<float>(value));
          TryValue(*request, path);
        }
        break;
      case pb::FieldDescriptor::CPPTYPE_INT32:
        for (const int64_t value : kIntegers) {
          if (field->is_repeated()) {
            reflection.AddInt32(message, field, static_cast<int32_t>(value));
          } else {
            reflection.SetInt32(message, field, static_cast<int32_t>(value));
          }
          TryValue(*request, path);
        }
        break;
      case pb::FieldDescriptor::CPPTYPE_INT64:
        for (const int64_t value : kIntegers) {
          reflection.SetInt64(message, field, value);
          TryValue(*request, path);
        }
        break;
      case pb::FieldDescriptor::CPPTYPE_BOOL:
        reflection.SetBool(message, field, true);
        TryValue(*request, path);
        break;
      case pb::FieldDescriptor::CPPTYPE_MESSAGE:
        TryFields(request, reflection.MutableMessage(message, field), path + ".");
        break;
      default:
        break;
    }
    restore();
  }
}

TEST_F(RequestValidatorTest, EveryNumericFieldIsAcceptedInRangeOrRefusedByName) {
  v1::GenerateStreamRequest request = Valid();
  TryFields(&request, &request, "");
  EXPECT_GT(n_tried_, 150);
  for (const char* field :
       {"sampling.temperature", "sampling.top_p", "sampling.top_k", "sampling.min_p",
        "sampling.repetition_penalty", "sampling.frequency_penalty", "sampling.presence_penalty",
        "stopping.max_tokens", "stopping.min_tokens", "stopping.stop_token_ids",
        "stopping.time_limit.seconds", "stopping.time_limit.nanos", "output.logprobs",
        "output.prompt_logprobs", "prompt.token_ids.ids", "prompt.truncate_prompt_tokens"}) {
    EXPECT_EQ(refused_fields_.count(field), 1u) << field;
  }
  // Any seed is a seed.
  EXPECT_EQ(refused_fields_.count("sampling.seed"), 0u);
}

TEST_F(RequestValidatorTest, ModelNameMayHaveItsCollectionInFront) {
  for (const char* name : {"", "test", "models/test"}) {
    v1::GenerateStreamRequest request = Valid();
    request.set_model(name);
    EXPECT_TRUE(std::holds_alternative<ValidatedRequest>(Validate(request))) << name;
  }
}

TEST_F(RequestValidatorTest, SeedsOfRequestsWithoutOneDiffer) {
  std::set<uint64_t> seeds;
  for (int i = 0; i < 100; ++i) {
    seeds.insert(std::get<ValidatedRequest>(Validate(Valid())).spec.sampling.seed);
  }
  EXPECT_LT(*seeds.rbegin(), uint64_t{1} << 52);
  EXPECT_EQ(seeds.size(), 100u);
}

TEST_F(RequestValidatorTest, TextGetsBosAndIdsDoNot) {
  v1::GenerateStreamRequest request = Valid();
  EXPECT_EQ(std::get<ValidatedRequest>(Validate(request)).spec.prompt_tokens.front(), 1);
  request.mutable_prompt()->mutable_token_ids()->add_ids(9);
  EXPECT_EQ(std::get<ValidatedRequest>(Validate(request)).spec.prompt_tokens,
            std::vector<int32_t>{9});
  request.mutable_prompt()->set_add_bos_token(true);
  EXPECT_EQ(std::get<ValidatedRequest>(Validate(request)).spec.prompt_tokens,
            (std::vector<int32_t>{1, 9}));
}

TEST_F(RequestValidatorTest, TruncatedPromptKeepsBosAndItsLastTokens) {
  v1::GenerateStreamRequest request;
  for (int i = 0; i < 2000; ++i) {
    request.mutable_prompt()->mutable_token_ids()->add_ids(i % 200);
  }
  request.mutable_prompt()->set_add_bos_token(true);
  request.mutable_prompt()->set_truncate_prompt_tokens(3);
  EXPECT_EQ(std::get<ValidatedRequest>(Validate(request)).spec.prompt_tokens,
            (std::vector<int32_t>{1, 198, 199}));
}

// Whatever ids prompt and completion have, and wherever a character is divided between them, what
// is echoed and the completion's text are the text of them all.
TEST_F(RequestValidatorTest, EchoAndCompletionAreOneText) {
  std::mt19937 random(7);
  const auto ids = [&](int n) {
    std::vector<int32_t> ids;
    // Byte pieces, mostly those of characters of three and four bytes.
    constexpr uint8_t kBytes[] = {0xE6, 0x97, 0xA5, 0xF0, 0x9F, 0x98, 0x80, 0xC3, 0xA9, 0xFF, 'a'};
    for (int i = 0; i < n; ++i) {
      ids.push_back(random() % 4 == 0 ? kFirstTextId + static_cast<int32_t>(random() % 12)
                                      : kFirstByteId + kBytes[random() % sizeof(kBytes)]);
    }
    return ids;
  };
  int n_divided = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::vector<int32_t> prompt = ids(1 + static_cast<int>(random() % 6));
    const std::vector<int32_t> output = ids(1 + static_cast<int>(random() % 6));
    v1::GenerateStreamRequest request = Valid();
    request.mutable_prompt()->mutable_token_ids()->mutable_ids()->Add(prompt.begin(), prompt.end());
    request.mutable_output()->set_echo(true);
    const auto valid = std::get<ValidatedRequest>(Validate(request));
    EXPECT_TRUE(IsValidUtf8(*valid.options.echo_text));
    CompletionText completion(tokenizer_, valid.spec.prompt_tokens, {}, false, 0);
    std::string text = *valid.options.echo_text;
    for (const int32_t id : output) text += completion.Append(id).delta;
    text += completion.Finish();
    std::vector<int32_t> all = prompt;
    all.insert(all.end(), output.begin(), output.end());
    EXPECT_EQ(text, tokenizer_.Decode(all));
    n_divided += *valid.options.echo_text != tokenizer_.Decode(prompt);
    // What is cut off is echoed all the same, and nothing of it twice.
    request.mutable_prompt()->set_truncate_prompt_tokens(1);
    const auto cut = std::get<ValidatedRequest>(Validate(request));
    EXPECT_TRUE(*cut.options.echo_text == *valid.options.echo_text ||
                *cut.options.echo_text == tokenizer_.Decode(prompt));
  }
  EXPECT_GT(n_divided, 200);
}

TEST_F(RequestValidatorTest, NothingIsSaidOfAMaxTokensThatWasNotSet) {
  v1::GenerateStreamRequest request = Valid();
  for (int i = 0; i < 600; ++i) request.mutable_prompt()->mutable_token_ids()->add_ids(5);
  ApiError error = std::get<ApiError>(Validate(request));
  EXPECT_EQ(error.message,
            "the prompt has 600 tokens; it must have at most 511, one less than the context length "
            "of 512");
  EXPECT_EQ(error.metadata.count("maxTokens"), 0u);
  request.mutable_prompt()->mutable_token_ids()->mutable_ids()->Truncate(500);
  request.mutable_stopping()->set_max_tokens(20);
  error = std::get<ApiError>(Validate(request));
  EXPECT_EQ(error.message,
            "the prompt has 500 tokens and max_tokens is 20: together more than the context length "
            "of 512");
}

TEST_F(RequestValidatorTest, IgnoredEosIsNoStopToken) {
  v1::GenerateStreamRequest request = Valid();
  request.mutable_stopping()->set_ignore_eos(true);
  EXPECT_TRUE(std::get<ValidatedRequest>(Validate(request)).spec.sampling.stop_token_ids.empty());
}

TEST_F(RequestValidatorTest, StopSequenceLimitCountsCodePoints) {
  v1::GenerateStreamRequest request = Valid();
  std::string stop;
  for (int i = 0; i < 256; ++i) stop += "\xE6\x97\xA5";
  request.mutable_stopping()->add_stop(stop);
  EXPECT_TRUE(std::holds_alternative<ValidatedRequest>(Validate(request)));
  request.mutable_stopping()->set_stop(0, stop + "a");
  EXPECT_EQ(std::get<ApiError>(Validate(request)).reason, reason::kLimitExceeded);
}

TEST_F(RequestValidatorTest, MinTokensIsHeldToTheDefaultOfMaxTokens) {
  v1::GenerateStreamRequest request = Valid();
  request.mutable_stopping()->set_min_tokens(257);
  EXPECT_EQ(std::get<ApiError>(Validate(request)).violations.at(0).field, "stopping.min_tokens");
}

TEST_F(RequestValidatorTest, RequestIdsAreShortAndPlain) {
  EXPECT_TRUE(IsValidRequestId("aZ09._:-"));
  EXPECT_TRUE(IsValidRequestId(std::string(64, 'a')));
  EXPECT_FALSE(IsValidRequestId(std::string(65, 'a')));
  EXPECT_FALSE(IsValidRequestId(""));
  EXPECT_FALSE(IsValidRequestId("a b"));
  EXPECT_FALSE(IsValidRequestId("a\n"));
}

// What a request leaves unset is the model's own default; what it sets counts, zero included.
TEST_F(RequestValidatorTest, TheModelsDefaultsHoldForWhatIsUnset) {
  ModelFacts facts = Facts();
  facts.sampling_defaults = {.temperature = 0.6f,
                             .top_p = 0.9f,
                             .top_k = 50,
                             .min_p = 0.05f,
                             .repetition_penalty = 1.1f,
                             .max_tokens = 33};
  const RequestValidator validator(facts, tokenizer_);
  const auto spec_of = [&](const v1::GenerateStreamRequest& request) {
    CallFacts call;
    call.arrival = SteadyTime();
    const auto result = validator.Validate(request, call);
    EXPECT_TRUE(std::holds_alternative<ValidatedRequest>(result));
    return std::get<ValidatedRequest>(result).spec;
  };
  v1::GenerateStreamRequest request = Valid();
  const RequestSpec unset = spec_of(request);
  EXPECT_EQ(unset.sampling.temperature, 0.6f);
  EXPECT_EQ(unset.sampling.top_p, 0.9f);
  EXPECT_EQ(unset.sampling.top_k, 50);
  EXPECT_EQ(unset.sampling.min_p, 0.05f);
  EXPECT_EQ(unset.sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(unset.max_tokens, 33);
  EXPECT_FALSE(unset.context_limited);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_top_k(0);
  request.mutable_sampling()->set_min_p(0);
  request.mutable_sampling()->set_repetition_penalty(1);
  request.mutable_stopping()->set_max_tokens(2);
  const RequestSpec set = spec_of(request);
  EXPECT_EQ(set.sampling.temperature, 0);
  EXPECT_EQ(set.sampling.top_p, 1);
  EXPECT_EQ(set.sampling.top_k, 0);
  EXPECT_EQ(set.sampling.min_p, 0);
  EXPECT_EQ(set.sampling.repetition_penalty, 1);
  EXPECT_EQ(set.max_tokens, 2);
}

}  // namespace
}  // namespace bora
