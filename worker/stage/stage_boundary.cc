#include "worker/stage/stage_boundary.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace bora {
StageTimes::StageTimes(const RankPlace& place, Mesh* mesh)
    : place_(place), mesh_(mesh), stage_us_(place.stage + 1, 0) {
  CHECK(mesh != nullptr || place.pp_size == 1) << place.pp_size << " stages without a mesh";
}

absl::Status StageTimes::Enter(bool crosses) {
  if (place_.is_first_stage() || !crosses) {
    std::fill(stage_us_.begin(), stage_us_.end(), 0);
    return absl::OkStatus();
  }
  // All entries except the last, which is this stage's own.
  return mesh_->Recv(place_.RankOf(place_.stage - 1, place_.tp_rank),
                     MutableBytesOf(absl::MakeSpan(stage_us_).subspan(0, place_.stage)));
}

absl::Status StageTimes::Leave(bool crosses, int64_t took_us) {
  stage_us_.back() = took_us;
  if (place_.is_last_stage() || !crosses) return absl::OkStatus();
  return mesh_->Send(place_.RankOf(place_.stage + 1, place_.tp_rank),
                     BytesOf(absl::MakeConstSpan(stage_us_)));
}

StageBoundary::StageBoundary(const RankPlace& place, Mesh* mesh)
    : place_(place), mesh_(mesh), times_(place, mesh) {}

absl::Status StageBoundary::Enter(absl::Span<float> residual) {
  const bool crosses = !residual.empty();
  if (!place_.is_first_stage() && crosses) {
    RETURN_IF_ERROR(
        mesh_->Recv(place_.RankOf(place_.stage - 1, place_.tp_rank), MutableBytesOf(residual)));
  }
  RETURN_IF_ERROR(times_.Enter(crosses));
  begin_ = std::chrono::steady_clock::now();
  return absl::OkStatus();
}

absl::Status StageBoundary::Leave(absl::Span<const float> residual) {
  // Taken before sending: waiting for the next stage is not computing.
  const auto took = std::chrono::steady_clock::now() - begin_;
  const bool crosses = !residual.empty();
  if (!place_.is_last_stage() && crosses) {
    RETURN_IF_ERROR(
        mesh_->Send(place_.RankOf(place_.stage + 1, place_.tp_rank), BytesOf(residual)));
  }
  return times_.Leave(crosses,
                      crosses ? std::chrono::ceil<std::chrono::microseconds>(took).count() : 0);
}

}  // namespace bora
