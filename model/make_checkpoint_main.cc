// bora-make-checkpoint: writes a checkpoint of made-up weights for load tests and benchmarks.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
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

// Abseil's flags are spelled with underscores; --hidden-dim is accepted as --hidden_dim. Returns
// the arguments in Abseil's spelling, or the first flag that does not exist or does not parse, so
// that this can be told from a failure by the exit code.
absl::StatusOr<std::vector<std::string>> CheckArguments(int argc, char** argv) {
  std::vector<std::string> arguments = {argv[0]};
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.rfind("--", 0) != 0) {
      return absl::InvalidArgumentError(absl::StrCat("unexpected argument \"", argument, "\""));
    }
    if (argument == "--help") {
      arguments.push_back(argument);
      continue;
    }
    const size_t equals = argument.find('=');
    std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
    std::replace(name.begin(), name.end(), '-', '_');
    absl::CommandLineFlag* const flag = absl::FindCommandLineFlag(name);
    if (flag == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("unknown flag ", argument, ", try --help"));
    }
    if (equals == std::string::npos && i + 1 == argc) {
      return absl::InvalidArgumentError(absl::StrCat(argument, " needs a value"));
    }
    const std::string value = equals == std::string::npos ? argv[++i] : argument.substr(equals + 1);
    std::string error;
    if (!flag->ParseFrom(value, &error)) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, ": ", error));
    }
    arguments.push_back(absl::StrCat("--", name, "=", value));
  }
  return arguments;
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
    options.dtype = DType::kF32;
  } else if (dtype == "f16") {
    options.dtype = DType::kF16;
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
  absl::SetProgramUsageMessage(
      "writes a checkpoint of made-up weights.\n\n"
      "  bora-make-checkpoint --output DIR [--config config.json | --dim N ...]\n\n"
      "The weights are those of --load-format dummy with the same --seed, rounded to --dtype.\n"
      "Exit status: 0 written, 1 failed (a file or directory), 2 wrong flag or value.");
  const absl::StatusOr<std::vector<std::string>> arguments = CheckArguments(argc, argv);
  if (!arguments.ok()) return Fail(arguments.status());
  std::vector<char*> pointers;
  for (const std::string& argument : *arguments) {
    pointers.push_back(const_cast<char*>(argument.c_str()));
  }
  absl::ParseCommandLine(static_cast<int>(pointers.size()), pointers.data());
  return Run();
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) { return bora::Main(argc, argv); }
