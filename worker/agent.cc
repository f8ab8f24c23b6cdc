#include "worker/agent.h"

#include <unistd.h>

#include <algorithm>
#include <exception>
#include <new>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/stage/collectives.h"
#include "worker/stage/load_progress_log.h"
#include "worker/weights/host_memory.h"

namespace bora {
namespace {

// The coordinator bounds the plans in flight to a few, so that only a broken coordinator fills a
// mailbox of this many messages.
constexpr size_t kMailboxCapacity = 4096;
// How often a device that works on its own is asked whether its plan is done. Costs no throughput:
// the device's next plan is queued already.
constexpr absl::Duration kPollInterval = absl::Microseconds(20);
// Ten minutes, far above any sensible join: a wrong number must not block the rank thread for ever.
constexpr int32_t kMaxJoinTimeoutMs = 600'000;
// The shortest time between two LoadProgress messages.
constexpr absl::Duration kProgressInterval = absl::Milliseconds(200);

// Calls `function` and turns exceptions of libraries into its status. The coordinator may ask for
// more memory than this process can have, or name a file that is not a model; either must become an
// answer instead of ending the worker.
template <typename Function>
auto WithoutExceptions(Function function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("out of memory: ", AvailableMemoryBytes(),
                                                     " bytes are left (", MemoryBoundText(), ")"));
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
}

// INVALID_ARGUMENT unless 0 <= value <= max.
absl::Status CheckLoadLimit(absl::string_view name, int64_t value, int64_t max) {
  if (value >= 0 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("load: ", name, " is ", value, ", not in [0, ", max, "]"));
}

// Checks the limits in `load`, by which a loader plans its memory.
absl::Status CheckLoad(const LoadModel& load) {
  RETURN_IF_ERROR(CheckLoadLimit("max_model_len", load.max_model_len, kMaxModelLen));
  RETURN_IF_ERROR(CheckLoadLimit("max_num_seqs", load.max_num_seqs, kMaxNumSeqs));
  return CheckLoadLimit("max_num_batched_tokens", load.max_num_batched_tokens,
                        kMaxNumBatchedTokens);
}

// Steady time in microseconds, for atomics.
int64_t NowUs() { return absl::ToInt64Microseconds(SteadyNow().since_beginning()); }

}  // namespace

WorkerAgent::WorkerAgent(AgentOptions options, std::unique_ptr<RankLoader> loader,
                         std::unique_ptr<Listener> listener, SendFunction send)
    : options_(std::move(options)),
      loader_(std::move(loader)),
      listener_(std::move(listener)),
      send_(std::move(send)),
      mailbox_(kMailboxCapacity),
      thread_([this] { Run(); }) {}

WorkerAgent::~WorkerAgent() {
  stopping_ = true;
  AbortEpochsUpTo(latest_epoch_, "the worker is shutting down");
  mailbox_.Close();
  thread_.join();
}

Hello WorkerAgent::MakeHello() const {
  Hello hello;
  hello.build_id = options_.build_id;
  hello.host = options_.host;
  hello.pid = static_cast<int32_t>(getpid());
  hello.endpoint = listener_->endpoint();
  hello.memory_bytes = AvailableMemoryBytes();
  hello.device = loader_->DeviceName();
  hello.collectives = loader_->CollectivesName();
  hello.latest_epoch = latest_epoch_;
  absl::MutexLock lock(&mutex_);
  hello.loaded = loaded_;
  return hello;
}

Heartbeat WorkerAgent::MakeHeartbeat() const {
  const int64_t begin_us = step_begin_us_.load();
  return {step_count_.load(), begin_us == 0 ? 0 : std::max<int64_t>(NowUs() - begin_us, 0)};
}

