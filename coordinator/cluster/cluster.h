// Who the workers are, which place each has, and whether together they form a group that can run
// steps.
//
//   waiting for workers -> loading -> joining (a new epoch) -> serving
//
// Loss of any worker ends the epoch: the survivors leave it and keep their weights, and the next
// epoch begins as soon as every place is filled by a worker that has its weights. A worker is lost
// when its link is, or after heartbeat_timeout without a sign of life. Before that it is suspect:
// the epoch goes on, but nothing new should be accepted until it is heard again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/log_rate.h"
#include "coordinator/api/server_snapshot.h"
#include "model/protocol/peer_silence.h"
#include "model/protocol/worker_protocol.h"
#include "model/step/step.h"

namespace bora {

// A worker as seen from the coordinator: a place to send messages to. Called from the engine thread
// only; neither call blocks. After Close nothing more is sent.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  virtual void Send(CoordinatorMessage message) = 0;
  // Ends the link; the worker learns the reason if it can still be reached.
  virtual void Close(absl::Status reason) = 0;
};

struct ClusterOptions {
  std::string build_id;  // workers of another build are refused
  // What the group loads; stage and tensor_rank are filled in for each worker.
  LoadModel load;
  // n_blocks is computed: what fits every rank.
  GroupLimits limits;
  int64_t kv_cache_bytes_max = int64_t{1} << 30;  // per worker
  // The operator gave the size: it also holds for workers that have set memory aside.
  bool kv_cache_bytes_given = false;
  // Of the checkpoint; empty: workers have to agree on one.
  std::string fingerprint;
  // Of the model, to tell which ranks read the same bytes.
  int64_t n_kv_heads = 1;
  bool tied_head = false;
  absl::Duration heartbeat_interval = absl::Milliseconds(500);
  // Silence that makes a worker suspect, and silence that makes it lost.
  absl::Duration suspect_timeout = absl::Milliseconds(1500);
  absl::Duration heartbeat_timeout = absl::Seconds(5);
  // GPUs of several hosts meet in some seconds; a worker that dies meanwhile is noticed at once.
  absl::Duration join_timeout = absl::Seconds(30);
  // A step has hung that takes longer than step_timeout, or than this much and many times what it
  // was predicted to take. Time in which a rank is suspect does not count: its silence does.
  absl::Duration step_timeout = absl::Seconds(60);
  absl::Duration step_timeout_min = absl::Seconds(5);
  double step_timeout_predictions = 20;
  // A worker that loads has to get further at least this often, or it gives up its place.
  absl::Duration load_stall_timeout = absl::Seconds(60);
  int32_t max_spares = 16;
};

// Told by the cluster, from inside its calls.
class ClusterObserver {
 public:
  virtual ~ClusterObserver() = default;
  virtual void OnGroupFormed(int64_t epoch, const GroupLimits& limits) = 0;
  virtual void OnGroupLost(const std::string& detail) = 0;
  // An error: the result is none that the plan asked for, and its worker is dropped.
  virtual absl::Status OnStepResult(StepResult result) = 0;
};

// Owned by the engine thread; no clock, thread or I/O of its own.
class Cluster {
 public:
  // `make_secret` returns 32 random bytes.
  Cluster(ClusterOptions options, ClusterObserver* observer,
          std::function<std::string()> make_secret);

  void OnAttached(std::shared_ptr<WorkerLink> link, const Hello& hello, SteadyTime now);
  void OnMessage(const WorkerLink* link, WorkerMessage message, SteadyTime now);
  void OnGone(const WorkerLink* link, const std::string& reason, SteadyTime now);
  // Sends heartbeats, notices missing ones, ends joins that take too long. Call at least every
  // heartbeat_interval. predicted_step: what the oldest plan in flight should take from the first
  // stage to the last; zero when nobody knows.
  void Tick(SteadyTime now, absl::Duration predicted_step = absl::ZeroDuration());

  // Sends a plan to every rank. Only while serving, with this epoch (CHECK).
  void Broadcast(const StepPlan& plan, SteadyTime now);
  // Closes every link; workers keep their weights and wait for a coordinator.
  void CloseAll(const std::string& reason);

  bool serving() const { return state_ == GroupState::kServing; }
  // Every rank is heard as often as it should be.
  bool all_heard() const { return n_suspects_ == 0; }
  int64_t epoch() const { return epoch_; }
  // Of the checkpoint that every worker must have; empty until known.
  const std::string& fingerprint() const { return fingerprint_; }
  int32_t pp_size() const { return static_cast<int32_t>(options_.load.layers_per_stage.size()); }
  int32_t n_ranks() const { return pp_size() * options_.load.tensor_parallel_size; }
  // Fills the group's part of the snapshot.
  void FillSnapshot(ServerSnapshot* snapshot) const;

