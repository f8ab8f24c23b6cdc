#include "client/client_flags.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/build_info.h"
#include "base/flags/quantity.h"
#include "base/status_macros.h"
#include "client/text.h"

namespace bora {
namespace {

// Texts of --help.
constexpr char kSummary[] =
    "Talks to a Bora server, and plans one.\n"
    "  bora generate \"To be, or\" --max-tokens 50\n"
    "  bora status --watch\n"
    "  bora plan --model DIR --gpus 8 --gpu-memory 141GB";

constexpr char kEpilogue[] =
    "Options of all commands (bora --help): --server, --json, --timeout. Names may have "
    "underscores for dashes. TIME: a number with ms, s, m or h; seconds without.\n"
    "Exit codes: 0 done, 1 the server refused or failed, 2 bad usage, 3 no server or not ready, "
    "130 interrupted.";

constexpr char kPlanSummary[] =
    "Compare layouts of a model on GPUs by predicted memory and speed; needs no server.";

// Token ids and counts of tokens are int32 in the API.
constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();

// Each Add function adds a group of flags to `table`; parsing writes their values to `options`.
void AddGlobal(CommandFlags* table, GlobalOptions* options) {
  table->Heading("Options of all commands");
  table->Add({"server", "", "BORA_SERVER", TextFlag(&options->server, "HOST:PORT"),
              "Address of the server."});
  table->Flag("json", BooleanFlag(&options->json),
              "Print JSON: one object, or one for each message of a stream.");
  table->Flag(
      "timeout",
      DurationFlag(&options->timeout, absl::Milliseconds(1), absl::Hours(24)).Default("none"),
      "Deadline of each call.");
}

// The server checks the ranges of these values, so the flags accept any number; their texts name
// the ranges. A default of "the model's" means that the flag is left out of the request.
void AddSampling(CommandFlags* table, GenerateOptions* options) {
  table->Heading("Sampling");
  table->Flag("temperature", NumberFlag(&options->temperature).Default("the model's, or 1"),
              "0 = greedy, up to 100.");
  table->Flag("top-p", NumberFlag(&options->top_p).Default("the model's, or 1"),
              "Nucleus, (0, 1].");
  table->Flag("top-k", IntegerFlag(&options->top_k).Default("the model's, or 0"), "0 = no limit.");
  table->Flag("min-p", NumberFlag(&options->min_p).Default("the model's, or 0"), "[0, 1].");
  table->Flag("repetition-penalty",
              NumberFlag(&options->repetition_penalty).Default("the model's, or 1"),
              "[0.01, 100], on prompt and generated tokens.");
  table->Flag("frequency-penalty", NumberFlag(&options->frequency_penalty).Default("0"),
              "[-2, 2] for each time a token was generated.");
  table->Flag("presence-penalty", NumberFlag(&options->presence_penalty).Default("0"),
              "[-2, 2] once a token was generated.");
  table->Flag("seed", IntegerFlag(&options->seed).Default("chosen by the server"), "Seed.");
}

// Returns the value of an argument that appends token ids to *ids. It may be given several times,
// and each word may hold several ids with commas or blanks between them; "-" reads the ids from
// standard input.
FlagValue IdsArgument(std::vector<int32_t>* ids) {
  FlagValue value;
  value.form = "ID";
  value.is_repeatable = true;
  value.read = [ids](const std::string& text) {
    const std::string list = text == "-" ? ReadStandardInput() : text;
    for (const absl::string_view word :
         absl::StrSplit(list, absl::ByAnyChar(", \t\r\n"), absl::SkipEmpty())) {
      const absl::StatusOr<int64_t> id = ParseInteger(word);
      RETURN_IF_ERROR(id.status());
      if (*id < 0 || *id > kMaxId) {
        return absl::OutOfRangeError(absl::StrCat("must be in [0, ", kMaxId, "]"));
      }
      ids->push_back(static_cast<int32_t>(*id));
    }
    return absl::OkStatus();
  };
  return value;
}

// Flags and argument of `generate`.
void AddGenerate(CommandFlags* table, GenerateOptions* options) {
  table->Argument("prompt", TextFlag(&options->prompt, "TEXT"),
                  "The prompt; - reads standard input.", /*is_required=*/false);
  table->Heading("Prompt");
  table->Flag("prompt-ids", IntegerListFlag(&options->prompt_ids, 0, kMaxId),
              "The prompt as token ids.");
  table->Flag("file", TextFlag(&options->file, "FILE"), "The prompt is the text of this file.");
  table->Flag("no-bos", BooleanFlag(&options->no_bos), "Without the beginning-of-sequence token.");
  table->Flag("truncate-prompt-tokens",
              IntegerFlag(&options->truncate_prompt_tokens, 0, kMaxId).Default("all"),
              "Only the last tokens of the prompt.");
  table->Heading("Request");
  table->Flag("model", TextFlag(&options->model, "NAME").Default("the server's"), "Model name.");
  table->Flag("n", IntegerFlag(&options->n).Default("1"),
              "Completions of the prompt; they are printed when all are there.");
  table->Flag("priority", ChoiceFlag(&options->priority, {"interactive", "standard", "batch"}),
              "Class of the request: which requests are served first.");
  table->Flag("tenant", TextFlag(&options->tenant, "NAME"), "Tenant that the request counts for.");
  table->Flag("request-id", TextFlag(&options->request_id, "ID").Default("made by the server"),
              "Name of the request in logs and errors.");
  AddSampling(table, options);
  table->Heading("End");
  table->Flag("max-tokens", IntegerFlag(&options->max_tokens).Default("256"),
              "Tokens to generate at most.");
  table->Flag("min-tokens", IntegerFlag(&options->min_tokens).Default("0"),
              "Tokens before any stop.");
  table->Flag("stop", RepeatedFlag(&options->stop, "TEXT"), "Stop sequence; \\n is a newline.");
  table->Flag("stop-token-ids", IntegerListFlag(&options->stop_token_ids, 0, kMaxId),
              "Stop token ids.");
  table->Flag("ignore-eos", BooleanFlag(&options->ignore_eos),
              "Go on after the end-of-sequence token.");
  table->Flag(
      "time-limit",
      DurationFlag(&options->time_limit, absl::Milliseconds(1), absl::Hours(24)).Default("none"),
      "End the completion after this time.");
  table->Heading("Output");
  table->Flag("logprobs", IntegerFlag(&options->logprobs),
              "Print a line for each token with this many alternatives, 0 to 20.");
  table->Flag("prompt-logprobs", IntegerFlag(&options->prompt_logprobs),
              "The same for each token of the prompt.");
  table->Flag("echo", BooleanFlag(&options->echo), "Print the prompt in front.");
  table->Add({"quiet", "-q", "", BooleanFlag(&options->quiet),
              "No line with usage and timing on stderr."});
}

// Flags of `plan`. RunPlan parses amounts and checks ranges, since some depend on other flags.
void AddPlan(CommandFlags* table, PlanOptions* options) {
  table->Heading("What to plan for");
  table->Require("model", TextFlag(&options->model, "DIR"),
                 "Directory with config.json or params.json.");
  table->Require("gpus", IntegerFlag(&options->n_gpus).Default(""), "GPUs in all.");
  table->Require("gpu-memory", TextFlag(&options->gpu_memory, "SIZE"),
                 "Memory of a GPU: 141GB, 80GiB.");
  table->Flag("gpus-per-host", IntegerFlag(&options->gpus_per_host).Default("8, or all if fewer"),
              "Divides --gpus.");
  table->Flag("context",
              CountFlag(&options->context, std::numeric_limits<int64_t>::min(),
                        std::numeric_limits<int64_t>::max())
                  .Default("8192, or the model's context if shorter"),
              "Tokens of a request.");
  table->Flag("batch", IntegerFlag(&options->batch).Default("16 a GPU"),
              "Sequences that decode at the same time, over all replicas.");
  table->Flag("objective", TextFlag(&options->objective, "throughput|latency"),
              "What to optimise.");
  table->Heading("Hardware");
  table->Flag("network", TextFlag(&options->network, "RATE"),
              "Bandwidth of a host to others: 400Gb (bits), 25GB (bytes).");
  table->Flag("interconnect", TextFlag(&options->interconnect, "RATE"),
              "Bandwidth of a GPU in a collective inside a host.");
  table->Flag("gpu-bandwidth", TextFlag(&options->gpu_bandwidth, "RATE"),
              "Bandwidth of a GPU's memory; the default is copies on an H200.");
  table->Flag("gpu-tflops", NumberFlag(&options->gpu_tflops),
              "bf16 TFLOP/s of a GPU in matrix products; the default is an H200.");
  table->Flag("gpu-memory-utilization", NumberFlag(&options->gpu_memory_utilization),
              "The worker's flag, (0, 1].");
}

}  // namespace

CommandLine ClientCommandLine(ClientFlags* flags) {
  CommandLine command_line({"bora", kSummary, kEpilogue, DescribeBuild("bora")});
  AddGlobal(&command_line.flags(), &flags->global);
  AddGenerate(&command_line.AddCommand("generate", "Stream a completion of a prompt."),
              &flags->generate);

  TokenizeOptions* const tokenize_options = &flags->tokenize;
  CommandFlags& tokenize =
      command_line.AddCommand("tokenize", "Print the token ids of texts, a tab, and the pieces.");
  tokenize.Argument("text", RepeatedFlag(&tokenize_options->texts, "TEXT"),
                    "Texts; - reads standard input.", /*is_required=*/true);
  tokenize.Flag("no-bos", BooleanFlag(&tokenize_options->no_bos),
                "Without the beginning-of-sequence token.");
  tokenize.Flag("ids-only", BooleanFlag(&tokenize_options->ids_only), "Without the pieces.");

  CommandFlags& detokenize = command_line.AddCommand("detokenize", "Print the text of token ids.");
  detokenize.Argument("id", IdsArgument(&flags->detokenize_ids),
                      "Token ids, with blanks or commas between them; - reads standard input.",
                      /*is_required=*/true);

  CommandFlags& status =
      command_line.AddCommand("status", "Print workers, stages, layers, KV use and requests.");
  status.Flag("watch", BooleanFlag(&flags->status.watch),
              "Print again every --interval until interrupted.");
  status.Flag("interval",
              DurationFlag(&flags->status.interval, absl::Milliseconds(100), absl::Hours(24)),
              "Time between prints.");
  status.Flag("ready", BooleanFlag(&flags->status.ready),
              "Print nothing; exit 0 when serving, else 3.");

  status.Flag("wait",
              DurationFlag(&flags->status.wait, absl::ZeroDuration(), absl::Hours(24)).Default(""),
              "Wait until the server serves, at most this long; exit 3 if it does not.");

  AddPlan(&command_line.AddCommand("plan", kPlanSummary), &flags->plan);
  return command_line;
}

}  // namespace bora
