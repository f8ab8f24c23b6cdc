#include "coordinator/cluster/cluster.h"

#include <algorithm>
#include <tuple>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace bora {

Cluster::Cluster(ClusterOptions options, std::function<std::string()> make_secret)
    : options_(std::move(options)),
      registry_(options_),
      group_(options_, &registry_, std::move(make_secret)) {
  CHECK_GT(options_.tp_size(), 0);
  CHECK_GT(options_.pp_size(), 0);
}

void Cluster::OnAttached(std::shared_ptr<WorkerStream> stream, const Hello& hello, SteadyTime now) {
  if (registry_.Attach(std::move(stream), hello, now) != nullptr) group_.FillPlaces(now);
}

void Cluster::OnMessage(const WorkerStream* stream, WorkerMessage message, SteadyTime now) {
  AttachedWorker* worker = registry_.Find(stream);
  if (worker == nullptr) return;  // dropped while the message was in the mailbox
  // A message of any type shows that the worker is alive; a heartbeat has no other purpose.
  registry_.Hear(worker, now);
  if (auto* progress = std::get_if<LoadProgress>(&message)) {
    group_.OnLoadProgress(worker, *progress, now);
  } else if (auto* load_result = std::get_if<LoadResult>(&message)) {
    group_.OnLoadResult(worker, std::move(*load_result), now);
  } else if (auto* join_result = std::get_if<JoinResult>(&message)) {
    group_.OnJoinResult(worker, *join_result, now);
  } else if (auto* step_result = std::get_if<StepResult>(&message)) {
    group_.OnStepResult(worker, std::move(*step_result), now);
  } else if (auto* failed = std::get_if<StepFailed>(&message)) {
    group_.OnStepFailed(*worker, *failed, now);
  } else if (std::holds_alternative<Hello>(message)) {
    group_.Drop(worker, absl::InvalidArgumentError("a worker says hello once"), now);
  }
}

void Cluster::OnGone(const WorkerStream* stream, const std::string& reason, SteadyTime now) {
  AttachedWorker* worker = registry_.Find(stream);
  if (worker != nullptr) group_.OnGone(worker, reason, now);
}

void Cluster::Tick(SteadyTime now, absl::Duration predicted_step) {
  // Dropping a worker removes it alone from the registry: the other pointers stay valid.
  for (AttachedWorker* worker : registry_.FindLost(now)) {
    const int64_t silent_ms = absl::ToInt64Milliseconds(worker->silence.length());
    group_.Drop(worker,
                absl::DeadlineExceededError(absl::StrCat("no heartbeat for ", silent_ms, " ms")),
                now);
  }
  group_.Tick(now, predicted_step);
  registry_.SendHeartbeats(now);
}

void Cluster::Broadcast(const std::shared_ptr<const StepPlan>& plan, SteadyTime now) {
  group_.Broadcast(plan, now);
}

void Cluster::RejectStepResult(const absl::Status& reason, SteadyTime now) {
  group_.RejectStepResult(reason, now);
}

void Cluster::CloseAll(const std::string& reason) {
  registry_.CloseAll(reason);
  group_.ForgetAll();
}

void Cluster::FillSnapshot(ServerSnapshot* snapshot) const {
  group_.FillSnapshot(snapshot);
  for (const auto& worker : registry_.workers()) {
    WorkerSnapshot& out = snapshot->workers.emplace_back();
    out.worker_id = worker->worker_id;
    out.host = worker->hello.host;
    out.pid = worker->hello.pid;
    out.device = worker->hello.device;
    out.state = worker->suspect ? WorkerState::kSuspect : worker->state;
    out.load_progress = worker->load_progress;
    out.load_done_bytes = worker->load_bytes.loaded_bytes;
    out.load_total_bytes = worker->load_bytes.total_bytes;
    out.last_heartbeat = worker->last_heard;
    if (worker->rank >= 0) group_.FillPlace(*worker, &out);
  }
  // By stage and tensor rank; spares last, by their ids.
  std::sort(snapshot->workers.begin(), snapshot->workers.end(),
            [](const WorkerSnapshot& a, const WorkerSnapshot& b) {
              const bool a_spare = a.stage < 0;
              const bool b_spare = b.stage < 0;
              return std::tie(a_spare, a.stage, a.tensor_rank, a.worker_id) <
                     std::tie(b_spare, b.stage, b.tensor_rank, b.worker_id);
            });
}

}  // namespace bora
