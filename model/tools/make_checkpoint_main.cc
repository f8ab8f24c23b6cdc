// bora-make-checkpoint: writes a checkpoint of generated weights for load tests and benchmarks.
#include <cstdio>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/build_info.h"
#include "base/flags/command_line.h"
#include "base/log.h"
#include "base/number_formats.h"
#include "base/status_macros.h"
#include "model/json.h"
#include "model/tools/make_checkpoint.h"

namespace bora {
namespace {

constexpr char kProgram[] = "bora-make-checkpoint";

// Values of the flags, initially the defaults: a small model with Mistral's vocabulary size. The
// texts of MakeCommandLine say what each flag means. A plain value.
struct Flags {
  std::string config;
  int64_t dim = 256;
  int64_t hidden_dim = 896;
  int64_t n_layers = 8;
  int64_t n_heads = 8;
  int64_t n_kv_heads = 2;
  int64_t head_dim = 32;
  int64_t vocab_size = 32000;
  int64_t max_position = 32768;
  double rope_theta = 1e6;
  double norm_eps = 1e-5;
  uint64_t seed = 0;
  std::string layout = "hf";
  std::string dtype = std::string(InfoOf(DType::kBf16).short_name);
  int shards = 1;
  std::string tokenizer;
  std::string output;
};

// Returns the command line. Parsing it writes to `flags`, which must outlive it.
CommandLine MakeCommandLine(Flags* flags) {
  CommandLine command_line(
      {kProgram,
       "Writes a checkpoint of made-up weights, those of --load-format dummy with the same --seed, "
       "rounded to --dtype.\n"
       "  bora-make-checkpoint --output DIR [--config config.json | --dim N ...]",
       "Exit codes: 0 written, 1 failed (a file or directory), 2 wrong flag or value.",
       DescribeBuild(kProgram)});
  CommandFlags& table = command_line.flags();
  table.Heading("Files");
  table.Require("output", TextFlag(&flags->output, "DIR"),
                "Directory to create; must be empty or not exist.");
  table.Flag("layout", ChoiceFlag(&flags->layout, {"hf", "mistral"}),
             "hf (config.json, model.safetensors) or mistral (params.json, "
             "consolidated.safetensors).");
  table.Flag("shards", IntegerFlag(&flags->shards),
             "Number of files that the weights are spread over.");
  table.Flag("tokenizer", TextFlag(&flags->tokenizer, "FILE"),
             "Copy this file to tokenizer.model.");
  table.Heading("Weights");
  table.Flag("dtype", ChoiceFlag(&flags->dtype, DTypeShortNames()), "Their type.");
  table.Flag("seed", UnsignedFlag(&flags->seed),
             "The weights are a pure function of the dimensions and this.");
  table.Heading("Dimensions");
  table.Flag("config", TextFlag(&flags->config, "FILE"),
             "Take the dimensions from this config.json, not from flags.");
  table.Flag("dim", IntegerFlag(&flags->dim), "Width of the residual stream.");
  table.Flag("hidden-dim", IntegerFlag(&flags->hidden_dim), "Width of the feed-forward network.");
  table.Flag("n-layers", IntegerFlag(&flags->n_layers), "Number of layers.");
  table.Flag("n-heads", IntegerFlag(&flags->n_heads), "Number of attention heads.");
  table.Flag("n-kv-heads", IntegerFlag(&flags->n_kv_heads),
             "Number of key/value heads; divides --n-heads.");
  table.Flag("head-dim", IntegerFlag(&flags->head_dim), "Elements of a head; even.");
  table.Flag("vocab-size", IntegerFlag(&flags->vocab_size), "Number of tokens.");
  table.Flag("max-position", IntegerFlag(&flags->max_position), "Context length in tokens.");
  table.Flag("rope-theta", NumberFlag(&flags->rope_theta), "Base of the rotary embedding.");
  table.Flag("norm-eps", NumberFlag(&flags->norm_eps), "Epsilon of RMSNorm.");
  return command_line;
}

// Returns the config in the file of --config or, without that flag, the config of the flags for
// dimensions. INVALID_ARGUMENT if the config is not valid; errors of reading the file.
absl::StatusOr<ModelConfig> ConfigFromFlags(const Flags& flags) {
  const std::string path = flags.config;
  if (!path.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kMaxJsonBytes));
    absl::StatusOr<ModelConfig> config = ParseHfConfig(text);
    if (!config.ok()) return Annotate(config.status(), path);
    return config;
  }
  ModelConfig config;
  config.architecture = "mistral";
  config.dim = flags.dim;
  config.hidden_dim = flags.hidden_dim;
  config.n_layers = flags.n_layers;
  config.n_heads = flags.n_heads;
  config.n_kv_heads = flags.n_kv_heads;
  config.head_dim = flags.head_dim;
  config.vocab_size = flags.vocab_size;
  config.max_position = flags.max_position;
  config.rope_theta = flags.rope_theta;
  config.norm_eps = flags.norm_eps;
  RETURN_IF_ERROR(Validate(config));
  return config;
}

// Translates the flags. ChoiceFlag has checked the words of --layout and --dtype already.
MakeCheckpointOptions OptionsFromFlags(const Flags& flags) {
  MakeCheckpointOptions options;
  if (flags.layout == "mistral") options.layout = CheckpointLayout::kMistral;
  for (const DTypeInfo& info : kDTypes) {
    if (info.short_name == flags.dtype) options.dtype = FileDTypeOf(info.dtype);
  }
  options.seed = flags.seed;
  options.n_shards = flags.shards;
  return options;
}

// Copies the file `from` to tokenizer.model in `dir`; does nothing if `from` is empty. The error
// names both.
absl::Status CopyTokenizer(const std::string& from, const std::string& dir) {
  if (from.empty()) return absl::OkStatus();
  std::error_code error;
  std::filesystem::copy_file(from, absl::StrCat(dir, "/tokenizer.model"), error);
  if (!error) return absl::OkStatus();
  return absl::ErrnoToStatus(error.value(), absl::StrCat(from, ": cannot copy to ", dir));
}

// Prints the error and returns the exit code: kExitUsage for INVALID_ARGUMENT, which a flag or the
// config file causes, else kExitCannotStart.
int Fail(const absl::Status& status) {
  PrintErrors(kProgram, {std::string(status.message())}, /*is_usage=*/false);
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitCannotStart;
}

// Writes the checkpoint and the tokenizer; returns the exit code.
int Run(const Flags& flags) {
  const absl::StatusOr<ModelConfig> config = ConfigFromFlags(flags);
  if (!config.ok()) return Fail(config.status());
  const MakeCheckpointOptions options = OptionsFromFlags(flags);
  if (const absl::Status status = WriteRandomCheckpoint(*config, options, flags.output);
      !status.ok()) {
    return Fail(status);
  }
  if (const absl::Status status = CopyTokenizer(flags.tokenizer, flags.output); !status.ok()) {
    return Fail(status);
  }
  std::printf("%s: %lld parameters\n", flags.output.c_str(),
              static_cast<long long>(ParameterCount(*config)));
  return 0;
}

int Main(int argc, char** argv) {
  InitLog(kProgram, LogLevel::kWarning);
  Flags flags;
  const CommandLine::Parsed parsed = MakeCommandLine(&flags).Parse(argc, argv);
  if (parsed.exit_code.has_value()) return *parsed.exit_code;
  if (!parsed.errors.empty()) {
    PrintErrors(kProgram, parsed.errors, /*is_usage=*/true);
    return kExitUsage;
  }
  return Run(flags);
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) { return bora::Main(argc, argv); }
