#include "worker/cuda/cuda_links.h"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status_macros.h"

namespace bora {
namespace {

// The most thread blocks of an operation between two stages: one block keeps up with any network,
// and an operation that waits for a peer occupies no more of the GPU than this.
constexpr int kEdgeCtas = 2;
constexpr int kFeedbackCtas = 1;

// Pause between two looks whether a first transfer is done.
constexpr absl::Duration kPoll = absl::Microseconds(50);

// Makes communicators and tries the transfers of each.
class Builder {
 public:
  Builder(const NcclLibrary& library, int64_t epoch, Mesh* mesh, const CudaStream& stream,
          SteadyTime deadline)
      : library_(library), epoch_(epoch), mesh_(mesh), stream_(stream), deadline_(deadline) {}

  // Connects the communicator `name` of these ranks of the group, which contain this rank; the
  // first of them makes the id. max_ctas: the most thread blocks of an operation, 0: NCCL's choice.
  absl::StatusOr<std::unique_ptr<NcclCommunicator>> Connect(const std::string& name,
                                                            const std::vector<int>& ranks,
                                                            int max_ctas) {
    NcclId id;
    int my_idx = 0;
    while (ranks.at(my_idx) != mesh_->my_rank()) ++my_idx;
    if (my_idx == 0) {
      ASSIGN_OR_RETURN(id, library_.MakeId());
      for (size_t i = 1; i < ranks.size(); ++i) RETURN_IF_ERROR(mesh_->Send(ranks[i], id));
    } else {
      RETURN_IF_ERROR(mesh_->Recv(ranks[0], absl::MakeSpan(id)));
    }
    return NcclCommunicator::Connect(
        &library_, {.id = id,
                    .rank = my_idx,
                    .n_ranks = static_cast<int>(ranks.size()),
                    .name = absl::StrCat(name, " of epoch ", epoch_),
                    .deadline = deadline_,
                    .max_ctas = max_ctas,
                    .is_cancelled = [mesh = mesh_] { return !mesh->CheckPeers().ok(); }});
  }

  // First transfers of one number, which must arrive unchanged.
  absl::Status TryBroadcast(NcclCommunicator& communicator, bool is_root) {
    return Try({is_root ? kSent : 0}, {kSent}, [&](float* data) {
      return communicator.Broadcast(stream_.get(), /*root=*/0, data, sizeof(float));
    });
  }
  absl::Status TrySend(NcclCommunicator& communicator) {
    return Try({kSent}, {kSent}, [&](float* data) {
      return communicator.Send(stream_.get(), /*peer=*/1, data, sizeof(float));
    });
  }
  absl::Status TryReceive(NcclCommunicator& communicator) {
    return Try({0}, {kSent}, [&](float* data) {
      return communicator.Recv(stream_.get(), /*peer=*/0, data, sizeof(float));
    });
  }

  // First transfers of every operation that CudaCollectives and CudaRank use on the tensor group,
  // with one number per rank.
  absl::Status TryCollectives(NcclCommunicator& communicator, const RankPlace& place) {
    const int n = place.tp_size;
    const int me = place.tp_rank;
    CUstream_st* const stream = stream_.get();
    std::vector<float> mine(n, 0), all(n), sum(n, n * (n - 1) / 2.0f);
    mine[me] = static_cast<float>(me);
    for (int i = 0; i < n; ++i) all[i] = static_cast<float>(i);
    RETURN_IF_ERROR(TryBroadcast(communicator, me == 0));
    RETURN_IF_ERROR(Try(mine, all, [&](float* data) {
      return communicator.AllGather(stream, data + me, data, 1);
    }));
    RETURN_IF_ERROR(Try(mine, me == 0 ? all : mine, [&](float* data) {
      return communicator.GatherTo(stream, /*root=*/0, data + me, me == 0 ? data : nullptr, 1);
    }));
    RETURN_IF_ERROR(Try(std::vector<float>(n, static_cast<float>(me)), sum,
                        [&](float* data) { return communicator.AllReduceSum(stream, data, n); }));
    // Rank i sends 100 i + j to rank j.
    std::vector<float> to_all(size_t{2} * n, 0), exchanged(size_t{2} * n);
    for (int i = 0; i < n; ++i) {
      to_all[i] = exchanged[i] = static_cast<float>(100 * me + i);
      exchanged[n + i] = static_cast<float>(100 * i + me);
    }
    return Try(to_all, exchanged,
               [&](float* data) { return communicator.AllToAll(stream, data, data + n, 1); });
  }

 private:
  static constexpr float kSent = 12345;

