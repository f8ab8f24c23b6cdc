// absl::Duration as a protobuf message.
#pragma once

#include <google/protobuf/duration.pb.h>

#include <cstdint>

#include "absl/time/time.h"

namespace bora {

// Sets `out` to `duration`, cut to whole nanoseconds. REQUIRES: `duration` is finite.
inline void SetDuration(absl::Duration duration, google::protobuf::Duration* out) {
  out->set_seconds(absl::ToInt64Seconds(duration));
  out->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration % absl::Seconds(1))));
}

}  // namespace bora
