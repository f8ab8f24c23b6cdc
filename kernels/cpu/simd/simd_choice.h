// Chooses the instruction set for each operation of the CPU. The newest is not always the fastest:
// VDPBF16PS issues every cycle on Zen 4, where a 512-bit multiply-add takes two cycles, and every
// second cycle on Emerald Rapids, where two multiply-adds take one. All levels give the same bits
// (kernels/cpu/simd/simd.h), so the choice is free and made by measurement.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Instruction sets that the inner loops are compiled for, oldest first.
enum class SimdLevel { kPortable, kAvx2, kAvx512, kAvx512Bf16 };

// Whether this machine can run the level.
bool SimdLevelAvailable(SimdLevel level);

// The newest level that this machine can run.
SimdLevel BestSimdLevel();
// The levels that this machine can run, newest first; the last is kPortable.
std::vector<SimdLevel> AvailableSimdLevels();
// The level's name: "portable", "avx2", "avx512" or "avx512bf16".
const char* SimdLevelName(SimdLevel level);

// Classes of products by rows of x: [1, 4), [4, 8), [8, 16), [16, 48) and [48, ...). A class has
// one choice of inner loops.
inline constexpr int64_t kRowClasses[] = {1, 4, 8, 16, 48};
inline constexpr int kNumRowClasses = 5;

// The index of the class that n_rows >= 1 belongs to.
int RowClassOf(int64_t n_rows);

// The inner loops of a product. widened: each panel of weights is turned into floats once for all
// tiles of rows (simd_matmul_wide.inc); ignored if the level has no such loop.
struct ProductLoops {
  SimdLevel level = SimdLevel::kPortable;
  bool widened = false;
  bool operator==(const ProductLoops&) const = default;
};

// The choice of inner loops for one machine; every level in it must be available there.
struct SimdChoice {
  // The choice of one level for everything, without widening.
  SimdChoice(SimdLevel level);  // NOLINT: a level is a choice

  SimdLevel level;                             // for everything that is not named below
  ProductLoops bf16_products[kNumRowClasses];  // by class of rows
  // For attention with a bf16 cache: [0] if up to 8 queries share a KV head in one item, [1] if
  // more do.
  SimdLevel bf16_attention[2];
  // Whether float16 products of the last class (48 rows or more) widen panels.
  bool f16_widened = false;
};

// One measurement: an operation on one class of inputs, done in one way.
struct SimdProbe {
  enum class Operation { kBf16Product, kF16Product, kBf16Attention };
  Operation operation = Operation::kBf16Product;
  int index = 0;  // class of rows, or index of bf16_attention; kF16Product: the last class
  ProductLoops loops;
};

// Chooses by timing. Everything gets the newest level, unless another way of doing an operation has
// a least time more than 5 % below the newest level's and was faster in most rounds. The other ways
// are the level `below` and, for products of many rows, widened panels; for float16 only widening
// is a choice. If below == newest, only widening is chosen.
//
// seconds(probe) does the operation once and returns its duration; 0 or less means unknown. The
// ways take turns, so that a disturbance meets all of them. There are up to n_rounds rounds, while
// more_time() is true. After fewer than 3 rounds, or if a time is unknown, the newest level stands.
SimdChoice ChooseSimd(SimdLevel newest, SimdLevel below, int n_rounds,
                      absl::FunctionRef<double(const SimdProbe&)> seconds,
                      absl::FunctionRef<bool()> more_time);

// ChooseSimd with measurements on the calling thread: some 15 ms of processor time, at most about
// 25 ms.
// REQUIRES: both levels are available.
SimdChoice MeasureSimdChoice(SimdLevel newest, SimdLevel below);

// The choice for a name. "auto" measures the newest level against the one below it (unless that is
// kPortable, which is never faster). The name of a level chooses that level for everything, and
// measures only whether panels are widened. INVALID_ARGUMENT if the name is none of these or the
// CPU lacks the level; the message lists the names that work here.
absl::StatusOr<SimdChoice> SimdChoiceByName(absl::string_view name);

// A choice as text for logs: "avx512bf16", or, if some operations use other loops, "avx512bf16,
// bf16 products of 8-15 rows avx512, of 48 rows and more avx512 widened, attention of many queries
// avx512".
std::string DescribeSimdChoice(const SimdChoice& choice);

}  // namespace bora
