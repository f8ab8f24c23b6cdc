#include "coordinator/api/server_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::string Text(const ReportLine& line) {
  std::string text = line.message;
  for (const auto& [name, value] : line.fields)
    absl::StrAppend(&text, " ", name, "=", value.json());
  return text;
}

class ServerReportTest : public testing::Test {
 protected:
  // The lines of one tick, a second after the last.
  std::vector<std::string> Tick() {
    std::vector<std::string> texts;
    for (const ReportLine& line : report_.OnTick(now_, snapshot_, [this] { return stats_; })) {
      texts.push_back(Text(line));
    }
    now_ += absl::Seconds(1);
    return texts;
  }
  // Of several ticks.
  std::vector<std::string> Ticks(int n) {
    std::vector<std::string> all;
    for (int i = 0; i < n; ++i) {
      for (std::string& text : Tick()) all.push_back(std::move(text));
    }
    return all;
  }

  ServerReport report_{4};
  absl::Duration now_ = absl::Seconds(1000);
  ServerSnapshot snapshot_;
  CallStats stats_;
};

WorkerSnapshot Worker(int32_t stage, WorkerState state) {
  WorkerSnapshot worker;
  worker.stage = stage;
  worker.state = state;
  return worker;
}

TEST_F(ServerReportTest, SaysAtOnceAndEveryTenSecondsWhomItWaitsFor) {
  snapshot_.group_detail = "why";
  EXPECT_THAT(Tick(), ElementsAre("waiting for 4 of 4 workers detail=\"why\""));
  snapshot_.workers = {Worker(0, WorkerState::kLoaded), Worker(-1, WorkerState::kSpare)};
  EXPECT_THAT(Ticks(9), IsEmpty());
  EXPECT_THAT(Tick(), ElementsAre("waiting for 3 of 4 workers detail=\"why\""));
  snapshot_.group_state = GroupState::kServing;
  EXPECT_THAT(Ticks(30), IsEmpty());
  // A worker is lost: at once again.
  snapshot_.group_state = GroupState::kWaitingForWorkers;
  EXPECT_EQ(Tick().size(), 1u);
  snapshot_.draining = true;
  EXPECT_THAT(Ticks(30), IsEmpty());
}

TEST_F(ServerReportTest, SaysHowFarLoadingIs) {
  snapshot_.group_state = GroupState::kLoading;
  snapshot_.workers = {Worker(0, WorkerState::kLoading), Worker(1, WorkerState::kLoading),
                       Worker(2, WorkerState::kLoaded)};
  for (WorkerSnapshot& worker : snapshot_.workers) worker.load_total_bytes = int64_t{4} << 30;
  EXPECT_THAT(Ticks(5), IsEmpty());
  snapshot_.workers[0].load_done_bytes = int64_t{1} << 30;
  snapshot_.workers[0].load_progress = 0.25;
  snapshot_.workers[1].load_done_bytes = int64_t{2} << 30;
  snapshot_.workers[1].load_progress = 0.5;
  // 3 GiB in 5 s, 5 GiB are left.
  EXPECT_THAT(Tick(), ElementsAre("loading workers=2 slowest_percent=25 gib=3 of_gib=8 "
                                  "gb_per_s=0.644245 eta_s=8.33333"));
  EXPECT_THAT(Ticks(4), IsEmpty());
  EXPECT_THAT(Tick(),
              ElementsAre("loading workers=2 slowest_percent=25 gib=3 of_gib=8 gb_per_s=0"));
}

TEST_F(ServerReportTest, SaysWhatItServesWhileItServes) {
  snapshot_.group_state = GroupState::kServing;
  EXPECT_THAT(Ticks(25), IsEmpty());  // idle
  snapshot_.load.n_prompt_tokens_total = 1000;
  snapshot_.load.n_output_tokens_total = 500;
  snapshot_.load.n_cached_prompt_tokens_total = 50;
  snapshot_.load.n_finished_requests_total = 20;
  snapshot_.load.n_preemptions_total = 3;
  snapshot_.load.n_running = 7;
  snapshot_.load.n_waiting = 2;
  snapshot_.load.n_blocks = 200;
  snapshot_.load.n_blocks_used = 50;
  stats_.n_calls = 21;
  stats_.n_errors = 1;
  stats_.first_token_p50 = absl::Milliseconds(12);
  EXPECT_THAT(Ticks(6),
              ElementsAre("throughput running=7 waiting=2 requests_per_s=2 input_tokens_per_s=100 "
                          "output_tokens_per_s=50 cached_tokens_per_s=5 first_token_ms_p50=12 "
                          "kv_percent=25 preemptions=3 calls=21 errors=1 seconds=10"));
  // All ended meanwhile: one line more says so, then there is nothing to say.
  snapshot_.load.n_running = 0;
  snapshot_.load.n_waiting = 0;
  snapshot_.load.n_finished_requests_total = 27;
  EXPECT_EQ(Ticks(60).size(), 1u);
}

TEST(EngineWatchTest, TellsStallsBySecondsOfItsOwn) {
  EngineWatch watch;
  EXPECT_FALSE(watch.IsStalled(5));
  for (int i = 1; i < EngineWatch::kStalledTicks; ++i) EXPECT_FALSE(watch.IsStalled(5)) << i;
  EXPECT_TRUE(watch.IsStalled(5));
  EXPECT_FALSE(watch.IsStalled(6));
}

}  // namespace
}  // namespace bora
