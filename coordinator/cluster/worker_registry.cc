#include "coordinator/cluster/worker_registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace bora {

std::string DescribeWorker(const AttachedWorker& worker) {
  return absl::StrCat("worker ", worker.worker_id, " on ", worker.hello.host);
}

absl::Status WorkerRegistry::CheckHello(const Hello& hello) const {
  if (hello.build_id != options_.build_id) {
    return absl::FailedPreconditionError(absl::StrCat("worker on ", hello.host, " is build ",
                                                      hello.build_id, ", coordinator is build ",
                                                      options_.build_id));
  }
  RETURN_IF_ERROR(CheckCollectives(hello));
  const int32_t n_ranks = options_.n_ranks();
  const int32_t n_workers_max = n_ranks + options_.max_spares;
  if (static_cast<int32_t>(workers_.size()) >= n_workers_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat(workers_.size(), " workers are attached, the limit is ", n_workers_max, " (",
                     n_ranks, " ranks and ", options_.max_spares, " spares)"));
  }
  return absl::OkStatus();
}

// Ranks that exchange data must use the same library in the same version. A group of one rank
// exchanges none.
absl::Status WorkerRegistry::CheckCollectives(const Hello& hello) const {
  if (options_.n_ranks() == 1) return absl::OkStatus();
  if (hello.collectives == "none") {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker on ", hello.host, " (", hello.device,
        ") has no NCCL, and this model is divided over ", options_.n_ranks(), " ranks"));
  }
  for (const auto& worker : workers_) {
    if (worker->hello.collectives == hello.collectives) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("worker on ", hello.host, " (", hello.device, ") exchanges data by ",
                     hello.collectives, ", ", DescribeWorker(*worker), " by ",
                     worker->hello.collectives, ": they cannot be in one group"));
  }
  return absl::OkStatus();
}

AttachedWorker* WorkerRegistry::Attach(std::shared_ptr<WorkerStream> stream, const Hello& hello,
                                       SteadyTime now) {
  if (const absl::Status status = CheckHello(hello); !status.ok()) {
    if (const auto n_left_out = refusal_lines_.Take(); n_left_out.has_value()) {
      LogWarning("worker refused",
                 {{"host", hello.host}, {"reason", status.message()}, {"left_out", *n_left_out}});
    }
    stream->Close(status);
    return nullptr;
  }
  auto worker = std::make_unique<AttachedWorker>(
      AttachedWorker{.stream = std::move(stream),
                     .hello = hello,
                     .worker_id = next_worker_id_++,
                     .last_heard = now,
                     .silence = PeerSilence(now, options_.heartbeat_interval)});
  worker->stream->Send(
      Welcome{worker->worker_id,
              static_cast<int32_t>(absl::ToInt64Milliseconds(options_.heartbeat_interval)),
              static_cast<int32_t>(absl::ToInt64Milliseconds(options_.heartbeat_timeout))});
  LogInfo("worker attached", {{"worker_id", worker->worker_id},
                              {"host", hello.host},
                              {"pid", hello.pid},
                              {"device", hello.device},
                              {"has_weights", hello.loaded.has_value()}});
  workers_.push_back(std::move(worker));
  return workers_.back().get();
}

AttachedWorker* WorkerRegistry::Find(const WorkerStream* stream) const {
  for (const auto& worker : workers_) {
    if (worker->stream.get() == stream) return worker.get();
  }
  return nullptr;
}

void WorkerRegistry::Hear(AttachedWorker* worker, SteadyTime now) {
  if (worker->suspect) {
    LogInfo("worker heard again",
            {{"worker_id", worker->worker_id},
             {"silent_ms", absl::ToInt64Milliseconds(now - worker->last_heard)}});
    worker->suspect = false;
  }
  worker->last_heard = now;
  worker->silence.Heard(now);
}

std::vector<AttachedWorker*> WorkerRegistry::FindLost(SteadyTime now) {
  std::vector<AttachedWorker*> lost;
  for (const auto& worker : workers_) {
    const absl::Duration silent = worker->silence.Look(now);
    if (silent > options_.heartbeat_timeout) {
      lost.push_back(worker.get());
    } else if (silent > options_.suspect_timeout && !worker->suspect) {
      worker->suspect = true;
      LogWarning("worker suspect", {{"worker_id", worker->worker_id},
                                    {"host", worker->hello.host},
                                    {"silent_ms", absl::ToInt64Milliseconds(silent)}});
    }
  }
  return lost;
}

void WorkerRegistry::SendHeartbeats(SteadyTime now) {
  if (now < next_heartbeat_) return;
  next_heartbeat_ = now + options_.heartbeat_interval;
  for (const auto& worker : workers_) worker->stream->Send(Heartbeat{});
}

std::unique_ptr<AttachedWorker> WorkerRegistry::Remove(AttachedWorker* worker,
                                                       const std::string& reason) {
  const auto it = std::find_if(workers_.begin(), workers_.end(),
                               [&](const auto& other) { return other.get() == worker; });
  CHECK(it != workers_.end());
  std::unique_ptr<AttachedWorker> removed = std::move(*it);
  workers_.erase(it);
  LogWarning("worker gone", {{"worker_id", removed->worker_id},
                             {"host", removed->hello.host},
                             {"pid", removed->hello.pid},
                             {"reason", reason}});
  return removed;
}

void WorkerRegistry::CloseAll(const std::string& reason) {
  for (const auto& worker : workers_) worker->stream->Close(absl::UnavailableError(reason));
  workers_.clear();
}

}  // namespace bora
