// The data that crosses from one pipeline stage to the next in a step: first the residual stream,
// then the computing times of the stages so far, so that the last stage can report all times.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/comm/mesh.h"
#include "worker/stage/collectives.h"

namespace bora {

// The computing times of the stages in a step, passed on from stage to stage between ranks with the
// same tensor rank. State of one epoch on one rank. Owned by the rank thread.
//
// A step "crosses" if it has tokens; a step without tokens sends nothing between stages.
class StageTimes {
 public:
  // `mesh` may be null if the group has one stage; otherwise it must outlive this object.
  StageTimes(const RankPlace& place, Mesh* mesh);

  // Begins a step: if it crosses, receives the times of the stages before from the stage before,
  // except on the first stage. Otherwise all times are 0. Errors are those of the mesh.
  absl::Status Enter(bool crosses);
  // Ends a step in which this stage computed for `took_us` microseconds. If it crosses, sends the
  // times up to this stage's to the next stage, unless this is the last. Errors: the mesh's.
  absl::Status Leave(bool crosses, int64_t took_us);

  // The computing times of the stages up to this one, in microseconds, once Leave has returned.
  // [stage + 1]
  absl::Span<const int64_t> stage_us() const { return stage_us_; }

 private:
  const RankPlace place_;
  Mesh* const mesh_;
  std::vector<int64_t> stage_us_;  // [stage + 1]
};

// Both ends of a stage in a step, for ranks whose activations travel over a Mesh. State of one
// epoch on one rank. Owned by the rank thread.
//
// Between ranks with the same tensor rank of two neighbouring stages, a step sends in one direction
// only: the residual and then, at once, the times. So the times never make a stage wait longer than
// the residual does.
class StageBoundary {
 public:
  // `mesh` may be null if the group has one stage; otherwise it must outlive this object.
  StageBoundary(const RankPlace& place, Mesh* mesh);

  // Begins a step; blocks until the stage before has sent its output. residual: [n_tokens, dim],
  // filled with that output, except on the first stage, which leaves it as it is; empty in a step
  // without tokens. The computing time of this stage begins when Enter returns. Errors are those of
  // the mesh.
  absl::Status Enter(absl::Span<float> residual);

  // Ends the computing time of this stage; except on the last stage, sends residual [n_tokens, dim]
  // and the times to the next stage. `residual` is empty exactly if it was in Enter. Errors are
  // those of the mesh.
  absl::Status Leave(absl::Span<const float> residual);

  // When the last Enter returned.
  std::chrono::steady_clock::time_point begin() const { return begin_; }

  // Once Leave has returned: for each stage up to this one the microseconds from the end of its
  // Enter to the start of its Leave, rounded up; 0 in a step without tokens. [stage + 1]
  absl::Span<const int64_t> stage_us() const { return times_.stage_us(); }

 private:
  const RankPlace place_;
  Mesh* const mesh_;
  std::chrono::steady_clock::time_point begin_;  // when the last Enter returned
  StageTimes times_;
};

}  // namespace bora
