// bora-bench-gpu-model: a whole model of made-up weights on one GPU, as a worker runs it, beside
// what its steps take at least.
//
// Prints a row for each case
//   figure NAME VALUE UNIT [p10 A p90 B] [limit L ratio R]
// The limit is the floor of model/planning/roofline.h: every weight and every key and value read
// once at
// --read-gb-per-s, or the arithmetic at --tflop-per-s where that takes longer; R is the floor's
// time over the time that it took, so more is better. Cases:
//   decode:BxC    a step of B sequences that have C tokens each; _idle is the part of the time in
//                 which the device had nothing to do
//   prefill:T     a prompt of T tokens, in steps of --chunk
//   generate:P+N  one request of P prompt and N output tokens, output tokens over all its time
//   offline:P+N   as many such requests at once as the KV cache has room for, --max-num-seqs at
//   most
// --fast: cases that are run once more with large products left to cuBLASLt, in turns with the
// deterministic form. A case that does not fit the memory is skipped, and so is --fast where there
// is no cuBLASLt.
#include <algorithm>
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
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/flags/flag_names.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "tests/bench/model_shapes.h"
#include "tests/gpu/model_bench.h"
#include "tests/model/temp_dir.h"

ABSL_FLAG(std::string, shape, "7b", "Model of made-up weights: 7b, 1b, tiny64, tiny or demo.");
ABSL_FLAG(std::vector<std::string>, cases,
          std::vector<std::string>({"decode:1x1024", "decode:32x1024", "decode:128x1024",
                                    "decode:1x8192", "decode:32x8192", "prefill:2048",
                                    "prefill:8192", "prefill:32000", "generate:512+128",
                                    "offline:1000+1000"}),
          "Cases.");
ABSL_FLAG(std::vector<std::string>, fast,
          std::vector<std::string>({"decode:32x1024", "prefill:8192"}),
          "Cases of both modes: deterministic and with cuBLASLt.");
ABSL_FLAG(int32_t, chunk, 2048, "Most tokens of a step.");
ABSL_FLAG(int32_t, max_num_seqs, 256, "Most requests at once of offline.");
ABSL_FLAG(double, memory_utilization, 0.9, "Part of the GPU's memory to use.");
ABSL_FLAG(double, read_gb_per_s, 0,
          "What the GPU's memory is read with (gpu_limit_read); 0: unknown.");
ABSL_FLAG(double, tflop_per_s, 0, "What large products reach (gpu_limit_gemm); 0: unknown.");

namespace bora {
namespace {

struct Case {
  std::string kind;
  int a = 0, b = 0;  // decode: sequences, context; prefill: tokens; others: prompt, output tokens

