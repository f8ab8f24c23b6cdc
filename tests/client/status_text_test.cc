#include "client/status_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/terminal.h"
#include "client/text.h"

namespace bora {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace pb = inference::v1;

StatusSample Sample() {
  StatusSample sample;
  pb::Model* const model = sample.models.add_models();
  model->set_name("models/demo-model");
  model->set_dtype("bfloat16");
  model->set_layer_count(32);
  model->set_context_length(2048);
  pb::ServerInfo& info = sample.info;
  info.set_group_state(pb::GROUP_STATE_SERVING);
  info.set_pipeline_parallel_size(2);
  info.set_tensor_parallel_size(2);
  info.set_epoch(1795981545338);
  info.set_version("0.1.0");
  info.set_git_commit("422a6a08e163-dirty");
  info.mutable_uptime()->set_seconds(26);
  info.set_max_num_seqs(64);
  info.set_max_num_queued_reqs(1024);
  pb::Load& load = *info.mutable_load();
  load.set_running_count(16);
  load.set_kv_block_count(8192);
  load.set_kv_block_used_count(4096);
  load.set_output_token_total(1000);
  load.set_finished_request_total(10);
  load.mutable_busy_duration()->set_seconds(100);
  for (int i = 0; i < 2; ++i) load.add_stage_compute_durations()->set_seconds(80);
  for (int i = 0; i < 4; ++i) {
    pb::WorkerInfo& worker = *info.add_workers();
    worker.set_worker_id(i);
    worker.set_stage(i / 2);
    worker.set_tensor_rank(i % 2);
    worker.set_layer_begin(16 * (i / 2));
    worker.set_layer_end(16 * (i / 2) + 16);
    worker.set_state(pb::WORKER_STATE_SERVING);
    worker.set_weight_bytes(9 << 20);
    worker.set_kv_cache_bytes(int64_t{512} << 20);
    worker.set_host("host");
    worker.set_pid(16859);
    worker.set_device("cpu (AVX-512 BF16, 2 threads)");
  }
  return sample;
}

// One count in each of the buckets.
void Count(pb::LatencyHistogram* histogram, const std::vector<int>& buckets) {
  histogram->mutable_counts()->Resize(81, 0);
  for (const int bucket : buckets) histogram->set_counts(bucket, histogram->counts(bucket) + 1);
}

TEST(StatusTextTest, FitsATerminalOf80By24) {
  const StatusSample before = Sample();
  StatusSample after = Sample();
  after.at = before.at + absl::Seconds(1);
  const std::string text = StatusText(after, nullptr);
  const std::string with_rates = StatusText(after, &before);
  // The last row of a screen is for notices.
  EXPECT_LE(std::count(with_rates.begin(), with_rates.end(), '\n'), 23);
  for (const absl::string_view line : absl::StrSplit(with_rates, '\n')) {
    // The device is at the end, where it may be cut.
    EXPECT_LE(line.substr(0, line.find(" cpu (")).size(), 80u) << line;
  }
  for (const char* part :
       {"models/demo-model  bfloat16, 32 layers, context 2048", "serving  2 stages x 2",
        "[#####---------------] 16 of 64, waiting 0 of 1024",
        "[##########----------] 4096 of 8192 used (50.0%)", "80% 80% of 100.0 busy", "16-31",
        "host pid 16859"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  EXPECT_THAT(text, Not(HasSubstr("tokens/s")));
}

TEST(StatusTextTest, RatesAndPercentilesAreOfTheTimeBetweenTwoSamples) {
  StatusSample before = Sample();
  StatusSample after = Sample();
  after.at = before.at + absl::Seconds(2);
  pb::Load& load = *after.info.mutable_load();
  load.set_output_token_total(1200);
  load.set_finished_request_total(13);
  // Before: slow ones only. Since then: 0.1 ms * 2^(8/4), twice, and 2^(40/4).
  Count(before.info.mutable_load()->mutable_token_gap(), {60, 60, 60});
  Count(load.mutable_token_gap(), {60, 60, 60, 8, 8, 40});
  const std::string text = StatusText(after, &before);
  EXPECT_THAT(text,
              HasSubstr("last 2.0 s: 100.0 output tokens/s, 0.0 prompt tokens/s, 1.5 requests/s"));
  EXPECT_THAT(text, HasSubstr("first token p50 -, p99 -   between tokens p50 0.4 ms, p99 102 ms"));
  EXPECT_TRUE(IsSameRun(before, after));
  EXPECT_FALSE(IsSameRun(after, before)) << "counters that went back are another run's";
}

TEST(StatusTextTest, Percentiles) {
  pb::LatencyHistogram empty;
  pb::LatencyHistogram histogram;
  EXPECT_LT(PercentileMs(empty, histogram, 0.5), 0);
  Count(&histogram, {0, 4, 8, 12});
  EXPECT_DOUBLE_EQ(PercentileMs(empty, histogram, 0.25), 0.1);
  EXPECT_DOUBLE_EQ(PercentileMs(empty, histogram, 0.5), 0.2);
  EXPECT_DOUBLE_EQ(PercentileMs(empty, histogram, 0.99), 0.8);
  Count(&histogram, {80});
  EXPECT_TRUE(std::isinf(PercentileMs(empty, histogram, 0.99)));
  EXPECT_LT(PercentileMs(histogram, histogram, 0.5), 0);
}

TEST(FitTextTest, CutsLinesAndRowsByCharacters) {
  EXPECT_EQ(FitText("abc\nde\nf\n", {2, 2}), "ab\nde");
  EXPECT_EQ(FitText("\xc3\xa4\xc3\xb6\xc3\xbc\n", {2, 5}), "\xc3\xa4\xc3\xb6");
  EXPECT_EQ(FitText("", {80, 24}), "");
}

TEST(QuotedTest, EscapesWhatWouldBreakALine) {
  EXPECT_EQ(Quoted("a\n\t\"\x01"), "\"a\\n\\t\\\"\\001\"");
  EXPECT_EQ(Quoted("\xc3\xa4"), "\"\xc3\xa4\"");
}

}  // namespace
}  // namespace bora
