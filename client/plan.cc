#include "client/plan.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "base/flags/quantity.h"
#include "base/status_macros.h"
#include "model/checkpoint/checkpoint.h"
#include "model/planning/layout_plan.h"

namespace bora {
namespace {

// Defaults and limits of the flags (client/plan.h). kMaxBatch (sequences) and kMaxTflops are far
// above any real value.
constexpr int64_t kDefaultGpusPerHost = 8;
constexpr int64_t kDefaultContext = 8192;
constexpr int64_t kDefaultBatchPerGpu = 16;
constexpr int64_t kMaxBatch = 1'000'000;
constexpr double kMaxTflops = 1e6;

// The checked flags, in the form that model/planning/layout_plan.h takes. A plain value.
struct PlanInput {
  const PlanOptions* options = nullptr;  // outlives this object
  ModelConfig config;
  DeviceFleet fleet;
  PlannedLoad load;
  PlanObjective objective = PlanObjective::kThroughput;
};

// Returns INVALID_ARGUMENT with the message of `status` behind the flag's name. REQUIRES: `status`
// is not OK.
absl::Status FlagError(absl::string_view flag, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", status.message()));
}

// OK if `value` is in [1, max], else INVALID_ARGUMENT; `why` explains `max` in the message.
absl::Status CheckRange(absl::string_view flag, int64_t value, int64_t max,
                        absl::string_view why = "") {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, ": ", value, " must be in [1, ", max, "]", why));
}

// Parses a rate such as "400Gb" or "25GB/s" into bytes per second; INVALID_ARGUMENT names the flag.
absl::Status ReadRate(absl::string_view flag, const std::string& text, double* bytes_per_s) {
  const absl::StatusOr<double> rate = ParseBytesPerSecond(text);
  if (!rate.ok()) return FlagError(flag, rate.status());
  *bytes_per_s = *rate;
  return absl::OkStatus();
}

