// The cluster's decisions, with workers played by hand and a clock that the test moves.
#include "coordinator/cluster/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "tests/coordinator/fake_worker.h"

namespace bora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What has happened to the group.
struct Noted {
  std::vector<int64_t> epochs;
  GroupLimits last_limits;
  std::vector<std::string> losses;
  std::vector<StepResult> results;
};

ClusterOptions Options(int32_t tp_size, std::vector<int32_t> layers_per_stage) {
  ClusterOptions options;
  options.build_id = "b1";
  options.heartbeat_interval = absl::Milliseconds(250);
  options.join_timeout = absl::Seconds(10);
  options.load.model_path = "/model";
  options.load.dtype = "float32";
  options.load.tensor_parallel_size = tp_size;
  options.load.layers_per_stage = std::move(layers_per_stage);
  options.load.max_model_len = 64;
  options.limits = {.max_num_seqs = 8,
                    .max_num_batched_tokens = 32,
                    .max_model_len = 64,
                    .block_size = 4,
                    .n_blocks = 0,
                    .vocab_size = 100};
  return options;
}

class ClusterTest : public testing::Test {
 protected:
  // Two stages of 3 and 1 layers with two tensor ranks each, unless the test makes another.
  ClusterTest() { Make(Options(2, {3, 1})); }

  void Make(ClusterOptions options) {
    noted_ = Noted();
    cluster_ = std::make_unique<Cluster>(std::move(options),
                                         [this] { return std::string(32, next_secret_++); });
  }

  // Takes what has happened to the group, as the engine does after each call.
  const Noted& noted() {
    for (GroupEvent& event : cluster_->TakeEvents()) {
      if (const auto* formed = std::get_if<GroupFormed>(&event)) {
        noted_.epochs.push_back(formed->epoch);
        noted_.last_limits = formed->limits;
      } else if (const auto* lost = std::get_if<GroupLost>(&event)) {
        noted_.losses.push_back(lost->detail);
      } else {
        noted_.results.push_back(std::move(std::get<StepDone>(event).result));
      }
    }
    return noted_;
  }
  std::shared_ptr<FakeLink> Attach(const Hello& hello) {
    auto link = std::make_shared<FakeLink>();
    cluster_->OnAttached(link, hello, now_);
    return link;
  }
  std::vector<std::shared_ptr<FakeLink>> AttachFour() {
    std::vector<std::shared_ptr<FakeLink>> links;
    for (int i = 0; i < 4; ++i) links.push_back(Attach(FakeHello("a")));
    return links;
  }
  void Say(const std::shared_ptr<FakeLink>& link, WorkerMessage message) {
    cluster_->OnMessage(link.get(), std::move(message), now_);
  }
  void SayLoaded(const std::shared_ptr<FakeLink>& link) {
    ASSERT_NE(link->Last<LoadModel>(), nullptr);
    Say(link, LoadResult{absl::OkStatus(), FakeLoaded(*link->Last<LoadModel>())});
  }
  void SayJoined(const std::shared_ptr<FakeLink>& link, absl::Status status = absl::OkStatus()) {
    ASSERT_NE(link->Last<JoinGroup>(), nullptr);
    Say(link, JoinResult{link->Last<JoinGroup>()->epoch, std::move(status)});
  }
  // Four workers that serve.
  std::vector<std::shared_ptr<FakeLink>> FormGroup() {
    auto links = AttachFour();
    for (const auto& link : links) SayLoaded(link);
    for (const auto& link : links) SayJoined(link);
    EXPECT_TRUE(cluster_->serving());
    return links;
  }
  // Time passes in which every one of these is heard.
  void Pass(absl::Duration duration, const std::vector<std::shared_ptr<FakeLink>>& links,
            absl::Duration predicted_step = absl::ZeroDuration()) {
    const SteadyTime end = now_ + duration;
    while (now_ < end) {
      now_ = std::min(end, now_ + absl::Milliseconds(100));
      for (const auto& link : links) {
        if (link->open) Say(link, Heartbeat{});
      }
      cluster_->Tick(now_, predicted_step);
    }
  }
  void Broadcast(int64_t epoch) {
    StepPlan plan;
    plan.epoch = epoch;
    cluster_->Broadcast(std::make_shared<const StepPlan>(std::move(plan)), now_);
  }
  void Broadcast() { Broadcast(cluster_->epoch()); }
  ServerSnapshot Snapshot() const {
    ServerSnapshot snapshot;
    cluster_->FillSnapshot(&snapshot);
    return snapshot;
  }
  static int32_t RankOf(const std::shared_ptr<FakeLink>& link) {
    const LoadModel* load = link->Last<LoadModel>();
    return load == nullptr ? -1 : load->stage * load->tensor_parallel_size + load->tensor_rank;
  }

