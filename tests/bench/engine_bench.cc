// bora-bench-engine: speed of the engine without RPC: ranks as threads, a model of made-up weights
// (or a checkpoint), plans as the coordinator would send them.
//
// Prints "figure NAME VALUE UNIT" rows:
//   load_s, weights_mib, kv_mib, rss_peak_mib     always (rss: the whole process, at the end)
//   prefill_tokens_per_s, prefill_step_ms_*       when a prompt was computed
//   decode_tokens_per_s, decode_step_ms_*         --mode decode or both
//   decode_busy                                   part of that time in which the (first) stage
//   worked
// A run opens --batch sequences, passes their prompts in steps of at most --chunk tokens, only the
// last token of each through the head, then decodes. prefill: prompts of --tokens. decode: prompts
// of --depth, computed once before the first repetition, then --tokens steps a repetition, each
// at the depth that the one before has reached. both: prompts of --depth and --tokens steps, from
// the start in each repetition. load: nothing but the weights.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/flag_names.h"
#include "base/int_math.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "model/dummy_weights.h"
#include "tests/cuda/cuda_ranks.h"
#include "tests/worker/local_group.h"
#include "tests/worker/plan_builder.h"

ABSL_FLAG(std::string, shape, "1b", "Model of made-up weights: 1b, 7b, tiny64, tiny or demo.");
ABSL_FLAG(std::string, model, "", "Directory of a checkpoint to load instead.");
ABSL_FLAG(std::string, dtype, "bf16", "bf16, f32, or int8: matrices in 8 bits, the rest in bf16.");
ABSL_FLAG(std::string, device, "cpu", "cpu, or cuda: the first GPU, in builds with CUDA.");
ABSL_FLAG(bool, graphs, true, "With --device=cuda: steps of decoding are launched as graphs.");
ABSL_FLAG(int, threads, 2, "Threads of all ranks together.");
ABSL_FLAG(int, tp, 1, "Tensor parallel ranks; divides --threads.");
ABSL_FLAG(std::string, mode, "both", "prefill, decode, both or load.");
ABSL_FLAG(int, tokens, 128, "Prompt tokens of prefill, steps of decode and both.");
ABSL_FLAG(int, depth, 1, "Prompt tokens of decode and both.");
ABSL_FLAG(int, batch, 1, "Sequences.");
ABSL_FLAG(int, chunk, 512, "Most tokens of one step.");
ABSL_FLAG(int, repetitions, 1, "Repetitions; figures are of the median one.");
ABSL_FLAG(int, in_flight, 2, "Decode plans handed out ahead of the last result that came back.");
ABSL_FLAG(bool, random_tokens, false, "Decode feeds random tokens instead of the sampled ones.");
ABSL_FLAG(uint64_t, seed, 1, "Of weights and prompts.");

namespace bora {
namespace {

// Far above any step of any shape on a slow machine.
constexpr absl::Duration kStepTimeout = absl::Minutes(10);

struct NamedShape {
  const char* name;
  int64_t dim, hidden_dim, n_layers, n_heads, n_kv_heads, head_dim, vocab_size;
};
constexpr NamedShape kShapes[] = {
    {"1b", 2048, 5632, 22, 32, 8, 64, 32000}, {"7b", 4096, 14336, 32, 32, 8, 128, 32000},
    {"tiny64", 128, 384, 32, 2, 1, 64, 512},  {"tiny", 128, 384, 32, 8, 2, 16, 512},
    {"demo", 128, 256, 32, 8, 2, 16, 1024},
};

struct BenchOptions {
  bool prefill = false;      // measure prompts
  bool decode = false;       // measure decode steps
  bool prompt_once = false;  // prompts are computed before the first repetition only
  int n_prompt_tokens = 0;   // of each sequence
  int n_decode_steps = 0;    // of a repetition
  int n_sequences = 1;
  int n_repetitions = 1;
  int n_in_flight = 2;
  bool random_tokens = false;
  int chunk = 512;
  uint64_t seed = 1;

