#include "worker/stage_boundary.h"

#include <algorithm>

#include "base/check.h"
#include "base/status_macros.h"

namespace bora {
namespace {

template <typename T>
absl::Span<uint8_t> Bytes(absl::Span<T> values) {
  return {reinterpret_cast<uint8_t*>(values.data()), values.size() * sizeof(T)};
}

template <typename T>
absl::Span<const uint8_t> Bytes(absl::Span<const T> values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace

StageBoundary::StageBoundary(const RankPlace& place, Mesh* mesh)
    : place_(place), mesh_(mesh), stage_us_(place.stage + 1, 0) {
  CHECK(mesh != nullptr || place.pp_size == 1) << place.pp_size << " stages without a mesh";
}

absl::Status StageBoundary::Enter(absl::Span<float> residual) {
  if (!place_.is_first_stage() && !residual.empty()) {
    const int before = place_.RankOf(place_.stage - 1, place_.tp_rank);
    RETURN_IF_ERROR(mesh_->Recv(before, Bytes(residual)));
    RETURN_IF_ERROR(mesh_->Recv(before, Bytes(absl::MakeSpan(stage_us_).subspan(0, place_.stage))));
  } else {
    std::fill(stage_us_.begin(), stage_us_.end(), 0);
  }
  begin_ = std::chrono::steady_clock::now();
  return absl::OkStatus();
}

absl::Status StageBoundary::Leave(absl::Span<const float> residual) {
  const auto took = std::chrono::steady_clock::now() - begin_;
  stage_us_.back() =
      residual.empty() ? 0 : std::chrono::ceil<std::chrono::microseconds>(took).count();
  if (place_.is_last_stage() || residual.empty()) return absl::OkStatus();
  const int next = place_.RankOf(place_.stage + 1, place_.tp_rank);
  RETURN_IF_ERROR(mesh_->Send(next, Bytes(residual)));
  return mesh_->Send(next, Bytes(absl::MakeConstSpan(stage_us_)));
}

}  // namespace bora
