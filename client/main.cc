// bora: the command-line client.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>

#include "client/commands.h"

namespace bora {
namespace {

void AddGenerate(CLI::App& app, GenerateOptions* options) {
  CLI::App* command = app.add_subcommand("generate", "Stream a completion of a prompt");
  command->add_option("prompt", options->prompt, "The prompt; - reads standard input");
  // Each takes one word, so that a prompt may follow.
  command->add_option("--prompt-ids", options->prompt_ids, "The prompt as token ids: 1,2,3")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--model", options->model, "Model name (default: the server's)");
  command->add_option("--max-tokens", options->max_tokens,
                      "Tokens to generate at most (default 256)");
  command->add_option("--min-tokens", options->min_tokens, "Tokens before any stop (default 0)");
  command->add_option("--temperature", options->temperature, "0 = greedy, up to 100 (default 1)");
  command->add_option("--top-p", options->top_p, "(0, 1] (default 1)");
  command->add_option("--top-k", options->top_k, "0 = no limit (default 0)");
  command->add_option("--min-p", options->min_p, "[0, 1] (default 0)");
  command->add_option("--repetition-penalty", options->repetition_penalty,
                      "[0.01, 100], on prompt and generated tokens (default 1)");
  command->add_option("--frequency-penalty", options->frequency_penalty,
                      "[-2, 2] for each time a token was generated (default 0)");
  command->add_option("--presence-penalty", options->presence_penalty,
                      "[-2, 2] once a token was generated (default 0)");
  command->add_option("--seed", options->seed, "Seed (default: chosen by the server)");
  command->add_option("--stop", options->stop, "Stop sequence, may be repeated; \\n is a newline")
      ->allow_extra_args(false);
  command->add_option("--stop-token-ids", options->stop_token_ids, "Stop token ids: 1,2,3")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after the end-of-sequence token");
  command->add_option("--logprobs", options->logprobs,
                      "Print a line for each token with this many alternatives, 0 to 20");
  command->add_flag("--echo", options->echo, "Print the prompt in front");
  command->add_flag("--quiet,-q", options->quiet, "No line with usage and timing on stderr");
}

std::string ReadStandardInput() {
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

// One thread waits for signals that every other thread blocks.
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
    _exit(128 + signal_number);
  }).detach();
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Talks to a Bora server.\n"
      "  bora generate \"To be, or\" --max-tokens 50\n"
      "  bora status --watch\n"
      "Exit codes: 0 done, 1 the server refused or failed, 2 bad usage, 3 no server or not ready, "
      "130 interrupted.",
      "bora");
  app.require_subcommand(1);
  // Options of all commands may stand before or after the command's name.
  app.fallthrough();
  GlobalOptions global;
  app.add_option("--server", global.server, "HOST:PORT of the server (default 127.0.0.1:50051)")
      ->envname("BORA_SERVER");
  app.add_flag("--json", global.json,
               "Print JSON: one object, or one for each message of a stream");
  app.add_option("--timeout", global.timeout_s, "Deadline of each call in seconds (default: none)")
      ->check(CLI::PositiveNumber);

  GenerateOptions generate;
  AddGenerate(app, &generate);
  std::vector<std::string> texts;
  bool no_bos = false;
  CLI::App* tokenize = app.add_subcommand("tokenize", "Print the token ids of texts");
  tokenize->add_option("text", texts, "Texts; - reads standard input")->required();
  tokenize->add_flag("--no-bos", no_bos, "Without the beginning-of-sequence token");
  StatusOptions status;
  CLI::App* status_command =
      app.add_subcommand("status", "Print workers, stages, layers, KV use and requests");
  status_command->add_flag("--watch", status.watch,
                           "Print again every --interval until interrupted");
  status_command->add_option("--interval", status.interval_s, "Seconds between prints (default 1)")
      ->check(CLI::PositiveNumber);
  status_command->add_flag("--ready", status.ready, "Print nothing; exit 0 when serving, else 3");
  bool known = argc < 2 || argv[1][0] == '-';
  for (CLI::App* command : app.get_subcommands(nullptr)) {
    command->footer("Of all commands (bora --help): --server, --json, --timeout");
    known = known || command->get_name() == argv[1];
  }
  if (!known) {
    std::fprintf(stderr, "bora: '%s' is not a command; see bora --help\n", argv[1]);
    return kExitUsage;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  if (app.got_subcommand("generate") && generate.prompt.empty() && generate.prompt_ids.empty()) {
    std::fprintf(stderr, "bora generate: a prompt or --prompt-ids is required\n");
    return kExitUsage;
  }
  // Before signals are taken over: one that comes while this waits ends the process.
  if (generate.prompt == "-") generate.prompt = ReadStandardInput();
  for (std::string& text : texts) {
    if (text == "-") text = ReadStandardInput();
  }
  CancelOnSignal();
  if (app.got_subcommand("generate")) return RunGenerate(global, generate);
  if (app.got_subcommand("tokenize")) return RunTokenize(global, texts, !no_bos);
  return RunStatus(global, status);
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  int exit_code = bora::Main(argc, argv);
  std::cout.flush();
  if (!std::cout && exit_code == bora::kExitOk) {
    std::fprintf(stderr, "bora: cannot write to standard output\n");
    exit_code = bora::kExitFailed;
  }
  std::fflush(nullptr);
  // The signal thread still waits: leave without running destructors under it.
  _exit(exit_code);
}
