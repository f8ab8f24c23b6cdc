// Events of a group of workers, as data. The group's owner takes the events after each call and
// handles them in order.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "model/step/step.h"

namespace bora {

// Every place is filled and all ranks have joined: plans of this epoch may be sent.
struct GroupFormed {
  int64_t epoch = 0;
  GroupLimits limits;  // with the number of KV blocks that fits all ranks
};

// The epoch of the last GroupFormed has ended: no plan in flight will have a result.
struct GroupLost {
  std::string detail;  // why, for people
};

// The oldest plan in flight is done. If the result does not fit the plan, the owner calls
// Cluster::RejectStepResult.
struct StepDone {
  StepResult result;
};

using GroupEvent = std::variant<GroupFormed, GroupLost, StepDone>;

}  // namespace bora
