// Priority classes of requests: how urgently their clients wait.
#pragma once

#include <cstdint>

namespace bora {

// From the first served to the last.
enum class Priority : int8_t { kInteractive, kStandard, kBatch };

inline constexpr int kNumPriorities = 3;

// Microseconds by which a class's sequences count as having arrived later than they did.
inline constexpr int64_t kPriorityHandicapUs[kNumPriorities] = {0, 10'000'000, 100'000'000};

}  // namespace bora
