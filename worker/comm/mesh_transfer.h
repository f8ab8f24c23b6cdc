// One message on its way in the current call of a Mesh: header and payload, and how far it got.
#pragma once

#include <sys/uio.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/comm/communicator.h"
#include "worker/comm/link.h"

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