absl::Status WorkerAgent::OnMessage(int64_t connection_id, CoordinatorMessage message) {
  // The rank thread may be waiting in an epoch that this message ends: it is woken here, because
  // the message itself waits in the mailbox until then.
  if (const auto* join = std::get_if<JoinGroup>(&message)) {
    AbortEpochsUpTo(join->epoch - 1, "a new epoch begins");
    latest_epoch_ = std::max(latest_epoch_.load(), join->epoch);
  } else if (const auto* leave = std::get_if<LeaveGroup>(&message)) {
    AbortEpochsUpTo(leave->epoch, leave->reason);
  } else if (!std::holds_alternative<LoadModel>(message) &&
             !std::holds_alternative<StepPlan>(message)) {
    return absl::OkStatus();
  }
  if (!mailbox_.TryPush(Item{connection_id, std::move(message)})) {
    return absl::ResourceExhaustedError(
        absl::StrCat("more than ", kMailboxCapacity, " messages wait for the rank thread"));
  }
  return absl::OkStatus();
}

void WorkerAgent::OnDisconnected() {
  // The same as a LeaveGroup from the coordinator. It must not be lost if the mailbox is full.
  const int64_t epoch = latest_epoch_;
  AbortEpochsUpTo(epoch, "the coordinator is gone");
  mailbox_.PushUnbounded(Item{0, LeaveGroup{epoch, "the coordinator is gone"}});
}

void WorkerAgent::AbortEpochsUpTo(int64_t epoch, const std::string& reason) {
  // The first request counts until the rank thread has left.
  int64_t expected = 0;
  leave_asked_us_.compare_exchange_strong(expected, NowUs());
  listener_->AbortEpochsBefore(epoch + 1, absl::AbortedError(reason));
}

bool WorkerAgent::HasHung(absl::Duration limit) const {
  const auto is_over = [&](int64_t since_us) {
    return since_us != 0 && NowUs() - since_us > absl::ToInt64Microseconds(limit);
  };
  if (is_over(leaving_since_us_)) return true;
  // A step that began after the request belongs to a later epoch.
  const int64_t asked_us = leave_asked_us_;
  const int64_t begin_us = step_begin_us_;
  return begin_us != 0 && begin_us <= asked_us && is_over(asked_us);
}

void WorkerAgent::Run() {
  while (!stopping_) {
    if (std::optional<Item> item = NextItem(); item.has_value()) {
      Handle(*std::move(item));
    } else {
      break;
    }
  }
  Leave();
}

std::optional<WorkerAgent::Item> WorkerAgent::NextItem() {
  while (!begun_.empty()) {
    if (rank_->IsDone()) {
      FinishPlan();
    } else if (auto item = mailbox_.PopUntil(SteadyNow() + kPollInterval); item.has_value()) {
      return *std::move(item);
    } else if (mailbox_.closed()) {
      return std::nullopt;
    }
  }
  auto item = mailbox_.PopUntil(SteadyTime::InfiniteFuture());
  if (!item.has_value()) return std::nullopt;
  return *std::move(item);
}

void WorkerAgent::Handle(Item item) {
  if (const auto* load = std::get_if<LoadModel>(&item.message)) {
    HandleLoad(item.connection_id, *load);
  } else if (const auto* join = std::get_if<JoinGroup>(&item.message)) {
    HandleJoin(item.connection_id, *join);
  } else if (const auto* plan = std::get_if<StepPlan>(&item.message)) {
    HandlePlan(item.connection_id, *plan);
  } else if (const auto* leave = std::get_if<LeaveGroup>(&item.message)) {
    if (leave->epoch >= joined_epoch_) Leave();
    leave_asked_us_ = 0;
  }
}

void WorkerAgent::HandleLoad(int64_t connection_id, const LoadModel& load) {
  LoadResult result;
  result.status = WithoutExceptions([&] { return Load(connection_id, load); });
  if (result.status.ok()) {
    absl::MutexLock lock(&mutex_);
    result.loaded = *loaded_;
  } else {
    LogError("cannot load", {{"model", load.model_path}, {"reason", result.status.message()}});
  }
  send_(connection_id, std::move(result));
}

