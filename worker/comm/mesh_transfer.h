// One message of the current call of a Mesh, header and payload, and how much of it has moved; and
// the sizes that decide how AllReduceSum splits its data. Internal to mesh*.cc.
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

// FrameHeader::operation. Each kind of message of each Mesh call has its own value, so that calls
// that do not match are noticed.
enum Operation : uint32_t {
  kOperationMessage = 1,
  kOperationAllReduce = 2,
  kOperationReduceScatter = 3,
  kOperationShareSums = 4,
  kOperationAllGather = 5,
  kOperationGather = 6,
  kOperationBarrier = 7,
};

// Up to this many floats (32 KiB) an all-reduce of r > 2 ranks with n bytes each sends everything
// to every rank: one exchange, (r - 1) n bytes sent per rank. Above it, reduce-scatter and
// all-gather need two exchanges, for only 2 (r - 1) / r n bytes per rank.
inline constexpr int64_t kDirectFloatsMax = (int64_t{32} << 10) / sizeof(float);

// PartOf(n, n_ranks, idx): the floats [begin, end) of n that the rank with index `idx` of `n_ranks`
// sums. Parts begin on a multiple of 16 floats (a cache line); the last ones may be short or empty.
struct ReducePart {
  int64_t begin;
  int64_t end;
  int64_t n_floats() const { return end - begin; }
};
inline ReducePart PartOf(int64_t n, int64_t n_ranks, int64_t idx) {
  const int64_t step = RoundUp(CeilDiv(n, n_ranks), 16);
  return {std::min(n, idx * step), std::min(n, (idx + 1) * step)};
}

// The floats of staging memory that suffice for every all-reduce of up to `n` floats among up to
// `n_ranks` ranks: the data of the other ranks is received there before it is summed. The three
// terms are two ranks, the direct way, and the scattered way with r ranks.
inline size_t StagedFloats(int64_t n_ranks, int64_t n) {
  int64_t n_staged = n_ranks > 1 ? n : 0;  // two ranks
  n_staged = std::max(n_staged, (n_ranks - 1) * std::min(n, kDirectFloatsMax));
  for (int64_t r = 3; r <= n_ranks; ++r) {
    n_staged = std::max(n_staged, (r - 1) * PartOf(n, r, 0).n_floats());
  }
  return static_cast<size_t>(n_staged);
}

// Either sent or received. A view: the link and the payload belong to others.
struct Mesh::Transfer {
  Link* link = nullptr;
  FrameHeader expected;     // as this rank's call says
  FrameHeader header;       // sending: equal to `expected`; receiving: as the peer sent it
  uint8_t* data = nullptr;  // the payload, expected.n_bytes; sending only reads it
  int64_t n_moved = 0;      // bytes of header and payload together

  // Bytes of header and payload.
  int64_t n_total() const { return kFrameHeaderBytes + static_cast<int64_t>(expected.n_bytes); }
  bool done() const { return n_moved == n_total(); }

  // The bytes of header and payload that have not moved yet, for TrySend or TryRecv. The result
  // lies in `parts`.
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

  // Compares a received header with this rank's call. INTERNAL if the peer's call does not match,
  // UNAVAILABLE if the header is the goodbye of a peer that destroyed its Mesh.
  absl::Status CheckHeader(int my_rank) const;
};

}  // namespace bora
