// The commands of `bora`. Each prints its result to stdout and errors to stderr, except that with
// --json it prints the error of a failed call to stdout. Each returns the exit code of the process.
// main calls exactly one of them, once, on the main thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/flags/command_line.h"
#include "client/client.h"

namespace bora {

// Exit codes: 0 done, 1 the server refused or failed, 2 wrong usage (kExitUsage of
// base/flags/command_line.h), 3 the server cannot be reached or is not ready, 130 interrupted.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUnavailable = 3;
inline constexpr int kExitInterrupted = 130;  // by SIGINT or SIGTERM during a call

// Flags of all commands.
struct GlobalOptions {
  std::string server = "127.0.0.1:50051";  // HOST:PORT or unix:PATH
  bool json = false;  // print JSON: one object, or one for each message of a stream
  absl::Duration timeout = absl::InfiniteDuration();  // deadline of each call, > 0
};

// Flags of `generate`. A plain value. An unset optional is left out of the request, so that the
// server's or the model's default applies. The server checks the ranges (docs/api.md has them).
// Exactly one of prompt, prompt_ids and file is given; main reads `file` into `prompt`.
struct GenerateOptions {
  std::string prompt;                  // text; empty: none
  std::vector<int32_t> prompt_ids;     // token ids; empty: none
  std::string file;                    // path of a file that holds the prompt; empty: none
  bool no_bos = false;                 // do not add the beginning-of-sequence token
  int32_t truncate_prompt_tokens = 0;  // keep only so many tokens, the last ones; 0: keep all
  std::string model;                   // empty: the server's model
  std::string request_id;              // name in logs and errors; empty: the server makes one
  std::string tenant;                  // on whose behalf; empty: the tenant without a name
  std::string priority = "standard";   // "interactive", "standard" or "batch"
  std::optional<int32_t> n;            // number of completions of the prompt
  // Time after which the server ends the completion, > 0.
  absl::Duration time_limit = absl::InfiniteDuration();
  std::optional<int32_t> max_tokens;  // to generate at most
  std::optional<int32_t> min_tokens;  // to generate before a stop token or sequence counts
  // Sampling, as model/step/sampling_params.h defines it.
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int32_t> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<float> frequency_penalty;
  std::optional<float> presence_penalty;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;           // may hold the escapes \n, \t and \\ (backslash)
  std::vector<int32_t> stop_token_ids;     // the completion ends with any of these tokens
  bool ignore_eos = false;                 // do not stop at the end-of-sequence token
  std::optional<int32_t> logprobs;         // alternatives to print for each output token
  std::optional<int32_t> prompt_logprobs;  // the same for each prompt token
  bool echo = false;                       // the completion begins with the prompt
  bool quiet = false;                      // do not print the summary line (usage and timing)
};

// Flags of `tokenize`.
struct TokenizeOptions {
  std::vector<std::string> texts;  // each is tokenized on its own
  bool no_bos = false;             // do not add the beginning-of-sequence token
  bool ids_only = false;           // print token ids without the pieces of text
};

// Flags of `status`.
struct StatusOptions {
  bool watch = false;                          // print again every `interval` until interrupted
  absl::Duration interval = absl::Seconds(1);  // between two prints of `watch`, > 0
  bool ready = false;                          // print nothing; exit 0 if the server serves, else 3
  absl::Duration wait;  // wait at most so long until the server serves; 0: do not wait
};

// Streams a completion to stdout as it is generated. Several candidates are printed only when all
// have ended, unless tokens or JSON are printed.
int RunGenerate(const GlobalOptions& global, const GenerateOptions& options);
// Prints one line for each text: its token ids, a tab, and the quoted pieces.
int RunTokenize(const GlobalOptions& global, const TokenizeOptions& options);
// Prints the text that the token ids stand for.
int RunDetokenize(const GlobalOptions& global, const std::vector<int32_t>& ids);
// Prints the state of the server once, or repeatedly with `watch`. With `ready` only the exit code
// tells the state.
int RunStatus(const GlobalOptions& global, const StatusOptions& options);

// Cancels the call in progress and all later ones; the command then returns kExitInterrupted. Any
// thread; takes a lock, so not from a signal handler.
void CancelCurrentCall();

}  // namespace bora