absl::Status WorkerAgent::Load(int64_t connection_id, const LoadModel& load) {
  Leave();
  RETURN_IF_ERROR(CheckLoad(load));
  {
    absl::MutexLock lock(&mutex_);
    if (loaded_.has_value() && loaded_->load == load) return absl::OkStatus();
    loaded_.reset();
  }
  // The old rank goes first, because the memory may not hold both.
  rank_.reset();
  LoadOptions load_options;
  SteadyTime next_progress = SteadyTime::InfinitePast();
  LoadProgressLog progress_log(SteadyNow().since_beginning());
  load_options.cancelled = &stopping_;
  load_options.progress = [&](int64_t done_bytes, int64_t total_bytes) {
    const SteadyTime now = SteadyNow();
    progress_log.Update(now.since_beginning(), done_bytes, total_bytes);
    if (now < next_progress && done_bytes < total_bytes) return;
    next_progress = now + kProgressInterval;
    send_(connection_id, LoadProgress{done_bytes, total_bytes});
  };
  ASSIGN_OR_RETURN(LoadedRank result, loader_->Load(load, load_options));
  rank_ = std::move(result.rank);
  absl::MutexLock lock(&mutex_);
  loaded_ = std::move(result.loaded);
  return absl::OkStatus();
}

void WorkerAgent::HandleJoin(int64_t connection_id, const JoinGroup& join) {
  Leave();
  const SteadyTime begin = SteadyNow();
  const absl::Status status = WithoutExceptions([&] { return Join(join); });
  if (!status.ok()) {
    Leave();
    LogWarning("cannot join", {{"epoch", join.epoch}, {"reason", status.message()}});
  } else {
    LogInfo("joined", {{"epoch", join.epoch},
                       {"ranks", static_cast<int64_t>(join.ranks.size())},
                       {"ms", absl::ToDoubleMilliseconds(SteadyNow() - begin)}});
  }
  leave_asked_us_ = 0;
  send_(connection_id, JoinResult{join.epoch, status});
}

absl::Status WorkerAgent::CheckJoin(const JoinGroup& join) const {
  if (rank_ == nullptr) return absl::FailedPreconditionError("no weights are loaded");
  const RankShape& shape = rank_->shape();
  const auto n_ranks = static_cast<int64_t>(join.ranks.size());
  if (n_ranks == 0 || n_ranks % shape.tp_size != 0 || n_ranks / shape.tp_size <= shape.stage) {
    return absl::InvalidArgumentError(absl::StrCat(n_ranks, " ranks, tensor parallel size ",
                                                   shape.tp_size, ", this is stage ", shape.stage));
  }
  if (join.timeout_ms < 1 || join.timeout_ms > kMaxJoinTimeoutMs) {
    return absl::InvalidArgumentError(
        absl::StrCat("timeout_ms is ", join.timeout_ms, ", not in [1, ", kMaxJoinTimeoutMs, "]"));
  }
  RETURN_IF_ERROR(ValidateLimits(join.limits));
  absl::MutexLock lock(&mutex_);
  const auto check = [](absl::string_view name, int64_t value, int64_t loaded) {
    if (value <= loaded) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("group limit ", name, ": ", value, ", the weights were loaded for ", loaded));
  };
  const LoadModel& load = loaded_->load;
  RETURN_IF_ERROR(check("max_num_seqs", join.limits.max_num_seqs, load.max_num_seqs));
  RETURN_IF_ERROR(check("max_num_batched_tokens", join.limits.max_num_batched_tokens,
                        load.max_num_batched_tokens));
  RETURN_IF_ERROR(check("max_model_len", join.limits.max_model_len, load.max_model_len));
  if (join.limits.n_blocks > loaded_->max_blocks) {
    return absl::ResourceExhaustedError(absl::StrCat("group limit n_blocks: ", join.limits.n_blocks,
                                                     ", beside the weights fit ",
                                                     loaded_->max_blocks));
  }
  return absl::OkStatus();
}