  // Decode steps that a sequence lives through.
  int n_steps_in_all() const { return n_decode_steps * (prompt_once ? n_repetitions : 1); }
};

absl::StatusOr<ModelConfig> ConfigOfShape(const std::string& name) {
  for (const NamedShape& shape : kShapes) {
    if (name != shape.name) continue;
    ModelConfig config;
    config.architecture = "mistral";
    config.dim = shape.dim;
    config.hidden_dim = shape.hidden_dim;
    config.n_layers = shape.n_layers;
    config.n_heads = shape.n_heads;
    config.n_kv_heads = shape.n_kv_heads;
    config.head_dim = shape.head_dim;
    config.vocab_size = shape.vocab_size;
    config.max_position = 65536;
    config.rope_theta = 1e6;
    config.norm_eps = 1e-5;
    return config;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--shape=", name, " is not one of 1b, 7b, tiny64, tiny, demo"));
}

absl::StatusOr<std::unique_ptr<WeightSource>> Weights() {
  const std::string directory = absl::GetFlag(FLAGS_model);
  if (!directory.empty()) {
    ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(directory));
    return std::make_unique<CheckpointWeights>(std::move(checkpoint));
  }
  ASSIGN_OR_RETURN(const ModelConfig config, ConfigOfShape(absl::GetFlag(FLAGS_shape)));
  return std::make_unique<DummyWeights>(config, absl::GetFlag(FLAGS_seed));
}

absl::StatusOr<Precision> PrecisionOf(const std::string& name) {
  if (name == "bf16") return Precision(DType::kBf16);
  if (name == "f32") return Precision(DType::kF32);
  if (name == "int8") return Precision(DType::kBf16, WeightFormat::kInt8);
  return absl::InvalidArgumentError(absl::StrCat("--dtype=", name, " is not bf16, f32 or int8"));
}

absl::StatusOr<BenchOptions> OptionsFromFlags() {
  const std::string mode = absl::GetFlag(FLAGS_mode);
  BenchOptions options;
  options.prefill = mode == "prefill" || mode == "both";
  options.decode = mode == "decode" || mode == "both";
  options.prompt_once = mode == "decode";
  if (!options.prefill && !options.decode && mode != "load") {
    return absl::InvalidArgumentError(
        absl::StrCat("--mode=", mode, " is not prefill, decode, both or load"));
  }
  const int n_tokens = absl::GetFlag(FLAGS_tokens);
  options.n_prompt_tokens = options.decode ? absl::GetFlag(FLAGS_depth) : n_tokens;
  options.n_decode_steps = options.decode ? n_tokens : 0;
  options.n_sequences = absl::GetFlag(FLAGS_batch);
  options.n_repetitions = absl::GetFlag(FLAGS_repetitions);
  options.n_in_flight = absl::GetFlag(FLAGS_in_flight);
  options.random_tokens = absl::GetFlag(FLAGS_random_tokens);
  options.chunk = absl::GetFlag(FLAGS_chunk);
  options.seed = absl::GetFlag(FLAGS_seed);
  const std::pair<const char*, int> at_least_one[] = {
      {"tokens", n_tokens},
      {"depth", absl::GetFlag(FLAGS_depth)},
      {"batch", options.n_sequences},
      {"chunk", options.chunk},
      {"repetitions", options.n_repetitions},
      {"in_flight", options.n_in_flight},
      {"tp", absl::GetFlag(FLAGS_tp)},
      {"threads", absl::GetFlag(FLAGS_threads) / std::max(1, absl::GetFlag(FLAGS_tp))}};
  for (const auto& [name, value] : at_least_one) {
    if (value < 1) return absl::InvalidArgumentError(absl::StrCat("--", name, " is too small"));
  }
  if (absl::GetFlag(FLAGS_threads) % absl::GetFlag(FLAGS_tp) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--threads=", absl::GetFlag(FLAGS_threads),
                     " is not a multiple of --tp=", absl::GetFlag(FLAGS_tp)));
  }
  return options;
}

GroupLimits LimitsFor(const BenchOptions& options, const ModelConfig& config) {
  // The token sampled last needs a position too.
  const int n_positions = options.n_prompt_tokens + options.n_steps_in_all() + 1;
  GroupLimits limits;
  limits.max_num_seqs = options.n_sequences;
  limits.max_num_batched_tokens = std::max(options.chunk, options.n_sequences);
  limits.max_model_len = n_positions;
  limits.n_blocks =
      static_cast<int32_t>(CeilDiv(n_positions, limits.block_size)) * options.n_sequences;
  limits.vocab_size = static_cast<int32_t>(config.vocab_size);
  return limits;
}

// What was measured; a value for each repetition, seconds.
struct Measurement {
  std::vector<double> prefill_s;
  std::vector<double> decode_s;
  std::vector<double> prefill_step_s;  // of all repetitions
  std::vector<double> decode_step_s;
  double decode_busy_s = 0;  // of all repetitions
};

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Drives one group; owned by the main thread.
class Bench {
 public:
  Bench(LocalGroup* group, const BenchOptions& options)
      : group_(group),
        options_(options),
        builder_(group->options().limits, group->epoch()),
        random_(options.seed) {}

