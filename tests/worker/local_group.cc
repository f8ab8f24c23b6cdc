#include "tests/worker/local_group.h"

#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "kernels/cpu/cpu_device.h"
#include "model/planning/partition.h"
#include "worker/comm/listener.h"
#include "worker/sim/sim_rank.h"
#include "worker/weights/host_weights.h"

namespace bora {
namespace {

// Between two looks at a device that works, while no plan comes.
constexpr absl::Duration kPoll = absl::Microseconds(20);

}  // namespace

// One rank: its thread runs what comes through the mailbox; everything else here is touched by that
// thread only, but the listener, which is thread-safe.
struct LocalGroup::RankThread {
  explicit RankThread(RankPlace rank_place) : place(rank_place), tasks(1) {}

  const RankPlace place;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<CpuDevice> device;
  std::unique_ptr<Mesh> mesh;
  std::unique_ptr<StepExecutor> rank;
  const RankWeights* weights = nullptr;  // the rank's, if it has some
  int n_begun = 0;                       // plans that are not finished
  std::atomic<int> n_plans_waiting = 0;  // in tasks
  Mailbox<std::function<void()>> tasks;  // their number is bounded by the test
  std::thread thread;

  void Run() {
    while (auto task = tasks.PopUntil(SteadyTime::InfiniteFuture())) (*task)();
    EndEpoch();
    rank.reset();
  }

