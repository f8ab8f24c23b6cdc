#include "client/commands.h"

#include <google/protobuf/util/json_util.h>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace bora {
namespace {

namespace pb = inference::v1;

// The call that CancelCurrentCall ends; a command-line tool has one at a time.
struct CurrentCall {
  absl::Mutex mutex;
  grpc::ClientContext* context ABSL_GUARDED_BY(mutex) = nullptr;
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
};

CurrentCall& Current() {
  static CurrentCall* current = new CurrentCall;
  return *current;
}

bool WasCancelled() {
  absl::MutexLock lock(&Current().mutex);
  return Current().cancelled;
}

// A context that CancelCurrentCall knows, with the deadline of --timeout.
class CallScope {
 public:
  explicit CallScope(const GlobalOptions& global) {
    if (global.timeout_s > 0) {
      context_.set_deadline(
          std::chrono::system_clock::now() +
          std::chrono::microseconds(static_cast<int64_t>(global.timeout_s * 1e6)));
    }
    absl::MutexLock lock(&Current().mutex);
    Current().context = &context_;
    if (Current().cancelled) context_.TryCancel();
  }
  ~CallScope() {
    absl::MutexLock lock(&Current().mutex);
    Current().context = nullptr;
  }
  grpc::ClientContext* get() { return &context_; }

 private:
  grpc::ClientContext context_;
};

int Report(const GlobalOptions& global, const grpc::Status& status) {
  if (WasCancelled() && status.error_code() == grpc::StatusCode::CANCELLED) return 130;
  const CallError error = DescribeError(status);
  if (global.json) {
    std::cout << ToJson(error) << std::endl;
  } else {
    std::cerr << "bora: " << ToText(error) << std::endl;
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE && error.reason.empty()) {
      std::cerr << "  is a server listening on " << global.server
                << "? (--server or BORA_SERVER chooses another)" << std::endl;
    }
  }
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ? kExitUnavailable : kExitFailed;
}

// One line. `print_zeros`: also fields that have their default.
void PrintJson(const google::protobuf::Message& message, bool print_zeros = false) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = print_zeros;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  std::cout << (status.ok() ? text : "{}") << std::endl;
}

std::string Unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    const char next = text[++i];
    if (next == 'n') {
      out += '\n';
    } else if (next == 't') {
      out += '\t';
    } else if (next == '\\') {
      out += '\\';
    } else {
      out += '\\';
      out += next;
    }
  }
  return out;
}

pb::GenerateStreamRequest MakeRequest(const GenerateOptions& options) {
  pb::GenerateStreamRequest request;
  request.set_model(options.model);
  if (!options.prompt_ids.empty()) {
    for (const int32_t id : options.prompt_ids) {
      request.mutable_prompt()->mutable_token_ids()->add_ids(id);
    }
  } else {
    request.mutable_prompt()->set_text(options.prompt);
  }
  pb::SamplingOptions* sampling = request.mutable_sampling();
  if (options.temperature) sampling->set_temperature(*options.temperature);
  if (options.top_p) sampling->set_top_p(*options.top_p);
  if (options.top_k) sampling->set_top_k(*options.top_k);
  if (options.min_p) sampling->set_min_p(*options.min_p);
  if (options.repetition_penalty) sampling->set_repetition_penalty(*options.repetition_penalty);
  if (options.frequency_penalty) sampling->set_frequency_penalty(*options.frequency_penalty);
  if (options.presence_penalty) sampling->set_presence_penalty(*options.presence_penalty);
  if (options.seed) sampling->set_seed(*options.seed);
  pb::StopOptions* stopping = request.mutable_stopping();
  if (options.max_tokens) stopping->set_max_tokens(*options.max_tokens);
  if (options.min_tokens) stopping->set_min_tokens(*options.min_tokens);
  for (const std::string& stop : options.stop) stopping->add_stop(Unescape(stop));
  for (const int32_t id : options.stop_token_ids) stopping->add_stop_token_ids(id);
  stopping->set_ignore_eos(options.ignore_eos);
  pb::OutputOptions* output = request.mutable_output();
  if (options.logprobs) output->set_logprobs(*options.logprobs);
  output->set_echo(options.echo);
  output->set_timing(true);
  return request;
}

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

std::string FinishText(const pb::Finish& finish) {
  switch (finish.reason()) {
    case pb::FINISH_REASON_STOP_TOKEN:
      return absl::StrCat("stop token ", finish.stop_token_id());
    case pb::FINISH_REASON_STOP_SEQUENCE:
      return "stop sequence";
    case pb::FINISH_REASON_MAX_TOKENS:
      return "max tokens";
    case pb::FINISH_REASON_CONTEXT_LENGTH:
      return "context length";
    case pb::FINISH_REASON_TIME_LIMIT:
      return "time limit";
    default:
      return "unknown";
  }
}

