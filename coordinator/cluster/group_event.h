// What happens to a group of workers, as data: the group's owner takes the events after each call
// and acts on them in their order.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "model/step/step.h"

namespace bora {

// Every place is filled and all ranks have joined: plans of this epoch may be sent.
struct GroupFormed {
  int64_t epoch = 0;
  GroupLimits limits;
};

// The epoch has ended: no plan that is in flight will be answered.
struct GroupLost {
  std::string detail;  // why, for people
};

// The oldest plan in flight is done. If the result does not fit the plan, the owner says so by
// Cluster::RejectStepResult.
struct StepDone {
  StepResult result;
};

using GroupEvent = std::variant<GroupFormed, GroupLost, StepDone>;

}  // namespace bora
