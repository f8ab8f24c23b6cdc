#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "client/call.h"
#include "client/commands.h"
#include "client/text.h"

namespace bora {
namespace {

namespace pb = inference::v1;

// Most candidates whose texts are kept, so that a wrong --n cannot take all memory. Servers allow
// fewer.
constexpr int32_t kMaxCandidates = 1024;

// Replaces \n, \t and \\ in a --stop text; any other backslash stays.
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

// The priority called `word`. The flag accepts only these words; the server takes UNSPECIFIED as
// standard.
pb::Priority PriorityOf(const std::string& word) {
  if (word == "interactive") return pb::PRIORITY_INTERACTIVE;
  if (word == "standard") return pb::PRIORITY_STANDARD;
  return word == "batch" ? pb::PRIORITY_BATCH : pb::PRIORITY_UNSPECIFIED;
}

// Returns the request for these options. Fields of unset options stay unset, so that the server's
// defaults apply.
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
  if (options.no_bos) request.mutable_prompt()->set_add_bos_token(false);
  request.mutable_prompt()->set_truncate_prompt_tokens(options.truncate_prompt_tokens);
  request.set_request_id(options.request_id);
  request.set_tenant(options.tenant);
  request.set_priority(PriorityOf(options.priority));
  if (options.n) request.set_n(*options.n);
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
  if (options.time_limit != absl::InfiniteDuration()) {
    stopping->mutable_time_limit()->set_seconds(absl::ToInt64Seconds(options.time_limit));
    stopping->mutable_time_limit()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(options.time_limit % absl::Seconds(1))));
  }
  stopping->set_ignore_eos(options.ignore_eos);
  pb::OutputOptions* output = request.mutable_output();
  if (options.logprobs) output->set_logprobs(*options.logprobs);
  if (options.prompt_logprobs) output->set_prompt_logprobs(*options.prompt_logprobs);
  output->set_echo(options.echo);
  output->set_timing(true);  // for the summary line
  return request;
}

// Why the completion ended, for the summary line.
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

// Prints one line for one token: its id, log probability and rank, quoted text, then its
// alternatives with theirs.
void PrintLogprob(absl::string_view prefix, const pb::TokenLogprob& token) {
  std::string line = absl::StrFormat("%s%8d ", prefix, token.token_id());
  if (token.has_logprob()) {
    absl::StrAppendFormat(&line, "%9.4f rank %-5d ", token.logprob(), token.rank());
  } else {
    // The first token of a prompt has no log probability: no token precedes it.
    absl::StrAppendFormat(&line, "%9s rank %-5s ", "-", "-");
  }
  absl::StrAppend(&line, Quoted(token.token()));
  for (const pb::Alternative& top : token.top()) {
    absl::StrAppendFormat(&line, "  %s %.4f", Quoted(top.token()), top.logprob());
  }
  std::cout << line << "\n";
}

// Prints a line for each token of one message. With several candidates each line of an output token
// begins with "[index] "; the prompt is common to all.
void PrintLogprobs(const pb::GenerateStreamResponse& message, bool has_candidates) {
  for (const pb::TokenLogprob& token : message.prompt_logprobs()) PrintLogprob("prompt ", token);
  const std::string prefix =
      has_candidates ? absl::StrCat("[", message.candidate_index(), "] ") : "";
  for (const pb::TokenLogprob& token : message.logprobs()) PrintLogprob(prefix, token);
}

// Prints one line about the request to stderr, so that stdout holds nothing except the completion.
// `last` is the message with the finish; first_token (TTFT, time to first token) and `total` are
// times since the call. The rate leaves out the first token, whose time is the TTFT.
void PrintSummary(const pb::GenerateStreamResponse& last, absl::Duration first_token,
                  absl::Duration total) {
  const int n = last.usage().output_token_count();
  const double decode_s = absl::ToDoubleSeconds(total - first_token);
  std::string rate = n > 1 && decode_s > 0 ? absl::StrFormat("%.1f tokens/s", (n - 1) / decode_s)
                                           : std::string("-");
  std::cerr << absl::StrFormat(
                   "[%d prompt + %d output tokens | TTFT %.1f ms | "
                   "%s | queue %.1f ms, prefill %.1f "
                   "ms | %s | seed %d]",
                   last.usage().prompt_token_count(), n, absl::ToDoubleMilliseconds(first_token),
                   rate, Seconds(last.timing().queue_duration()) * 1e3,
                   Seconds(last.timing().prefill_duration()) * 1e3, FinishText(last.finish()),
                   last.finish().seed())
            << std::endl;
}

}  // namespace

// Prints each message as it comes: as JSON, or as lines of tokens if log probabilities were asked
// for, or as text.
int RunGenerate(const GlobalOptions& global, const GenerateOptions& options) {
  Client client(global.server);
  const pb::GenerateStreamRequest request = MakeRequest(options);
  std::vector<std::string> texts(std::clamp(options.n.value_or(1), 1, kMaxCandidates));
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
    } else if (options.logprobs || options.prompt_logprobs) {
      PrintLogprobs(message, texts.size() > 1);
    } else if (texts.size() > 1) {
      // Kept until the end: streaming would mix the texts of the candidates.
      const size_t index = static_cast<size_t>(message.candidate_index());
      if (index < texts.size()) texts[index] += message.text_delta();
    } else {
      std::cout << message.text_delta() << std::flush;
    }
    // Each candidate has a finish; the summary shows the one that came last.
    if (message.has_finish()) last = message;
  }
  const absl::Duration total = SteadyNow() - begin;
  const bool is_text = !global.json && !options.logprobs && !options.prompt_logprobs;
  if (is_text && texts.size() > 1) {
    for (size_t i = 0; i < texts.size(); ++i) {
      std::cout << "[" << i << "] " << texts[i] << "\n";
    }
    std::cout << std::flush;
    // The text need not end in a newline, and a shell's prompt must begin on a new line.
  } else if (!global.json && n_messages > 0) {
    std::cout << std::endl;
  }
  // After an error the text so far has been printed; the status says why it ends there.
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return Report(global, status);
  if (!options.quiet && !global.json) PrintSummary(last, first_token, total);
  return kExitOk;
}

}  // namespace bora