  SteadyTime now_ = SteadyTime() + absl::Seconds(1000);
  char next_secret_ = 'A';
  Noted noted_;
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(ClusterTest, FormsAGroupOfWorkersThatLoadAndJoin) {
  const auto links = AttachFour();
  for (int i = 0; i < 4; ++i) {
    EXPECT_NE(links[i]->Last<Welcome>(), nullptr);
    EXPECT_EQ(RankOf(links[i]), i);
  }
  EXPECT_EQ(Snapshot().group_state, GroupState::kLoading);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(links[i]->Last<JoinGroup>(), nullptr);
    SayLoaded(links[i]);
  }
  const JoinGroup* join = links[3]->Last<JoinGroup>();
  ASSERT_NE(join, nullptr);
  EXPECT_EQ(join->epoch, 1);
  EXPECT_EQ(join->secret, std::string(32, 'A'));
  ASSERT_EQ(join->ranks.size(), 4u);
  EXPECT_EQ(join->ranks[2].host_id, "id of a");
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(cluster_->serving());
    SayJoined(links[i]);
  }
  EXPECT_TRUE(cluster_->serving());
  EXPECT_THAT(noted().epochs, ElementsAre(join->epoch));
  // The smallest of: 40 blocks that fit beside the weights, 8 slots of 16 blocks.
  EXPECT_EQ(noted().last_limits.n_blocks, 40);
  EXPECT_EQ(join->limits, noted().last_limits);
}

TEST_F(ClusterTest, BeginsAboveEveryEpochThatItsWorkersWereIn) {
  std::vector<std::shared_ptr<FakeLink>> links;
  for (const int64_t latest : {7L, 1795981545338L, 0L, 12L}) {
    Hello hello = FakeHello("a");
    hello.latest_epoch = latest;
    links.push_back(Attach(hello));
  }
  for (const auto& link : links) SayLoaded(link);
  for (const auto& link : links) SayJoined(link);
  EXPECT_THAT(noted().epochs, ElementsAre(1795981545339));
  // A spare's epoch counts from the day on which it is in the group.
  Hello hello = FakeHello("a");
  hello.latest_epoch = 1795981549999;
  const auto spare = Attach(hello);
  EXPECT_EQ(cluster_->epoch(), 1795981545339);
  cluster_->OnGone(links[2].get(), "closed", now_);
  SayLoaded(spare);
  Pass(absl::Seconds(1), {links[0], links[1], links[3], spare});
  ASSERT_NE(spare->Last<JoinGroup>(), nullptr);
  EXPECT_EQ(spare->Last<JoinGroup>()->epoch, 1795981550000);
}

TEST_F(ClusterTest, KeepsTheTensorRanksOfAStageOnOneHost) {
  std::vector<std::shared_ptr<FakeLink>> links;
  for (const char* host : {"a", "b", "a", "b"}) links.push_back(Attach(FakeHello(host)));
  EXPECT_THAT((std::vector<int32_t>{RankOf(links[0]), RankOf(links[1]), RankOf(links[2]),
                                    RankOf(links[3])}),
              ElementsAre(0, 2, 1, 3));
}

TEST_F(ClusterTest, GivesAWorkerThePlaceOfItsWeights) {
  Hello hello = FakeHello("a");
  LoadModel load = Options(2, {3, 1}).load;
  load.stage = 1;
  load.tensor_rank = 1;
  hello.loaded = FakeLoaded(load);
  EXPECT_EQ(RankOf(Attach(hello)), 3);
}

TEST_F(ClusterTest, PutsAWorkerWithOtherWeightsAnywhere) {
  Hello hello = FakeHello("a");
  LoadModel load = Options(2, {3, 1}).load;
  load.stage = 1;
  load.model_path = "/other";
  hello.loaded = FakeLoaded(load);
  EXPECT_EQ(RankOf(Attach(hello)), 0);
}

TEST_F(ClusterTest, KeepsAdditionalWorkersAsSpares) {
  AttachFour();
  const auto spare = Attach(FakeHello("b"));
  EXPECT_TRUE(spare->open);
  EXPECT_EQ(RankOf(spare), -1);
  const ServerSnapshot snapshot = Snapshot();
  ASSERT_EQ(snapshot.workers.size(), 5u);
  EXPECT_EQ(snapshot.workers[4].state, WorkerState::kSpare);
  EXPECT_EQ(snapshot.workers[4].stage, -1);
}