absl::Status WorkerAgent::Join(const JoinGroup& join) {
  RETURN_IF_ERROR(CheckJoin(join));
  const RankShape& shape = rank_->shape();
  RankPlace place;
  place.stage = shape.stage;
  place.tp_rank = shape.tp_rank;
  place.tp_size = shape.tp_size;
  place.pp_size = static_cast<int>(join.ranks.size()) / shape.tp_size;
  EpochOptions epoch;
  epoch.epoch = join.epoch;
  epoch.limits = join.limits;
  epoch.pp_size = place.pp_size;
  if (place.n_ranks() > 1) {
    MeshOptions mesh;
    mesh.epoch = join.epoch;
    mesh.secret = join.secret;
    mesh.my_rank = place.rank();
    mesh.peers = MeshPeers(place);
    mesh.deadline = SteadyNow() + absl::Milliseconds(join.timeout_ms);
    // The largest sum is over the hidden states of a full step.
    const int64_t dim = rank_->config().dim;
    if (shape.tp_size > 1 && loader_->SumsOnHost()) {
      mesh.max_all_reduce_floats = join.limits.max_num_batched_tokens * dim;
    }
    int n_before_me = 0;  // ranks of the group on this host with a lower rank
    int n_here = 0;       // ranks of the group on this host, this one included
    for (size_t rank = 0; rank < join.ranks.size(); ++rank) {
      const Endpoint& endpoint = join.ranks[rank];
      const bool is_here = endpoint.host_id == listener_->endpoint().host_id;
      n_here += is_here ? 1 : 0;
      n_before_me += is_here && static_cast<int>(rank) < place.rank() ? 1 : 0;
      mesh.ranks.push_back({static_cast<int>(rank), endpoint});
    }
    loader_->ShareHost(n_before_me, std::max(1, n_here));
    ASSIGN_OR_RETURN(mesh_, listener_->Connect(mesh));
    epoch.mesh = mesh_.get();
    epoch.link_buffer_bytes = mesh.ring_bytes;
    epoch.deadline = mesh.deadline;
  }
  RETURN_IF_ERROR(rank_->BeginEpoch(epoch));
  joined_epoch_ = join.epoch;
  return absl::OkStatus();
}

void WorkerAgent::HandlePlan(int64_t connection_id, const StepPlan& plan) {
  // The plan's epoch has ended on this rank; the coordinator knows that, or is about to be told.
  if (joined_epoch_ == 0 || plan.epoch != joined_epoch_) return;
  while (static_cast<int>(begun_.size()) >= rank_->max_begun()) {
    FinishPlan();
    if (plan.epoch != joined_epoch_) return;  // the earlier plan failed and ended the epoch
  }
  begun_.push_back({connection_id, NowUs()});
  step_begin_us_ = begun_.front().begin_us;
  if (const absl::Status status = rank_->Begin(plan); !status.ok()) {
    OnStepFailed(connection_id, status);
    return;
  }
  // Such a rank has executed the plan in Begin.
  if (rank_->max_begun() == 1) FinishPlan();
}

void WorkerAgent::FinishPlan() {
  const Begun begun = begun_.front();
  absl::StatusOr<std::optional<StepResult>> result = rank_->Finish();
  if (!result.ok()) {
    OnStepFailed(begun.connection_id, result.status());
    return;
  }
  begun_.pop_front();
  // The next plan was queued behind this one, so that it begins only now.
  step_begin_us_ = begun_.empty() ? 0 : NowUs();
  ++step_count_;
  if (result->has_value()) send_(begun.connection_id, std::move(**result));
}

void WorkerAgent::OnStepFailed(int64_t connection_id, const absl::Status& status) {
  const int64_t epoch = joined_epoch_;
  LogWarning("step failed",
             {{"epoch", epoch}, {"steps", step_count_.load()}, {"reason", status.message()}});
  Leave();
  send_(connection_id, StepFailed{epoch, status});
}

void WorkerAgent::Leave() {
  joined_epoch_ = 0;
  leaving_since_us_ = NowUs();
  if (rank_ != nullptr) rank_->EndEpoch();  // may wait for work that the device has begun
  leaving_since_us_ = 0;
  begun_.clear();
  step_begin_us_ = 0;
  mesh_.reset();
}

}  // namespace bora
