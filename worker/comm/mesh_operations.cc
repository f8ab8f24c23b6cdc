// The operations of a Mesh. Each queues messages with AddSend and AddRecv; RunTransfers (mesh.cc)
// moves them.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "worker/comm/mesh.h"
#include "worker/comm/mesh_transfer.h"
#include "worker/comm/tree_sum.h"

namespace bora {
namespace {

constexpr int64_t kFloatBytes = sizeof(float);

// Received data is summed as it arrives, in steps of at least this many floats (32 KiB of each
// source), while it is still in the L2 cache.
constexpr int64_t kSumStepFloats = int64_t{8} << 10;

const char* OperationName(uint32_t operation) {
  switch (operation) {
    case kOperationMessage:
      return "Send/Recv";
    case kOperationAllReduce:
      return "AllReduceSum";
    case kOperationReduceScatter:
      return "AllReduceSum (scatter)";
    case kOperationShareSums:
      return "AllReduceSum (gather)";
    case kOperationAllGather:
      return "AllGather";
    case kOperationGather:
      return "GatherTo";
    case kOperationBarrier:
      return "Barrier";
    default:
      return "unknown operation";
  }
}

// Sums sources[k][0..n) over k into out[0..n), piece by piece as the sources arrive.
class IncrementalSum {
 public:
  IncrementalSum(absl::Span<const float* const> sources, int64_t n, float* out)
      : sources_(sources), n_(n), out_(out) {
    CHECK_LE(sources.size(), kMaxPeers + 1);
  }

  // To be called when the first `n_ready` floats of every source have arrived and out[0..n_ready)
  // may be overwritten.
  void Advance(int64_t n_ready) {
    if (n_ready - n_done_ < kSumStepFloats && n_ready < n_) return;
    const int64_t n_step = std::min(n_ready, n_) - n_done_;
    if (n_step <= 0) return;
    const float* at[kMaxPeers + 1];
    for (size_t k = 0; k < sources_.size(); ++k) at[k] = sources_[k] + n_done_;
    TreeSum(absl::MakeConstSpan(at, sources_.size()), n_step, out_ + n_done_);
    n_done_ += n_step;
  }

