// Classes of requests by how soon somebody waits for them.
#pragma once

#include <cstdint>

namespace bora {

// From the first served to the last.
enum class Priority : int8_t { kInteractive, kStandard, kBatch };

inline constexpr int kNumPriorities = 3;

// As if a sequence of the class had come so much later, in microseconds.
inline constexpr int64_t kPriorityHandicapUs[kNumPriorities] = {0, 10'000'000, 100'000'000};

}  // namespace bora
