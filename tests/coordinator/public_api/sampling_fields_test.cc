// The list of sampling parameters beside what must agree with it: the public API's messages, their
// comments, the checks of requests and the table in docs/api.md.
#include "model/step/sampling_fields.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "bora/inference/v1/inference_service.pb.h"
#include "coordinator/api/request_validator.h"
#include "tests/coordinator/public_api/test_request.h"
#include "tests/coordinator/public_api/test_vocabulary.h"

namespace bora {
namespace {

namespace v1 = inference::v1;
using testing::HasSubstr;

std::string ReadSource(const std::string& path) {
  std::ifstream file(absl::StrCat(BORA_SOURCE_DIR, "/", path));
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void Set(const std::string& name, float value, v1::SamplingOptions* options) {
  options->GetReflection()->SetFloat(options, options->GetDescriptor()->FindFieldByName(name),
                                     value);
}
void Set(const std::string& name, int32_t value, v1::SamplingOptions* options) {
  options->GetReflection()->SetInt32(options, options->GetDescriptor()->FindFieldByName(name),
                                     value);
}

float Above(float value) { return std::nextafter(value, std::numeric_limits<float>::infinity()); }
float Below(float value) { return std::nextafter(value, -std::numeric_limits<float>::infinity()); }
int32_t Above(int32_t value) { return value + 1; }
int32_t Below(int32_t value) { return value - 1; }

class SamplingFieldsTest : public testing::Test {
 protected:
  SamplingFieldsTest() : tokenizer_(MakeTestTokenizer()), validator_(model_, tokenizer_) {}

  // What a request with one parameter set is turned into.
  template <typename T>
  std::variant<ValidatedRequest, ApiError> Validate(const std::string& name, T value) {
    v1::GenerateStreamRequest request;
    request.mutable_prompt()->set_text("ab");
    Set(name, value, request.mutable_sampling());
    return validator_.Validate(request, CallFacts());
  }

  const ModelFacts model_ = TestModel();
  const Tokenizer tokenizer_;
  const RequestValidator validator_;
};

TEST_F(SamplingFieldsTest, TheListHasEveryFieldOfTheApiExceptTheSeed) {
  std::set<std::string> listed = {"seed"};
  ForEachSamplingField([&](const auto& field) { EXPECT_TRUE(listed.insert(field.name).second); });
  std::set<std::string> in_api;
  const auto* descriptor = v1::SamplingOptions::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) in_api.insert(descriptor->field(i)->name());
  EXPECT_EQ(listed, in_api);
}

TEST_F(SamplingFieldsTest, RequestsAreHeldToTheRangesAndKeepTheirValues) {
  ForEachSamplingField([&](const auto& field) {
    SCOPED_TRACE(field.name);
    const auto least = field.low_is_excluded ? Above(field.low) : field.low;
    for (const auto value : {least, field.high}) {
      const auto result = Validate(field.name, value);
      ASSERT_TRUE(std::holds_alternative<ValidatedRequest>(result));
      EXPECT_EQ(std::get<ValidatedRequest>(result).spec.sampling.*field.member, value);
    }
    for (const auto value : {Below(least), Above(field.high)}) {
      const auto result = Validate(field.name, value);
      ASSERT_TRUE(std::holds_alternative<ApiError>(result));
      const ApiError& error = std::get<ApiError>(result);
      EXPECT_EQ(error.reason, reason::kInvalidField);
      ASSERT_EQ(error.violations.size(), 1u);
      EXPECT_EQ(error.violations[0].field, absl::StrCat("sampling.", field.name));
      EXPECT_THAT(error.violations[0].description,
                  HasSubstr(absl::StrCat("; it must be in ", field.RangeText())));
    }
  });
}

TEST_F(SamplingFieldsTest, DefaultsAreInTheirRanges) {
  ForEachSamplingField(
      [&](const auto& field) { EXPECT_TRUE(field.Contains(field.default_value())) << field.name; });
}

TEST_F(SamplingFieldsTest, TheTableOfTheDocumentationIsTheList) {
  std::string table =
      "| field of `sampling` | range | default | meaning |\n| --- | --- | --- | --- |\n";
  ForEachSamplingField([&](const auto& field) {
    absl::StrAppend(&table, "| `", field.name, "` | ", field.RangeText(), " | ",
                    field.default_value(), " | ", field.meaning, " |\n");
  });
  EXPECT_THAT(ReadSource("docs/api.md"), HasSubstr(table + "\n"));
}

// The comment above a field of SamplingOptions in the proto's text, as one line.
std::string CommentOf(const std::string& proto, const std::string& name) {
  const size_t message = proto.find("message SamplingOptions {");
  const std::vector<std::string> lines = absl::StrSplit(proto.substr(message), '\n');
  std::string comment;
  for (const std::string& line : lines) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (absl::StartsWith(text, "//")) {
      absl::StrAppend(&comment, text.substr(2));
    } else if (absl::StrContains(text, absl::StrCat(" ", name, " = "))) {
      return comment;
    } else {
      comment.clear();
    }
  }
  return "no such field";
}

TEST_F(SamplingFieldsTest, TheProtosCommentsSayRangeAndDefault) {
  const std::string proto = ReadSource("proto/bora/inference/v1/inference_service.proto");
  ForEachSamplingField([&](const auto& field) {
    const std::string comment = CommentOf(proto, field.name);
    EXPECT_THAT(comment, HasSubstr(absl::StrCat("Range ", field.RangeText()))) << field.name;
    EXPECT_THAT(comment, HasSubstr(absl::StrCat("default ", field.default_value(), ".")))
        << field.name;
  });
}

}  // namespace
}  // namespace bora
