// The commands of `bora`. Each prints to stdout, errors to stderr, and returns the process's exit
// code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/client.h"

namespace bora {

// 0 done, 1 the server refused or failed, 2 bad usage, 3 the server cannot be reached or is not
// ready.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitUnavailable = 3;

struct GlobalOptions {
  std::string server = "127.0.0.1:50051";
  bool json = false;
  double timeout_s = 0;  // 0 = none
};

struct GenerateOptions {
  std::string prompt;
  std::vector<int32_t> prompt_ids;
  std::string model;
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
  bool echo = false;
  bool quiet = false;  // no usage and timing
};

struct StatusOptions {
  bool watch = false;
  double interval_s = 1;
  bool ready = false;  // print nothing, exit 0 when serving
};

int RunGenerate(const GlobalOptions& global, const GenerateOptions& options);
// Each text is tokenized by itself.
int RunTokenize(const GlobalOptions& global, const std::vector<std::string>& texts, bool add_bos);
int RunStatus(const GlobalOptions& global, const StatusOptions& options);

// Ends the call in progress, from any thread; the command then returns. For signals.
void CancelCurrentCall();

}  // namespace bora
