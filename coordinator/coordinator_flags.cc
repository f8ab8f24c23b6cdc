#include "coordinator/coordinator_flags.h"

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/build_info.h"
#include "base/number_formats.h"

namespace bora {
namespace {

constexpr char kSummary[] =
    "Serves a model over gRPC with the workers that connect to it.\n"
    "  bora-coordinator --model DIR\n"
    "  bora-coordinator --model DIR -tp 2 -pp 2";

constexpr char kEpilogue[] =
    "SIZE: bytes, or a number with kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB or TiB. TIME: a "
    "number with ms, s, m or h; seconds without. Numbers of tokens and requests may end in k "
    "(1000), K (1024), M or Mi.\n"
    "Names may have underscores for dashes; a boolean is set by --NAME, --NAME=false or "
    "--no-NAME.\n"
    "SIGTERM and SIGINT drain: nothing new is accepted, requests end or are cut off after "
    "--shutdown-timeout. A second one ends the process at once.\n"
    "Exit codes: 0 told to stop, 1 cannot start, 2 bad usage (also a model that cannot be served), "
    "128 + N at once by signal N.";

// 1 PiB: more than any machine has.
constexpr int64_t kMaxKvCacheBytes = int64_t{1} << 50;
// Upper limits of --max-num-seqs and --max-num-batched-tokens, set by the descriptors of one
// machine and the arrays of a step.
constexpr int64_t kHighestMaxNumSeqs = 4096;
constexpr int64_t kMaxBatchedTokensLimit = 65536;

// The choices of a flag: `first`, then `names`.
std::vector<std::string> Choices(std::string first, std::vector<std::string> names) {
  names.insert(names.begin(), std::move(first));
  return names;
}

// The help of --quantization, from the table of weight formats: "int8: workers keep their matrices
// in ..." for each of them.
std::string QuantizationHelp() {
  std::vector<std::string> lines;
  for (const WeightFormatInfo& info : kWeightFormats) {
    if (!info.is_quantization) continue;
    lines.push_back(
        absl::StrCat(info.name, ": workers keep their matrices in ", info.description, "."));
  }
  return absl::StrJoin(lines, " ");
}

void AddModelFlags(CommandFlags* table, ServerFlags* flags) {
  table->Heading("Model");
  table->Require("model", TextFlag(&flags->model, "DIR"),
                 "Model directory in Hugging Face's or Mistral's layout.");
  table->Flag("served-model-name",
              TextFlag(&flags->served_model_name, "NAME").Default("the directory's name"),
              "Name in the API.");
  table->Flag("tokenizer",
              TextFlag(&flags->tokenizer, "FILE").Default("tokenizer.model in the directory"),
              "Tokenizer of the model.");
  table->Flag("generation-config", TextFlag(&flags->generation_config, "auto|none|DIR"),
              "Where sampling defaults come from, for what a request leaves unset: the model's "
              "generation_config.json (auto), nowhere (none, also vllm), or a folder with such a "
              "file. Its end-of-sequence ids count in any case.");
  table->Flag("load-format", ChoiceFlag(&flags->load_format, {"auto", "dummy"}),
              "auto: the checkpoint's weights. dummy: random weights of the config's shape.");
  table->Flag("dtype", ChoiceFlag(&flags->dtype, Choices("auto", DTypeNames())),
              "Type of weights and KV cache; auto: as the checkpoint. float16 weights are computed "
              "with as they are, beside a float32 KV cache, on CPUs only.");
  table->Flag("quantization",
              ChoiceFlag(&flags->quantization, Choices("none", QuantizationNames())),
              QuantizationHelp());
  table->Flag("max-model-len",
              CountFlag(&flags->max_model_len, 0, std::numeric_limits<int32_t>::max())
                  .Default("the model's context"),
              "Tokens of prompt and completion together, at most.");
  table->Flag("seed", UnsignedFlag(&flags->seed), "Seed of dummy weights.");
}

void AddGroupFlags(CommandFlags* table, ServerFlags* flags) {
  table->Heading("Division over workers");
  table->Add({"tensor-parallel-size", "-tp", "", IntegerFlag(&flags->tensor_parallel_size, 1, 1024),
              "Ranks that share each layer."});
  table->Add({"pipeline-parallel-size", "-pp", "",
              IntegerFlag(&flags->pipeline_parallel_size, 1, 1024),
              "Stages that share the layers."});
  table->Flag("layers-per-stage",
              IntegerListFlag(&flags->layers_per_stage, 1, std::numeric_limits<int32_t>::max())
                  .Default("balanced"),
              "Layers of each stage.");
}

void AddSchedulingFlags(CommandFlags* table, ServerFlags* flags) {
  table->Heading("Requests");
  table->Flag("max-num-seqs", CountFlag(&flags->max_num_seqs, 1, kHighestMaxNumSeqs),
              "Requests that run at the same time.");
  table->Flag("max-num-batched-tokens",
              CountFlag(&flags->max_num_batched_tokens, 1, kMaxBatchedTokensLimit),
              "Tokens of one step; longer prompts are cut in chunks. Open streams wait that long "
              "for their next token; a CPU is as efficient with 64 tokens as with more.");
  table->Flag("max-num-queued-reqs", CountFlag(&flags->max_num_queued_reqs, 1, 1000000),
              "Sequences that wait, one for each candidate of a request; more are refused.");
  table->Flag("kv-cache-memory-bytes",
              BytesFlag(&flags->kv_cache_memory_bytes, 0, kMaxKvCacheBytes).Default(""),
              "KV cache of each worker, at most. Default: on a GPU all that its worker has set "
              "aside (--gpu-memory-utilization), otherwise 1GiB, or what a request of "
              "--max-model-len takes if that is more.");
  table->Flag("enable-prefix-caching", BooleanFlag(&flags->enable_prefix_caching),
              "Share the KV blocks of prompts that begin alike; answers are the same without.");
  table->Flag("async-scheduling", BooleanFlag(&flags->async_scheduling),
              "Plan the next step before the last one's result is back, so that no worker waits "
              "for the coordinator; answers are the same without.");
  table->Flag("step-time-budget-ms", IntegerFlag(&flags->step_time_budget_ms, 0, 60000),
              "While requests decode, prompts are cut so that a step takes about this long; 16 "
              "tokens a step at least. 0: no limit but --max-num-batched-tokens.");
  table->Flag("tenant-weights", ListFlag(&flags->tenant_weights, "TENANT=X,..."),
              "Shares of the server's time; a tenant that is not named has 1.");
}

void AddProcessFlags(CommandFlags* table, CoordinatorFlags* flags) {
  table->Heading("Network");
  table->Flag("listen", TextFlag(&flags->listen, "HOST:PORT"),
              "Where clients connect; port 0 takes any that is free, unix:PATH a Unix socket.");
  table->Flag("worker-listen", TextFlag(&flags->worker_listen, "HOST:PORT"),
              "Where workers connect.");
  table->Flag("insecure-listen", BooleanFlag(&flags->insecure_listen),
              "Allow listeners without encryption on addresses other than loopback.");
  table->Flag("worker-credential-file", TextFlag(&flags->worker_credential_file, "FILE"),
              "File whose first line workers must know. Without: the environment variable "
              "BORA_WORKER_CREDENTIAL. Required unless --worker-listen is a loopback address.");
  table->Heading("Process");
  table->Flag("shutdown-timeout",
              DurationFlag(&flags->shutdown_timeout, absl::ZeroDuration(), absl::Hours(24)),
              "After SIGTERM, time for requests to end.");
  table->Flag("heartbeat-timeout",
              DurationFlag(&flags->server.heartbeat_timeout, absl::Seconds(2), absl::Minutes(10)),
              "Silence after which a worker is lost, and every open stream with it. After 1.5 s "
              "already nothing new is accepted.");
  table->Flag("exit-with-parent", BooleanFlag(&flags->exit_with_parent),
              "Exit when the process that started this one is gone.");
}

void AddLogFlags(CommandFlags* table, CoordinatorFlags* flags) {
  table->Heading("Log");
  table->Flag("log-level", ChoiceFlag(&flags->log_level, {"debug", "info", "warning", "error"}),
              "Lowest level of the lines that are written to standard error.");
  table->Flag("log-format", ChoiceFlag(&flags->log_format, {"json", "text"}),
              "One JSON object a line, or text for people.");
  table->Flag("access-log", ChoiceFlag(&flags->access_log, {"all", "errors", "off"}),
              "Calls of clients that have a line.");
  table->Flag("access-log-sample", NumberFlag(&flags->access_log_sample, {.min = 0, .max = 1}),
              "Part of the calls that succeed which has a line, chosen by request id.");
}

}  // namespace

CommandLine CoordinatorCommandLine(CoordinatorFlags* flags) {
  CommandLine command_line(
      {"bora-coordinator", kSummary, kEpilogue, DescribeBuild("bora-coordinator")});
  CommandFlags* const table = &command_line.flags();
  AddModelFlags(table, &flags->server);
  AddGroupFlags(table, &flags->server);
  AddSchedulingFlags(table, &flags->server);
  AddLogFlags(table, flags);
  AddProcessFlags(table, flags);
  return command_line;
}

}  // namespace bora
