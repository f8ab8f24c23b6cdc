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
#include "base/flags/flag_names.h"
#include "base/int_math.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_device.h"
#include "model/checkpoint/dummy_weights.h"
#include "tests/bench/engine_driver.h"
#include "tests/bench/model_shapes.h"
#include "tests/cuda/cuda_ranks.h"
#include "tests/worker/local_group.h"

ABSL_FLAG(std::string, shape, "1b", "Model of made-up weights: 1b, 7b, tiny64, tiny or demo.");
ABSL_FLAG(std::string, model, "", "Directory of a checkpoint to load instead.");
ABSL_FLAG(std::string, dtype, "bf16",
          "bf16, f16, f32, or int8: matrices in 8 bits, the rest in bf16.");
ABSL_FLAG(std::string, device, "cpu", "cpu, or cuda: the first GPU, in builds with CUDA.");
ABSL_FLAG(std::string, isa, "auto", "Instruction set of the CPU, as bora-worker's.");
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
  for (const DTypeInfo& info : kDTypes) {
    if (info.short_name == name) return Precision(info.dtype);
  }
  const auto weights = ParseWeightFormat(DType::kBf16, name);
  if (!name.empty() && weights.ok()) return Precision(DType::kBf16, *weights);
  std::vector<std::string> names = DTypeShortNames();
  for (std::string& quantization : QuantizationNames()) names.push_back(std::move(quantization));
  return absl::InvalidArgumentError(
      absl::StrCat("--dtype=", name, " is not ", ListOfNames(names, "or")));
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

// Threads, caches and lazily made memory: a step of each kind.
absl::Status WarmUp(EngineDriver& driver, const BenchOptions& options) {
  const int n_tokens = std::min(options.n_prompt_tokens, std::max(1, options.chunk / 8));
  driver.OpenAll(n_tokens);
  RETURN_IF_ERROR(driver.Prefill(n_tokens).status());
  if (options.decode) {
    const int n_steps = std::min(2, options.n_decode_steps);
    RETURN_IF_ERROR(driver.Decode(n_steps, options.n_in_flight, options.random_tokens).status());
  }
  driver.CloseAll();
  return absl::OkStatus();
}

void Append(const DrivenSteps& driven, std::vector<double>* seconds,
            std::vector<double>* step_seconds) {
  seconds->push_back(driven.seconds);
  for (const DrivenStep& step : driven.steps) step_seconds->push_back(step.seconds);
}

absl::StatusOr<Measurement> Measure(LocalGroup* group, const BenchOptions& options) {
  EngineDriver driver(group, options.n_sequences, options.chunk, options.seed);
  RETURN_IF_ERROR(WarmUp(driver, options));
  Measurement measured;
  for (int repetition = 0; repetition < options.n_repetitions; ++repetition) {
    if (repetition == 0 || !options.prompt_once) {
      driver.OpenAll(options.n_prompt_tokens);
      ASSIGN_OR_RETURN(const DrivenSteps prompts, driver.Prefill(options.n_prompt_tokens));
      Append(prompts, &measured.prefill_s, &measured.prefill_step_s);
    }
    if (options.decode) {
      ASSIGN_OR_RETURN(
          const DrivenSteps decoded,
          driver.Decode(options.n_decode_steps, options.n_in_flight, options.random_tokens));
      Append(decoded, &measured.decode_s, &measured.decode_step_s);
      measured.decode_busy_s += decoded.busy_seconds();
    }
    if (!options.prompt_once) driver.CloseAll();
  }
  return measured;
}

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
    const CpuRankMemory memory = PlanCpuRankMemory(CpuDevice(1), weights.config(), weights.shape(),
                                                   weights.precision(), limits);
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
  ASSIGN_OR_RETURN(group_options.simd, SimdChoiceByName(absl::GetFlag(FLAGS_isa)));
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
    ASSIGN_OR_RETURN(const Measurement measured, Measure(group.get(), options));
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
