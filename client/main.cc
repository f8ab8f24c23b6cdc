// bora: the command-line client.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>

#include "base/log.h"
#include "base/steady_waits.h"
#include "client/commands.h"
#include "client/plan.h"

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

void AddPlan(CLI::App& app, PlanOptions* options) {
  CLI::App* command = app.add_subcommand(
      "plan", "Compare layouts of a model on GPUs by predicted memory and speed; needs no server");
  command->add_option("--model", options->model, "Directory with config.json or params.json")
      ->required();
  command->add_option("--gpus", options->n_gpus, "GPUs in all")->required();
  command->add_option("--gpu-memory", options->gpu_memory, "Memory of a GPU: 141GB, 80GiB")
      ->required();
  command->add_option("--gpus-per-host", options->gpus_per_host,
                      "Divides --gpus (default 8, or all where there are fewer)");
  command->add_option("--network", options->network,
                      "Bandwidth of a host to others: 400Gb (bits), 25GB (default 400Gb/s)");
  command->add_option("--interconnect", options->interconnect,
                      "Bandwidth of a GPU in a collective inside a host (default 365GB/s)");
  command->add_option("--gpu-bandwidth", options->gpu_bandwidth,
                      "Bandwidth of a GPU's memory (default 4300GB/s, copies on an H200)");
  command->add_option("--gpu-tflops", options->gpu_tflops,
                      "bf16 TFLOP/s of a GPU in matrix products (default 790, an H200)");
  command->add_option("--gpu-memory-utilization", options->gpu_memory_utilization,
                      "(0, 1], the worker's flag (default 0.9)");
  command->add_option("--context", options->context,
                      "Tokens of a request (default 8192, or the model's context if shorter)");
  command->add_option(
      "--batch", options->batch,
      "Sequences that decode at the same time, over all replicas (default 16 a GPU)");
  command->add_option("--objective", options->objective,
                      "throughput or latency (default throughput)");
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
  // What a command has to say it prints itself.
  InitLog("bora", LogLevel::kWarning);
  CLI::App app(
      "Talks to a Bora server, and plans one.\n"
      "  bora generate \"To be, or\" --max-tokens 50\n"
      "  bora status --watch\n"
      "  bora plan --model DIR --gpus 8 --gpu-memory 141GB\n"
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
  PlanOptions plan;
  AddPlan(app, &plan);
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
  if (app.got_subcommand("plan")) return RunPlan(global, plan);
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
  bora::UseSteadyWaits();  // for --timeout
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