  absl::StatusOr<Measurement> Run() {
    RETURN_IF_ERROR(WarmUp());
    for (int repetition = 0; repetition < options_.n_repetitions; ++repetition) {
      if (repetition == 0 || !options_.prompt_once) {
        OpenAll(options_.n_prompt_tokens);
        RETURN_IF_ERROR(Prefill(options_.n_prompt_tokens));
      }
      if (options_.decode) RETURN_IF_ERROR(Decode(options_.n_decode_steps));
      if (!options_.prompt_once) CloseAll();
    }
    return measurement_;
  }

 private:
  // Threads, caches and lazily made memory: a step of each kind.
  absl::Status WarmUp() {
    const int n_tokens = std::min(options_.n_prompt_tokens, std::max(1, options_.chunk / 8));
    OpenAll(n_tokens);
    RETURN_IF_ERROR(Prefill(n_tokens));
    if (options_.decode) RETURN_IF_ERROR(Decode(std::min(2, options_.n_decode_steps)));
    CloseAll();
    measurement_ = Measurement();
    return absl::OkStatus();
  }

  void OpenAll(int n_prompt_tokens) {
    SamplingParams greedy;
    greedy.temperature = 0;
    for (int slot = 0; slot < options_.n_sequences; ++slot) {
      builder_.Open(slot, n_prompt_tokens, greedy);
    }
  }

  void CloseAll() {
    for (int slot = 0; slot < options_.n_sequences; ++slot) builder_.Close(slot);
  }

  // The prompts of all sequences, one after the other, in steps that are full but for the last.
  absl::Status Prefill(int n_tokens) {
    const auto begin = std::chrono::steady_clock::now();
    for (int slot = 0; slot < options_.n_sequences; ++slot) {
      for (int passed = 0; passed < n_tokens;) {
        const int room = options_.chunk - static_cast<int>(builder_.n_plan_tokens());
        const int n_row = std::min(room, n_tokens - passed);
        passed += n_row;
        builder_.AddRow(slot, RandomTokens(n_row), {.sample = passed == n_tokens});
        if (n_row == room) RETURN_IF_ERROR(PrefillStep());
      }
    }
    if (builder_.n_plan_tokens() > 0) RETURN_IF_ERROR(PrefillStep());
    measurement_.prefill_s.push_back(SecondsSince(begin));
    return absl::OkStatus();
  }

  absl::Status PrefillStep() {
    const auto begin = std::chrono::steady_clock::now();
    group_->Submit(builder_.Take());
    RETURN_IF_ERROR(TakeResult().status());
    measurement_.prefill_step_s.push_back(SecondsSince(begin));
    return absl::OkStatus();
  }

  // Plans run ahead of results, as they do in the service.
  absl::Status Decode(int n_steps) {
    const auto begin = std::chrono::steady_clock::now();
    auto previous = begin;
    int n_submitted = 0;
    for (int n_done = 0; n_done < n_steps; ++n_done) {
      for (; n_submitted < std::min(n_steps, n_done + options_.n_in_flight); ++n_submitted) {
        group_->Submit(DecodePlan());
      }
      ASSIGN_OR_RETURN(const StepResult result, TakeResult());
      measurement_.decode_busy_s += 1e-6 * static_cast<double>(result.stage_us[0]);
      const auto now = std::chrono::steady_clock::now();
      measurement_.decode_step_s.push_back(std::chrono::duration<double>(now - previous).count());
      previous = now;
    }
    measurement_.decode_s.push_back(SecondsSince(begin));
    return absl::OkStatus();
  }

  StepPlan DecodePlan() {
    for (int slot = 0; slot < options_.n_sequences; ++slot) {
      if (options_.random_tokens) {
        builder_.AddRow(slot, RandomTokens(1), {.sample = true});
      } else {
        builder_.AddLastSampledRow(slot, /*sample=*/true);
      }
    }
    return builder_.Take();
  }

  absl::StatusOr<StepResult> TakeResult() {
    ASSIGN_OR_RETURN(StepResult result, group_->WaitResult(kStepTimeout));
    for (const SampledToken& token : result.sampled) {
      if (token.non_finite) return absl::InternalError("logits that are not finite");
    }
    return result;
  }

