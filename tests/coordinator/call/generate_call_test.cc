// A call over a transport without a wire: the rules of streams (docs/api.md), back-pressure, cuts
// and cancellations, one by one.
#include "coordinator/call/generate_call.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/utf8.h"
#include "coordinator/api/request_validator.h"
#include "coordinator/call/access_log.h"
#include "coordinator/call/task_pool.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/call/test_transport.h"
#include "tests/coordinator/public_api/fake_engine.h"
#include "tests/coordinator/public_api/test_request.h"
#include "tests/coordinator/public_api/test_vocabulary.h"

namespace bora {
namespace {

namespace v1 = inference::v1;
using Kind = Operation::Kind;
using testing::HasSubstr;

v1::GenerateStreamRequest Request(int64_t seed = 1, int32_t max_tokens = 50) {
  v1::GenerateStreamRequest request;
  request.mutable_prompt()->set_text("ab");
  request.mutable_sampling()->set_seed(seed);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

// The same fields have the same numbers.
v1::GenerateRequest AsWhole(const v1::GenerateStreamRequest& request) {
  v1::GenerateRequest whole;
  EXPECT_TRUE(whole.ParseFromString(request.SerializeAsString()));
  return whole;
}

// What calls share, with a fake engine.
struct Services {
  explicit Services(FakeEngine::Mode mode, absl::Duration stall_limit = absl::Seconds(30),
                    AccessLogMode log_mode = AccessLogMode::kOff)
      : tokenizer(MakeTestTokenizer()),
        engine(mode, tokenizer),
        validator(model, tokenizer),
        pump(stall_limit),
        tasks(1, 1, 1),
        access_log({log_mode, 1}) {
    services.engine = &engine;
    services.validator = &validator;
    services.pump = &pump;
    services.tasks = &tasks;
    services.n_live_calls = &n_live_calls;
    services.access_log = &access_log;
    services.slow_reader_timeout = stall_limit;
  }
  ~Services() { EXPECT_EQ(n_live_calls, 0); }

  // A call that has begun. It must see OnDone before this object goes.
  template <typename Transport>
  std::shared_ptr<GenerateCall> Begin(Transport* transport,
                                      SteadyTime deadline = SteadyTime::InfiniteFuture()) {
    CallRecord record;
    record.method = "Test";
    record.request_id = "from-transport";
    record.arrival = SteadyNow();
    record.deadline = deadline;
    auto call = std::make_shared<GenerateCall>(std::move(record), transport, services);
    call->Start();
    return call;
  }

  const ModelFacts model = TestModel();
  const Tokenizer tokenizer;
  FakeEngine engine;
  const RequestValidator validator;
  CallPump pump;
  TaskPool tasks;
  AccessLog access_log;
  std::atomic<int64_t> n_live_calls{0};
  CallServices services;
};

// One stream with an engine that a test moves by hand.
class GenerateCallTest : public testing::Test {
 protected:
  GenerateCallTest() : services_(FakeEngine::Mode::kByHand), call_(services_.Begin(&stream_)) {}
  ~GenerateCallTest() override { call_->OnDone(); }

  std::optional<bool> Emit(OutputDelta delta) { return services_.engine.Emit(1, std::move(delta)); }
  // Reads to the end, the last operation included.
  std::vector<Operation> ReadAll() {
    std::vector<Operation> operations;
    do {
      operations.push_back(stream_.Next());
      if (operations.back().kind == Kind::kSend) call_->OnSendDone(true);
    } while (operations.back().kind == Kind::kSend);
    return operations;
  }
  // Has a first message sent, which nobody reads.
  void BeginToWrite() {
    call_->Admit(Request());
    Emit(MakeDelta({5}, "x"));
    ASSERT_EQ(stream_.Next().kind, Kind::kSend);
  }

  TestStream stream_;
  Services services_;
  const std::shared_ptr<GenerateCall> call_;
};

// Text, tokens and log-probabilities of all messages of a stream, as a whole answer.
v1::GenerateResponse Concatenate(const std::vector<Operation>& operations) {
  v1::GenerateResponse whole;
  for (const Operation& operation : operations) {
    const v1::GenerateStreamResponse& message = operation.message;
    whole.mutable_text()->append(message.text_delta());
    whole.mutable_token_ids()->MergeFrom(message.token_ids());
    whole.mutable_logprobs()->MergeFrom(message.logprobs());
    whole.mutable_prompt_logprobs()->MergeFrom(message.prompt_logprobs());
    if (message.has_finish()) *whole.mutable_finish() = message.finish();
    if (message.has_usage()) *whole.mutable_usage() = message.usage();
    if (!message.request_id().empty()) whole.set_request_id(message.request_id());
    if (!message.model().empty()) whole.set_model(message.model());
  }
  return whole;
}

TEST_F(GenerateCallTest, RuleATheFirstMessageCarriesAToken) {
  v1::GenerateStreamRequest request = Request();
  request.mutable_output()->set_echo(true);
  request.mutable_output()->set_prompt_logprobs(1);
  call_->Admit(request);
  OutputDelta prompt;
  prompt.prompt_logprobs = MakeDelta({5, 6}, "").tokens;
  EXPECT_EQ(Emit(std::move(prompt)), true);
  call_->Pump();
  EXPECT_EQ(stream_.n_waiting(), 0u);
  Emit(MakeDelta({5}, "x"));
  const Operation first = stream_.Next();
  EXPECT_EQ(first.kind, Kind::kSend);
  EXPECT_EQ(first.message.token_count(), 1);
  EXPECT_EQ(first.message.request_id(), "from-transport");
  EXPECT_EQ(first.message.text_delta(), "abx");
  EXPECT_EQ(first.message.prompt_logprobs_size(), 3);
}

TEST_F(GenerateCallTest, AnErrorBeforeTheFirstMessageIsAllThatTheClientGets) {
  call_->Admit(Request());
  services_.engine.Fail(1, MakeError(absl::StatusCode::kUnavailable, reason::kWorkerLost));
  const Operation end = stream_.Next();
  EXPECT_EQ(end.kind, Kind::kFinishWithError);
  EXPECT_EQ(end.error.reason, reason::kWorkerLost);
  EXPECT_EQ(stream_.request_id(), "from-transport");
}

TEST_F(GenerateCallTest, ARequestThatIsNotValidNeverReachesTheEngine) {
  v1::GenerateStreamRequest request = Request();
  request.set_request_id("of-its-own");
  request.mutable_sampling()->set_top_p(2);
  call_->Admit(request);
  const Operation end = stream_.Next();
  EXPECT_EQ(end.kind, Kind::kFinishWithError);
  EXPECT_EQ(end.error.reason, reason::kInvalidField);
  EXPECT_EQ(stream_.request_id(), "of-its-own");
  EXPECT_EQ(services_.engine.n_open(), 0);
}

TEST_F(GenerateCallTest, ARefusalOfTheEngineEndsTheCall) {
  services_.engine.Refuse(MakeError(absl::StatusCode::kUnavailable, reason::kQueueFull));
  call_->Admit(Request());
  EXPECT_EQ(stream_.Next().error.reason, reason::kQueueFull);
}

TEST(GenerateCallRulesTest, RuleBMessagesConcatenateToTheWholeAnswer) {
  Services services(FakeEngine::Mode::kOnItsOwn);
  for (int64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    v1::GenerateStreamRequest request = Request(seed, 1 + static_cast<int32_t>(seed) * 7);
    request.mutable_output()->set_token_ids(seed % 2 == 0);
    request.mutable_output()->set_echo(seed % 3 == 0);
    if (seed % 4 < 2) request.mutable_output()->set_logprobs(static_cast<int32_t>(seed));
    if (seed % 5 == 0) request.mutable_stopping()->add_stop("ab");
    TestStream stream;
    const std::shared_ptr<GenerateCall> call = services.Begin(&stream);
    call->Admit(request);
    std::vector<Operation> operations;
    do {
      operations.push_back(stream.Next());
      EXPECT_TRUE(IsValidUtf8(operations.back().message.text_delta()));
      if (operations.back().kind == Kind::kSend) call->OnSendDone(true);
    } while (operations.back().kind == Kind::kSend);
    call->OnDone();
    TestAnswer answer;
    const std::shared_ptr<GenerateCall> whole = services.Begin(&answer);
    whole->Admit(AsWhole(request));
    const Operation end = answer.Next();
    whole->OnDone();
    ASSERT_EQ(operations.back().kind, Kind::kSendLast);
    ASSERT_EQ(end.kind, Kind::kSendLast);
    EXPECT_EQ(Concatenate(operations).SerializeAsString(), end.answer.SerializeAsString());
  }
}

TEST_F(GenerateCallTest, RuleCEachCandidateFinishesOnceAndTheVeryLastMessageHasTheUsage) {
  constexpr int kCandidates = 3;
  v1::GenerateStreamRequest request = Request();
  request.set_n(kCandidates);
  call_->Admit(request);
  for (int candidate = kCandidates - 1; candidate >= 0; --candidate) {
    OutputDelta delta = MakeDelta({5}, "x");
    delta.candidate = candidate;
    Emit(delta);
    Emit(WithFinish(std::move(delta)));
  }
  const std::vector<Operation> operations = ReadAll();
  std::vector<int> n_finishes(kCandidates, 0);
  for (const Operation& operation : operations) {
    const int32_t candidate = operation.message.candidate_index();
    EXPECT_EQ(n_finishes[candidate], 0) << "a message after the candidate's last";
    n_finishes[candidate] += operation.message.has_finish() ? 1 : 0;
    EXPECT_EQ(operation.message.has_usage(), operation.kind == Kind::kSendLast);
  }
  EXPECT_THAT(n_finishes, testing::Each(1));
  EXPECT_EQ(operations.back().kind, Kind::kSendLast);
}

TEST_F(GenerateCallTest, RuleDAFaultEndsTheStreamBehindWhatWasMadeBefore) {
  BeginToWrite();
  Emit(MakeDelta({6}, "y"));
  services_.engine.Fail(1, MakeError(absl::StatusCode::kUnavailable, reason::kWorkerLost));
  call_->OnSendDone(true);
  const std::vector<Operation> rest = ReadAll();
  ASSERT_EQ(rest.size(), 2u);
  EXPECT_EQ(rest[0].message.text_delta(), "y");
  EXPECT_FALSE(rest[0].message.has_finish());
  EXPECT_EQ(rest[1].kind, Kind::kFinishWithError);
  EXPECT_EQ(rest[1].error.reason, reason::kWorkerLost);
}

// The entry of a token with so many alternatives that one message holds one or two of them.
SampledToken TokenWithAlternatives(int n) {
  SampledToken token = MakeDelta({5}, "").tokens[0];
  for (int i = 0; i < n; ++i) token.top.push_back({kFirstTextId + i % 12, -1.0f});
  return token;
}

TEST_F(GenerateCallTest, RuleENoMessageIsLargerThan64KiB) {
  v1::GenerateStreamRequest request = Request();
  request.mutable_output()->set_logprobs(20);
  call_->Admit(request);
  std::string text = std::string(150'000, 'x') + "\xC3\xA9";
  OutputDelta delta = MakeDelta({}, text);
  for (int i = 0; i < 40; ++i) delta.tokens.push_back(TokenWithAlternatives(500));
  Emit(std::move(delta));
  Emit(WithFinish(MakeDelta({5}, "")));
  const std::vector<Operation> operations = ReadAll();
  ASSERT_GT(operations.size(), 5u);
  std::string received;
  for (const Operation& operation : operations) {
    EXPECT_LE(operation.message.ByteSizeLong(), 64u << 10);
    EXPECT_TRUE(IsValidUtf8(operation.message.text_delta()));
    received += operation.message.text_delta();
  }
  EXPECT_EQ(received, text);
}

TEST_F(GenerateCallTest, RuleETheLogprobsOfOneTokenAreNeverDivided) {
  v1::GenerateStreamRequest request = Request();
  request.mutable_output()->set_logprobs(20);
  call_->Admit(request);
  OutputDelta delta;
  delta.tokens = {TokenWithAlternatives(10'000), TokenWithAlternatives(10'000)};
  Emit(WithFinish(std::move(delta)));
  const std::vector<Operation> operations = ReadAll();
  ASSERT_EQ(operations.size(), 2u);
  for (const Operation& operation : operations) {
    EXPECT_GT(operation.message.ByteSizeLong(), 64u << 10);
    ASSERT_EQ(operation.message.logprobs_size(), 1);
    EXPECT_EQ(operation.message.logprobs(0).top_size(), 10'000);
  }
}

TEST_F(GenerateCallTest, RuleFWhatComesDuringAWriteSharesTheNextMessage) {
  v1::GenerateStreamRequest request = Request();
  request.mutable_output()->set_token_ids(true);
  call_->Admit(request);
  Emit(MakeDelta({5}, "x"));
  ASSERT_EQ(stream_.Next().message.token_count(), 1);
  for (const int32_t id : {6, 7, 8}) Emit(MakeDelta({id}, absl::StrCat(id)));
  call_->Pump();
  EXPECT_EQ(stream_.n_waiting(), 0u) << "two writes in flight";
  call_->OnSendDone(true);
  const Operation second = stream_.Next();
  EXPECT_THAT(second.message.token_ids(), testing::ElementsAre(6, 7, 8));
  EXPECT_EQ(second.message.text_delta(), "678");
}

TEST(GenerateCallRulesTest, RuleFAReaderThatLeavesAMessageUnreadIsCutOff) {
  constexpr absl::Duration kStallLimit = absl::Milliseconds(100);
  Services services(FakeEngine::Mode::kByHand, kStallLimit);
  TestStream stream;
  const std::shared_ptr<GenerateCall> call = services.Begin(&stream);
  call->Admit(Request());
  services.engine.Emit(1, MakeDelta({5}, "x"));
  ASSERT_EQ(stream.Next().kind, Kind::kSend);
  const Operation reset = stream.Next();
  EXPECT_EQ(reset.kind, Kind::kReset);
  EXPECT_EQ(reset.error.code, absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(reset.error.reason, reason::kSlowConsumer);
  EXPECT_EQ(reset.error.metadata.at("timeoutMs"), "100");
  services.engine.WaitForCancel(1);
  call->OnCancel();
  call->OnSendDone(false);
  EXPECT_EQ(stream.Next().kind, Kind::kFinishUnheard);
  call->OnDone();
}

TEST_F(GenerateCallTest, TheEngineIsHeldAbove64KiBAndGoesOnBelowHalfOfThat) {
  BeginToWrite();
  int n_deltas = 0;
  while (Emit(MakeDelta({5}, std::string(10'000, 'x'))) == true) ++n_deltas;
  EXPECT_EQ(n_deltas, 6);  // the seventh exceeds 65,536 bytes
  EXPECT_EQ(Emit(MakeDelta({5}, "x")), false) << "what was under way changes nothing";
  EXPECT_EQ(services_.engine.n_resumed(), 0);
  call_->OnSendDone(true);  // the next message takes nearly all
  EXPECT_EQ(stream_.Next().message.token_count(), 8);
  EXPECT_EQ(services_.engine.n_resumed(), 1);
  EXPECT_FALSE(services_.engine.IsPaused(1));
  call_->OnSendDone(true);
  EXPECT_GT(stream_.Next().message.text_delta().size(), 0u);
  EXPECT_EQ(services_.engine.n_resumed(), 1);
}

TEST_F(GenerateCallTest, AStallIsOnlySeenWhileAnOperationIsUnderWay) {
  call_->Admit(Request());
  call_->CutIfStalled(SteadyNow());
  Emit(MakeDelta({5}, "x"));
  ASSERT_EQ(stream_.Next().kind, Kind::kSend);
  const SteadyTime before = SteadyNow();
  call_->OnSendDone(true);
  call_->CutIfStalled(SteadyNow());
  Emit(MakeDelta({6}, std::string(1000, 'y')));
  ASSERT_EQ(stream_.Next().kind, Kind::kSend);
  call_->CutIfStalled(before);
  EXPECT_EQ(stream_.n_waiting(), 0u) << "the write is younger";
  Emit(MakeDelta({7}, std::string(100, 'z')));
  call_->CutIfStalled(SteadyNow());
  const Operation reset = stream_.Next();
  EXPECT_EQ(reset.kind, Kind::kReset);
  EXPECT_EQ(reset.error.metadata.at("bufferedBytes"), "105");
  services_.engine.WaitForCancel(1);
}

TEST_F(GenerateCallTest, CancelDuringAWriteWaitsForItsEnd) {
  BeginToWrite();
  call_->OnCancel();
  services_.engine.WaitForCancel(1);
  EXPECT_EQ(stream_.n_waiting(), 0u) << "a write is in flight";
  call_->OnSendDone(false);
  EXPECT_EQ(stream_.Next().kind, Kind::kFinishUnheard);
}

TEST_F(GenerateCallTest, CancelBetweenWritesEndsTheCallAtOnce) {
  BeginToWrite();
  call_->OnSendDone(true);
  const std::shared_ptr<RequestObserver> observer = services_.engine.Observer(1, /*last=*/false);
  call_->OnCancel();
  services_.engine.WaitForCancel(1);
  EXPECT_EQ(stream_.Next().kind, Kind::kFinishUnheard);
  // The engine may still have a delta under way.
  EXPECT_TRUE(observer->OnDelta(WithFinish(MakeDelta({6}, "y"))));
  observer->OnError(MakeError(absl::StatusCode::kInternal, "SOME_REASON"));
  call_->Pump();
  EXPECT_EQ(stream_.n_waiting(), 0u);
}

TEST_F(GenerateCallTest, AWriteThatFailsEndsTheCallAndTheRequest) {
  BeginToWrite();
  call_->OnSendDone(false);
  services_.engine.WaitForCancel(1);
  EXPECT_EQ(stream_.Next().kind, Kind::kFinishUnheard);
}

TEST_F(GenerateCallTest, ACallThatIsCancelledBeforeItsRequestIsNeverSubmitted) {
  call_->OnCancel();
  EXPECT_EQ(stream_.Next().kind, Kind::kFinishUnheard);
  call_->Admit(Request());
  EXPECT_EQ(services_.engine.n_open(), 0);
}

TEST_F(GenerateCallTest, TasksThatFindNoRoomEndTheCallWithQueueFull) {
  absl::Notification begun, release;
  const auto occupy = [&] {
    begun.Notify();
    release.WaitForNotification();
  };
  ASSERT_TRUE(services_.tasks.TryRun(TaskPool::Kind::kPrompt, occupy));
  begun.WaitForNotification();
  TestStream other;
  const std::shared_ptr<GenerateCall> waiting = services_.Begin(&other);
  bool has_run = false;
  waiting->RunLater([&has_run] { has_run = true; });
  call_->RunLater([] {});
  const Operation end = stream_.Next();
  EXPECT_EQ(end.error.reason, reason::kQueueFull);
  EXPECT_EQ(end.error.metadata.at("queue"), "tokenizer");
  waiting->OnCancel();
  EXPECT_EQ(other.Next().kind, Kind::kFinishUnheard);
  waiting->OnDone();
  release.Notify();
  absl::Notification behind;
  while (!services_.tasks.TryRun(TaskPool::Kind::kPrompt, [&behind] { behind.Notify(); })) {
  }
  behind.WaitForNotification();
  EXPECT_FALSE(has_run) << "the call was cancelled before its turn";
}

// The line of the access log of a call that `use` carries to its end.
template <typename Use>
std::string LineOf(SteadyTime deadline, const Use& use) {
  testing::internal::CaptureStderr();
  {
    Services services(FakeEngine::Mode::kByHand, absl::Seconds(30), AccessLogMode::kAll);
    TestStream stream;
    const std::shared_ptr<GenerateCall> call = services.Begin(&stream, deadline);
    call->Admit(Request());
    use(&services, &stream, call.get());
    call->OnDone();
  }
  return testing::internal::GetCapturedStderr();
}

TEST(GenerateCallLogTest, TheLineSaysHowTheCallEnded) {
  const auto cancel = [](Services*, TestStream* stream, GenerateCall* call) {
    call->OnCancel();
    EXPECT_EQ(stream->Next().kind, Kind::kFinishUnheard);
  };
  EXPECT_THAT(LineOf(SteadyTime::InfiniteFuture(), cancel), HasSubstr(R"("code":"CANCELLED")"));
  EXPECT_THAT(LineOf(SteadyNow(), cancel), HasSubstr(R"("code":"DEADLINE_EXCEEDED")"));
  const std::string cut =
      LineOf(SteadyTime::InfiniteFuture(), [](Services* services, TestStream* stream, auto* call) {
        services->engine.Emit(1, MakeDelta({5}, "x"));
        EXPECT_EQ(stream->Next().kind, Kind::kSend);
        call->CutIfStalled(SteadyNow());
        call->OnCancel();
        call->OnSendDone(false);
        EXPECT_EQ(stream->Next().kind, Kind::kReset);
      });
  EXPECT_THAT(cut, HasSubstr(R"("reason":"SLOW_CONSUMER")"));
  const std::string success =
      LineOf(SteadyTime::InfiniteFuture(), [](Services* services, TestStream* stream, auto*) {
        services->engine.Emit(1, WithFinish(MakeDelta({5, 6}, "xy")));
        EXPECT_EQ(stream->Next().kind, Kind::kSendLast);
      });
  EXPECT_THAT(success, HasSubstr(R"("code":"OK")"));
  EXPECT_THAT(success, HasSubstr(R"("output_tokens":2)"));
  EXPECT_THAT(success, HasSubstr(R"("finish":"MAX_TOKENS")"));
}

}  // namespace
}  // namespace bora
