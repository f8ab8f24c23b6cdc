// The commands of `bora`. Each prints to stdout, errors to stderr, and returns the process's exit
// code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/flags/command_line.h"
#include "client/client.h"

namespace bora {

// 0 done, 1 the server refused or failed, 2 bad usage (base/flags/command_line.h), 3 the server
// cannot be reached or is not ready.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUnavailable = 3;
inline constexpr int kExitInterrupted = 130;  // by SIGINT or SIGTERM

struct GlobalOptions {
  std::string server = "127.0.0.1:50051";
  bool json = false;
  absl::Duration timeout = absl::InfiniteDuration();  // of each call
};

struct GenerateOptions {
  std::string prompt;
  std::vector<int32_t> prompt_ids;
  std::string file;  // whose text is the prompt; empty: none
  bool no_bos = false;
  int32_t truncate_prompt_tokens = 0;  // 0: the whole prompt
  std::string model;
  std::string request_id;
  std::string tenant;
  std::string priority = "standard";  // or interactive, batch
  std::optional<int32_t> n;           // candidates
  absl::Duration time_limit = absl::InfiniteDuration();
  std::optional<int32_t> max_tokens;
  std::optional<int32_t> min_tokens;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int32_t> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<float> frequency_penalty;
  std::optional<float> presence_penalty;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;  // with \n, \t and \\ as escapes
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  std::optional<int32_t> logprobs;
  std::optional<int32_t> prompt_logprobs;
  bool echo = false;
  bool quiet = false;  // no usage and timing
};

struct TokenizeOptions {
  std::vector<std::string> texts;  // each is tokenized by itself
  bool no_bos = false;
  bool ids_only = false;
};

struct StatusOptions {
  bool watch = false;
  absl::Duration interval = absl::Seconds(1);
  bool ready = false;   // print nothing, exit 0 when serving
  absl::Duration wait;  // until it serves, at most; 0: not at all
};

int RunGenerate(const GlobalOptions& global, const GenerateOptions& options);
int RunTokenize(const GlobalOptions& global, const TokenizeOptions& options);
int RunDetokenize(const GlobalOptions& global, const std::vector<int32_t>& ids);
int RunStatus(const GlobalOptions& global, const StatusOptions& options);

// Ends the call in progress, from any thread; the command then returns. For signals.
void CancelCurrentCall();

}  // namespace bora