  std::vector<int32_t> RandomTokens(int n) {
    std::vector<int32_t> tokens(n);
    const uint64_t vocab_size = group_->options().limits.vocab_size;
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % vocab_size);
    return tokens;
  }

  LocalGroup* const group_;
  const BenchOptions options_;
  PlanBuilder builder_;
  std::mt19937_64 random_;
  Measurement measurement_;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Print(const std::string& name, double value, const char* unit) {
  std::printf("figure %s %.5g %s\n", name.c_str(), value, unit);
  std::fflush(stdout);
}

void PrintSpeed(const std::string& name, double n_tokens, const std::vector<double>& seconds,
                const std::vector<double>& step_seconds) {
  Print(absl::StrCat(name, "_tokens_per_s"), n_tokens / Median(seconds), "tokens/s");
  Print(absl::StrCat(name, "_step_ms_min"),
        1e3 * *std::min_element(step_seconds.begin(), step_seconds.end()), "ms");
  Print(absl::StrCat(name, "_step_ms_median"), 1e3 * Median(step_seconds), "ms");
}

// The most memory that this process has had resident; 0 where /proc does not say.
double PeakRssMib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    double kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib / 1024;
  }
  return 0;
}

// Bytes over all ranks.
void PrintMemory(const LocalGroup& group) {
  double weight_bytes = 0;
  double kv_bytes = 0;
  for (int rank = 0; rank < group.n_ranks() && group.has_weights(rank); ++rank) {
    const RankWeights& weights = group.weights(rank);
    const GroupLimits& limits = group.options().limits;
    const RankMemory memory =
        PlanRankMemory(weights.config(), weights.shape(), weights.precision(), limits);
    weight_bytes += static_cast<double>(memory.weight_bytes);
    kv_bytes += static_cast<double>(memory.kv_bytes_per_block) * limits.n_blocks;
  }
  Print("weights_mib", weight_bytes / (1 << 20), "MiB");
  Print("kv_mib", kv_bytes / (1 << 20), "MiB");
}

absl::Status Run() {
  ASSIGN_OR_RETURN(const BenchOptions options, OptionsFromFlags());
  LocalGroupOptions group_options;
  ASSIGN_OR_RETURN(group_options.precision, PrecisionOf(absl::GetFlag(FLAGS_dtype)));
  const auto begin = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(std::unique_ptr<WeightSource> weights, Weights());
  group_options.tp_size = absl::GetFlag(FLAGS_tp);
  // A worker's rule.
  group_options.load.drops_what_was_read =
      ParameterCount(weights->config()) * 2 > sysconf(_SC_AVPHYS_PAGES) * sysconf(_SC_PAGESIZE) / 4;
  group_options.n_threads = absl::GetFlag(FLAGS_threads) / group_options.tp_size;
  group_options.limits = LimitsFor(options, weights->config());
  if (absl::GetFlag(FLAGS_device) == "cuda") {
    group_options.make_rank = CudaRanks({.use_graphs = absl::GetFlag(FLAGS_graphs)});
  } else if (absl::GetFlag(FLAGS_device) != "cpu") {
    return absl::InvalidArgumentError(
        absl::StrCat("--device=", absl::GetFlag(FLAGS_device), " is not cpu or cuda"));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<LocalGroup> group,
                   LocalGroup::Start(*weights, group_options));
  weights.reset();  // ranks have their copies: its mapped files need not stay resident
  Print("load_s", SecondsSince(begin), "s");
  PrintMemory(*group);
  if (options.prefill || options.decode) {
    ASSIGN_OR_RETURN(const Measurement measured, Bench(group.get(), options).Run());
    const double n_sequences = options.n_sequences;
    PrintSpeed("prefill", n_sequences * options.n_prompt_tokens, measured.prefill_s,
               measured.prefill_step_s);
    if (options.decode) {
      PrintSpeed("decode", n_sequences * options.n_decode_steps, measured.decode_s,
                 measured.decode_step_s);
      double decode_s = 0;
      for (const double seconds : measured.decode_s) decode_s += seconds;
      Print("decode_busy", measured.decode_busy_s / decode_s, "ratio");
    }
  }
  Print("rss_peak_mib", PeakRssMib(), "MiB");
  return absl::OkStatus();
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Measures the engine without RPC.");
  bora::NormalizeFlagNames(argc, argv);
  absl::ParseCommandLine(argc, argv);
  bora::InitLog("bench", bora::LogLevel::kWarning);
  const absl::Status status = bora::Run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "bora-bench-engine: %s\n", status.ToString().c_str());
  return absl::IsInvalidArgument(status) ? 2 : 1;
}
