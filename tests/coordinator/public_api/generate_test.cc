// Generate and GenerateStream over a real connection, with a fake engine behind.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/host/unique_fd.h"
#include "base/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/public_api/test_server.h"

namespace bora {
namespace {

namespace v1 = inference::v1;
using testing::HasSubstr;

v1::GenerateStreamRequest StreamRequest(int64_t seed = 1, int32_t max_tokens = 50) {
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

struct StreamOutcome {
  std::vector<v1::GenerateStreamResponse> messages;
  grpc::Status status;
};

StreamOutcome ReadAll(v1::InferenceService::Stub* stub, const v1::GenerateStreamRequest& request) {
  StreamOutcome outcome;
  grpc::ClientContext context;
  auto reader = stub->GenerateStream(&context, request);
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) outcome.messages.push_back(message);
  outcome.status = reader->Finish();
  return outcome;
}

// Rules (a) to (f) of GenerateStream, as far as one stream shows them.
void CheckRules(const StreamOutcome& outcome) {
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  ASSERT_FALSE(outcome.messages.empty());
  EXPECT_GE(outcome.messages.front().token_count(), 1);
  EXPECT_FALSE(outcome.messages.front().request_id().empty());
  for (size_t i = 0; i < outcome.messages.size(); ++i) {
    const v1::GenerateStreamResponse& message = outcome.messages[i];
    EXPECT_EQ(message.has_finish(), i + 1 == outcome.messages.size());
    EXPECT_EQ(message.has_usage(), message.has_finish());
    EXPECT_EQ(message.request_id().empty(), i > 0);
    EXPECT_LE(message.ByteSizeLong(), 64u << 10);
    EXPECT_TRUE(IsValidUtf8(message.text_delta()));
  }
}

// What the messages amount to, as the answer that Generate gives.
v1::GenerateResponse Concatenate(const StreamOutcome& outcome) {
  v1::GenerateResponse whole;
  for (const v1::GenerateStreamResponse& message : outcome.messages) {
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

// More than windows and socket buffers take, whatever OnDelta says: a write hangs then.
void FillConnection(TestServer* server) {
  bool held_back = false;
  for (int i = 0; i < 100; ++i) {
    const std::optional<bool> go_on =
        server->engine.Emit(1, MakeDelta({5}, std::string(60'000, 'x')));
    held_back = held_back || go_on == false;
  }
  EXPECT_TRUE(held_back);
}

TEST(GenerateTest, StreamConcatenatesToTheWholeAnswer) {
  TestServer server(FakeEngine::Mode::kOnItsOwn);
  for (int64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    v1::GenerateStreamRequest request = StreamRequest(seed, 1 + static_cast<int32_t>(seed) * 7);
    request.set_request_id("same");
    request.mutable_output()->set_token_ids(seed % 2 == 0);
    request.mutable_output()->set_echo(seed % 3 == 0);
    if (seed % 4 < 2) request.mutable_output()->set_logprobs(static_cast<int32_t>(seed % 20));
    if (seed % 5 == 0) request.mutable_stopping()->add_stop("ab");
    request.mutable_stopping()->set_include_stop_str_in_output(seed % 10 == 0);
    const StreamOutcome stream = ReadAll(server.stub.get(), request);
    CheckRules(stream);
    grpc::ClientContext context;
    v1::GenerateResponse whole;
    ASSERT_TRUE(server.stub->Generate(&context, AsWhole(request), &whole).ok());
    EXPECT_EQ(Concatenate(stream).SerializeAsString(), whole.SerializeAsString());
    EXPECT_EQ(whole.finish().seed(), seed);
  }
  EXPECT_EQ(server.LiveCallsAtEnd(), 0);
}

TEST(GenerateTest, LargePromptLogprobsAreDividedBeforeAnyFurtherToken) {
  TestServer server(FakeEngine::Mode::kByHand);
  v1::GenerateStreamRequest request = StreamRequest();
  constexpr int kPromptTokens = 1000;
  for (int i = 0; i < kPromptTokens; ++i) {
    request.mutable_prompt()->mutable_token_ids()->add_ids(kFirstTextId);
  }
  request.mutable_output()->set_prompt_logprobs(20);
  request.mutable_output()->set_echo(true);
  grpc::ClientContext context;
  auto reader = server.stub->GenerateStream(&context, request);
  server.engine.WaitForRequest(1);
  OutputDelta first = MakeDelta({5}, "x");
  for (int position = 1; position < kPromptTokens; ++position) {
    SampledToken entry;
    entry.token_id = kFirstTextId;
    entry.rank = 1;
    for (int i = 0; i < 20; ++i) entry.top.push_back({kFirstTextId + i % 12, -1.0f});
    first.prompt_logprobs.push_back(entry);
  }
  EXPECT_EQ(server.engine.Emit(1, std::move(first)), false);  // far more than a message
  server.engine.Emit(1, WithFinish(MakeDelta({6}, "y")));
  StreamOutcome outcome;
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) outcome.messages.push_back(message);
  outcome.status = reader->Finish();
  CheckRules(outcome);
  ASSERT_GT(outcome.messages.size(), 4u);
  int n_entries = 0;
  for (size_t i = 0; i < outcome.messages.size(); ++i) {
    if (i > 0 && outcome.messages[i].token_count() > 0) {
      EXPECT_EQ(n_entries + outcome.messages[i].prompt_logprobs_size(), kPromptTokens);
    }
    n_entries += outcome.messages[i].prompt_logprobs_size();
  }
  const v1::GenerateResponse whole = Concatenate(outcome);
  ASSERT_EQ(whole.prompt_logprobs_size(), kPromptTokens);
  EXPECT_FALSE(whole.prompt_logprobs(0).has_logprob());
  EXPECT_EQ(whole.prompt_logprobs(0).rank(), 0);
  EXPECT_TRUE(whole.prompt_logprobs(1).has_logprob());
  EXPECT_EQ(whole.text(), std::string(kPromptTokens, 'a') + "xy");
}

TEST(GenerateTest, SpecCarriesWhatTheRequestSays) {
  TestServer server(FakeEngine::Mode::kByHand);
  v1::GenerateStreamRequest request = StreamRequest(-7, 9);
  request.mutable_prompt()->set_truncate_prompt_tokens(2);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->add_stop_token_ids(9);
  request.mutable_stopping()->add_stop_token_ids(2);
  request.mutable_stopping()->mutable_time_limit()->set_seconds(5);
  request.set_priority(v1::PRIORITY_BATCH);
  request.set_tenant("shop:7");
  request.set_n(3);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
  context.AddMetadata("x-request-id", "from-header");
  auto reader = server.stub->GenerateStream(&context, request);
  const RequestSpec spec = server.engine.WaitForRequest(1);
  EXPECT_EQ(spec.prompt_tokens, (std::vector<int32_t>{1, kFirstTextId + 6}));  // bos stays
  EXPECT_EQ(spec.sampling.temperature, 0);
  EXPECT_EQ(spec.sampling.seed, static_cast<uint64_t>(-7));
  EXPECT_EQ(spec.sampling.stop_token_ids, (std::vector<int32_t>{2, 9}));
  EXPECT_EQ(spec.max_tokens, 9);
  EXPECT_FALSE(spec.context_limited);
  EXPECT_EQ(spec.priority, Priority::kBatch);
  EXPECT_EQ(spec.tenant, "shop:7");
  EXPECT_EQ(spec.n_candidates, 3);
  EXPECT_EQ(spec.request_id, "from-header");
  EXPECT_EQ(spec.time_limit, spec.arrival + absl::Seconds(5));
  EXPECT_LT(spec.deadline, SteadyNow() + absl::Hours(1.1));
  for (int candidate = 0; candidate < 3; ++candidate) {
    OutputDelta delta = WithFinish(MakeDelta({5}, "x"));
    delta.candidate = candidate;
    server.engine.Emit(1, std::move(delta));
  }
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(context.GetServerTrailingMetadata().find("x-request-id")->second, "from-header");
}

TEST(GenerateTest, MaxTokensDefaultsToWhatTheContextLeaves) {
  TestServer server(FakeEngine::Mode::kByHand);
  v1::GenerateStreamRequest request;
  for (int i = 0; i < 4000; ++i) request.mutable_prompt()->mutable_token_ids()->add_ids(5);
  grpc::ClientContext context;
  auto reader = server.stub->GenerateStream(&context, request);
  const RequestSpec spec = server.engine.WaitForRequest(1);
  EXPECT_EQ(spec.max_tokens, 96);
  EXPECT_TRUE(spec.context_limited);
  context.TryCancel();
}

TEST(GenerateTest, CancelWhileNothingIsSentReachesTheEngine) {
  TestServer server(FakeEngine::Mode::kByHand);
  grpc::ClientContext context;
  auto reader = server.stub->GenerateStream(&context, StreamRequest());
  server.engine.WaitForRequest(1);
  context.TryCancel();
  server.engine.WaitForCancel(1);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(server.LiveCallsAtEnd(), 0);
}

TEST(GenerateTest, CancelBetweenTokensReachesTheEngine) {
  TestServer server(FakeEngine::Mode::kByHand);
  grpc::ClientContext context;
  auto reader = server.stub->GenerateStream(&context, StreamRequest());
  server.engine.WaitForRequest(1);
  server.engine.Emit(1, MakeDelta({5}, "x"));
  v1::GenerateStreamResponse message;
  ASSERT_TRUE(reader->Read(&message));
  const std::shared_ptr<RequestObserver> observer = server.engine.Observer(1, /*last=*/false);
  context.TryCancel();
  server.engine.WaitForCancel(1);
  EXPECT_EQ(server.LiveCallsAtEnd(), 0);
  // The engine may still have a delta under way: it must find an observer that ignores it.
  EXPECT_TRUE(observer->OnDelta(WithFinish(MakeDelta({6}, "y"))));
  observer->OnError(MakeError(absl::StatusCode::kInternal, reason::kNonFiniteLogits));
}

TEST(GenerateTest, CancelDuringAWriteReachesTheEngine) {
  TestServer server(FakeEngine::Mode::kByHand);
  grpc::ClientContext context;
  auto reader = server.stub->GenerateStream(&context, StreamRequest());
  server.engine.WaitForRequest(1);
  FillConnection(&server);
  context.TryCancel();
  server.engine.WaitForCancel(1);
  EXPECT_EQ(server.LiveCallsAtEnd(), 0);
}

TEST(GenerateTest, CancelOfAWholeAnswerReachesTheEngine) {
  TestServer server(FakeEngine::Mode::kByHand);
  grpc::ClientContext context;
  std::thread canceller([&] {
    server.engine.WaitForRequest(1);
    server.engine.Emit(1, MakeDelta({5}, "x"));
    context.TryCancel();
  });
  v1::GenerateResponse response;
  const grpc::Status status = server.stub->Generate(&context, AsWhole(StreamRequest()), &response);
  canceller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  server.engine.WaitForCancel(1);
  EXPECT_EQ(server.LiveCallsAtEnd(), 0);
}

TEST(GenerateTest, DeadlineCancelsInTheEngine) {
  TestServer server(FakeEngine::Mode::kByHand);
  grpc::ClientContext context;
  // Long enough for the request to arrive on a busy machine under sanitizers.
  ASSERT_TRUE(server.channel->WaitForConnected(std::chrono::system_clock::now() +
                                               std::chrono::seconds(20)));
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  auto reader = server.stub->GenerateStream(&context, StreamRequest());
  server.engine.WaitForRequest(1);
  v1::GenerateStreamResponse message;
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  server.engine.WaitForCancel(1);
  EXPECT_EQ(server.LiveCallsAtEnd(), 0);
}

TEST(GenerateTest, ReaderThatCatchesUpResumesTheEngineAndLosesNothing) {
  TestServer server(FakeEngine::Mode::kByHand);
  grpc::ClientContext context;
  auto reader = server.stub->GenerateStream(&context, StreamRequest());
  server.engine.WaitForRequest(1);
  std::string sent;
  while (true) {
    const std::string text = absl::StrCat(sent.size(), std::string(20'000, 'x'));
    sent += text;
    if (server.engine.Emit(1, MakeDelta({5}, text)) == false) break;
  }
  std::string received;
  v1::GenerateStreamResponse message;
  while (received.size() < sent.size() && reader->Read(&message)) received += message.text_delta();
  // After the end nobody need say it.
  const SteadyTime deadline = SteadyNow() + absl::Seconds(20);
  while (server.engine.n_resumed() == 0 && SteadyNow() < deadline) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_GE(server.engine.n_resumed(), 1);
  server.engine.Emit(1, WithFinish(MakeDelta({6}, "end")));
  while (reader->Read(&message)) received += message.text_delta();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(received, sent + "end");
}

TEST(GenerateTest, WhatIsUnderWayWhenAReaderIsSlowDoesNotKeepTheEngineHeldBack) {
  constexpr int kCandidates = 16;
  TestServer server(FakeEngine::Mode::kByHand);
  // Whether a delta comes at the wrong moment is chance: several times.
  for (uint64_t handle = 1; handle <= 32; ++handle) {
    grpc::ClientContext context;
    v1::GenerateStreamRequest request = StreamRequest();
    request.set_n(kCandidates);
    auto reader = server.stub->GenerateStream(&context, request);
    EXPECT_EQ(server.engine.WaitForRequest(handle).n_candidates, kCandidates);
    size_t n_sent = 0;
    const auto emit = [&](int32_t candidate, size_t n_bytes) {
      OutputDelta delta = MakeDelta({5}, std::string(n_bytes, 'x'));
      delta.candidate = candidate;
      n_sent += n_bytes;
      return server.engine.Emit(handle, std::move(delta));
    };
    // A message has the text of one candidate: when it has left, more than half of the limit waits.
    int32_t candidate = 0;
    while (emit(candidate, 5'000) != false) candidate = (candidate + 1) % kCandidates;
    size_t n_received = 0;
    v1::GenerateStreamResponse message;
    while (n_received < n_sent) {
      ASSERT_TRUE(reader->Read(&message));
      n_received += message.text_delta().size();
      if (n_sent - n_received > 30'000) emit(1, 1);  // was under way
    }
    const SteadyTime deadline = SteadyNow() + absl::Seconds(20);
    while (server.engine.IsPaused(handle) && SteadyNow() < deadline) {
      absl::SleepFor(absl::Milliseconds(5));
    }
    ASSERT_FALSE(server.engine.IsPaused(handle)) << "stream " << handle;
    context.TryCancel();
    server.engine.WaitForCancel(handle);
  }
}

TEST(GenerateTest, SlowReaderIsCutOffAndLeavesNothingBehind) {
  TestServer server(FakeEngine::Mode::kByHand, /*slow_reader_timeout=*/absl::Milliseconds(200));
  grpc::ClientContext context;
  auto reader = server.stub->GenerateStream(&context, StreamRequest());
  server.engine.WaitForRequest(1);
  FillConnection(&server);
  server.engine.WaitForCancel(1);
  EXPECT_EQ(server.LiveCallsAtEnd(), 0);
  v1::GenerateStreamResponse message;
  while (reader->Read(&message)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("SLOW_CONSUMER"));
}

// One HTTP/2 frame: length, type, flags, stream.
std::string Frame(char type, char flags, char stream, const std::string& payload) {
  std::string frame(9, '\0');
  frame[0] = static_cast<char>(payload.size() >> 16);
  frame[1] = static_cast<char>(payload.size() >> 8);
  frame[2] = static_cast<char>(payload.size());
  frame[3] = type;
  frame[4] = flags;
  frame[8] = stream;
  return frame + payload;
}

// A Generate call as bytes. A gRPC client always makes room for a whole answer; this one never
// does, like one that is stopped.
std::string RawGenerateCall(const v1::GenerateRequest& request) {
  std::string headers;
  const std::pair<std::string, std::string> fields[] = {
      {":method", "POST"},
      {":scheme", "http"},
      {":path", "/bora.inference.v1.InferenceService/Generate"},
      {":authority", "test"},
      {"te", "trailers"},
      {"content-type", "application/grpc"}};
  for (const auto& [name, value] : fields) {
    // Literals that are not indexed, without Huffman coding.
    headers += '\0';
    headers += static_cast<char>(name.size()) + name;
    headers += static_cast<char>(value.size()) + value;
  }
  const std::string message = request.SerializeAsString();
  std::string data(5, '\0');
  data[4] = static_cast<char>(message.size());
  const char kSettings = 4, kHeaders = 1, kData = 0, kEndHeaders = 4, kEndStream = 1;
  return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(kSettings, 0, 0, "") +
         Frame(kHeaders, kEndHeaders, 1, headers) + Frame(kData, kEndStream, 1, data + message);
}

TEST(GenerateTest, WholeAnswerThatIsNotReadIsCutOff) {
  constexpr absl::Duration kTimeout = absl::Milliseconds(200);
  TestServer server(FakeEngine::Mode::kByHand, kTimeout);
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(server.server->port()));
  ASSERT_EQ(connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string call = RawGenerateCall(AsWhole(StreamRequest()));
  ASSERT_EQ(send(socket.get(), call.data(), call.size(), 0), static_cast<ssize_t>(call.size()));
  server.engine.WaitForRequest(1);
  const SteadyTime start = SteadyNow();
  server.engine.Emit(1, WithFinish(MakeDelta({5}, std::string(3'000'000, 'x'))));
  EXPECT_EQ(server.LiveCallsAtEnd(), 0);
  EXPECT_GE(SteadyNow() - start, kTimeout);
}

TEST(GenerateTest, ReaderWhoReadsSteadilyIsNotCutOff) {
  TestServer server(FakeEngine::Mode::kOnItsOwn, /*slow_reader_timeout=*/absl::Milliseconds(200));
  server.engine.set_step_pause(absl::Milliseconds(5));
  // 0.5 s in all: longer than the time that a single message may wait.
  const StreamOutcome outcome = ReadAll(server.stub.get(), StreamRequest(3, 100));
  CheckRules(outcome);
}

// Half of a thousand streams is cancelled at some moment; every token of the others arrives, and no
// reactor is left.
TEST(GenerateTest, ThousandStreamsWithCancelsLeaveNothingBehind) {
  TestServer server(FakeEngine::Mode::kOnItsOwn);
  constexpr int kThreads = 20;
  constexpr int kStreamsPerThread = 50;
  std::atomic<int> n_finished{0}, n_cancelled{0};
  std::vector<std::thread> clients;
  for (int t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < kStreamsPerThread; ++i) {
        const bool cancels = i % 2 == 0;
        grpc::ClientContext context;
        auto reader = server.stub->GenerateStream(&context, StreamRequest(t * 1000 + i, 30));
        const uint32_t n_reads = random() % 30;
        v1::GenerateStreamResponse message;
        int n_tokens = 0;
        for (uint32_t n = 0; (!cancels || n < n_reads) && reader->Read(&message); ++n) {
          n_tokens += message.token_count();
        }
        if (cancels) context.TryCancel();
        const grpc::Status status = reader->Finish();
        if (status.ok()) {
          ++n_finished;
          EXPECT_TRUE(cancels || n_tokens == 30) << n_tokens;
        } else {
          EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
          ++n_cancelled;
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(n_finished + n_cancelled, kThreads * kStreamsPerThread);
  EXPECT_GE(n_finished, kThreads * kStreamsPerThread / 2);
  EXPECT_GT(n_cancelled, 0);
  EXPECT_EQ(server.LiveCallsAtEnd(), 0);
  EXPECT_EQ(server.engine.n_open(), 0);
}

TEST(GenerateTest, ShutdownEndsOpenStreams) {
  TestServer server(FakeEngine::Mode::kByHand);
  grpc::ClientContext context;
  auto reader = server.stub->GenerateStream(&context, StreamRequest());
  server.engine.WaitForRequest(1);
  server.server->Shutdown(SteadyNow());
  EXPECT_EQ(server.server->n_live_calls(), 0);
  EXPECT_FALSE(reader->Finish().ok());
}

TEST(GenerateTest, TokenizeAndDetokenizeAgreeWithTheTokenizer) {
  TestServer server(FakeEngine::Mode::kByHand);
  v1::TokenizeRequest request;
  request.add_texts("ab \xE6\x97\xA5z");
  request.set_token_bytes(true);
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(server.stub->Tokenize(&context, request, &tokens).ok());
  v1::DetokenizeRequest back;
  *back.add_inputs()->mutable_ids() = tokens.results(0).token_ids();
  v1::DetokenizeResponse texts;
  grpc::ClientContext context2;
  ASSERT_TRUE(server.stub->Detokenize(&context2, back, &texts).ok());
  EXPECT_EQ(texts.texts(0), request.texts(0));
  EXPECT_EQ(tokens.results(0).token_bytes_size(), tokens.results(0).token_ids_size());
}

}  // namespace
}  // namespace bora
