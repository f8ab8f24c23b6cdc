#include "tests/gpu/model_bench.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "coordinator/scheduler/scheduler.h"
#include "model/checkpoint/dummy_weights.h"
#include "model/planning/partition.h"

namespace bora {
namespace {

constexpr uint64_t kSeed = 1;
constexpr int kDecodeSteps = 64;
constexpr int kWarmUpSteps = 8;
constexpr int kRepetitions = 3;
// A rank has two plans under way; the third is there when the first is through.
constexpr int kInFlight = 3;

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

RankShape WholeModel(const ModelConfig& config) {
  const auto partition = MakePartition(config, /*tp_size=*/1, /*pp_size=*/1, {});
  CHECK_OK(partition.status());
  return ShapeOfRank(config, *partition, /*stage=*/0, /*tp_rank=*/0);
}

}  // namespace

ModelBench::ModelBench(const ModelBenchOptions& options)
    : options_(options),
      shape_(WholeModel(options.config)),
      roofline_(options.config, shape_, options.device) {}

absl::StatusOr<std::unique_ptr<ModelBench>> ModelBench::Load(const ModelBenchOptions& options) {
  std::unique_ptr<ModelBench> bench(new ModelBench(options));
  LoadModel load;
  load.model_path = options.directory;
  load.dummy_weights = true;
  load.dummy_seed = kSeed;
  load.dtype = "bfloat16";
  load.layers_per_stage = {static_cast<int32_t>(options.config.n_layers)};
  load.max_model_len =
      static_cast<int32_t>(*std::max_element(options.lengths.begin(), options.lengths.end()));
  load.max_num_seqs = options.max_num_seqs;
  load.max_num_batched_tokens = std::max(options.chunk, options.max_num_seqs);
  LocalGroupOptions group;
  group.limits.max_num_seqs = 1;
  group.limits.max_num_batched_tokens = 1;
  group.limits.max_model_len = 2;
  group.limits.n_blocks = 1;
  group.limits.vocab_size = static_cast<int32_t>(options.config.vocab_size);
  group.precision = DType::kBf16;
  // A GPU is opened for the thread that uses it.
  group.make_rank = [&](const WeightSource&,
                        const RankShape&) -> absl::StatusOr<std::unique_ptr<StepExecutor>> {
    ASSIGN_OR_RETURN(bench->loader_,
                     MakeCudaRankLoader({.memory_utilization = options.memory_utilization,
                                         .deterministic = options.deterministic}));
    ASSIGN_OR_RETURN(LoadedRank loaded, bench->loader_->Load(load, {}));
    bench->max_blocks_ = loaded.loaded.max_blocks;
    return std::move(loaded.rank);
  };
  const auto begin = Clock::now();
  ASSIGN_OR_RETURN(bench->group_, LocalGroup::Start(DummyWeights(options.config, kSeed), group));
  bench->load_seconds_ = SecondsSince(begin);
  return bench;
}

absl::Status ModelBench::Begin(int n_sequences, int n_tokens) {
  GroupLimits limits = group_->options().limits;
  limits.max_num_seqs = n_sequences;
  limits.max_num_batched_tokens = std::max(options_.chunk, n_sequences);
  limits.max_model_len = n_tokens;
  const int64_t n_blocks = CeilDiv(n_tokens, limits.block_size) * n_sequences;
  if (n_blocks > max_blocks_) {
    return absl::ResourceExhaustedError(absl::StrCat(n_sequences, " sequences of ", n_tokens,
                                                     " tokens take ", n_blocks, " KV blocks, ",
                                                     max_blocks_, " have room"));
  }
  limits.n_blocks = static_cast<int32_t>(n_blocks);
  return group_->NextEpoch(limits);
}

double ModelBench::FloorSeconds(const PlanWork& asked) const {
  if (options_.device.memory_bytes_per_s <= 0 || options_.device.flop_per_s <= 0) return 0;
  return 1e-6 * roofline_.Predict(asked.work, asked.n_sampled).us();
}

double ModelBench::FloorSeconds(const DrivenSteps& driven) const {
  double seconds = 0;
  for (const DrivenStep& step : driven.steps) seconds += FloorSeconds(step.asked);
  return seconds;
}

absl::StatusOr<BenchSamples> ModelBench::Decode(int n_sequences, int n_context) {
  const int n_prompt = std::max(1, n_context - kWarmUpSteps - kDecodeSteps / 2);
  // The token sampled last needs a position too.
  RETURN_IF_ERROR(Begin(n_sequences, n_prompt + kWarmUpSteps + kDecodeSteps + 1));
  EngineDriver driver(group_.get(), n_sequences, options_.chunk, kSeed);
  driver.OpenAll(n_prompt);
  RETURN_IF_ERROR(driver.Prefill(n_prompt).status());
  RETURN_IF_ERROR(driver.Decode(kWarmUpSteps, kInFlight).status());
  ASSIGN_OR_RETURN(const DrivenSteps driven, driver.Decode(kDecodeSteps, kInFlight));
  BenchSamples samples;
  // The first interval has the way there and back in it, which the others hide.
  for (size_t i = 1; i < driven.steps.size(); ++i) {
    samples.seconds.push_back(driven.steps[i].seconds);
  }
  samples.floor_seconds = FloorSeconds(driven) / kDecodeSteps;
  samples.busy = driven.busy_seconds() / driven.seconds;
  samples.n_tokens = n_sequences;
  return samples;
}

absl::StatusOr<BenchSamples> ModelBench::Prefill(int n_tokens) {
  RETURN_IF_ERROR(Begin(1, n_tokens + 1));
  EngineDriver driver(group_.get(), 1, options_.chunk, kSeed);
  BenchSamples samples;
  for (int repetition = 0; repetition <= kRepetitions; ++repetition) {
    driver.OpenAll(n_tokens);
    ASSIGN_OR_RETURN(const DrivenSteps driven, driver.Prefill(n_tokens));
    driver.CloseAll();
    samples.floor_seconds = FloorSeconds(driven);
    samples.busy = driven.busy_seconds() / driven.seconds;
    if (repetition > 0) samples.seconds.push_back(driven.seconds);  // the first one warms up
  }
  samples.n_tokens = 1;
  return samples;
}

absl::StatusOr<BenchSamples> ModelBench::Generate(int n_prompt_tokens, int n_output_tokens) {
  RETURN_IF_ERROR(Begin(1, n_prompt_tokens + n_output_tokens + 1));
  EngineDriver driver(group_.get(), 1, options_.chunk, kSeed);
  BenchSamples samples;
  for (int repetition = 0; repetition <= kRepetitions; ++repetition) {
    driver.OpenAll(n_prompt_tokens);
    ASSIGN_OR_RETURN(const DrivenSteps prompt, driver.Prefill(n_prompt_tokens));
    ASSIGN_OR_RETURN(const DrivenSteps decoded, driver.Decode(n_output_tokens - 1, kInFlight));
    driver.CloseAll();
    samples.floor_seconds = FloorSeconds(prompt) + FloorSeconds(decoded);
    if (repetition > 0) samples.seconds.push_back(prompt.seconds + decoded.seconds);
  }
  samples.n_tokens = n_output_tokens;
  return samples;
}

absl::StatusOr<BenchSamples> ModelBench::Offline(int n_prompt_tokens, int n_output_tokens) {
  // One block more for each, so that none waits because another might still need it.
  const int n_tokens = n_prompt_tokens + n_output_tokens + GroupLimits().block_size;
  const int64_t n_blocks = CeilDiv(n_tokens, GroupLimits().block_size);
  const int n_requests =
      static_cast<int>(std::clamp<int64_t>(max_blocks_ / n_blocks, 1, options_.max_num_seqs));
  RETURN_IF_ERROR(Begin(n_requests, n_tokens));
  SchedulerOptions options;
  options.limits = group_->options().limits;
  options.epoch = group_->epoch();
  Scheduler scheduler(options);
  for (int i = 0; i < n_requests; ++i) {
    SequenceSpec spec;
    spec.handle = i + 1;
    // Different from their first token on, so that nothing is shared.
    std::vector<int32_t> prompt;
    for (int k = 0; k < n_prompt_tokens; ++k) {
      prompt.push_back((i + k * 7919) % options.limits.vocab_size);
    }
    spec.prompt_tokens = std::move(prompt);
    spec.sampling.temperature = 0;
    spec.max_tokens = n_output_tokens;
    scheduler.Add(std::move(spec));
  }

  BenchSamples samples;
  std::map<uint64_t, int> n_sampled;
  int n_open = n_requests;
  double busy_seconds = 0;
  const auto begin = Clock::now();
  while (n_open > 0) {
    while (std::optional<StepPlan> plan = scheduler.PlanStep()) {
      samples.floor_seconds += FloorSeconds(WorkOf(*plan));
      group_->Submit(*plan);
    }
    ASSIGN_OR_RETURN(StepResult result, TakeFiniteResult(*group_));
    busy_seconds += BusySeconds(result);
    ASSIGN_OR_RETURN(const std::vector<SequenceProgress> progress,
                     scheduler.CompleteStep(std::move(result)));
    for (const SequenceProgress& item : progress) {
      if (!item.sampled.has_value() || ++n_sampled[item.handle] < n_output_tokens) continue;
      scheduler.Remove(item.handle);
      --n_open;
    }
  }
  const double seconds = SecondsSince(begin);
  // Rows that ran ahead of their sequence's end are under way.
  while (scheduler.n_in_flight() > 0) {
    ASSIGN_OR_RETURN(StepResult result, TakeFiniteResult(*group_));
    RETURN_IF_ERROR(scheduler.CompleteStep(std::move(result)).status());
  }
  samples.seconds = {seconds};
  samples.busy = busy_seconds / seconds;
  samples.n_tokens = static_cast<double>(n_requests) * n_output_tokens;
  return samples;
}

}  // namespace bora
