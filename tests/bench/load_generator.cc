// Closed-loop load on a Bora server: keeps N streams open for some requests and prints one JSON
// object with output tokens/s and the time to the first token. Everything runs on gRPC's callback
// threads, so that the client itself costs little of the machine it measures.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/flags/flag_names.h"
#include "bora/inference/v1/inference_service.grpc.pb.h"

ABSL_FLAG(std::string, server, "127.0.0.1:50051", "HOST:PORT");
ABSL_FLAG(int, concurrency, 1, "Streams that are open at the same time.");
ABSL_FLAG(int, requests, 32, "Requests in all.");
ABSL_FLAG(int, prompt_tokens, 64, "Tokens of each prompt.");
ABSL_FLAG(int, output_tokens, 64, "Tokens of each completion.");
ABSL_FLAG(double, temperature, 1, "Of sampling; 0 is greedy.");
ABSL_FLAG(int, vocab_size, 1024, "Prompt tokens are in [259, vocab_size).");

namespace bora {
namespace {

namespace v1 = inference::v1;

struct Totals {
  absl::Mutex mutex;
  int n_open ABSL_GUARDED_BY(mutex) = 0;
  int n_started ABSL_GUARDED_BY(mutex) = 0;
  int n_failed ABSL_GUARDED_BY(mutex) = 0;
  int64_t n_tokens ABSL_GUARDED_BY(mutex) = 0;
  int64_t n_messages ABSL_GUARDED_BY(mutex) = 0;
  std::vector<double> first_token_ms ABSL_GUARDED_BY(mutex);
  std::vector<double> gap_ms ABSL_GUARDED_BY(mutex);  // between messages of a stream
  std::string error ABSL_GUARDED_BY(mutex);
};

void StartOne(v1::InferenceService::Stub* stub, Totals* totals, int index);

// One stream; deletes itself when done, after starting the next.
class Reader final : public grpc::ClientReadReactor<v1::GenerateStreamResponse> {
 public:
  Reader(v1::InferenceService::Stub* stub, Totals* totals, int index)
      : stub_(stub), totals_(totals), begin_(absl::Now()), last_(begin_) {
    // Another prompt for each request, the same in every run.
    uint64_t state = 0x9E3779B97F4A7C15u * (index + 1);
    for (int i = 0; i < absl::GetFlag(FLAGS_prompt_tokens); ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      request_.mutable_prompt()->mutable_token_ids()->add_ids(
          259 + static_cast<int32_t>((state >> 33) % (absl::GetFlag(FLAGS_vocab_size) - 259)));
    }
    request_.mutable_stopping()->set_max_tokens(absl::GetFlag(FLAGS_output_tokens));
    request_.mutable_stopping()->set_ignore_eos(true);
    request_.mutable_sampling()->set_seed(index);
    request_.mutable_sampling()->set_temperature(
        static_cast<float>(absl::GetFlag(FLAGS_temperature)));
    stub_->async()->GenerateStream(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    const absl::Time now = absl::Now();
    if (n_messages_++ == 0) {
      first_token_ms_ = absl::ToDoubleMilliseconds(now - begin_);
    } else {
      gap_ms_.push_back(absl::ToDoubleMilliseconds(now - last_));
    }
    last_ = now;
    n_tokens_ += response_.token_count();
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    int next = -1;
    {
      absl::MutexLock lock(&totals_->mutex);
      totals_->n_tokens += n_tokens_;
      totals_->n_messages += n_messages_;
      totals_->first_token_ms.push_back(first_token_ms_);
      totals_->gap_ms.insert(totals_->gap_ms.end(), gap_ms_.begin(), gap_ms_.end());
      if (!status.ok()) {
        ++totals_->n_failed;
        totals_->error = status.error_message();
      }
      if (totals_->n_started < absl::GetFlag(FLAGS_requests)) {
        next = totals_->n_started++;
      } else {
        --totals_->n_open;
      }
    }
    if (next >= 0) StartOne(stub_, totals_, next);
    delete this;
  }

 private:
  v1::InferenceService::Stub* stub_;
  Totals* totals_;
  grpc::ClientContext context_;
  v1::GenerateStreamRequest request_;
  v1::GenerateStreamResponse response_;
  absl::Time begin_;
  absl::Time last_;
  double first_token_ms_ = 0;
  int64_t n_tokens_ = 0;
  int64_t n_messages_ = 0;
  std::vector<double> gap_ms_;
};

void StartOne(v1::InferenceService::Stub* stub, Totals* totals, int index) {
  new Reader(stub, totals, index);
}

double Percentile(std::vector<double>* values, double share) {
  if (values->empty()) return 0;
  std::sort(values->begin(), values->end());
  return (*values)[std::min(values->size() - 1, static_cast<size_t>(share * values->size()))];
}

int Run() {
  const auto channel =
      grpc::CreateChannel(absl::GetFlag(FLAGS_server), grpc::InsecureChannelCredentials());
  const auto stub = v1::InferenceService::NewStub(channel);
  Totals totals;
  const int n_first = std::min(absl::GetFlag(FLAGS_concurrency), absl::GetFlag(FLAGS_requests));
  {
    absl::MutexLock lock(&totals.mutex);
    totals.n_open = n_first;
    totals.n_started = n_first;
  }
  const absl::Time begin = absl::Now();
  for (int i = 0; i < n_first; ++i) StartOne(stub.get(), &totals, i);
  absl::MutexLock lock(&totals.mutex);
  totals.mutex.Await(absl::Condition(
      +[](int* n_open) { return *n_open == 0; }, &totals.n_open));
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  std::printf(
      "{\"seconds\": %.3f, \"requests\": %zu, \"failed\": %d, \"output_tokens\": %lld, "
      "\"messages\": "
      "%lld, \"requests_per_s\": %.4f, \"output_tokens_per_s\": %.1f, \"ttft_p50_ms\": %.2f, "
      "\"ttft_p99_ms\": %.2f, \"gap_p50_ms\": %.2f, \"gap_p99_ms\": %.2f, "
      "\"gap_max_ms\": %.2f}\n",
      seconds, totals.first_token_ms.size(), totals.n_failed,
      static_cast<long long>(totals.n_tokens), static_cast<long long>(totals.n_messages),
      totals.first_token_ms.size() / seconds, totals.n_tokens / seconds,
      Percentile(&totals.first_token_ms, 0.5), Percentile(&totals.first_token_ms, 0.99),
      Percentile(&totals.gap_ms, 0.5), Percentile(&totals.gap_ms, 0.99),
      Percentile(&totals.gap_ms, 1.0));
  if (totals.n_failed > 0) std::fprintf(stderr, "last error: %s\n", totals.error.c_str());
  return totals.n_failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  bora::NormalizeFlagNames(argc, argv);
  absl::ParseCommandLine(argc, argv);
  return bora::Run();
}