TEST_F(ClusterTest, RefusesAnotherBuildByName) {
  Hello hello = FakeHello("a");
  hello.build_id = "b2";
  const auto link = Attach(hello);
  EXPECT_FALSE(link->open);
  EXPECT_EQ(link->close_reason.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(link->close_reason.message(), "worker on a is build b2, coordinator is build b1");
}

TEST_F(ClusterTest, RefusesMoreWorkersThanRanksAndSpares) {
  ClusterOptions options = Options(1, {4});
  options.max_spares = 1;
  Make(options);
  Attach(FakeHello("a"));
  Attach(FakeHello("a"));
  const auto link = Attach(FakeHello("a"));
  EXPECT_EQ(link->close_reason.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(link->close_reason.message(),
            "2 workers are attached, the limit is 2 (1 ranks and 1 spares)");
}

TEST_F(ClusterTest, RefusesAnotherCheckpointByFingerprint) {
  const auto links = AttachFour();
  SayLoaded(links[0]);
  LoadedModel other = FakeLoaded(*links[1]->Last<LoadModel>());
  other.fingerprint = "f2";
  Say(links[1], LoadResult{absl::OkStatus(), other});
  EXPECT_FALSE(links[1]->open);
  EXPECT_EQ(links[1]->close_reason.message(), "worker 2 on a has checkpoint f2, the group has f1");
  EXPECT_THAT(Snapshot().group_detail, HasSubstr("has checkpoint f2"));
  EXPECT_EQ(Snapshot().weights_digest, "");  // of a group, which there is not yet
}

TEST_F(ClusterTest, TakesTheCheckpointThatMoreWorkersHave) {
  auto links = AttachFour();
  SayLoaded(links[0]);  // f1, the wrong one
  const auto say_other = [&](const std::shared_ptr<FakeLink>& link) {
    LoadedModel other = FakeLoaded(*link->Last<LoadModel>());
    other.fingerprint = "f2";
    Say(link, LoadResult{absl::OkStatus(), other});
  };
  say_other(links[1]);
  EXPECT_FALSE(links[1]->open);  // one against one: the first counts
  EXPECT_TRUE(links[0]->open);
  say_other(links[2]);
  EXPECT_TRUE(links[2]->open);
  EXPECT_FALSE(links[0]->open);
  EXPECT_EQ(links[0]->close_reason.message(), "2 workers have checkpoint f2, 1 had f1");
  EXPECT_EQ(cluster_->fingerprint(), "f2");
  // The group forms of those that have it, and is what counts from then on.
  say_other(links[3]);
  const auto again = Attach(FakeHello("a"));
  const auto fourth = Attach(FakeHello("a"));
  say_other(again);
  say_other(fourth);
  for (const auto& link : {links[2], links[3], again, fourth}) SayJoined(link);
  ASSERT_TRUE(cluster_->serving());
  for (int i = 0; i < 5; ++i) {
    cluster_->OnGone(links[3].get(), "test", now_);
    links[3] = Attach(FakeHello("a"));
    SayLoaded(links[3]);
    EXPECT_FALSE(links[3]->open) << "f1 is refused as often as it comes";
  }
  EXPECT_TRUE(again->open);
  EXPECT_EQ(cluster_->fingerprint(), "f2");
}

TEST_F(ClusterTest, ForgetsACheckpointThatNobodyHasAnyMore) {
  const auto wrong = Attach(FakeHello("a"));
  SayLoaded(wrong);
  EXPECT_EQ(cluster_->fingerprint(), "f1");
  cluster_->OnGone(wrong.get(), "stopped", now_);
  EXPECT_EQ(cluster_->fingerprint(), "");
  const auto right = Attach(FakeHello("a"));
  LoadedModel other = FakeLoaded(*right->Last<LoadModel>());
  other.fingerprint = "f2";
  Say(right, LoadResult{absl::OkStatus(), other});
  EXPECT_TRUE(right->open);
}

TEST_F(ClusterTest, DropsAWorkerThatLoadedSomethingElse) {
  const auto links = AttachFour();
  LoadedModel other = FakeLoaded(*links[0]->Last<LoadModel>());
  other.load.stage = 1;
  Say(links[0], LoadResult{absl::OkStatus(), other});
  EXPECT_FALSE(links[0]->open);
  EXPECT_EQ(links[0]->close_reason.message(), "loaded something else than it was told to");
}

TEST_F(ClusterTest, GivesThePlaceOfAWorkerThatLoadsNoFurtherToASpare) {
  ClusterOptions options = Options(1, {4});
  options.load_stall_timeout = absl::Seconds(10);
  Make(options);
  const auto slow = Attach(FakeHello("a"));
  const auto spare = Attach(FakeHello("b"));
  const std::vector<std::shared_ptr<FakeLink>> both = {slow, spare};
  for (int i = 1; i <= 4; ++i) {
    Say(slow, LoadProgress{i * 10, 100});
    Pass(absl::Seconds(9), both);
  }
  EXPECT_TRUE(slow->open);  // slow, but it gets on
  // Heartbeats, numbers that go back and numbers beyond the end are no progress.
  Say(slow, LoadProgress{5, 100});
  Say(slow, LoadProgress{1000, 100});
  Say(slow, LoadProgress{50, -1});
  Pass(absl::Seconds(2), both);
  EXPECT_FALSE(slow->open);
  EXPECT_THAT(std::string(slow->close_reason.message()),
              HasSubstr("loading got no further than 40 bytes for 1"));
  EXPECT_EQ(RankOf(spare), 0);
  SayLoaded(spare);
  Pass(absl::Seconds(60), {spare});
  EXPECT_TRUE(spare->open);
}

TEST_F(ClusterTest, DropsWhoSaysAResultThatItDoesNotOwe) {
  const auto links = FormGroup();
  const auto spare = Attach(FakeHello("b"));
  Broadcast();
  StepResult result;
  result.epoch = cluster_->epoch();
  Say(spare, result);
  EXPECT_FALSE(spare->open);
  EXPECT_EQ(spare->close_reason.message(), "a step result that this worker does not owe");
  EXPECT_TRUE(cluster_->serving());
  EXPECT_TRUE(noted().results.empty());
  // The one that owes it says it once.
  Say(links[2], result);
  EXPECT_EQ(noted().results.size(), 1u);
  EXPECT_TRUE(cluster_->serving());
  Say(links[2], result);
  EXPECT_EQ(noted().results.size(), 1u);
  EXPECT_FALSE(links[2]->open);
  EXPECT_THAT(noted().losses, ElementsAre("worker 3 on a is gone: a step result without a plan"));
}

TEST_F(ClusterTest, NamesTheMemberThatSaysAResultForAnother) {
  const auto links = FormGroup();
  Broadcast();
  StepResult result;
  result.epoch = cluster_->epoch();
  Say(links[3], result);
  EXPECT_FALSE(links[3]->open);
  EXPECT_THAT(noted().losses, ElementsAre("worker 4 on a is gone: a step result that this worker "
                                          "does not owe"));
}

TEST_F(ClusterTest, DropsTheWorkerWhoseResultMakesNoSense) {
  const auto links = FormGroup();
  Broadcast();
  StepResult result;
  result.epoch = cluster_->epoch();
  Say(links[2], result);
  EXPECT_EQ(noted().results.size(), 1u);
  EXPECT_TRUE(links[2]->open);
  cluster_->RejectStepResult(absl::InternalError("token 7 is none"), now_);
  EXPECT_FALSE(links[2]->open);
  EXPECT_THAT(noted().losses, ElementsAre("worker 3 on a is gone: token 7 is none"));
  // The group is lost already: there is no worker to blame.
  cluster_->RejectStepResult(absl::InternalError("token 7 is none"), now_);
  EXPECT_TRUE(links[0]->open);
}

TEST_F(ClusterTest, BelievesTheConfiguredFingerprintFirst) {
  ClusterOptions options = Options(1, {4});
  options.fingerprint = "f0";
  Make(options);
  const auto link = Attach(FakeHello("a"));
  SayLoaded(link);
  EXPECT_FALSE(link->open);
  EXPECT_THAT(std::string(link->close_reason.message()), HasSubstr("f1, the group has f0"));
}

// Ranks of a stage read the same norms.
TEST_F(ClusterTest, RefusesTheNewerOfTwoWorkersWhoseCopiesDiffer) {
  const auto links = AttachFour();
  for (int i = 0; i < 3; ++i) SayLoaded(links[i]);
  LoadedModel other = FakeLoaded(*links[3]->Last<LoadModel>());
  other.digests[DigestPart::kNorms] = {1, 2};
  Say(links[3], LoadResult{absl::OkStatus(), other});
  EXPECT_FALSE(links[3]->open);
  EXPECT_EQ(links[3]->close_reason.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(
      links[3]->close_reason.message(),
      "worker 4 on a has read other weights than worker 3 on a: their copies of norms differ, "
      "so their files do");
  const auto replacement = Attach(FakeHello("a"));
  SayLoaded(replacement);
  for (const auto& link : {links[0], links[1], links[2], replacement}) SayJoined(link);
  EXPECT_TRUE(cluster_->serving());
}

// Nobody has a copy of a rank's own slice; what its place had before is known.
TEST_F(ClusterTest, AReplacementMustHaveTheWeightsOfItsPlace) {
  auto links = FormGroup();
  const std::string digest = Snapshot().weights_digest;
  EXPECT_EQ(digest.size(), 32u);
  cluster_->OnGone(links[1].get(), "killed", now_);
  const auto changed = Attach(FakeHello("b"));
  ASSERT_EQ(RankOf(changed), 1);
  LoadedModel other = FakeLoaded(*changed->Last<LoadModel>());
  other.digests[DigestPart::kOther] = {0, 1};
  Say(changed, LoadResult{absl::OkStatus(), other});
  EXPECT_FALSE(changed->open);
  EXPECT_EQ(changed->close_reason.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(changed->close_reason.message()),
              HasSubstr("worker 5 on b has read other weights than rank 1 had before (other: "
                        "digest 00000000000000000000000000000001, was "));
  links[1] = Attach(FakeHello("b"));
  SayLoaded(links[1]);
  Pass(absl::Milliseconds(300), links);
  for (const auto& link : links) SayJoined(link);
  EXPECT_TRUE(cluster_->serving());
  EXPECT_EQ(Snapshot().weights_digest, digest);
}

// With all workers restarted the files may be new; the digest says so.
TEST_F(ClusterTest, NewWeightsAreServedOnceNobodyHasTheOld) {
  Make(Options(1, {4}));
  const auto serve = [this](const DigestSum& bytes) {
    const auto link = Attach(FakeHello("a"));
    LoadedModel loaded = FakeLoaded(*link->Last<LoadModel>());
    loaded.digests[DigestPart::kOther] = bytes;
    Say(link, LoadResult{absl::OkStatus(), loaded});
    Pass(absl::Milliseconds(400), {link});
    SayJoined(link);
    EXPECT_TRUE(cluster_->serving());
    const std::string digest = Snapshot().weights_digest;
    cluster_->OnGone(link.get(), "stopped", now_);
    return digest;
  };
  const std::string before = serve({1, 1});
  const std::string after = serve({1, 2});
  EXPECT_NE(before, after);
  EXPECT_EQ(serve({1, 1}), before);
}

TEST_F(ClusterTest, DropsAWorkerThatCannotLoadAndTakesASpare) {
  const auto links = AttachFour();
  const auto spare = Attach(FakeHello("a"));
  Say(links[2], LoadResult{absl::NotFoundError("no such file: /model"), {}});
  EXPECT_FALSE(links[2]->open);
  EXPECT_EQ(links[2]->close_reason.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Snapshot().group_detail, HasSubstr("no such file: /model"));
  EXPECT_EQ(RankOf(spare), 2);
}

TEST_F(ClusterTest, DropsAWorkerThatSaysWhatNobodyAskedFor) {
  const auto links = FormGroup();
  Say(links[0], LoadResult{absl::OkStatus(), FakeLoaded(*links[0]->Last<LoadModel>())});
  EXPECT_FALSE(links[0]->open);
  Say(links[1], FakeHello("a"));
  EXPECT_EQ(links[1]->close_reason.message(), "a worker says hello once");
}

TEST_F(ClusterTest, ReportsLoadProgress) {
  const auto links = AttachFour();
  Say(links[1], LoadProgress{30, 40});
  Say(links[2], LoadProgress{50, 0});
  Say(links[3], LoadProgress{50, 40});
  const ServerSnapshot snapshot = Snapshot();
  EXPECT_EQ(snapshot.workers[1].load_progress, 0.75);
  EXPECT_EQ(snapshot.workers[2].load_progress, 0);
  EXPECT_EQ(snapshot.workers[3].load_progress, 1);
}

TEST_F(ClusterTest, RepeatsAFailedJoinAfterAWhileWithANewEpochAndSecret) {
  const auto links = AttachFour();
  for (const auto& link : links) SayLoaded(link);
  const JoinGroup first = *links[0]->Last<JoinGroup>();
  SayJoined(links[0]);
  SayJoined(links[1], absl::UnavailableError("port is taken"));
  for (const auto& link : links) {
    ASSERT_NE(link->Last<LeaveGroup>(), nullptr);
    EXPECT_EQ(link->Last<LeaveGroup>()->epoch, first.epoch);
  }
  EXPECT_THAT(Snapshot().group_detail, HasSubstr("worker 2 on a cannot join: port is taken"));
  EXPECT_TRUE(noted().losses.empty());  // it never served
  cluster_->Tick(now_);
  EXPECT_EQ(links[0]->Count<JoinGroup>(), 1);
  Pass(absl::Milliseconds(300), links);
  EXPECT_EQ(links[0]->Count<JoinGroup>(), 2);
  EXPECT_GT(links[0]->Last<JoinGroup>()->epoch, first.epoch);
  EXPECT_NE(links[0]->Last<JoinGroup>()->secret, first.secret);
  for (const auto& link : links) SayJoined(link);
  EXPECT_TRUE(cluster_->serving());
}

TEST_F(ClusterTest, RepeatsJoinsThatFailAgainEverMoreSlowly) {
  auto links = AttachFour();
  for (const auto& link : links) SayLoaded(link);
  const auto fail_for = [&](absl::Duration duration) {
    const int n_before = links[0]->Count<JoinGroup>();
    const SteadyTime end = now_ + duration;
    while (now_ < end) {
      Pass(absl::Milliseconds(100), links);
      SayJoined(links[1], absl::ResourceExhaustedError("memory is short"));
    }
    return links[0]->Count<JoinGroup>() - n_before;
  };
  // After 0.3, 0.6, 1.2, 2.4 s, then every 5 s.
  EXPECT_THAT(fail_for(absl::Seconds(6)), testing::AllOf(testing::Ge(4), testing::Le(6)));
  EXPECT_THAT(fail_for(absl::Seconds(60)), testing::AllOf(testing::Ge(10), testing::Le(12)));
  // Another worker in its place: at once.
  cluster_->OnGone(links[1].get(), "replaced", now_);
  links[1] = Attach(FakeHello("a"));
  SayLoaded(links[1]);
  const int n_before = links[0]->Count<JoinGroup>();
  Pass(absl::Milliseconds(400), links);
  EXPECT_EQ(links[0]->Count<JoinGroup>(), n_before + 1);
  for (const auto& link : links) SayJoined(link);
  EXPECT_TRUE(cluster_->serving());
}

TEST_F(ClusterTest, EndsAJoinThatTakesTooLong) {
  const auto links = AttachFour();
  for (const auto& link : links) SayLoaded(link);
  for (int i = 0; i < 3; ++i) SayJoined(links[i]);
  Pass(absl::Milliseconds(10100), links);
  EXPECT_THAT(Snapshot().group_detail, HasSubstr("joining took longer than 10000 ms"));
  EXPECT_EQ(links[3]->Count<LeaveGroup>(), 1);
  Pass(absl::Milliseconds(300), links);
  EXPECT_EQ(links[3]->Count<JoinGroup>(), 2);
}

TEST_F(ClusterTest, IgnoresAnAnswerToAnEarlierJoin) {
  const auto links = AttachFour();
  for (const auto& link : links) SayLoaded(link);
  const int64_t first = cluster_->epoch();
  SayJoined(links[1], absl::UnavailableError("busy"));
  Pass(absl::Milliseconds(300), links);
  ASSERT_GT(cluster_->epoch(), first);
  Say(links[0], JoinResult{first, absl::UnavailableError("late")});
  EXPECT_EQ(Snapshot().group_state, GroupState::kJoining);
}

TEST_F(ClusterTest, SendsHeartbeats) {
  const auto links = AttachFour();
  Pass(absl::Seconds(1), links);
  // Ticks are 100 ms apart, so every third one sends: at 100, 400, 700 and 1000 ms.
  EXPECT_EQ(links[0]->Count<Heartbeat>(), 4);
}

TEST_F(ClusterTest, LosesAWorkerWithoutHeartbeats) {
  const auto links = FormGroup();
  const std::vector<std::shared_ptr<FakeLink>> others(links.begin() + 1, links.end());
  Pass(absl::Milliseconds(5000), others);
  EXPECT_TRUE(cluster_->serving());
  Pass(absl::Milliseconds(100), others);
  EXPECT_FALSE(cluster_->serving());
  EXPECT_TRUE(cluster_->all_heard());
  EXPECT_EQ(links[0]->close_reason.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(noted().losses, ElementsAre("worker 1 on a is gone: no heartbeat for 5100 ms"));
  for (const auto& link : others) EXPECT_EQ(link->Count<LeaveGroup>(), 1);
}

TEST_F(ClusterTest, LosesAllSilentWorkersAtOnce) {
  const auto links = FormGroup();
  Pass(absl::Milliseconds(5100), {});
  for (const auto& link : links) EXPECT_FALSE(link->open);
  EXPECT_EQ(noted().losses.size(), 1u);
  EXPECT_TRUE(Snapshot().workers.empty());
}

TEST_F(ClusterTest, SuspectsASilentWorkerUntilItIsHeard) {
  const auto links = FormGroup();
  const int64_t epoch = cluster_->epoch();
  const std::vector<std::shared_ptr<FakeLink>> others(links.begin() + 1, links.end());
  Pass(absl::Milliseconds(1500), others);
  EXPECT_TRUE(cluster_->all_heard());
  Pass(absl::Milliseconds(100), others);
  EXPECT_FALSE(cluster_->all_heard());
  EXPECT_TRUE(cluster_->serving());
  EXPECT_EQ(Snapshot().group_state, GroupState::kSuspect);
  EXPECT_EQ(Snapshot().group_detail, "worker 1 on a has been silent for 1600 ms");
  EXPECT_EQ(Snapshot().workers[0].state, WorkerState::kSuspect);
  EXPECT_EQ(Snapshot().workers[1].state, WorkerState::kServing);
  Pass(absl::Milliseconds(3400), others);
  Say(links[0], Heartbeat{});
  EXPECT_TRUE(cluster_->all_heard());
  EXPECT_EQ(Snapshot().group_state, GroupState::kServing);
  EXPECT_EQ(Snapshot().group_detail, "");
  Pass(absl::Seconds(10), links);
  EXPECT_EQ(cluster_->epoch(), epoch);
  EXPECT_TRUE(noted().losses.empty());
  for (const auto& link : links) EXPECT_TRUE(link->open);
}

TEST_F(ClusterTest, ASilentSpareIsNoReasonToRefuseRequests) {
  const auto links = FormGroup();
  const auto spare = Attach(FakeHello("b"));
  Pass(absl::Seconds(2), links);
  EXPECT_EQ(Snapshot().workers[4].state, WorkerState::kSuspect);
  EXPECT_TRUE(cluster_->all_heard());
  Pass(absl::Milliseconds(3100), links);
  EXPECT_FALSE(spare->open);
  EXPECT_TRUE(cluster_->serving());
}

TEST_F(ClusterTest, TimeInWhichItWasStoppedItselfSaysNothingOfItsWorkers) {
  const auto links = FormGroup();
  Broadcast();
  for (int i = 0; i < 3; ++i) {
    now_ += absl::Hours(1);
    cluster_->Tick(now_);
  }
  EXPECT_TRUE(cluster_->all_heard());
  Pass(absl::Milliseconds(100), links);
  EXPECT_TRUE(cluster_->serving());
}

TEST_F(ClusterTest, AStepDoesNotAgeWhileARankIsSuspect) {
  ClusterOptions options = Options(2, {3, 1});
  options.heartbeat_timeout = absl::Seconds(30);
  Make(options);
  const auto links = FormGroup();
  const std::vector<std::shared_ptr<FakeLink>> others(links.begin() + 1, links.end());
  Broadcast();
  Pass(absl::Seconds(20), others, absl::Milliseconds(100));
  EXPECT_TRUE(cluster_->serving());
  Pass(absl::Milliseconds(5300), links, absl::Milliseconds(100));
  EXPECT_TRUE(cluster_->serving());
  Pass(absl::Milliseconds(300), links, absl::Milliseconds(100));
  EXPECT_THAT(noted().losses, ElementsAre("a step took longer than 7000 ms"));
}

TEST_F(ClusterTest, ReplacesALostWorkerByASpareAndFormsTheNextEpoch) {
  const auto links = FormGroup();
  const int64_t first = cluster_->epoch();
  const auto spare = Attach(FakeHello("b"));
  cluster_->OnGone(links[1].get(), "connection reset", now_);
  EXPECT_THAT(noted().losses, ElementsAre("worker 2 on a is gone: connection reset"));
  EXPECT_EQ(RankOf(spare), 1);
  SayLoaded(spare);
  const std::vector<std::shared_ptr<FakeLink>> alive = {links[0], spare, links[2], links[3]};
  Pass(absl::Milliseconds(300), alive);
  for (const auto& link : alive) SayJoined(link);
  EXPECT_TRUE(cluster_->serving());
  EXPECT_GT(cluster_->epoch(), first);
  // Survivors kept their weights.
  EXPECT_EQ(links[0]->Count<LoadModel>(), 1);
}

TEST_F(ClusterTest, WaitsForAReplacement) {
  const auto links = FormGroup();
  cluster_->OnGone(links[3].get(), "killed", now_);
  EXPECT_EQ(Snapshot().group_state, GroupState::kWaitingForWorkers);
  EXPECT_THAT(Snapshot().group_detail,
              HasSubstr("3 of 4 workers attached, 3 loaded; worker 4 on a is gone: killed"));
  Pass(absl::Seconds(1), links);
  EXPECT_EQ(links[0]->Count<JoinGroup>(), 1);
}

TEST_F(ClusterTest, SendsPlansToEveryRankAndTellsOfResults) {
  const auto links = FormGroup();
  Broadcast();
  for (const auto& link : links) EXPECT_EQ(link->Count<StepPlan>(), 1);
  StepResult result;
  result.epoch = cluster_->epoch();
  result.stage_us = {17, 4};
  Say(links[2], result);
  ASSERT_EQ(noted().results.size(), 1u);
  EXPECT_EQ(noted().results[0].stage_us, result.stage_us);
}

TEST_F(ClusterTest, DropsResultsAndFailuresOfEarlierEpochs) {
  const auto links = FormGroup();
  StepResult result;
  result.epoch = cluster_->epoch() - 1;
  Say(links[2], result);
  Say(links[2], StepFailed{cluster_->epoch() - 1, absl::InternalError("old")});
  EXPECT_TRUE(noted().results.empty());
  EXPECT_TRUE(cluster_->serving());
  Say(links[0], StepFailed{cluster_->epoch(), absl::InternalError("test")});
  result.epoch = cluster_->epoch();
  Say(links[2], result);
  EXPECT_TRUE(noted().results.empty());
}

TEST_F(ClusterTest, EndsTheEpochWhenAStepFails) {
  const auto links = FormGroup();
  Say(links[3], StepFailed{cluster_->epoch(), absl::InternalError("peer is gone")});
  EXPECT_THAT(noted().losses, ElementsAre("worker 4 on a: peer is gone"));
  // A second report of the same trouble changes nothing.
  Say(links[2], StepFailed{cluster_->epoch(), absl::InternalError("peer is gone")});
  EXPECT_EQ(noted().losses.size(), 1u);
  Pass(absl::Milliseconds(300), links);
  EXPECT_EQ(links[0]->Count<JoinGroup>(), 2);
}

TEST_F(ClusterTest, EndsTheEpochWhenAStepHangs) {
  ClusterOptions options = Options(2, {3, 1});
  options.step_timeout = absl::Seconds(2);
  Make(options);
  const auto links = FormGroup();
  Pass(absl::Seconds(5), links);  // nothing is in flight
  EXPECT_TRUE(cluster_->serving());
  Broadcast();
  Broadcast();
  Pass(absl::Milliseconds(1900), links);
  StepResult result;
  result.epoch = cluster_->epoch();
  Say(links[2], result);
  Pass(absl::Seconds(2), links);  // the second one began when the first ended
  EXPECT_TRUE(cluster_->serving());
  Pass(absl::Milliseconds(100), links);
  EXPECT_THAT(noted().losses, ElementsAre("a step took longer than 2000 ms"));
}

TEST_F(ClusterTest, AStepHasHungSoonerWhereItWasPredictedToBeShort) {
  const auto links = FormGroup();
  Broadcast();
  // 5 s and 20 times the prediction.
  Pass(absl::Milliseconds(6900), links, absl::Milliseconds(100));
  EXPECT_TRUE(cluster_->serving());
  Pass(absl::Milliseconds(200), links, absl::Milliseconds(100));
  EXPECT_THAT(noted().losses, ElementsAre("a step took longer than 7000 ms"));
}

TEST_F(ClusterTest, RefusesAWorkerThatExchangesDataInAnotherWay) {
  Hello hello = FakeHello("a");
  hello.device = "cuda:0";
  hello.collectives = "none";
  EXPECT_THAT(Attach(hello)->close_reason.message(), HasSubstr("worker on a (cuda:0) has no NCCL"));
  hello.collectives = "NCCL 2.28.9";
  const auto first = Attach(hello);
  EXPECT_TRUE(first->open);
  hello.host = "b";
  hello.collectives = "NCCL 2.27.3";
  const auto other = Attach(hello);
  EXPECT_EQ(other->close_reason.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(other->close_reason.message(),
              HasSubstr("worker on b (cuda:0) exchanges data by NCCL 2.27.3, worker 1 on a by "
                        "NCCL 2.28.9"));
  EXPECT_FALSE(Attach(FakeHello("c"))->open);
  hello.collectives = "NCCL 2.28.9";
  EXPECT_TRUE(Attach(hello)->open);
}

TEST_F(ClusterTest, AModelOfOneRankAsksForNoCollectives) {
  Make(Options(1, {4}));
  Hello hello = FakeHello("a");
  hello.collectives = "none";
  EXPECT_TRUE(Attach(hello)->open);
}

TEST_F(ClusterTest, FormsAGroupOfWorkersThatAnotherCoordinatorLeft) {
  // They come in another order, with their weights, and take their places again.
  std::vector<std::shared_ptr<FakeLink>> links;
  for (const int32_t rank : {2, 0, 3, 1}) {
    Hello hello = FakeHello("a");
    LoadModel load = Options(2, {3, 1}).load;
    load.stage = rank / 2;
    load.tensor_rank = rank % 2;
    hello.loaded = FakeLoaded(load);
    links.push_back(Attach(hello));
    EXPECT_EQ(RankOf(links.back()), rank);
  }
  for (const auto& link : links) SayLoaded(link);
  for (const auto& link : links) SayJoined(link);
  EXPECT_TRUE(cluster_->serving());
}

TEST_F(ClusterTest, SaysWhenTheKvCacheIsTooSmallForOneSequence) {
  ClusterOptions options = Options(1, {4});
  options.kv_cache_bytes_max = 64 * 15;  // 15 blocks of 4 tokens
  Make(options);
  const auto link = Attach(FakeHello("a"));
  SayLoaded(link);
  EXPECT_EQ(link->Last<JoinGroup>(), nullptr);
  EXPECT_THAT(Snapshot().group_detail,
              HasSubstr("the KV cache holds 60 tokens, one sequence of 64 does not fit: lower "
                        "--max-model-len or raise --kv-cache-memory-bytes"));
  EXPECT_EQ(Snapshot().group_state, GroupState::kLoading);
}

TEST_F(ClusterTest, TakesTheBlocksThatFitTheSmallestRank) {
  const auto links = AttachFour();
  for (int i = 0; i < 4; ++i) {
    LoadedModel loaded = FakeLoaded(*links[i]->Last<LoadModel>());
    loaded.max_blocks = 30 - i;
    Say(links[i], LoadResult{absl::OkStatus(), loaded});
  }
  EXPECT_EQ(links[0]->Last<JoinGroup>()->limits.n_blocks, 27);
}

// Of 1 KiB each; 8 sequences of 16 blocks would fill 128.
TEST_F(ClusterTest, TakesAllTheMemoryThatWorkersHaveSetAsideUnlessItWasToldASize) {
  for (const bool given : {false, true}) {
    ClusterOptions options = Options(1, {4});
    options.kv_cache_bytes_given = given;
    options.kv_cache_bytes_max = 40 << 10;
    Make(options);
    const auto link = Attach(FakeHello("a"));
    LoadedModel loaded = FakeLoaded(*link->Last<LoadModel>());
    loaded.kv_block_bytes = 1 << 10;
    loaded.max_blocks = 45;
    loaded.kv_memory_is_reserved = true;
    Say(link, LoadResult{absl::OkStatus(), loaded});
    EXPECT_EQ(link->Last<JoinGroup>()->limits.n_blocks, given ? 40 : 45);
  }
}

TEST_F(ClusterTest, DescribesItsWorkers) {
  FormGroup();
  const ServerSnapshot snapshot = Snapshot();
  EXPECT_EQ(snapshot.group_state, GroupState::kServing);
  EXPECT_EQ(snapshot.epoch, cluster_->epoch());
  EXPECT_EQ(snapshot.group_detail, "");
  ASSERT_EQ(snapshot.workers.size(), 4u);
  const WorkerSnapshot& worker = snapshot.workers[3];
  EXPECT_EQ(worker.stage, 1);
  EXPECT_EQ(worker.tensor_rank, 1);
  EXPECT_EQ(worker.layer_begin, 3);
  EXPECT_EQ(worker.layer_end, 4);
  EXPECT_EQ(worker.host, "a");
  EXPECT_EQ(worker.pid, 7);
  EXPECT_EQ(worker.state, WorkerState::kServing);
  EXPECT_EQ(worker.weight_bytes, 1000);
  EXPECT_EQ(worker.kv_cache_bytes, 64 * 40);
  EXPECT_EQ(worker.last_heartbeat, now_);
}

TEST_F(ClusterTest, ClosesEveryLink) {
  const auto links = FormGroup();
  cluster_->CloseAll("the coordinator is shutting down");
  for (const auto& link : links) {
    EXPECT_EQ(link->close_reason.code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_FALSE(cluster_->serving());
}

TEST_F(ClusterTest, IgnoresLinksItDoesNotKnow) {
  FormGroup();
  FakeLink stranger;
  cluster_->OnMessage(&stranger, StepFailed{cluster_->epoch(), absl::InternalError("x")}, now_);
  cluster_->OnGone(&stranger, "x", now_);
  EXPECT_TRUE(cluster_->serving());
}

using ClusterDeathTest = ClusterTest;

TEST_F(ClusterDeathTest, SendsNoPlanOfAnotherEpoch) {
  FormGroup();
  EXPECT_DEATH(Broadcast(cluster_->epoch() - 1), "epoch");
}

}  // namespace
}  // namespace bora
