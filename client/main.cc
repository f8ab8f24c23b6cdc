// bora: the command-line client. Reads the command line and all inputs, then runs one command.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/flags/command_line.h"
#include "base/host/host_port.h"
#include "base/log.h"
#include "base/rpc/rpc_log.h"
#include "base/status_macros.h"
#include "base/steady_waits.h"
#include "client/client_flags.h"
#include "client/commands.h"
#include "client/plan.h"
#include "client/terminal.h"
#include "client/text.h"
#include "model/json.h"

namespace bora {
namespace {

// Most bytes of a prompt file. Servers accept only shorter prompts.
constexpr size_t kMaxPromptFileBytes = 64 << 20;

// Checks that exactly one of prompt, --file and --prompt-ids is given, and reads a prompt from a
// file or from standard input into options->prompt. INVALID_ARGUMENT if none or several are given;
// else the error of reading the file.
absl::Status ReadPrompt(GenerateOptions* options) {
  const int n_given = (options->prompt.empty() ? 0 : 1) + (options->file.empty() ? 0 : 1) +
                      (options->prompt_ids.empty() ? 0 : 1);
  if (n_given != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "generate: ", n_given == 0 ? "a prompt, --file or --prompt-ids is required"
                                   : "only one of a prompt, --file and --prompt-ids is possible"));
  }
  if (options->prompt == "-") options->prompt = ReadStandardInput();
  if (options->file.empty()) return absl::OkStatus();
  const absl::StatusOr<std::string> text = ReadSmallFile(options->file, kMaxPromptFileBytes);
  if (text.ok()) options->prompt = *text;
  return Annotate(text.status(), "--file");
}

// INVALID_ARGUMENT for URLs, whose scheme gRPC would resolve as a host name, and for ports that
// gRPC would misread.
absl::Status CheckServerAddress(const std::string& server) {
  for (const absl::string_view scheme : {"http://", "https://", "grpc://"}) {
    if (absl::StartsWith(server, scheme)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--server=", server, ": write HOST:PORT, without ", scheme));
    }
  }
  return Annotate(CheckHostPort(server, /*min_port=*/1), "--server");
}

// Blocks SIGINT and SIGTERM in the calling thread, whose later threads inherit that, and starts a
// thread that waits for them. The first signal cancels the call in progress, so that the command
// ends in order; the second ends the process at once.
void CancelOnSignal() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals] {
    int signal_number = 0;
    sigwait(&signals, &signal_number);
    CancelCurrentCall();
    sigwait(&signals, &signal_number);
    RestoreTerminal();
    _exit(128 + signal_number);
  }).detach();
}

// Returns the exit code.
int Main(int argc, char** argv) {
  // The log is for errors of libraries only: commands print their own messages.
  InitLog("bora", LogLevel::kWarning);
  TakeOverRpcLogs(LogLevel::kDebug);
  ClientFlags flags;
  const CommandLine::Parsed parsed = ClientCommandLine(&flags).Parse(argc, argv);
  if (parsed.exit_code.has_value()) return *parsed.exit_code;
  std::vector<std::string> errors = parsed.errors;
  GenerateOptions& generate = flags.generate;
  // All errors of the command line are reported together. `plan` talks to no server.
  if (parsed.command != "plan") {
    const absl::Status server = CheckServerAddress(flags.global.server);
    if (!server.ok()) errors.emplace_back(server.message());
  }
  if (errors.empty() && parsed.command == "generate") {
    const absl::Status prompt = ReadPrompt(&generate);
    if (!prompt.ok()) errors.emplace_back(prompt.message());
  }
  if (!errors.empty()) {
    PrintErrors("bora", errors, /*is_usage=*/true);
    return kExitUsage;
  }
  if (parsed.command == "plan") return RunPlan(flags.global, flags.plan);
  // Read before CancelOnSignal(), since a signal during this wait must end the process.
  for (std::string& text : flags.tokenize.texts) {
    if (text == "-") text = ReadStandardInput();
  }
  CancelOnSignal();
  if (parsed.command == "generate") return RunGenerate(flags.global, generate);
  if (parsed.command == "tokenize") {
    return RunTokenize(flags.global, flags.tokenize);
  }
  if (parsed.command == "detokenize") return RunDetokenize(flags.global, flags.detokenize_ids);
  return RunStatus(flags.global, flags.status);
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  bora::UseSteadyWaits();  // so that --timeout follows the steady clock
  int exit_code = bora::Main(argc, argv);
  // A full disk or a closed pipe is noticed only when the buffer is written.
  std::cout.flush();
  if (!std::cout && exit_code == bora::kExitOk) {
    std::fprintf(stderr, "bora: cannot write to standard output\n");
    exit_code = bora::kExitFailed;
  }
  std::fflush(nullptr);
  // Without destructors of globals, since the detached signal thread may still use them.
  _exit(exit_code);
}
