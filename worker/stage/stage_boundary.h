// Carries two messages from one pipeline stage to the next in a step: the residual stream, and
// behind it the times that the stages have computed so far, so that the last stage can report all.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/comm/mesh.h"
#include "worker/stage/collectives.h"

namespace bora {

// The times that the stages have computed in a step, passed on from stage to stage. State of one
// epoch on one rank. Owned by the rank thread.
class StageTimes {
 public:
  // `mesh` may be null when the group has one stage; it outlives this object.
  StageTimes(const RankPlace& place, Mesh* mesh);

  // Begins a step: receives the times of the stages before, except on the first stage. They are
  // zero in a step in which nothing crosses. Errors are the mesh's.
  absl::Status Enter(bool crosses);
  // Sets this stage's time and sends all times on, except on the last stage and in a step in which
  // nothing crosses.
  absl::Status Leave(bool crosses, int64_t took_us);

  // After Leave: microseconds of the stages up to this one. [stage + 1]
  absl::Span<const int64_t> stage_us() const { return stage_us_; }

 private:
  const RankPlace place_;
  Mesh* const mesh_;
  std::vector<int64_t> stage_us_;  // [stage + 1]
};

// State of one epoch on one rank. Owned by the rank thread. Between the same tensor rank of two
// neighbouring stages there is one direction of traffic per step, both messages of it sent one
// after the other: the times wait for nothing that the residual does not wait for.
class StageBoundary {
 public:
  // `mesh` may be null when the group has one stage; it outlives this object.
  StageBoundary(const RankPlace& place, Mesh* mesh);

  // Begins a step. residual: [n_tokens, dim], filled with the output of the stage before, except
  // on the first stage. It is empty in a step without tokens, in which nothing crosses. The stage's
  // time begins when this returns. Errors are the mesh's.
  absl::Status Enter(absl::Span<float> residual);

  // Ends the stage's time and sends residual [n_tokens, dim] and times on, except on the last
  // stage.
  absl::Status Leave(absl::Span<const float> residual);

  // When Enter returned.
  std::chrono::steady_clock::time_point begin() const { return begin_; }

  // After Leave: microseconds from Enter to Leave of the stages up to this one, rounded up; 0 in a
  // step without tokens. [stage + 1]
  absl::Span<const int64_t> stage_us() const { return times_.stage_us(); }

 private:
  const RankPlace place_;
  Mesh* const mesh_;
  std::chrono::steady_clock::time_point begin_;
  StageTimes times_;
};

}  // namespace bora