  // Puts `before` into device memory, queues `transfer` on it and waits until it is done. INTERNAL
  // unless it has left `want` there.
  absl::Status Try(const std::vector<float>& before, const std::vector<float>& want,
                   absl::FunctionRef<absl::Status(float* data)> transfer) {
    const int64_t n_bytes = static_cast<int64_t>(want.size() * sizeof(float));
    if (host_.bytes() < n_bytes) {
      ASSIGN_OR_RETURN(device_, CudaBuffer::Allocate(n_bytes, "first transfers"));
      ASSIGN_OR_RETURN(host_, PinnedBuffer::Allocate(n_bytes, "first transfers"));
      ASSIGN_OR_RETURN(done_, CudaEvent::Create());
    }
    float* const data = reinterpret_cast<float*>(device_.data());
    float* const host = reinterpret_cast<float*>(host_.data());
    std::copy(before.begin(), before.end(), host);
    CopyToDevice(stream_.get(), data, host, n_bytes);
    RETURN_IF_ERROR(transfer(data));
    CopyToHost(stream_.get(), host, data, n_bytes);
    done_.Record(stream_);
    while (!done_.IsDone()) {
      absl::SleepFor(kPoll);
      RETURN_IF_ERROR(mesh_->CheckPeers());
      if (SteadyNow() > deadline_) {
        return absl::DeadlineExceededError("the first transfers did not end");
      }
    }
    if (std::equal(want.begin(), want.end(), host)) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("the first transfers left ",
                                            absl::StrJoin(absl::MakeSpan(host, want.size()), " "),
                                            ", expected ", absl::StrJoin(want, " ")));
  }

  const NcclLibrary& library_;
  const int64_t epoch_;
  Mesh* const mesh_;
  const CudaStream& stream_;
  const SteadyTime deadline_;
  CudaBuffer device_;
  PinnedBuffer host_;
  CudaEvent done_;
};

}  // namespace

absl::Status CudaLinks::AsyncError() const {
  for (const auto* link : {&tensor, &before, &after, &feedback}) {
    if (*link != nullptr) RETURN_IF_ERROR((*link)->AsyncError());
  }
  return absl::OkStatus();
}

// All at once, each in a thread of its own. NCCL's abort waits for the streams that the
// communicator's work was queued on. The computing stream waits for events of the other
// communicators' streams, so that, one after another, the first abort would wait for work that only
// a later one ends.
void CudaLinks::Abort() {
  std::vector<std::thread> threads;
  for (const auto* link : {&tensor, &before, &after, &feedback}) {
    if (*link != nullptr) threads.emplace_back([link] { (*link)->Abort(); });
  }
  for (std::thread& thread : threads) thread.join();
}

namespace {

// Connects the communicators of a rank in an order in which no two ranks can wait for each other:
// its tensor group, then the stage before it, then the stage after it, and last sampled tokens.
absl::Status ConnectAll(Builder& builder, const RankPlace& place, CudaLinks* links) {
  const auto edge = [&](int stage) {
    return absl::StrCat("stage ", stage, " to ", stage + 1, ", tensor rank ", place.tp_rank);
  };
  if (place.tp_size > 1) {
    const std::string name = absl::StrCat("tensor group of stage ", place.stage);
    ASSIGN_OR_RETURN(links->tensor, builder.Connect(name, TensorGroup(place), /*max_ctas=*/0));
    RETURN_IF_ERROR(Annotate(builder.TryCollectives(*links->tensor, place), name));
  }
  if (!place.is_first_stage()) {
    const std::string name = edge(place.stage - 1);
    const std::vector<int> ranks = {place.RankOf(place.stage - 1, place.tp_rank), place.rank()};
    ASSIGN_OR_RETURN(links->before, builder.Connect(name, ranks, kEdgeCtas));
    RETURN_IF_ERROR(Annotate(builder.TryReceive(*links->before), name));
  }
  if (!place.is_last_stage()) {
    const std::string name = edge(place.stage);
    const std::vector<int> ranks = {place.rank(), place.RankOf(place.stage + 1, place.tp_rank)};
    ASSIGN_OR_RETURN(links->after, builder.Connect(name, ranks, kEdgeCtas));
    RETURN_IF_ERROR(Annotate(builder.TrySend(*links->after), name));
  }
  if (place.pp_size == 1 || !(place.is_sampler() || place.is_first_stage())) {
    return absl::OkStatus();
  }
  std::vector<int> ranks = {place.sampler()};
  for (int tp_rank = 0; tp_rank < place.tp_size; ++tp_rank) {
    ranks.push_back(place.RankOf(0, tp_rank));
  }
  const std::string name = "sampled tokens";
  ASSIGN_OR_RETURN(links->feedback, builder.Connect(name, ranks, kFeedbackCtas));
  return Annotate(builder.TryBroadcast(*links->feedback, place.is_sampler()), name);
}

}  // namespace

absl::StatusOr<CudaLinks> ConnectCudaLinks(const NcclLibrary& library, const RankPlace& place,
                                           int64_t epoch, Mesh* mesh, const CudaStream& stream,
                                           SteadyTime deadline) {
  CHECK(place.n_ranks() > 1);
  Builder builder(library, epoch, mesh, stream, deadline);
  CudaLinks links;
  const absl::Status status = ConnectAll(builder, place, &links);
  if (status.ok()) return links;
  // The work that a first transfer has queued uses the builder's memory, so that it must end first.
  links.Abort();
  stream.Synchronize();
  // If a peer is gone NCCL says only that the call was cancelled; the mesh says why.
  RETURN_IF_ERROR(mesh->CheckPeers());
  return status;
}

}  // namespace bora