void PrintLogprobs(const pb::GenerateStreamResponse& message) {
  for (const pb::TokenLogprob& token : message.logprobs()) {
    std::string line = absl::StrFormat("%8d %9.4f rank %-5d %s", token.token_id(), token.logprob(),
                                       token.rank(), absl::StrCat("\"", token.token(), "\""));
    for (const pb::Alternative& top : token.top()) {
      absl::StrAppendFormat(&line, "  \"%s\" %.4f", top.token(), top.logprob());
    }
    std::cout << line << "\n";
  }
}

// One line on stderr, so that stdout is the completion alone.
void PrintSummary(const pb::GenerateStreamResponse& last, absl::Duration first_token,
                  absl::Duration total) {
  const int n = last.usage().output_token_count();
  const double decode_s = absl::ToDoubleSeconds(total - first_token);
  std::string rate = n > 1 && decode_s > 0 ? absl::StrFormat("%.1f tokens/s", (n - 1) / decode_s)
                                           : std::string("-");
  std::cerr
      << absl::StrFormat(
             "[%d prompt + %d output tokens | TTFT %.1f ms | %s | queue %.1f ms, prefill %.1f "
             "ms | %s | seed %d]",
             last.usage().prompt_token_count(), n, absl::ToDoubleMilliseconds(first_token), rate,
             Seconds(last.timing().queue_duration()) * 1e3,
             Seconds(last.timing().prefill_duration()) * 1e3, FinishText(last.finish()),
             last.finish().seed())
      << std::endl;
}

std::string Bytes(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 4; ++unit) bytes /= 1024;
  return absl::StrFormat("%.*f %s", unit == 0 ? 0 : 1, bytes, units[unit]);
}

std::string Lower(const std::string& enum_name, const std::string& prefix) {
  std::string out = enum_name.substr(std::min(prefix.size(), enum_name.size()));
  for (char& ch : out) ch = ch == '_' ? ' ' : static_cast<char>(std::tolower(ch));
  return out;
}

std::string StatusText(const pb::ServerInfo& info, const pb::ListModelsResponse& models) {
  std::string out;
  const pb::Load& load = info.load();
  for (const pb::Model& model : models.models()) {
    const std::string quantization = model.quantization().empty()
                                         ? ""
                                         : absl::StrCat(" with ", model.quantization(), " weights");
    absl::StrAppendFormat(&out, "%s  %s%s, %d layers, context %d\n", model.name(), model.dtype(),
                          quantization, model.layer_count(), model.context_length());
  }
  absl::StrAppendFormat(&out,
                        "%s  %d stages x %d tensor ranks  epoch %d  up %.0f s  version %s (%s)\n",
                        Lower(pb::GroupState_Name(info.group_state()), "GROUP_STATE_"),
                        info.pipeline_parallel_size(), info.tensor_parallel_size(), info.epoch(),
                        Seconds(info.uptime()), info.version(), info.git_commit());
  if (!info.group_detail().empty()) absl::StrAppend(&out, "  ", info.group_detail(), "\n");
  absl::StrAppendFormat(
      &out,
      "running %d/%d  waiting %d/%d  steps in flight %d  KV blocks %d used, %d cached, %d in all",
      load.running_count(), info.max_num_seqs(), load.waiting_count(), info.max_num_queued_reqs(),
      load.step_in_flight_count(), load.kv_block_used_count(), load.kv_block_cached_count(),
      load.kv_block_count());
  if (load.kv_block_count() > 0) {
    absl::StrAppendFormat(&out, " (%.1f%%)",
                          100.0 * load.kv_block_used_count() / load.kv_block_count());
  }
  absl::StrAppendFormat(
      &out,
      "\ntotal: %d requests, %d prompt tokens (%d more cached), %d output tokens, "
      "%d steps, %d preemptions\n",
      load.finished_request_total(), load.prompt_token_total(), load.cached_prompt_token_total(),
      load.output_token_total(), load.step_total(), load.preemption_total());
  if (const double busy_s = Seconds(load.busy_duration()); busy_s > 0) {
    absl::StrAppend(&out, "stages computed");
    for (const google::protobuf::Duration& compute : load.stage_compute_durations()) {
      absl::StrAppendFormat(&out, " %.1f%%", 100 * Seconds(compute) / busy_s);
    }
    absl::StrAppendFormat(&out, " of %.1f busy seconds\n", busy_s);
  }
  absl::StrAppendFormat(&out, "%-7s %-6s %-5s %-9s %-9s %-11s %-11s %-9s %s\n", "worker", "stage",
                        "rank", "layers", "state", "weights", "KV cache", "heard", "where");
  for (const pb::WorkerInfo& worker : info.workers()) {
    std::string state = Lower(pb::WorkerState_Name(worker.state()), "WORKER_STATE_");
    if (worker.state() == pb::WORKER_STATE_LOADING) {
      state = absl::StrFormat("load %.0f%%", worker.load_progress() * 100);
    }
    const bool placed = worker.stage() >= 0;
    absl::StrAppendFormat(
        &out, "%-7d %-6s %-5s %-9s %-9s %-11s %-11s %-9s %s pid %d %s\n", worker.worker_id(),
        placed ? absl::StrCat(worker.stage()) : "-",
        placed ? absl::StrCat(worker.tensor_rank()) : "-",
        placed ? absl::StrCat(worker.layer_begin(), "-", worker.layer_end() - 1) : "-", state,
        Bytes(static_cast<double>(worker.weight_bytes())),
        Bytes(static_cast<double>(worker.kv_cache_bytes())),
        absl::StrFormat("%.1f s", Seconds(worker.last_heartbeat_age())), worker.host(),
        worker.pid(), worker.device());
  }
  return out;
}

