#include "kernels/cpu/simd/simd_choice.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/host/cpu_features.h"

namespace bora {
namespace {

// How much faster than the newest level another way must be: the times of few samples on a busy
// machine agree within some 3 %.
constexpr double kClearlyLess = 1 / 1.05;
constexpr int kFewestRounds = 3;

using Operation = SimdProbe::Operation;
constexpr int kLastClass = kNumRowClasses - 1;

// Whether the level has widening loops. A level with the bf16 dot product takes bf16 panels as they
// are.
bool WidensBf16(SimdLevel level) { return level == SimdLevel::kAvx512; }
bool WidensF16(SimdLevel level) { return level >= SimdLevel::kAvx512; }

// One operation and the ways to do it: the newest level's way first, then the others.
struct Contest {
  SimdProbe operation;
  std::vector<ProductLoops> ways;
  std::vector<double> least;   // [ways], seconds
  std::vector<int> n_quicker;  // [ways] rounds in which the way was faster than the first
};

// The operations for which there is more than one way.
std::vector<Contest> Contests(SimdLevel newest, SimdLevel below) {
  std::vector<Contest> contests;
  for (int i = 0; i < kNumRowClasses; ++i) {
    Contest contest = {.operation = {Operation::kBf16Product, i, {}}, .ways = {{newest, false}}};
    if (below != newest) contest.ways.push_back({below, false});
    if (i == kLastClass && WidensBf16(below)) contest.ways.push_back({below, true});
    if (i == kLastClass && below != newest && WidensBf16(newest)) {
      contest.ways.push_back({newest, true});
    }
    contests.push_back(contest);
  }
  for (int i = 0; i < 2 && below != newest; ++i) {
    contests.push_back({.operation = {Operation::kBf16Attention, i, {}},
                        .ways = {{newest, false}, {below, false}}});
  }
  if (WidensF16(newest)) {
    contests.push_back({.operation = {Operation::kF16Product, kLastClass, {}},
                        .ways = {{newest, false}, {newest, true}}});
  }
  std::erase_if(contests, [](const Contest& contest) { return contest.ways.size() < 2; });
  for (Contest& contest : contests) {
    contest.least.assign(contest.ways.size(), std::numeric_limits<double>::infinity());
    contest.n_quicker.assign(contest.ways.size(), 0);
  }
  return contests;
}

// Times each way once; false if a time is unknown. Every second round goes backwards, because a
// later way finds in the cache what the earlier ones have read.
bool RunRound(int round, absl::FunctionRef<double(const SimdProbe&)> seconds, Contest* contest) {
  const size_t n_ways = contest->ways.size();
  std::vector<double> times(n_ways);
  for (size_t i = 0; i < n_ways; ++i) {
    const size_t way = round % 2 == 0 ? i : n_ways - 1 - i;
    SimdProbe probe = contest->operation;
    probe.loops = contest->ways[way];
    times[way] = seconds(probe);
    if (!(times[way] > 0)) return false;
    contest->least[way] = std::min(contest->least[way], times[way]);
  }
  for (size_t way = 1; way < n_ways; ++way) {
    if (times[way] < times[0]) ++contest->n_quicker[way];
  }
  return true;
}

// The winning way: the first, unless another is clearly faster in its least time and was faster in
// most rounds.
ProductLoops Winner(const Contest& contest, int n_rounds) {
  size_t best = 0;
  for (size_t way = 1; way < contest.ways.size(); ++way) {
    if (contest.least[way] < contest.least[0] * kClearlyLess &&
        2 * contest.n_quicker[way] > n_rounds && contest.least[way] < contest.least[best]) {
      best = way;
    }
  }
  return contest.ways[best];
}

// A class of rows as text: "of 8-15 rows".
std::string RowsOfClass(int i) {
  if (i + 1 == kNumRowClasses) return absl::StrCat("of ", kRowClasses[i], " rows and more");
  return absl::StrCat("of ", kRowClasses[i], "-", kRowClasses[i + 1] - 1, " rows");
}

}  // namespace

bool SimdLevelAvailable(SimdLevel level) {
  switch (level) {
    case SimdLevel::kPortable:
      return true;
    case SimdLevel::kAvx2:
      return HasAvx2();
    case SimdLevel::kAvx512:
      return HasAvx512();
    case SimdLevel::kAvx512Bf16:
      return HasAvx512Bf16();
  }
  return false;
}

std::vector<SimdLevel> AvailableSimdLevels() {
  std::vector<SimdLevel> levels;
  for (SimdLevel level :
       {SimdLevel::kAvx512Bf16, SimdLevel::kAvx512, SimdLevel::kAvx2, SimdLevel::kPortable}) {
    if (SimdLevelAvailable(level)) levels.push_back(level);
  }
  return levels;
}

SimdLevel BestSimdLevel() { return AvailableSimdLevels().front(); }

const char* SimdLevelName(SimdLevel level) {
  switch (level) {
    case SimdLevel::kPortable:
      return "portable";
    case SimdLevel::kAvx2:
      return "avx2";
    case SimdLevel::kAvx512:
      return "avx512";
    case SimdLevel::kAvx512Bf16:
      return "avx512bf16";
  }
  return "unknown";
}

int RowClassOf(int64_t n_rows) {
  int i = kNumRowClasses - 1;
  while (i > 0 && n_rows < kRowClasses[i]) --i;
  return i;
}

SimdChoice::SimdChoice(SimdLevel level) : level(level), bf16_attention{level, level} {
  for (ProductLoops& loops : bf16_products) loops = {level, false};
}

SimdChoice ChooseSimd(SimdLevel newest, SimdLevel below, int n_rounds,
                      absl::FunctionRef<double(const SimdProbe&)> seconds,
                      absl::FunctionRef<bool()> more_time) {
  SimdChoice choice(newest);
  std::vector<Contest> contests = Contests(newest, below);
  if (contests.empty()) return choice;
  int round = 0;
  for (; round < n_rounds && (round == 0 || more_time()); ++round) {
    for (Contest& contest : contests) {
      if (!RunRound(round, seconds, &contest)) return SimdChoice(newest);
    }
  }
  if (round < kFewestRounds) return choice;
  for (const Contest& contest : contests) {
    const ProductLoops winner = Winner(contest, round);
    switch (contest.operation.operation) {
      case Operation::kBf16Product:
        choice.bf16_products[contest.operation.index] = winner;
        break;
      case Operation::kF16Product:
        choice.f16_widened = winner.widened;
        break;
      case Operation::kBf16Attention:
        choice.bf16_attention[contest.operation.index] = winner.level;
        break;
    }
  }
  return choice;
}

absl::StatusOr<SimdChoice> SimdChoiceByName(absl::string_view name) {
  const std::vector<SimdLevel> levels = AvailableSimdLevels();
  if (name == "auto") {
    const bool has_other = levels.size() > 1 && levels[1] != SimdLevel::kPortable;
    return MeasureSimdChoice(levels[0], has_other ? levels[1] : levels[0]);
  }
  std::vector<std::string> names;
  for (SimdLevel level : levels) {
    if (name == SimdLevelName(level)) return MeasureSimdChoice(level, level);
    names.push_back(SimdLevelName(level));
  }
  const bool exists = name == SimdLevelName(SimdLevel::kAvx512Bf16) ||
                      name == SimdLevelName(SimdLevel::kAvx512) ||
                      name == SimdLevelName(SimdLevel::kAvx2);
  return absl::InvalidArgumentError(absl::StrCat(
      "'", name, "' is ", exists ? "an instruction set that this CPU lacks" : "no instruction set",
      "; here are auto, ", absl::StrJoin(names, ", ")));
}

std::string DescribeSimdChoice(const SimdChoice& choice) {
  std::string text = SimdLevelName(choice.level);
  const char* before = ", bf16 products ";
  for (int i = 0; i < kNumRowClasses; ++i) {
    const ProductLoops& loops = choice.bf16_products[i];
    if (loops == ProductLoops{choice.level, false}) continue;
    absl::StrAppend(&text, before, RowsOfClass(i), " ", SimdLevelName(loops.level),
                    loops.widened ? " widened" : "");
    before = ", ";
  }
  const char* const attention[] = {"attention of few queries ", "attention of many queries "};
  for (int i = 0; i < 2; ++i) {
    if (choice.bf16_attention[i] == choice.level) continue;
    absl::StrAppend(&text, ", ", attention[i], SimdLevelName(choice.bf16_attention[i]));
  }
  if (choice.f16_widened) {
    absl::StrAppend(&text, ", float16 products ", RowsOfClass(kLastClass), " widened");
  }
  return text;
}

}  // namespace bora
