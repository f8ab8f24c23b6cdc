// Which instruction set each operation of the CPU takes. The newest is not always the quickest:
// VDPBF16PS issues every cycle on Zen 4, where a 512-bit multiply-add takes two, and every second
// cycle on Emerald Rapids, where two multiply-adds take one. All levels give the same bits
// (kernels/cpu/simd/simd.h), so the choice is made by measurement.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bora {

// Instruction sets that the inner loops are compiled for. All give the same bits.
enum class SimdLevel { kPortable, kAvx2, kAvx512, kAvx512Bf16 };

// Whether this machine can run the level, and the newest that it can.
bool SimdLevelAvailable(SimdLevel level);
SimdLevel BestSimdLevel();
// Those that this machine can run, newest first; the last is kPortable.
std::vector<SimdLevel> AvailableSimdLevels();
// "portable", "avx2", "avx512" or "avx512bf16".
const char* SimdLevelName(SimdLevel level);

// Classes of products by rows of x: [1, 4), [4, 8), [8, 16), [16, 48), [48, ...).
inline constexpr int64_t kRowClasses[] = {1, 4, 8, 16, 48};
inline constexpr int kNumRowClasses = 5;
int RowClassOf(int64_t n_rows);

// The inner loops of a product. widened: each panel of weights is turned into floats once, for all
// tiles of rows (kernels/matmul.h); where the level has no such loop it means nothing.
struct ProductLoops {
  SimdLevel level = SimdLevel::kPortable;
  bool widened = false;
  bool operator==(const ProductLoops&) const = default;
};

// Immutable.
struct SimdChoice {
  // One level for everything, no panels widened.
  SimdChoice(SimdLevel level);  // NOLINT: a level is a choice

  SimdLevel level;                             // of all that is not below
  ProductLoops bf16_products[kNumRowClasses];  // by rows of x
  // bf16 attention, by queries that pass over a KV head together: up to 8, more.
  SimdLevel bf16_attention[2];
  // Whether float16 products of the last class widen panels.
  bool f16_widened = false;
};

// One thing to be timed: products of a class of rows, or attention.
struct SimdProbe {
  enum class Operation { kBf16Product, kF16Product, kBf16Attention };
  Operation operation = Operation::kBf16Product;
  int index = 0;  // of SimdChoice::bf16_products or bf16_attention; of kF16Product the last class
  ProductLoops loops;
};

// The newest level for everything, except that another way of doing an operation (of the level
// below; for many rows also with panels widened, which is all that float16 chooses) is taken where
// its least time is below the newest's by more than 5 %. below = newest: only widening is to be
// chosen. seconds(probe) does the operation once and says how long it took; 0 or less: unknown.
// Ways take turns, so that a disturbance meets all of them, in up to n_rounds rounds, while
// more_time() says so. With fewer than 3 rounds, or where a time is unknown, the newest level
// stands.
SimdChoice ChooseSimd(SimdLevel newest, SimdLevel below, int n_rounds,
                      absl::FunctionRef<double(const SimdProbe&)> seconds,
                      absl::FunctionRef<bool()> more_time);

// ChooseSimd by some 15 ms of measurement on the calling thread (processor time, at most about 25
// ms). Both levels must be available.
SimdChoice MeasureSimdChoice(SimdLevel newest, SimdLevel below);

// "auto": measured between the newest level and the one below it (not kPortable, which is never the
// quicker). The name of a level: that one for everything; only whether panels are widened is
// measured. INVALID_ARGUMENT names the levels that there are here if the name is none of them.
absl::StatusOr<SimdChoice> SimdChoiceByName(absl::string_view name);

// "avx512bf16", or "avx512bf16, bf16 products of 8-15 rows avx512, of 48 rows and more avx512
// widened, attention avx512".
std::string DescribeSimdChoice(const SimdChoice& choice);

}  // namespace bora