grpc::Status FetchStatus(const GlobalOptions& global, Client* client, pb::ServerInfo* info,
                         pb::ListModelsResponse* models) {
  {
    CallScope call(global);
    const grpc::Status status = client->models().GetServerInfo(call.get(), {}, info);
    if (!status.ok()) return status;
  }
  CallScope call(global);
  return client->models().ListModels(call.get(), {}, models);
}

}  // namespace

void CancelCurrentCall() {
  absl::MutexLock lock(&Current().mutex);
  Current().cancelled = true;
  if (Current().context != nullptr) Current().context->TryCancel();
}

int RunGenerate(const GlobalOptions& global, const GenerateOptions& options) {
  Client client(global.server);
  const pb::GenerateStreamRequest request = MakeRequest(options);
  CallScope call(global);
  const SteadyTime begin = SteadyNow();
  absl::Duration first_token = absl::ZeroDuration();
  pb::GenerateStreamResponse message;
  pb::GenerateStreamResponse last;
  int64_t n_messages = 0;
  const auto stream = client.inference().GenerateStream(call.get(), request);
  while (stream->Read(&message)) {
    if (n_messages++ == 0) first_token = SteadyNow() - begin;
    if (global.json) {
      PrintJson(message);
    } else if (options.logprobs) {
      PrintLogprobs(message);
    } else {
      std::cout << message.text_delta() << std::flush;
    }
    if (message.has_finish()) last = message;
  }
  const absl::Duration total = SteadyNow() - begin;
  if (!global.json && n_messages > 0) std::cout << std::endl;
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return Report(global, status);
  if (!options.quiet && !global.json) PrintSummary(last, first_token, total);
  return kExitOk;
}

int RunTokenize(const GlobalOptions& global, const std::vector<std::string>& texts, bool add_bos) {
  Client client(global.server);
  pb::TokenizeRequest request;
  for (const std::string& text : texts) request.add_texts(text);
  request.set_add_bos_token(add_bos);
  request.set_token_bytes(true);
  pb::TokenizeResponse response;
  CallScope call(global);
  const grpc::Status status = client.inference().Tokenize(call.get(), request, &response);
  if (!status.ok()) return Report(global, status);
  if (global.json) {
    PrintJson(response);
    return kExitOk;
  }
  for (const pb::Tokenization& result : response.results()) {
    std::cout << absl::StrJoin(result.token_ids(), " ") << "\n";
  }
  return kExitOk;
}

int RunStatus(const GlobalOptions& global, const StatusOptions& options) {
  Client client(global.server);
  GlobalOptions with_timeout = global;
  if (with_timeout.timeout_s <= 0) with_timeout.timeout_s = 5;
  while (true) {
    pb::ServerInfo info;
    pb::ListModelsResponse models;
    const grpc::Status status = FetchStatus(with_timeout, &client, &info, &models);
    if (options.ready) {
      const bool ready = status.ok() && info.group_state() == pb::GROUP_STATE_SERVING;
      return ready ? kExitOk : kExitUnavailable;
    }
    // While watching, a server that is away for a moment is worth waiting for.
    if (!status.ok()) {
      const int exit_code = Report(global, status);
      if (!options.watch || WasCancelled()) return exit_code;
    } else if (global.json) {
      PrintJson(info, /*print_zeros=*/true);
    } else {
      if (options.watch) std::cout << "\033[H\033[2J";
      std::cout << StatusText(info, models) << std::flush;
    }
    if (!options.watch) return kExitOk;
    const SteadyTime next = SteadyNow() + absl::Seconds(options.interval_s);
    while (SteadyNow() < next && !WasCancelled()) absl::SleepFor(absl::Milliseconds(50));
    if (WasCancelled()) return kExitOk;
  }
}

}  // namespace bora
