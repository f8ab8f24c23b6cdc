// The table of errors beside what must agree with it: the reasons, the errors that are made, and
// the table in docs/api.md.
#include "coordinator/api/api_errors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "coordinator/api/violations.h"

namespace bora {
namespace {

using testing::HasSubstr;

std::string ReadSource(const std::string& path) {
  std::ifstream file(absl::StrCat(BORA_SOURCE_DIR, "/", path));
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::set<std::string> KeysOf(const ErrorRow& row) {
  return absl::StrSplit(row.metadata_keys, ", ", absl::SkipEmpty());
}

ApiError SomeViolations(bool is_invalid) {
  Violations violations;
  for (int i = 0; i < 5; ++i) {
    const std::string field = absl::StrCat("list[", i, "]");
    if (is_invalid) {
      violations.AddInvalid(field, "7", "in [0, 5]");
    } else {
      violations.AddLimit(field, "7", "at most 5");
    }
  }
  return violations.TakeError();
}

// Errors of every kind, with everything that errors of the kind may have.
std::vector<std::pair<ErrorKind, ApiError>> Examples() {
  return {{ErrorKind::kInvalidField, SomeViolations(/*is_invalid=*/true)},
          {ErrorKind::kContextLengthExceeded, ContextLengthExceeded(9, true, 3, 10)},
          {ErrorKind::kContextLengthExceeded, ContextLengthExceeded(11, false, {}, 10)},
          {ErrorKind::kFieldLimit, SomeViolations(/*is_invalid=*/false)},
          {ErrorKind::kAnswerTooLarge, AnswerTooLarge(5'000'000)},
          {ErrorKind::kModelNotFound, ModelNotFound("other", "models/this")},
          {ErrorKind::kCallTooLarge, MetadataTooLarge(20'000)},
          {ErrorKind::kCallTooLarge, MessageTooLarge(5'000'000, false)},
          {ErrorKind::kQueueFull, QueueFull("generation", "sequences", 7, 5)},
          {ErrorKind::kNotReady, NotReady("waiting for 1 worker")},
          {ErrorKind::kDraining, Draining()},
          {ErrorKind::kDraining, EndedByShutdown()},
          {ErrorKind::kWorkerLost, WorkerLost("worker 3 is gone")},
          {ErrorKind::kDeadlineInQueue, DeadlineInQueue()},
          {ErrorKind::kDeadlineInQueue,
           DeadlineBeforeFirstToken(absl::Milliseconds(5), absl::Milliseconds(80))},
          {ErrorKind::kDeadlineInDecode, DeadlineInDecode(12)},
          {ErrorKind::kSlowConsumer, SlowConsumer(70'000, absl::Seconds(30))},
          {ErrorKind::kNonFiniteLogits, NonFiniteLogits(4)}};
}

TEST(ApiErrorsTest, TheTableOfTheDocumentationIsTheList) {
  std::string table =
      "| condition | code | reason | the client may | metadata | details |\n"
      "| --- | --- | --- | --- | --- | --- |\n";
  for (const ErrorRow& row : ErrorTable()) {
    std::vector<std::string> cells = {row.condition,     absl::StatusCodeToString(row.code),
                                      row.reason,        row.advice,
                                      row.metadata_keys, row.details};
    for (const std::string& cell : cells) {
      absl::StrAppend(&table, "| ", cell, cell.empty() ? "" : " ");
    }
    table += "|\n";
  }
  EXPECT_THAT(ReadSource("docs/api.md"), HasSubstr(table + "\n"));
}

TEST(ApiErrorsTest, EveryReasonHasARowAndEveryRowAReason) {
  std::set<std::string> of_rows;
  for (const ErrorRow& row : ErrorTable()) of_rows.insert(row.reason);
  std::set<std::string> declared;
  const std::string header = ReadSource("coordinator/api/api_error.h");
  const std::regex reason(R"re(constexpr char k\w+\[\] = "(\w+)";)re");
  for (std::sregex_iterator it(header.begin(), header.end(), reason), end; it != end; ++it) {
    declared.insert((*it)[1]);
  }
  EXPECT_EQ(of_rows, declared);
}

TEST(ApiErrorsTest, ExactlyUnavailableIsWorthARetry) {
  for (const ErrorRow& row : ErrorTable()) {
    EXPECT_EQ(row.is_retryable, row.code == absl::StatusCode::kUnavailable) << row.condition;
    EXPECT_EQ(row.is_retryable, absl::StartsWith(row.details, "RetryInfo")) << row.condition;
  }
}

TEST(ApiErrorsTest, ErrorsAreWhatTheirRowsSay) {
  std::map<ErrorKind, std::set<std::string>> keys;
  for (const auto& [kind, error] : Examples()) {
    SCOPED_TRACE(error.message);
    const ErrorRow& row = RowOf(kind);
    EXPECT_EQ(error.code, row.code);
    EXPECT_EQ(error.reason, row.reason);
    EXPECT_FALSE(error.message.empty());
    EXPECT_EQ(error.retry_delay.has_value(), row.is_retryable);
    EXPECT_EQ(!error.violations.empty(), absl::StartsWith(row.details, "BadRequest"));
    for (const auto& [key, value] : error.metadata) {
      // Of several violations the second has "field2".
      keys[kind].insert(key.substr(0, key.find_last_not_of("0123456789") + 1));
    }
  }
  for (const ErrorRow& row : ErrorTable()) {
    EXPECT_EQ(keys[row.kind], KeysOf(row)) << row.condition;
  }
}

TEST(ApiErrorsTest, EveryNumberOfAMessageIsInTheMetadata) {
  const std::regex number("[0-9]+");
  for (const auto& [kind, error] : Examples()) {
    std::string values;
    for (const auto& [key, value] : error.metadata) absl::StrAppend(&values, " ", value);
    for (std::sregex_iterator it(error.message.begin(), error.message.end(), number), end;
         it != end; ++it) {
      EXPECT_THAT(values, HasSubstr(it->str())) << error.message;
    }
  }
}

TEST(ApiErrorsTest, RefusalsAreWhatAServerWithoutRoomSays) {
  EXPECT_TRUE(IsRefusal(reason::kQueueFull));
  EXPECT_TRUE(IsRefusal(reason::kDeadlineInQueue));
  EXPECT_FALSE(IsRefusal(reason::kWorkerLost));
  EXPECT_FALSE(IsRefusal(""));
}

}  // namespace
}  // namespace bora