  void EndEpoch() {
    n_begun = 0;
    if (rank != nullptr) rank->EndEpoch();
    mesh.reset();  // peers that wait for this rank notice
  }
};

LocalGroup::LocalGroup(const LocalGroupOptions& options) : options_(options), results_(1) {
  for (int stage = 0; stage < options.pp_size; ++stage) {
    for (int tp_rank = 0; tp_rank < options.tp_size; ++tp_rank) {
      ranks_.push_back(std::make_unique<RankThread>(RankPlace{.stage = stage,
                                                              .tp_rank = tp_rank,
                                                              .pp_size = options.pp_size,
                                                              .tp_size = options.tp_size}));
      RankThread* const rank = ranks_.back().get();
      rank->thread = std::thread([rank] { rank->Run(); });
    }
  }
}

LocalGroup::~LocalGroup() {
  Abort();
  for (const auto& rank : ranks_) rank->tasks.Close();
  for (const auto& rank : ranks_) rank->thread.join();
}

absl::StatusOr<std::unique_ptr<LocalGroup>> LocalGroup::Start(const WeightSource& weights,
                                                              const LocalGroupOptions& options) {
  std::unique_ptr<LocalGroup> group(new LocalGroup(options));
  RETURN_IF_ERROR(group->Load(weights));
  RETURN_IF_ERROR(group->BeginEpoch());
  return group;
}

absl::Status LocalGroup::Load(const WeightSource& weights) {
  ASSIGN_OR_RETURN(const Partition partition,
                   MakePartition(weights.config(), options_.tp_size, options_.pp_size,
                                 options_.layers_per_stage));
  RETURN_IF_ERROR(OnAllRanks([&](RankThread& rank) -> absl::Status {
    const RankShape shape =
        ShapeOfRank(weights.config(), partition, rank.place.stage, rank.place.tp_rank);
    if (n_ranks() > 1) {
      ASSIGN_OR_RETURN(rank.listener, Listener::Create({}));
    }
    if (options_.make_rank) {
      ASSIGN_OR_RETURN(rank.rank, options_.make_rank(weights, shape));
      return absl::OkStatus();
    }
    if (options_.sim_cost.has_value()) {
      rank.rank = std::make_unique<SimRank>(weights.config(), shape, *options_.sim_cost);
      return absl::OkStatus();
    }
    rank.device = std::make_unique<CpuDevice>(options_.n_threads, options_.simd);
    ASSIGN_OR_RETURN(
        std::unique_ptr<RankWeights> loaded,
        LoadHostWeights(weights, shape, options_.precision, *rank.device, options_.load));
    rank.weights = loaded.get();
    rank.rank = std::make_unique<CpuRank>(rank.device.get(), std::move(loaded), options_.rank);
    return absl::OkStatus();
  }));
  for (const auto& rank : ranks_) {
    if (rank->listener == nullptr) continue;
    addresses_.push_back({rank->place.rank(), rank->listener->endpoint()});
  }
  return absl::OkStatus();
}

absl::Status LocalGroup::BeginEpoch() {
  ++epoch_;
  return OnAllRanks([this](RankThread& rank) -> absl::Status {
    if (rank.listener != nullptr) {
      MeshOptions mesh;
      mesh.epoch = epoch_;
      mesh.secret = absl::StrCat("secret of a local group, epoch ", epoch_);
      mesh.my_rank = rank.place.rank();
      mesh.ranks = addresses_;
      mesh.peers = MeshPeers(rank.place);
      mesh.deadline = SteadyNow() + absl::Seconds(30);
      mesh.allow_shared_memory = options_.allow_shared_memory;
      mesh.ring_bytes = options_.link_buffer_bytes;
      ASSIGN_OR_RETURN(rank.mesh, rank.listener->Connect(mesh));
    }
    return rank.rank->BeginEpoch({.epoch = epoch_,
                                  .limits = options_.limits,
                                  .pp_size = options_.pp_size,
                                  .mesh = rank.mesh.get(),
                                  .link_buffer_bytes = options_.link_buffer_bytes,
                                  .deadline = SteadyNow() + absl::Seconds(30)});
  });
}

void LocalGroup::Abort() {
  for (const auto& rank : ranks_) {
    if (rank->listener == nullptr) continue;
    rank->listener->AbortEpochsBefore(
        epoch_ + 1, absl::AbortedError(absl::StrCat("epoch ", epoch_, " was ended")));
  }
}

absl::Status LocalGroup::NextEpoch(const GroupLimits& limits) {
  Abort();
  RETURN_IF_ERROR(OnAllRanks([](RankThread& rank) {
    rank.EndEpoch();
    return absl::OkStatus();
  }));
  while (results_.PopUntil(SteadyTime::InfinitePast()).has_value()) {
  }
  options_.limits = limits;
  return BeginEpoch();
}

absl::Status LocalGroup::OnAllRanks(const std::function<absl::Status(RankThread&)>& task) {
  absl::BlockingCounter pending(n_ranks());
  std::vector<absl::Status> statuses(ranks_.size());
  for (size_t i = 0; i < ranks_.size(); ++i) {
    ranks_[i]->tasks.PushUnbounded([&, i] {
      statuses[i] = task(*ranks_[i]);
      pending.DecrementCount();
    });
  }
  pending.Wait();
  for (size_t i = 0; i < statuses.size(); ++i) {
    RETURN_IF_ERROR(Annotate(statuses[i], absl::StrCat("rank ", i)));
  }
  return absl::OkStatus();
}

void LocalGroup::Submit(const StepPlan& plan) {
  for (int rank = 0; rank < n_ranks(); ++rank) SubmitTo(rank, plan);
}

void LocalGroup::SubmitTo(int rank, const StepPlan& plan) {
  RankThread* const thread = ranks_.at(rank).get();
  ++thread->n_plans_waiting;
  thread->tasks.PushUnbounded([this, thread, plan] {
    --thread->n_plans_waiting;
    if (thread->n_begun == thread->rank->max_begun()) FinishPlan(*thread);
    const absl::Status status = thread->rank->Begin(plan);
    if (!status.ok()) {
      thread->EndEpoch();
      PushResult(Annotate(status, absl::StrCat("rank ", thread->place.rank())));
      return;
    }
    ++thread->n_begun;
    // A plan that comes meanwhile begins before the ones before it are finished, as far as the rank
    // takes it: the device has the next one when it is through with this one, as in a worker.
    while (thread->n_begun > 0 && thread->n_plans_waiting == 0) {
      if (thread->rank->IsDone()) {
        FinishPlan(*thread);
      } else {
        absl::SleepFor(kPoll);
      }
    }
  });
}

void LocalGroup::FinishPlan(RankThread& thread) {
  absl::StatusOr<std::optional<StepResult>> result = thread.rank->Finish();
  --thread.n_begun;
  if (!result.ok()) {
    thread.EndEpoch();
    PushResult(Annotate(result.status(), absl::StrCat("rank ", thread.place.rank())));
  } else if (result->has_value()) {
    PushResult(*std::move(*result));
  }
}

void LocalGroup::WaitIdle(int rank) {
  absl::Notification idle;
  ranks_.at(rank)->tasks.PushUnbounded([&idle] { idle.Notify(); });
  idle.WaitForNotification();
}

void LocalGroup::PushResult(absl::StatusOr<StepResult> result) {
  results_.PushUnbounded(std::make_unique<absl::StatusOr<StepResult>>(std::move(result)));
}

absl::StatusOr<StepResult> LocalGroup::WaitResult(absl::Duration timeout) {
  const auto result = results_.PopUntil(SteadyNow() + timeout);
  if (!result.has_value()) return absl::DeadlineExceededError("no result");
  return **result;
}

absl::StatusOr<StepResult> LocalGroup::RunStep(const StepPlan& plan) {
  Submit(plan);
  return WaitResult();
}

bool LocalGroup::has_weights(int rank) const { return ranks_.at(rank)->weights != nullptr; }

const RankWeights& LocalGroup::weights(int rank) const { return *ranks_.at(rank)->weights; }

}  // namespace bora