 private:
  struct Worker {
    std::shared_ptr<WorkerLink> link;
    Hello hello;
    int64_t worker_id = 0;
    WorkerState state = WorkerState::kSpare;
    int32_t rank = -1;
    SteadyTime last_heard;
    PeerSilence silence;
    bool suspect = false;
    double load_progress = 0;
    int64_t loaded_bytes = 0;  // the most that it has said while it loads
    SteadyTime last_progress;  // when it said so
    LoadProgress load_bytes;   // that it follows from
    LoadedModel loaded;
  };

  Worker* Find(const WorkerLink* link);
  void Hear(Worker* worker, SteadyTime now);
  // Suspects silent workers, and drops them when they are lost.
  void CheckHeartbeats(SteadyTime now);
  void CountSuspects();
  // Of the suspect ranks, for people.
  std::string DescribeSuspects() const;
  absl::Status CheckHello(const Hello& hello) const;
  absl::Status CheckCollectives(const Hello& hello) const;
  // Ends the epoch when its oldest plan has hung.
  void CheckStep(SteadyTime now, absl::Duration predicted_step);
  LoadModel LoadForRank(int32_t rank) const;
  // The free place that suits the worker best, or -1: where its weights are from, then a stage on
  // its host, then an empty stage, then any.
  int32_t ChooseRank(const Worker& worker) const;
  void Place(Worker* worker, SteadyTime now);
  void FillPlaces(SteadyTime now);
  void OnLoadProgress(Worker* worker, const LoadProgress& progress, SteadyTime now);
  void OnLoadResult(Worker* worker, LoadResult result, SteadyTime now);
  void OnStepResult(Worker* worker, StepResult result, SteadyTime now);
  // OK if the worker's weights are the group's, which they may have become: without weights of the
  // coordinator's own, the first worker's count until more workers have others, or a group forms.
  absl::Status CheckFingerprint(const Worker& worker, const std::string& fingerprint,
                                SteadyTime now);
  // Forgets the group's fingerprint if no worker has it any more.
  void ForgetFingerprint();
  // Drops workers that load and get no further.
  void CheckLoading(SteadyTime now);
  void OnJoinResult(Worker* worker, const JoinResult& result, SteadyTime now);
  void MaybeBeginEpoch(SteadyTime now);
  // FAILED_PRECONDITION when the worker has read other bytes than the place's worker had in the
  // group that served last, while others of that group are still here.
  absl::Status CheckPlaceDigest(const Worker& worker, const WeightDigests& digests) const;
  // Whether all copies of the same bytes agree; the newer worker of two that do not is dropped.
  bool CheckCopies(SteadyTime now);
  // Remembers what the group has read, and says so when it is not what it was.
  void NoteDigests();
  std::vector<WeightDigests> RankDigests() const;  // [n_ranks]; every place is filled
  DigestLayout digest_layout() const;
  // Ends the epoch for everybody in it.
  void EndEpoch(const std::string& reason, SteadyTime now);
  void Drop(Worker* worker, const absl::Status& reason, SteadyTime now);
  absl::StatusOr<int32_t> CountBlocks() const;

  ClusterOptions options_;
  LogRate refusal_lines_{absl::Milliseconds(200)};
  ClusterObserver* observer_;
  std::function<std::string()> make_secret_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> ranks_;  // [n_ranks], null where nobody is
  GroupState state_ = GroupState::kWaitingForWorkers;
  std::string detail_;                   // of the last trouble
  std::string fingerprint_;              // that every worker must have; empty until known
  bool fingerprint_is_settled_ = false;  // given, or a group has formed with it
  // Workers that had others, and were refused, since fingerprint_ was known.
  absl::flat_hash_map<std::string, int32_t> n_refused_by_fingerprint_;
  // By rank, of the group that formed last; empty when there was none or nobody of it is left.
  std::vector<WeightDigests> place_digests_;
  std::string weights_digest_;  // of that group, or of the one before it
  int64_t epoch_ = 0;
  int64_t next_worker_id_ = 1;
  GroupLimits limits_;
  SteadyTime join_deadline_;
  SteadyTime next_join_ =
      SteadyTime::InfinitePast();  // not before: a failed join is not repeated at once
  SteadyTime next_heartbeat_ = SteadyTime::InfinitePast();
  int32_t n_plans_in_flight_ = 0;
  // Since the oldest plan in flight became that, while every rank was heard and this side listened.
  absl::Duration step_age_;
  SteadyTime oldest_plan_time_;
  SteadyTime last_tick_;
  int32_t n_suspects_ = 0;  // ranks
};

}  // namespace bora