// Fills *fleet, the description of the hardware, from the flags; INVALID_ARGUMENT names the wrong
// flag.
absl::Status ReadFleet(const PlanOptions& options, DeviceFleet* fleet) {
  RETURN_IF_ERROR(CheckRange("--gpus", options.n_gpus, kMaxPlannedDevices));
  fleet->n_devices = static_cast<int>(options.n_gpus);
  const int64_t per_host =
      options.gpus_per_host.value_or(std::min(options.n_gpus, kDefaultGpusPerHost));
  RETURN_IF_ERROR(CheckRange("--gpus-per-host", per_host, options.n_gpus, ", --gpus"));
  if (options.n_gpus % per_host != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpus-per-host: ", per_host, " does not divide --gpus ", options.n_gpus));
  }
  fleet->devices_per_host = static_cast<int>(per_host);
  const absl::StatusOr<int64_t> memory_bytes = ParseBytes(options.gpu_memory);
  if (!memory_bytes.ok()) return FlagError("--gpu-memory", memory_bytes.status());
  fleet->memory_bytes = *memory_bytes;
  fleet->memory_utilization = options.gpu_memory_utilization;
  if (!(fleet->memory_utilization > 0 && fleet->memory_utilization <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--gpu-memory-utilization: ", fleet->memory_utilization, " must be in (0, 1]"));
  }
  if (!(options.gpu_tflops > 0 && options.gpu_tflops <= kMaxTflops)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpu-tflops: ", options.gpu_tflops, " must be in (0, 1000000]"));
  }
  fleet->device.flop_per_s = options.gpu_tflops * 1e12;
  RETURN_IF_ERROR(
      ReadRate("--gpu-bandwidth", options.gpu_bandwidth, &fleet->device.memory_bytes_per_s));
  RETURN_IF_ERROR(
      ReadRate("--interconnect", options.interconnect, &fleet->device.collective_bytes_per_s));
  return ReadRate("--network", options.network, &fleet->network_bytes_per_s);
}

// Fills *load from the flags; INVALID_ARGUMENT names the wrong flag. A context must be one that the
// coordinator would accept for the model (CheckContextLength): no longer than its positions and its
// sliding window.
absl::Status ReadLoad(const PlanOptions& options, const ModelConfig& config, PlannedLoad* load) {
  const int64_t longest =
      std::min(config.max_position, config.sliding_window.value_or(config.max_position));
  load->context_tokens = options.context.value_or(std::min(longest, kDefaultContext));
  RETURN_IF_ERROR(
      CheckRange("--context", load->context_tokens, longest, ", what the model is served at"));
  load->n_sequences = options.batch.value_or(kDefaultBatchPerGpu * options.n_gpus);
  return CheckRange("--batch", load->n_sequences, kMaxBatch);
}

// Checks the flags of the hardware before it opens the model, so that a wrong flag is reported at
// once. The load is checked last, since its limits depend on the model.
absl::StatusOr<PlanInput> ReadInput(const PlanOptions& options) {
  PlanInput input;
  input.options = &options;
  if (options.objective == "latency") {
    input.objective = PlanObjective::kLatency;
  } else if (options.objective != "throughput") {
    return absl::InvalidArgumentError(
        absl::StrCat("--objective: \"", options.objective, "\" must be latency or throughput"));
  }
  RETURN_IF_ERROR(ReadFleet(options, &input.fleet));
  absl::StatusOr<ModelDirectory> directory = ReadModelDirectory(options.model);
  if (!directory.ok()) return FlagError("--model", directory.status());
  input.config = std::move(directory->config);
  RETURN_IF_ERROR(ReadLoad(options, input.config, &input.load));
  return input;
}

// Formats 12345678 as "12,345,678".
std::string WithCommas(int64_t value) {
  const std::string digits = absl::StrCat(value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

// Formats microseconds as milliseconds or seconds, with three to four digits.
std::string Duration(double us) {
  if (us < 10e3) return absl::StrFormat("%.2f ms", us / 1e3);
  if (us < 100e3) return absl::StrFormat("%.1f ms", us / 1e3);
  if (us < 10e6) return absl::StrFormat("%.0f ms", us / 1e3);
  return absl::StrFormat("%.1f s", us / 1e6);
}

// Formats a rate with one decimal if it is below 100, else as a whole number.
std::string TokensPerSecond(double rate) {
  return rate < 100 ? absl::StrFormat("%.1f", rate) : WithCommas(std::llround(rate));
}

// Formats a bandwidth, for example "4.3 TB/s".
std::string Rate(double bytes_per_s) {
  return absl::StrCat(FormatBytes(static_cast<int64_t>(bytes_per_s)), "/s");
}

// The name of a layout: "TP 2 x PP 1 x 4 replicas".
std::string NameOf(const Layout& layout) {
  return absl::StrCat("TP ", layout.tp_size, " x PP ", layout.pp_size, " x ", layout.n_replicas,
                      layout.n_replicas == 1 ? " replica" : " replicas");
}

// Returns the flags of bora-coordinator for this layout and load. A step must at least hold one
// token of each decoding sequence, hence the maximum in --max-num-batched-tokens.
std::vector<std::string> FlagsOf(const LayoutPlan& plan, const PlannedLoad& load) {
  return {
      absl::StrCat("--tensor-parallel-size=", plan.layout.tp_size),
      absl::StrCat("--pipeline-parallel-size=", plan.layout.pp_size),
      absl::StrCat("--max-model-len=", load.context_tokens),
      absl::StrCat("--max-num-seqs=", plan.n_sequences),
      absl::StrCat("--max-num-batched-tokens=", std::max(load.max_chunk_tokens, plan.n_sequences))};
}

// Returns one sentence that compares the chosen layout with the next best one by the objective.
std::string ReasonFor(absl::Span<const LayoutPlan> plans, const PlanChoice& choice,
                      PlanObjective objective) {
  const bool is_latency = objective == PlanObjective::kLatency;
  // The predicted number that the objective compares, for people.
  const auto merit = [is_latency](const LayoutPlan& plan) {
    return is_latency ? Duration(plan.decode_alone_us)
                      : absl::StrCat(TokensPerSecond(plan.tokens_per_s), " tokens/s");
  };
  const LayoutPlan& best = plans[choice.best];
  std::string reason =
      absl::StrCat(is_latency ? "between the tokens of a sequence that is alone it "
                                "is predicted to take "
                              : "all replicas together are predicted to decode ",
                   merit(best));
  if (!choice.next.has_value()) return absl::StrCat(reason, "; no other layout fits.");
  const LayoutPlan& next = plans[*choice.next];
  absl::StrAppend(&reason, "; the next one, ", NameOf(next.layout), ", ", merit(next));
  // The same 1 % within which ChooseLayout prefers the smaller group.
  const bool is_similar = is_latency
                              ? next.decode_alone_us < best.decode_alone_us * (1 + kSimilarLayouts)
                              : next.tokens_per_s > best.tokens_per_s * (1 - kSimilarLayouts);
  if (is_similar && best.layout.n_ranks() < next.layout.n_ranks()) {
    absl::StrAppend(&reason, " in larger groups");
  }
  return absl::StrCat(reason, ".");
}

// Prints the numbers that the plan is computed from, so that a wrong flag is noticed.
void PrintInput(const PlanInput& input) {
  const ModelConfig& config = input.config;
  const DeviceFleet& fleet = input.fleet;
  const int n_hosts = fleet.n_devices / fleet.devices_per_host;
  std::cout << absl::StrFormat(
      "Model     %.2f billion parameters in bf16: %d layers of %d, %d heads, %d KV heads\n",
      static_cast<double>(ParameterCount(config)) / 1e9, config.n_layers, config.dim,
      config.n_heads, config.n_kv_heads);
  std::cout << "GPUs      " << fleet.n_devices << " on " << n_hosts
            << (n_hosts == 1 ? " host" : " hosts") << ", " << FormatBytes(fleet.memory_bytes)
            << " each, of which workers take " << absl::StrFormat("%.4g", fleet.memory_utilization)
            << "; " << Rate(fleet.device.memory_bytes_per_s) << ", "
            << absl::StrFormat("%.4g TFLOP/s", fleet.device.flop_per_s / 1e12) << "\n"
            << "Links     " << Rate(fleet.device.collective_bytes_per_s)
            << " of a GPU inside a host, " << Rate(fleet.network_bytes_per_s)
            << " of a host to others\n"
            << "Load      requests of " << WithCommas(input.load.context_tokens) << " tokens, "
            << WithCommas(input.load.n_sequences)
            << " decode at the same time over all replicas;\n          prompts in chunks of up to "
            << WithCommas(input.load.max_chunk_tokens) << "\n";
  for (const std::string& note : config.notes) std::cout << "Note      " << note << "\n";
  std::cout << "\n";
}

// Prints a table of memory with one row for each layout that fits.
void PrintMemory(absl::Span<const LayoutPlan> plans) {
  std::cout << "Memory: of the rank with the least room for KV, and what a replica's cache holds\n"
               " TP  PP  replicas    weights   working        KV    KV tokens  full requests\n";
  for (const LayoutPlan& plan : plans) {
    if (!plan.fits.ok()) continue;
    std::cout << absl::StrFormat(
        "%3d %3d %9d %10s %9s %9s %12s %14s\n", plan.layout.tp_size, plan.layout.pp_size,
        plan.layout.n_replicas, FormatBytes(plan.memory.weight_bytes),
        FormatBytes(plan.memory.workspace_bytes), FormatBytes(plan.memory.kv_bytes),
        WithCommas(plan.kv_tokens), WithCommas(plan.n_requests));
  }
  std::cout << "\n";
}

// Prints a table of predicted times with one row for each layout that fits. LayoutPlan defines the
// columns.
void PrintTimes(absl::Span<const LayoutPlan> plans, const PlannedLoad& load) {
  std::cout
      << "Predicted: between the tokens of a sequence that is alone, and of each of so many on a "
         "replica;\na prompt of "
      << WithCommas(load.context_tokens)
      << " tokens alone; what links take of step / prompt; tokens decoded by a replica and in "
         "all\n"
         " TP  PP  replicas      alone  sequences       step     prompt      links"
         "   tokens/s     in all\n";
  for (const LayoutPlan& plan : plans) {
    if (!plan.fits.ok()) continue;
    std::cout << absl::StrFormat(
        "%3d %3d %9d %10s %10s %10s %10s %3.0f%% /%3.0f%% %10s %10s\n", plan.layout.tp_size,
        plan.layout.pp_size, plan.layout.n_replicas, Duration(plan.decode_alone_us),
        WithCommas(plan.n_sequences), Duration(plan.decode_us), Duration(plan.prefill_us),
        100 * plan.decode_communication_share, 100 * plan.prefill_communication_share,
        TokensPerSecond(plan.replica_tokens_per_s), TokensPerSecond(plan.tokens_per_s));
  }
  std::cout << "\n";
}

// Prints one line for each layout that does not fit, with the reason.
void PrintMisfits(absl::Span<const LayoutPlan> plans) {
  bool is_first = true;
  for (const LayoutPlan& plan : plans) {
    if (plan.fits.ok()) continue;
    if (is_first) std::cout << "Does not fit\n";
    is_first = false;
    std::cout << "  " << NameOf(plan.layout) << ": " << plan.fits.message() << "\n";
  }
  if (!is_first) std::cout << "\n";
}

// Prints the recommended layout, with a command line to copy; `choice` is empty if no layout fits.
void PrintChoice(const PlanInput& input, absl::Span<const LayoutPlan> plans,
                 const std::optional<PlanChoice>& choice) {
  if (!choice.has_value()) {
    std::cout << "No layout fits: take more GPUs or more memory, or lower --context.\n";
    return;
  }
  const LayoutPlan& best = plans[choice->best];
  const int n_replicas = best.layout.n_replicas;
  std::cout << "Recommended for " << input.options->objective << ": " << NameOf(best.layout) << ": "
            << ReasonFor(plans, *choice, input.objective) << "\n"
            << (n_replicas == 1 ? std::string("One coordinator")
                                : absl::StrCat(n_replicas, " coordinators, each"))
            << " with " << best.layout.n_ranks()
            << (best.layout.n_ranks() == 1 ? " worker" : " workers")
            << ":\n  bora-coordinator --model " << input.options->model;
  for (const std::string& flag : FlagsOf(best, input.load)) std::cout << " " << flag;
  std::cout
      << "\n\nTimes are predicted from the rates above, as if nothing else took time: nothing "
         "was measured.\n";
}

// Returns one layout as JSON. Only a layout that does not fit has "reason"; only a layout that fits
// has the numbers.
nlohmann::json ToJson(const LayoutPlan& plan, const PlannedLoad& load) {
  nlohmann::json json = {{"tensor_parallel_size", plan.layout.tp_size},
                         {"pipeline_parallel_size", plan.layout.pp_size},
                         {"replicas", plan.layout.n_replicas},
                         {"fits", plan.fits.ok()}};
  if (!plan.fits.ok()) {
    json["reason"] = std::string(plan.fits.message());
    return json;
  }
  json["rank_weight_bytes"] = plan.memory.weight_bytes;
  json["rank_workspace_bytes"] = plan.memory.workspace_bytes;
  json["rank_kv_bytes"] = plan.memory.kv_bytes;
  json["replica_kv_tokens"] = plan.kv_tokens;
  json["replica_full_requests"] = plan.n_requests;
  json["replica_sequences"] = plan.n_sequences;
  json["predicted_step_alone_ms"] = plan.decode_alone_us / 1e3;
  json["predicted_step_ms"] = plan.decode_us / 1e3;
  json["predicted_prompt_ms"] = plan.prefill_us / 1e3;
  json["predicted_step_link_share"] = plan.decode_communication_share;
  json["predicted_prompt_link_share"] = plan.prefill_communication_share;
  json["predicted_replica_tokens_per_s"] = plan.replica_tokens_per_s;
  json["predicted_tokens_per_s"] = plan.tokens_per_s;
  json["flags"] = FlagsOf(plan, load);
  return json;
}

// Prints all layouts and the recommended one as one line of JSON. "recommended" and the "reason"
// for it are left out if no layout fits.
void PrintJson(const PlanInput& input, absl::Span<const LayoutPlan> plans,
               const std::optional<PlanChoice>& choice) {
  nlohmann::json json = {{"context", input.load.context_tokens},
                         {"batch", input.load.n_sequences},
                         {"layouts", nlohmann::json::array()}};
  for (const LayoutPlan& plan : plans) json["layouts"].push_back(ToJson(plan, input.load));
  if (choice.has_value()) {
    json["recommended"] = ToJson(plans[choice->best], input.load);
    json["reason"] = ReasonFor(plans, *choice, input.objective);
  }
  std::cout << json.dump() << "\n";
}

}  // namespace

int RunPlan(const GlobalOptions& global, const PlanOptions& options) {
  const absl::StatusOr<PlanInput> input = ReadInput(options);
  if (!input.ok()) {
    if (global.json) {
      const nlohmann::json error = {{"code", "INVALID_ARGUMENT"},
                                    {"message", std::string(input.status().message())}};
      std::cout << nlohmann::json({{"error", error}}).dump() << "\n";
    } else {
      std::cerr << "bora plan: " << input.status().message() << std::endl;
    }
    return kExitUsage;
  }
  const std::vector<LayoutPlan> plans = PlanLayouts(input->config, input->fleet, input->load);
  const std::optional<PlanChoice> choice = ChooseLayout(plans, input->objective);
  if (global.json) {
    PrintJson(*input, plans, choice);
  } else {
    PrintInput(*input);
    // The tables would be empty if no layout fits.
    if (choice.has_value()) {
      PrintMemory(plans);
      PrintTimes(plans, input->load);
    }
    PrintMisfits(plans);
    PrintChoice(*input, plans, choice);
  }
  return choice.has_value() ? kExitOk : kExitFailed;
}

}  // namespace bora
