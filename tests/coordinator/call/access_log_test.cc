#include "coordinator/call/access_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "coordinator/api/api_error.h"

namespace bora {
namespace {

using ::testing::HasSubstr;

CallRecord Call(std::string request_id, absl::StatusCode code = absl::StatusCode::kOk,
                std::string reason = "") {
  CallRecord record;
  record.method = "Generate";
  record.request_id = std::move(request_id);
  record.peer = "ipv4:127.0.0.1:1";
  record.code = code;
  record.reason = std::move(reason);
  return record;
}

std::vector<std::string> Lines(const std::function<void()>& function) {
  testing::internal::CaptureStderr();
  function();
  std::vector<std::string> lines = absl::StrSplit(testing::internal::GetCapturedStderr(), '\n');
  lines.pop_back();
  return lines;
}

TEST(AccessLogTest, ALineSaysWhatTheCallWasAndWhereItsTimeWent) {
  CallRecord record = Call("id-1");
  GenerationRecord& generation = record.generation.emplace();
  generation.tenant = "shop";
  generation.priority = Priority::kBatch;
  generation.n_candidates = 3;
  generation.seed = uint64_t(-7);
  generation.n_prompt_tokens = 12;
  generation.n_cached_prompt_tokens = 4;
  generation.n_output_tokens = 30;
  generation.first_token = absl::Milliseconds(9);
  generation.finishes = {FinishKind::kMaxTokens, FinishKind::kStopToken, FinishKind::kMaxTokens};
  generation.timing.queue = absl::Milliseconds(2);
  generation.timing.prefill = absl::Milliseconds(7);
  generation.timing.decode = absl::Milliseconds(50);
  std::string text;
  for (const auto& [name, value] : AccessLogFields(record, absl::Milliseconds(60))) {
    absl::StrAppend(&text, name, "=", value.json(), " ");
  }
  EXPECT_EQ(text,
            "method=\"Generate\" code=\"OK\" reason=\"\" request_id=\"id-1\" tenant=\"shop\" "
            "priority=\"batch\" candidates=3 prompt_tokens=12 cached_tokens=4 output_tokens=30 "
            "finish=\"STOP_TOKEN, MAX_TOKENS x2\" seed=-7 queue_ms=2 prefill_ms=7 decode_ms=50 "
            "first_token_ms=9 duration_ms=60 peer=\"ipv4:127.0.0.1:1\" ");
}

TEST(AccessLogTest, ModesChooseWhatHasALine) {
  const auto count = [](AccessLogMode mode) {
    return Lines([mode] {
             AccessLog log({mode, 1});
             log.Record(Call("a"), absl::ZeroDuration());
             log.Record(Call("b", absl::StatusCode::kInvalidArgument, reason::kInvalidField),
                        absl::ZeroDuration());
           })
        .size();
  };
  EXPECT_EQ(count(AccessLogMode::kAll), 2u);
  EXPECT_EQ(count(AccessLogMode::kErrors), 1u);
  EXPECT_EQ(count(AccessLogMode::kOff), 0u);
  AccessLogMode mode = AccessLogMode::kAll;
  EXPECT_TRUE(ParseAccessLogMode("errors", &mode));
  EXPECT_EQ(mode, AccessLogMode::kErrors);
  EXPECT_FALSE(ParseAccessLogMode("none", &mode));
}

TEST(AccessLogTest, ASampleGoesByTheRequestId) {
  int n_sampled = 0;
  for (int i = 0; i < 10000; ++i) {
    const std::string id = absl::StrCat("request-", i);
    EXPECT_TRUE(IsSampled(id, 1));
    EXPECT_FALSE(IsSampled(id, 0));
    const bool sampled = IsSampled(id, 0.1);
    // The same every time, and a larger share has all of a smaller one.
    EXPECT_EQ(sampled, IsSampled(id, 0.1));
    EXPECT_TRUE(!sampled || IsSampled(id, 0.2));
    n_sampled += sampled ? 1 : 0;
  }
  // 1000 expected; six standard deviations are 180.
  EXPECT_NEAR(n_sampled, 1000, 180);
  // Errors are not sampled.
  EXPECT_EQ(Lines([] {
              AccessLog log({AccessLogMode::kAll, 0});
              log.Record(Call("a"), absl::ZeroDuration());
              log.Record(Call("b", absl::StatusCode::kInternal, reason::kNonFiniteLogits),
                         absl::ZeroDuration());
            }).size(),
            1u);
}

TEST(AccessLogTest, RefusalsInBulkAreCounted) {
  AccessLog log({AccessLogMode::kAll, 1});
  const std::vector<std::string> lines = Lines([&log] {
    for (int i = 0; i < 1000; ++i) {
      log.Record(Call("a", absl::StatusCode::kUnavailable, reason::kQueueFull),
                 absl::ZeroDuration());
      log.Record(Call("a", absl::StatusCode::kDeadlineExceeded, reason::kDeadlineInQueue),
                 absl::ZeroDuration());
    }
    // Other errors are not refusals.
    log.Record(Call("b", absl::StatusCode::kInvalidArgument, reason::kInvalidField),
               absl::ZeroDuration());
    log.FlushRefusals();
    log.FlushRefusals();
  });
  ASSERT_EQ(lines.size(), 7u);
  EXPECT_THAT(lines[0], HasSubstr("QUEUE_FULL"));
  EXPECT_THAT(lines[5], HasSubstr("INVALID_FIELD"));
  EXPECT_THAT(lines[6], HasSubstr("\"message\":\"more calls refused\",\"calls\":1995,"
                                  "\"DEADLINE_IN_QUEUE\":998,\"QUEUE_FULL\":997"));
  // The next second begins anew.
  EXPECT_EQ(Lines([&log] {
              log.Record(Call("a", absl::StatusCode::kUnavailable, reason::kNotReady),
                         absl::ZeroDuration());
              log.FlushRefusals();
            }).size(),
            1u);
}

TEST(AccessLogTest, StatsHaveTheMedianOfFirstTokens) {
  AccessLog log({AccessLogMode::kOff, 1});
  for (const int ms : {30, 10, 1000}) {
    CallRecord record = Call("a");
    record.generation.emplace().n_output_tokens = 1;
    record.generation->first_token = absl::Milliseconds(ms);
    log.Record(record, absl::ZeroDuration());
  }
  log.Record(Call("b", absl::StatusCode::kUnavailable, reason::kQueueFull), absl::ZeroDuration());
  const CallStats stats = log.TakeStats();
  EXPECT_EQ(stats.n_calls, 4);
  EXPECT_EQ(stats.n_errors, 1);
  EXPECT_EQ(stats.first_token_p50, absl::Milliseconds(30));
  EXPECT_EQ(log.TakeStats().n_calls, 0);
}

}  // namespace
}  // namespace bora