 private:
  absl::Span<const float* const> sources_;
  const int64_t n_;
  float* const out_;
  int64_t n_done_ = 0;  // floats summed so far
};

}  // namespace

absl::Status Mesh::Transfer::CheckHeader(int my_rank) const {
  if (header.operation == kGoodbyeOperation) {
    return absl::UnavailableError(absl::StrCat("rank ", link->peer(), " has closed its mesh; rank ",
                                               my_rank, " expected ",
                                               OperationName(expected.operation)));
  }
  if (header.operation == expected.operation && header.sequence == expected.sequence &&
      header.n_bytes == expected.n_bytes) {
    return absl::OkStatus();
  }
  return absl::InternalError(
      absl::StrCat("rank ", link->peer(), " sent ", OperationName(header.operation), " of ",
                   header.n_bytes, " bytes as message ", header.sequence, ", but rank ", my_rank,
                   " expects ", OperationName(expected.operation), " of ", expected.n_bytes,
                   " bytes as message ", expected.sequence));
}

absl::Status Mesh::AllReduceSum(absl::Span<const int> group, absl::Span<float> data) {
  RETURN_IF_ERROR(BeginGroupCall(group));
  if (group.size() == 1 || data.empty()) return absl::OkStatus();
  // For two ranks both ways move equally many bytes, and the direct one needs one exchange less.
  const bool is_small = static_cast<int64_t>(data.size()) <= kDirectFloatsMax;
  if (group.size() == 2 || is_small) return AllReduceDirect(group, data);
  return AllReduceScattered(group, data);
}

absl::Status Mesh::AllReduceDirect(absl::Span<const int> group, absl::Span<float> data) {
  const auto n = static_cast<int64_t>(data.size());
  const size_t n_staged = (group.size() - 1) * data.size();
  if (staging_.size() < n_staged) staging_.resize(n_staged);
  sources_.clear();
  float* stage = staging_.data();
  for (const int rank : group) {
    if (rank == my_rank_) {
      sources_.push_back(data.data());
      continue;
    }
    AddSend(kOperationAllReduce, rank, BytesOf(data));
    AddRecv(kOperationAllReduce, rank, MutableBytesOf(absl::MakeSpan(stage, data.size())));
    sources_.push_back(stage);
    stage += n;
  }
  // The sum overwrites `data`, so that it must not get ahead of the sends either.
  IncrementalSum sum(sources_, n, data.data());
  return RunTransfers(
      [&] { sum.Advance(std::min(MovedByAll(sends_), MovedByAll(recvs_)) / kFloatBytes); });
}

absl::Status Mesh::AllReduceScattered(absl::Span<const int> group, absl::Span<float> data) {
  const auto n = static_cast<int64_t>(data.size());
  const auto n_ranks = static_cast<int64_t>(group.size());
  const auto part_of = [&](int64_t idx) {
    const ReducePart part = PartOf(n, n_ranks, idx);
    return data.subspan(static_cast<size_t>(part.begin), static_cast<size_t>(part.n_floats()));
  };
  const int64_t my_idx = std::find(group.begin(), group.end(), my_rank_) - group.begin();
  const absl::Span<float> mine = part_of(my_idx);
  const size_t n_staged = (group.size() - 1) * mine.size();
  if (staging_.size() < n_staged) staging_.resize(n_staged);

  sources_.clear();
  float* stage = staging_.data();
  for (int64_t idx = 0; idx < n_ranks; ++idx) {
    const int rank = group[static_cast<size_t>(idx)];
    if (rank == my_rank_) {
      sources_.push_back(mine.data());
      continue;
    }
    AddSend(kOperationReduceScatter, rank, BytesOf(part_of(idx)));
    AddRecv(kOperationReduceScatter, rank, MutableBytesOf(absl::MakeSpan(stage, mine.size())));
    sources_.push_back(stage);
    stage += mine.size();
  }
  // First exchange: every rank receives its own part from all others and sums it. The sum may
  // overwrite `mine`, because this rank does not send its own part.
  IncrementalSum sum(sources_, static_cast<int64_t>(mine.size()), mine.data());
  RETURN_IF_ERROR(RunTransfers([&] { sum.Advance(MovedByAll(recvs_) / kFloatBytes); }));

  // Second exchange: the sums of each part go to all ranks.
  for (int64_t idx = 0; idx < n_ranks; ++idx) {
    const int rank = group[static_cast<size_t>(idx)];
    if (rank == my_rank_) continue;
    AddSend(kOperationShareSums, rank, BytesOf(mine));
    AddRecv(kOperationShareSums, rank, MutableBytesOf(part_of(idx)));
  }
  return RunTransfers([] {});
}

absl::Status Mesh::AllGather(absl::Span<const int> group, absl::Span<const float> local,
                             absl::Span<float> all) {
  RETURN_IF_ERROR(BeginGroupCall(group));
  if (all.size() != group.size() * local.size()) {
    return absl::InvalidArgumentError(absl::StrCat("AllGather: all has ", all.size(), " floats, ",
                                                   group.size(), " parts of ", local.size(),
                                                   " need ", group.size() * local.size()));
  }
  if (local.empty()) return absl::OkStatus();
  for (size_t i = 0; i < group.size(); ++i) {
    const absl::Span<float> part = all.subspan(i * local.size(), local.size());
    if (group[i] == my_rank_) {
      if (part.data() != local.data()) {
        memmove(part.data(), local.data(), local.size() * sizeof(float));
      }
      continue;
    }
    AddSend(kOperationAllGather, group[i], BytesOf(local));
    AddRecv(kOperationAllGather, group[i], MutableBytesOf(part));
  }
  return group.size() == 1 ? absl::OkStatus() : RunTransfers([] {});
}

absl::Status Mesh::GatherTo(int root, absl::Span<const int> group, absl::Span<const float> local,
                            absl::Span<float> all) {
  RETURN_IF_ERROR(BeginGroupCall(group));
  if (std::find(group.begin(), group.end(), root) == group.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("GatherTo: root ", root, " is not in the group"));
  }
  const size_t n_needed = root == my_rank_ ? group.size() * local.size() : 0;
  if (all.size() != n_needed) {
    return absl::InvalidArgumentError(absl::StrCat("GatherTo root ", root, ": all has ", all.size(),
                                                   " floats on rank ", my_rank_, ", must have ",
                                                   n_needed));
  }
  if (local.empty() || group.size() == 1) {
    if (!local.empty()) memmove(all.data(), local.data(), local.size() * sizeof(float));
    return absl::OkStatus();
  }
  if (root != my_rank_) {
    AddSend(kOperationGather, root, BytesOf(local));
    return RunTransfers([] {});
  }
  for (size_t i = 0; i < group.size(); ++i) {
    const absl::Span<float> part = all.subspan(i * local.size(), local.size());
    if (group[i] != my_rank_) {
      AddRecv(kOperationGather, group[i], MutableBytesOf(part));
    } else if (part.data() != local.data()) {
      memmove(part.data(), local.data(), local.size() * sizeof(float));
    }
  }
  return RunTransfers([] {});
}

absl::Status Mesh::Barrier(absl::Span<const int> group) {
  RETURN_IF_ERROR(BeginGroupCall(group));
  if (group.size() == 1) return absl::OkStatus();
  // A rank that has a message from every other rank knows that all have entered.
  for (const int rank : group) {
    if (rank == my_rank_) continue;
    AddSend(kOperationBarrier, rank, {});
    AddRecv(kOperationBarrier, rank, {});
  }
  return RunTransfers([] {});
}

absl::Status Mesh::Send(int peer, absl::Span<const uint8_t> message) {
  RETURN_IF_ERROR(BeginCall());
  RETURN_IF_ERROR(FindLink(peer).status());
  AddSend(kOperationMessage, peer, message);
  return RunTransfers([] {});
}

absl::Status Mesh::Recv(int peer, absl::Span<uint8_t> message) {
  RETURN_IF_ERROR(BeginCall());
  RETURN_IF_ERROR(FindLink(peer).status());
  AddRecv(kOperationMessage, peer, message);
  return RunTransfers([] {});
}

}  // namespace bora