  std::string Name() const {
    if (kind == "prefill") return absl::StrCat("prefill_", a);
    return absl::StrCat(kind, "_", a, kind == "decode" ? "x" : "_", b);
  }
  // Tokens of one sequence, with some steps more.
  int64_t length() const { return (kind == "decode" ? 0 : int64_t{a}) + b + 128; }
  absl::StatusOr<BenchSamples> Run(ModelBench& bench) const {
    if (kind == "decode") return bench.Decode(a, b);
    if (kind == "prefill") return bench.Prefill(a);
    if (kind == "generate") return bench.Generate(a, b);
    return bench.Offline(a, b);
  }
};

absl::StatusOr<Case> ParseCase(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  Case parsed = {.kind = parts[0]};
  const bool is_decode = parsed.kind == "decode";
  bool ok = parts.size() == 2;
  if (ok && parsed.kind == "prefill") {
    ok = absl::SimpleAtoi(parts[1], &parsed.a) && parsed.a >= 1;
  } else if (ok && (is_decode || parsed.kind == "generate" || parsed.kind == "offline")) {
    const std::vector<std::string> sizes = absl::StrSplit(parts[1], is_decode ? 'x' : '+');
    ok = sizes.size() == 2 && absl::SimpleAtoi(sizes[0], &parsed.a) &&
         absl::SimpleAtoi(sizes[1], &parsed.b) && parsed.a >= 1 && parsed.b >= 2;
  } else {
    ok = false;
  }
  if (ok) return parsed;
  return absl::InvalidArgumentError(
      absl::StrCat("case '", text, "' is not decode:BxC, prefill:T, generate:P+N or offline:P+N"));
}

absl::StatusOr<std::vector<Case>> ParseCases(const std::vector<std::string>& texts) {
  std::vector<Case> cases;
  for (const std::string& text : texts) {
    if (text.empty()) continue;
    ASSIGN_OR_RETURN(Case parsed, ParseCase(text));
    cases.push_back(std::move(parsed));
  }
  return cases;
}

double Percentile(std::vector<double> values, size_t percent) {
  std::sort(values.begin(), values.end());
  return values[(values.size() - 1) * percent / 100];
}

void PrintRow(const std::string& row) {
  std::puts(row.c_str());
  std::fflush(stdout);
}

// Times in ms, or for what generates whole requests tokens a second; the floor likewise.
void Print(const std::string& name, const Case& ran, const BenchSamples& samples) {
  const bool is_rate = ran.kind == "generate" || ran.kind == "offline";
  const auto value_of = [&](double seconds) {
    return is_rate ? samples.n_tokens / seconds : 1e3 * seconds;
  };
  const double median = Percentile(samples.seconds, 50);
  std::string row = absl::StrFormat("figure %s_%s %.5g %s", name, is_rate ? "tokens_per_s" : "ms",
                                    value_of(median), is_rate ? "tokens/s" : "ms");
  if (samples.seconds.size() > 1) {
    const double low = value_of(Percentile(samples.seconds, 10));
    const double high = value_of(Percentile(samples.seconds, 90));
    absl::StrAppendFormat(&row, " p10 %.5g p90 %.5g", std::min(low, high), std::max(low, high));
  }
  if (samples.floor_seconds > 0) {
    absl::StrAppendFormat(&row, " limit %.5g ratio %.3f", value_of(samples.floor_seconds),
                          samples.floor_seconds / median);
  }
  PrintRow(row);
  if (ran.kind == "decode" || ran.kind == "offline") {
    PrintRow(absl::StrFormat("figure %s_idle %.4f ratio", name, std::max(0.0, 1 - samples.busy)));
  }
}

// Prints why a case was not run, if it is for want of memory.
absl::Status SkipIfTooLarge(const std::string& name, const absl::Status& status) {
  if (!absl::IsResourceExhausted(status)) return Annotate(status, name);
  PrintRow(absl::StrCat("skipped 1 ", name, ": ", std::string(status.message())));
  return absl::OkStatus();
}

absl::Status RunCase(ModelBench& bench, const Case& wanted) {
  const std::string name = absl::StrCat("gpu_", wanted.Name());
  const absl::StatusOr<BenchSamples> samples = wanted.Run(bench);
  if (!samples.ok()) return SkipIfTooLarge(name, samples.status());
  Print(name, wanted, *samples);
  return absl::OkStatus();
}

// In turns, twice each.
absl::Status CompareCase(ModelBench& deterministic, ModelBench& fast, const Case& wanted) {
  BenchSamples both[2];
  for (int turn = 0; turn < 4; ++turn) {
    const absl::StatusOr<BenchSamples> samples = wanted.Run(turn % 2 == 0 ? deterministic : fast);
    if (!samples.ok()) {
      return SkipIfTooLarge(absl::StrCat("gpu_fast_", wanted.Name()), samples.status());
    }
    BenchSamples& sum = both[turn % 2];
    const std::vector<double> seconds = std::move(sum.seconds);
    sum = *samples;
    sum.seconds.insert(sum.seconds.end(), seconds.begin(), seconds.end());
  }
  Print(absl::StrCat("gpu_deterministic_", wanted.Name()), wanted, both[0]);
  Print(absl::StrCat("gpu_fast_", wanted.Name()), wanted, both[1]);
  PrintRow(absl::StrFormat("figure gpu_deterministic_over_fast_%s %.3f ratio", wanted.Name(),
                           Percentile(both[1].seconds, 50) / Percentile(both[0].seconds, 50)));
  return absl::OkStatus();
}

absl::Status Compare(ModelBench& deterministic, ModelBenchOptions options,
                     const std::vector<Case>& cases) {
  if (cases.empty()) return absl::OkStatus();
  options.deterministic = false;
  RETURN_IF_ERROR(deterministic.Shrink());
  const auto fast = ModelBench::Load(options);
  if (absl::IsUnavailable(fast.status()) || absl::IsResourceExhausted(fast.status())) {
    PrintRow(absl::StrCat("skipped ", cases.size(),
                          " comparisons with cuBLASLt: ", std::string(fast.status().message())));
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(fast.status());
  for (const Case& wanted : cases) RETURN_IF_ERROR(CompareCase(deterministic, **fast, wanted));
  return absl::OkStatus();
}

absl::Status Run() {
  ModelBenchOptions options;
  ASSIGN_OR_RETURN(options.config, ConfigOfShape(absl::GetFlag(FLAGS_shape)));
  ASSIGN_OR_RETURN(const std::vector<Case> cases, ParseCases(absl::GetFlag(FLAGS_cases)));
  ASSIGN_OR_RETURN(const std::vector<Case> fast, ParseCases(absl::GetFlag(FLAGS_fast)));
  const TempDir directory;
  std::ofstream(directory.File("config.json")) << ToHfConfigJson(options.config, "bfloat16");
  options.directory = directory.path();
  options.memory_utilization = absl::GetFlag(FLAGS_memory_utilization);
  options.chunk = absl::GetFlag(FLAGS_chunk);
  options.max_num_seqs = absl::GetFlag(FLAGS_max_num_seqs);
  options.device.memory_bytes_per_s = 1e9 * absl::GetFlag(FLAGS_read_gb_per_s);
  options.device.flop_per_s = 1e12 * absl::GetFlag(FLAGS_tflop_per_s);
  for (const std::vector<Case>* some : {&cases, &fast}) {
    for (const Case& wanted : *some) options.lengths.push_back(wanted.length());
  }
  if (options.lengths.empty()) return absl::InvalidArgumentError("no cases");
  const auto bench = ModelBench::Load(options);
  if (absl::IsUnavailable(bench.status()) || absl::IsNotFound(bench.status())) {
    PrintRow(
        absl::StrCat("skipped ", cases.size() + fast.size(),
                     " cases of bora-bench-gpu-model: ", std::string(bench.status().message())));
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(bench.status());
  PrintRow(absl::StrFormat("figure gpu_load %.3g s", (*bench)->load_seconds()));
  PrintRow(absl::StrFormat("figure gpu_kv_tokens %d tokens",
                           (*bench)->max_blocks() * GroupLimits().block_size));
  for (const Case& wanted : cases) RETURN_IF_ERROR(RunCase(**bench, wanted));
  return Compare(**bench, options, fast);
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Measures a whole model on one GPU.");
  bora::NormalizeFlagNames(argc, argv);
  absl::ParseCommandLine(argc, argv);
  bora::InitLog("bench", bora::LogLevel::kWarning);
  const absl::Status status = bora::Run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "bora-bench-gpu-model: %s\n", status.ToString().c_str());
  return absl::IsInvalidArgument(status) ? 2 : 1;
}
