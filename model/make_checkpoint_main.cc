// bora-make-checkpoint: writes a checkpoint of made-up weights for load tests and benchmarks.
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/json.h"
#include "model/make_checkpoint.h"

ABSL_FLAG(std::string, config, "", "take the dimensions from this config.json, not from flags");
ABSL_FLAG(int64_t, dim, 256, "width of the residual stream");
ABSL_FLAG(int64_t, hidden_dim, 896, "width of the feed-forward network");
ABSL_FLAG(int64_t, n_layers, 8, "number of layers");
ABSL_FLAG(int64_t, n_heads, 8, "number of attention heads");
ABSL_FLAG(int64_t, n_kv_heads, 2, "number of key/value heads; divides --n-heads");
ABSL_FLAG(int64_t, head_dim, 32, "elements of a head; even");
ABSL_FLAG(int64_t, vocab_size, 32000, "number of tokens");
ABSL_FLAG(int64_t, max_position, 32768, "context length in tokens");
ABSL_FLAG(double, rope_theta, 1e6, "base of the rotary embedding");
ABSL_FLAG(double, norm_eps, 1e-5, "epsilon of RMSNorm");
ABSL_FLAG(uint64_t, seed, 0, "the weights are a pure function of the dimensions and this");
ABSL_FLAG(std::string, layout, "hf",
          "hf (config.json, model.safetensors) or mistral (params.json, consolidated.safetensors)");
ABSL_FLAG(std::string, dtype, "bf16", "f32, bf16 or f16");
ABSL_FLAG(int, shards, 1, "number of files that the weights are spread over");
ABSL_FLAG(std::string, tokenizer, "", "copy this file to tokenizer.model");
ABSL_FLAG(std::string, output, "", "directory to create; must be empty or not exist");

namespace bora {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

constexpr char kUsage[] =
    "bora-make-checkpoint writes a checkpoint of made-up weights.\n\n"
    "  bora-make-checkpoint --output DIR [--config config.json | --dim N ...]\n\n"
    "The weights are those of --load-format dummy with the same --seed, rounded to --dtype.\n"
    "Exit status: 0 written, 1 failed (a file or directory), 2 wrong flag or value.\n\n";

// This program's flags by the name they are typed as; Abseil adds some of its own, left out here.
std::map<std::string, absl::CommandLineFlag*> OwnFlags() {
  std::map<std::string, absl::CommandLineFlag*> flags;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (!absl::EndsWith(flag->Filename(), "make_checkpoint_main.cc")) continue;
    flags[absl::StrReplaceAll(name, {{"_", "-"}})] = flag;
  }
  return flags;
}

void PrintHelp() {
  std::fputs(kUsage, stdout);
  for (const auto& [name, flag] : OwnFlags()) {
    const std::string value = flag->DefaultValue();
    std::printf("  --%-15s %s%s\n", name.c_str(), flag->Help().c_str(),
                value.empty() ? "" : absl::StrCat(" (", value, ")").c_str());
  }
}

