// The worker port: strangers are few, brief and small, and reach nobody; a worker that proves
// itself is heard, up to what the coordinator can listen to.
#include "coordinator/worker_port/worker_server.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "bora/inference/v1/model_service.grpc.pb.h"
#include "coordinator/worker_port/worker_inbox.h"
#include "model/protocol/worker_auth.h"

namespace bora {
namespace {

namespace pb = worker::v1alpha1;
using ::testing::HasSubstr;

constexpr char kSecret[] = "a secret of some length";
constexpr absl::Duration kPatience = absl::Seconds(30);

// Notes what reaches it. Thread-safe.
class NotingEvents final : public WorkerEvents {
 public:
  void OnWorkerAttached(std::shared_ptr<WorkerStream> link, Hello hello) override {
    absl::MutexLock lock(&mutex_);
    hosts_.push_back(hello.host);
    link_ = std::move(link);
  }
  void OnWorkerMessage(std::shared_ptr<WorkerStream>, WorkerMessage,
                       std::shared_ptr<void> receipt) override {
    absl::MutexLock lock(&mutex_);
    receipts_.push_back(std::move(receipt));
  }
  void OnWorkerGone(std::shared_ptr<WorkerStream>, std::string reason) override {
    absl::MutexLock lock(&mutex_);
    reasons_.push_back(std::move(reason));
  }

  std::vector<std::string> hosts() const {
    absl::MutexLock lock(&mutex_);
    return hosts_;
  }
  std::string AwaitGone() {
    absl::MutexLock lock(&mutex_);
    const auto is_gone = [this] { return !reasons_.empty(); };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&is_gone), kPatience));
    return reasons_.empty() ? "" : reasons_.back();
  }
  // Of the last worker that has attached; null until then.
  std::shared_ptr<WorkerStream> AwaitLink() {
    absl::MutexLock lock(&mutex_);
    const auto is_there = [this] { return link_ != nullptr; };
    mutex_.AwaitWithTimeout(absl::Condition(&is_there), kPatience);
    return link_;
  }
  void ForgetLink() {
    absl::MutexLock lock(&mutex_);
    link_ = nullptr;
  }
  size_t AwaitMessages(size_t n) {
    absl::MutexLock lock(&mutex_);
    const auto there = [this, n] { return receipts_.size() >= n; };
    mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience);
    return receipts_.size();
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::string> hosts_;
  std::vector<std::string> reasons_;
  std::vector<std::shared_ptr<void>> receipts_;  // kept: nothing is ever dealt with
  std::shared_ptr<WorkerStream> link_;
};

