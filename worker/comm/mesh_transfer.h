// One message on its way in the current call of a Mesh: header and payload, and how far it got.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/int_math.h"
#include "worker/comm/link/link.h"
#include "worker/comm/mesh.h"

namespace bora {

// Names in error messages; the values travel.
enum Operation : uint32_t {
  kOperationMessage = 1,
  kOperationAllReduce = 2,
  kOperationReduceScatter = 3,
  kOperationShareSums = 4,
  kOperationAllGather = 5,
  kOperationGather = 6,
  kOperationBarrier = 7,
};

// Up to this size an all-reduce of more than two ranks sends everything to everybody: one exchange,
// (r - 1) n bytes per rank. Above it reduce-scatter and all-gather need two exchanges but only
// 2 (r - 1) / r n bytes.
inline constexpr int64_t kDirectFloatsMax = (int64_t{32} << 10) / sizeof(float);

// The part of n floats that the idx-th of n_ranks sums; parts start on cache lines (16 floats), so
// that the last ones may be short or empty.
struct ReducePart {
  int64_t begin;
  int64_t end;
  int64_t n_floats() const { return end - begin; }
};
inline ReducePart PartOf(int64_t n, int64_t n_ranks, int64_t idx) {
  const int64_t step = RoundUp(CeilDiv(n, n_ranks), 16);
  return {std::min(n, idx * step), std::min(n, (idx + 1) * step)};
}

// The most floats that an all-reduce of up to n floats among up to n_ranks receives from others
// before it sums them.
inline size_t StagedFloats(int64_t n_ranks, int64_t n) {
  int64_t n_staged = n_ranks > 1 ? n : 0;  // two ranks
  n_staged = std::max(n_staged, (n_ranks - 1) * std::min(n, kDirectFloatsMax));
  for (int64_t r = 3; r <= n_ranks; ++r) {
    n_staged = std::max(n_staged, (r - 1) * PartOf(n, r, 0).n_floats());
  }
  return static_cast<size_t>(n_staged);
}

struct Mesh::Transfer {
  Link* link = nullptr;
  FrameHeader expected;  // what this rank's call says
  FrameHeader header;    // what is sent or has been received
  uint8_t* data = nullptr;
  int64_t n_moved = 0;  // of header and payload together

  int64_t n_total() const { return kFrameHeaderBytes + static_cast<int64_t>(expected.n_bytes); }
  bool done() const { return n_moved == n_total(); }

  // The rest of header and payload; `parts` is the room for the result.
  absl::Span<const iovec> RemainingParts(iovec (&parts)[2]) {
    size_t n_parts = 0;
    if (n_moved < kFrameHeaderBytes) {
      parts[n_parts++] = {reinterpret_cast<uint8_t*>(&header) + n_moved,
                          static_cast<size_t>(kFrameHeaderBytes - n_moved)};
    }
    const int64_t begin = n_moved < kFrameHeaderBytes ? 0 : n_moved - kFrameHeaderBytes;
    const auto n_payload = static_cast<size_t>(static_cast<int64_t>(expected.n_bytes) - begin);
    if (n_payload > 0) parts[n_parts++] = {data + begin, n_payload};
    return absl::MakeConstSpan(parts, n_parts);
  }

  // INTERNAL when the peer's call does not match this rank's, UNAVAILABLE when the peer is closing.
  absl::Status CheckHeader(int my_rank) const;
};

}  // namespace bora