// Sets the flags from --name value or --name=value; hyphens and underscores are the same. Abseil's
// own parser exits with 1 on a wrong flag, and so could not be told from a failed write.
absl::Status ParseArguments(int argc, char** argv) {
  const std::map<std::string, absl::CommandLineFlag*> flags = OwnFlags();
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    const std::string typed = argument.substr(0, equals);
    const auto it = typed.rfind("--", 0) == 0
                        ? flags.find(absl::StrReplaceAll(typed.substr(2), {{"_", "-"}}))
                        : flags.end();
    if (it == flags.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown argument ", argument, ", try --help"));
    }
    if (equals == std::string::npos && i + 1 == argc) {
      return absl::InvalidArgumentError(absl::StrCat(argument, " needs a value"));
    }
    const std::string value = equals == std::string::npos ? argv[++i] : argument.substr(equals + 1);
    std::string error;
    if (!it->second->ParseFrom(value, &error)) {
      return absl::InvalidArgumentError(absl::StrCat(typed, ": ", error));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ConfigFromFlags() {
  const std::string path = absl::GetFlag(FLAGS_config);
  if (!path.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kMaxJsonBytes));
    absl::StatusOr<ModelConfig> config = ParseHfConfig(text);
    if (!config.ok()) return Annotate(config.status(), path);
    return config;
  }
  ModelConfig config;
  config.architecture = "mistral";
  config.dim = absl::GetFlag(FLAGS_dim);
  config.hidden_dim = absl::GetFlag(FLAGS_hidden_dim);
  config.n_layers = absl::GetFlag(FLAGS_n_layers);
  config.n_heads = absl::GetFlag(FLAGS_n_heads);
  config.n_kv_heads = absl::GetFlag(FLAGS_n_kv_heads);
  config.head_dim = absl::GetFlag(FLAGS_head_dim);
  config.vocab_size = absl::GetFlag(FLAGS_vocab_size);
  config.max_position = absl::GetFlag(FLAGS_max_position);
  config.rope_theta = absl::GetFlag(FLAGS_rope_theta);
  config.norm_eps = absl::GetFlag(FLAGS_norm_eps);
  RETURN_IF_ERROR(Validate(config));
  return config;
}

absl::StatusOr<MakeCheckpointOptions> OptionsFromFlags() {
  MakeCheckpointOptions options;
  const std::string layout = absl::GetFlag(FLAGS_layout);
  if (layout != "hf" && layout != "mistral") {
    return absl::InvalidArgumentError(
        absl::StrCat("--layout is \"", layout, "\", must be hf or mistral"));
  }
  if (layout == "mistral") options.layout = CheckpointLayout::kMistral;
  const std::string dtype = absl::GetFlag(FLAGS_dtype);
  if (dtype == "f32") {
    options.dtype = FileDType::kF32;
  } else if (dtype == "f16") {
    options.dtype = FileDType::kF16;
  } else if (dtype != "bf16") {
    return absl::InvalidArgumentError(
        absl::StrCat("--dtype is \"", dtype, "\", must be f32, bf16 or f16"));
  }
  options.seed = absl::GetFlag(FLAGS_seed);
  options.n_shards = absl::GetFlag(FLAGS_shards);
  return options;
}

absl::Status CopyTokenizer(const std::string& from, const std::string& dir) {
  if (from.empty()) return absl::OkStatus();
  std::error_code error;
  std::filesystem::copy_file(from, absl::StrCat(dir, "/tokenizer.model"), error);
  if (!error) return absl::OkStatus();
  return absl::ErrnoToStatus(error.value(), absl::StrCat(from, ": cannot copy to ", dir));
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "bora-make-checkpoint: %s\n", std::string(status.message()).c_str());
  return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailure;
}

int Run() {
  const std::string dir = absl::GetFlag(FLAGS_output);
  if (dir.empty()) return Fail(absl::InvalidArgumentError("--output is missing, try --help"));
  const absl::StatusOr<ModelConfig> config = ConfigFromFlags();
  if (!config.ok()) return Fail(config.status());
  const absl::StatusOr<MakeCheckpointOptions> options = OptionsFromFlags();
  if (!options.ok()) return Fail(options.status());
  if (const absl::Status status = WriteRandomCheckpoint(*config, *options, dir); !status.ok()) {
    return Fail(status);
  }
  if (const absl::Status status = CopyTokenizer(absl::GetFlag(FLAGS_tokenizer), dir);
      !status.ok()) {
    return Fail(status);
  }
  std::printf("%s: %lld parameters\n", dir.c_str(),
              static_cast<long long>(ParameterCount(*config)));
  return 0;
}

int Main(int argc, char** argv) {
  InitLog("bora-make-checkpoint", LogLevel::kWarning);
  for (int i = 1; i < argc; ++i) {
    if (absl::string_view(argv[i]) != "--help") continue;
    PrintHelp();
    return 0;
  }
  if (const absl::Status status = ParseArguments(argc, argv); !status.ok()) return Fail(status);
  return Run();
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) { return bora::Main(argc, argv); }