// A worker's connection and stream.
class Peer {
 public:
  // With the credential's header, if there is one.
  Peer(int port, const std::string& credential)
      : stub_(pb::WorkerService::NewStub(grpc::CreateCustomChannel(
            "127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials(), Arguments()))),
        stream_(stub_->Attach(WithGate(credential, &context_))) {}
  ~Peer() {
    context_.TryCancel();
    if (!finished_) stream_->Finish();
  }

  static grpc::ChannelArguments Arguments() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return arguments;
  }

  static grpc::ClientContext* WithGate(const std::string& credential,
                                       grpc::ClientContext* context) {
    if (!credential.empty()) context->AddMetadata(kGateHeader, WorkerAuth(credential).Gate());
    return context;
  }

  bool Say(const pb::WorkerMessage& message) { return stream_->Write(message); }
  bool SayHeartbeat() {
    pb::WorkerMessage message;
    message.mutable_heartbeat();
    return Say(message);
  }
  bool Hear(pb::CoordinatorMessage* message) { return stream_->Read(message); }
  // Whether the coordinator believes the worker and the other way round.
  bool Authenticate(const std::string& credential) {
    WorkerAuth auth(credential);
    pb::CoordinatorMessage heard;
    if (!Hear(&heard)) return false;
    pb::WorkerMessage message;
    *message.mutable_auth_response() = *auth.Respond(heard.auth_challenge());
    return Say(message) && Hear(&heard) && auth.Check(heard.auth_confirmation()).ok();
  }
  bool SayHello(const std::string& host) {
    pb::WorkerMessage message;
    message.mutable_hello()->set_host(host);
    return Say(message);
  }
  // Reads to the end.
  grpc::Status End() {
    pb::CoordinatorMessage heard;
    while (Hear(&heard)) {
    }
    finished_ = true;
    return stream_->Finish();
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<pb::WorkerService::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<pb::WorkerMessage, pb::CoordinatorMessage>> stream_;
  bool finished_ = false;
};

class WorkerServerTest : public testing::Test {
 protected:
  WorkerServerTest() {
    WorkerServiceOptions options;
    options.credential = kSecret;
    options.limits = {.max_sampled = 8, .max_prompt_logprobs = 32, .n_stages = 2};
    auto server = WorkerServer::Start("127.0.0.1:0", options, &events_);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::unique_ptr<Peer> Dial(const std::string& gate = kSecret) {
    return std::make_unique<Peer>(server_->port(), gate);
  }
  void ExpectEnd(Peer* peer, grpc::StatusCode code, const std::string& text) {
    const grpc::Status end = peer->End();
    EXPECT_EQ(end.error_code(), code) << end.error_message();
    EXPECT_THAT(end.error_message(), HasSubstr(text));
  }

  NotingEvents events_;
  std::unique_ptr<WorkerServer> server_;
};

TEST_F(WorkerServerTest, AttachesAWorkerThatProvesItself) {
  const auto peer = Dial();
  ASSERT_TRUE(peer->Authenticate(kSecret));
  EXPECT_TRUE(peer->SayHello("a"));
  EXPECT_TRUE(peer->SayHeartbeat());
  EXPECT_EQ(events_.AwaitMessages(1), 1u);
  EXPECT_EQ(events_.hosts(), std::vector<std::string>{"a"});
}

TEST_F(WorkerServerTest, TellsTheEngineOfNobodyWhoDoesNot) {
  for (const std::string gate : {"another secret, as long", ""}) {
    const auto stranger = Dial(gate);
    ExpectEnd(stranger.get(), grpc::StatusCode::UNAUTHENTICATED,
              gate.empty() ? "worker credential is absent" : "worker credential is wrong");
  }
  const auto guesser = Dial();
  EXPECT_FALSE(guesser->Authenticate("another secret, as long"));
  ExpectEnd(guesser.get(), grpc::StatusCode::UNAUTHENTICATED, "worker credential is wrong");
  const auto keyless = Dial();
  EXPECT_FALSE(keyless->Authenticate(""));
  ExpectEnd(keyless.get(), grpc::StatusCode::UNAUTHENTICATED, "worker credential is absent");
  const auto rude = Dial();
  EXPECT_TRUE(rude->SayHello("rude"));
  ExpectEnd(rude.get(), grpc::StatusCode::UNAUTHENTICATED, "answer the challenge first");
  EXPECT_TRUE(events_.hosts().empty());
}

TEST_F(WorkerServerTest, RefusesLargeFirstMessagesUnparsed) {
  for (const bool authenticated : {false, true}) {
    const auto peer = Dial();
    if (authenticated) {
      ASSERT_TRUE(peer->Authenticate(kSecret));
    }
    pb::WorkerMessage message;
    message.mutable_hello()->set_host(std::string(65 << 10, 'h'));
    peer->Say(message);
    ExpectEnd(peer.get(), grpc::StatusCode::INVALID_ARGUMENT, "at most 65536 bytes");
  }
  // Above what any message of this group can have.
  const auto peer = Dial();
  pb::WorkerMessage message;
  message.mutable_hello()->set_host(std::string(1 << 20, 'h'));
  peer->Say(message);
  ExpectEnd(peer.get(), grpc::StatusCode::RESOURCE_EXHAUSTED, "larger than max");
  EXPECT_TRUE(events_.hosts().empty());
}

TEST_F(WorkerServerTest, LetsNoStrangerKeepAWorkerOut) {
  std::vector<std::unique_ptr<Peer>> silent;
  pb::CoordinatorMessage heard;
  for (int i = 0; i < 64; ++i) {
    silent.push_back(Dial());
    ASSERT_TRUE(silent.back()->Hear(&heard));  // it is there
  }
  const auto peer = Dial();
  ASSERT_TRUE(peer->Authenticate(kSecret));
  EXPECT_TRUE(peer->SayHello("a"));
  EXPECT_TRUE(peer->SayHeartbeat());
  EXPECT_EQ(events_.AwaitMessages(1), 1u);
  ExpectEnd(silent[0].get(), grpc::StatusCode::RESOURCE_EXHAUSTED, "have not authenticated");
}

TEST_F(WorkerServerTest, ClosesAWorkerThatFloodsAndNoOther) {
  const auto good = Dial();
  ASSERT_TRUE(good->Authenticate(kSecret) && good->SayHello("good") && good->SayHeartbeat());
  events_.AwaitMessages(1);
  const auto peer = Dial();
  ASSERT_TRUE(peer->Authenticate(kSecret) && peer->SayHello("flood"));
  for (int i = 0; i < 300 && peer->SayHeartbeat(); ++i) {
  }
  EXPECT_THAT(events_.AwaitGone(), HasSubstr("faster than it is listened to"));
  ExpectEnd(peer.get(), grpc::StatusCode::RESOURCE_EXHAUSTED, "faster than it is listened to");
  const size_t n = events_.AwaitMessages(1);
  EXPECT_LE(n, 1u + 256u);
  EXPECT_TRUE(good->SayHeartbeat());
  EXPECT_EQ(events_.AwaitMessages(n + 1), n + 1);
}

TEST_F(WorkerServerTest, ClosesAWorkerWhoseMessagesMakeNoSense) {
  const auto peer = Dial();
  ASSERT_TRUE(peer->Authenticate(kSecret) && peer->SayHello("a"));
  pb::WorkerMessage message;
  for (int i = 0; i < 9; ++i) {
    pb::SampledTokens* sampled = message.mutable_step_result()->mutable_sampled();
    sampled->add_slot(i);
    sampled->add_position(1);
    sampled->add_token_id_plus_1(1);
    sampled->add_logprob(0);
    sampled->add_rank(1);
    sampled->add_non_finite(false);
    sampled->add_top_count(0);
  }
  peer->Say(message);
  ExpectEnd(peer.get(), grpc::StatusCode::INVALID_ARGUMENT, "9 is not in [0, 8]");
  EXPECT_THAT(events_.AwaitGone(), HasSubstr("9 is not in [0, 8]"));
}

// The stream is closed while gRPC is still at a write. Nothing may stay of it: a coordinator that
// runs for months sees many such workers.
TEST_F(WorkerServerTest, ClosesAWorkerThatDoesNotReadAndForgetsIt) {
  const auto peer = Dial();
  ASSERT_TRUE(peer->Authenticate(kSecret) && peer->SayHello("deaf"));
  std::shared_ptr<WorkerStream> link = events_.AwaitLink();
  ASSERT_NE(link, nullptr);
  for (int i = 0; i < 8192; ++i)
    link->Send(LeaveGroup{.epoch = 1, .reason = std::string(8000, 'r')});
  EXPECT_THAT(events_.AwaitGone(), HasSubstr("the worker does not read: 256 messages wait"));
  const std::weak_ptr<WorkerStream> ghost = link;
  link = nullptr;
  events_.ForgetLink();
  const SteadyTime deadline = SteadyNow() + kPatience;
  while (!ghost.expired() && SteadyNow() < deadline) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_TRUE(ghost.expired());
}

TEST_F(WorkerServerTest, TellsAClientThatThisIsTheWorkerPort) {
  const auto stub = inference::v1::ModelService::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string(server_->port()), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  inference::v1::ListModelsResponse response;
  const grpc::Status status = stub->ListModels(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("clients dial its client port, --listen"));
}

TEST(StrangersTest, DisplacesTheOldestOfTheHostThatHasMost) {
  Strangers<int> strangers(3);
  EXPECT_FALSE(strangers.Add(1, "quiet").has_value());
  EXPECT_FALSE(strangers.Add(2, "busy").has_value());
  EXPECT_FALSE(strangers.Add(3, "busy").has_value());
  EXPECT_EQ(strangers.Add(4, "busy"), 2);
  EXPECT_EQ(strangers.Add(5, "other"), 3);
  // One each: the oldest.
  EXPECT_EQ(strangers.Add(6, "another"), 1);
  EXPECT_EQ(strangers.size(), 3u);
  EXPECT_TRUE(strangers.Remove(5));
  EXPECT_FALSE(strangers.Remove(5));
  EXPECT_FALSE(strangers.Add(7, "busy").has_value());
  EXPECT_EQ(strangers.Add(8, "quiet"), 4);
}

TEST(WorkerInboxTest, CountsWhatWaits) {
  const auto inbox = std::make_shared<WorkerInbox>(2, 100);
  std::shared_ptr<void> first = inbox->Take(60);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(inbox->Take(41), nullptr);
  std::shared_ptr<void> second = inbox->Take(40);
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(inbox->Take(0), nullptr);
  first = nullptr;
  EXPECT_NE(inbox->Take(60), nullptr);
}

}  // namespace
}  // namespace bora
