#include "coordinator/cluster/worker_group.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/int_math.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/cluster/placement.h"

namespace bora {
namespace {

// The pause between the end of an epoch and the start of the next. It doubles with each join that
// fails after another, up to the maximum: the reason, for example too little memory, may stay.
constexpr absl::Duration kJoinRetryDelay = absl::Milliseconds(300);
constexpr absl::Duration kJoinRetryDelayMax = absl::Seconds(5);
// The pause after an epoch could not begin because the KV cache is too small.
constexpr absl::Duration kBlocksRetryDelay = absl::Seconds(5);

}  // namespace

WorkerGroup::WorkerGroup(const ClusterOptions& options, WorkerRegistry* registry,
                         std::function<std::string()> make_secret)
    : options_(options),
      registry_(registry),
      make_secret_(std::move(make_secret)),
      ranks_(options.n_ranks(), nullptr),
      weights_(options),
      step_watch_(options) {}

std::vector<GroupEvent> WorkerGroup::TakeEvents() { return std::exchange(events_, {}); }

bool WorkerGroup::AllAre(WorkerState state) const {
  return std::all_of(ranks_.begin(), ranks_.end(), [state](const AttachedWorker* rank) {
    return rank != nullptr && rank->state == state;
  });
}

bool WorkerGroup::all_heard() const {
  return std::none_of(ranks_.begin(), ranks_.end(),
                      [](const AttachedWorker* rank) { return rank != nullptr && rank->suspect; });
}

// Places.

void WorkerGroup::FillPlaces(SteadyTime now) {
  // Workers that hold weights choose first, so that no other worker takes the place of their
  // weights.
  for (const bool with_weights : {true, false}) {
    for (const auto& worker : registry_->workers()) {
      if (worker->rank >= 0 || worker->hello.loaded.has_value() != with_weights) continue;
      const int32_t rank = ChooseRank(options_, ranks_, *worker);
      if (rank >= 0) Place(worker.get(), rank, now);
    }
  }
  if (state_ == GroupState::kWaitingForWorkers &&
      std::find(ranks_.begin(), ranks_.end(), nullptr) == ranks_.end()) {
    state_ = GroupState::kLoading;
  }
}

void WorkerGroup::Place(AttachedWorker* worker, int32_t rank, SteadyTime now) {
  worker->rank = rank;
  worker->state = WorkerState::kLoading;
  worker->load_progress = 0;
  worker->loaded_bytes = 0;
  worker->last_progress = now;
  worker->load_bytes = LoadProgress();
  ranks_[rank] = worker;
  // With this worker the next join may succeed: the delay of earlier failures does not count.
  n_failed_joins_ = 0;
  next_join_ = std::min(next_join_, now + kJoinRetryDelay);
  const LoadModel load = LoadForRank(options_, rank);
  // A stage on several hosts works, but each of its layers exchanges data over the network.
  for (const AttachedWorker* other : ranks_) {
    if (other == nullptr || other->rank / options_.tp_size() != load.stage ||
        other->hello.endpoint.host_id == worker->hello.endpoint.host_id) {
      continue;
    }
    LogWarning(
        "tensor parallel ranks of one stage are on different hosts",
        {{"stage", load.stage}, {"host", worker->hello.host}, {"other_host", other->hello.host}});
    break;
  }
  LogInfo(
      "worker placed",
      {{"worker_id", worker->worker_id}, {"stage", load.stage}, {"tensor_rank", load.tensor_rank}});
  worker->stream->Send(load);
}

void WorkerGroup::Drop(AttachedWorker* worker, const absl::Status& reason, SteadyTime now) {
  worker->stream->Close(reason);
  OnGone(worker, std::string(reason.message()), now);
}

void WorkerGroup::OnGone(AttachedWorker* worker, const std::string& reason, SteadyTime now) {
  const std::unique_ptr<AttachedWorker> gone = registry_->Remove(worker, reason);
  if (registry_->workers().empty()) weights_.ForgetPlaces();
  if (gone->rank >= 0) Vacate(*gone, reason, now);
}

void WorkerGroup::Vacate(const AttachedWorker& worker, const std::string& reason, SteadyTime now) {
  ranks_[worker.rank] = nullptr;
  // Without a worker that has loaded, the group may take another checkpoint.
  const bool any_has_weights =
      std::any_of(ranks_.begin(), ranks_.end(), [](const AttachedWorker* rank) {
        return rank != nullptr && rank->state >= WorkerState::kLoaded;
      });
  if (!any_has_weights) weights_.ForgetFingerprint();
  const std::string text = absl::StrCat(DescribeWorker(worker), " is gone: ", reason);
  if (worker.state >= WorkerState::kJoining) {
    EndEpoch(text, now);
  } else {
    detail_ = text;
    state_ = GroupState::kWaitingForWorkers;
    FillPlaces(now);
  }
}

void WorkerGroup::ForgetAll() {
  std::fill(ranks_.begin(), ranks_.end(), nullptr);
  state_ = GroupState::kWaitingForWorkers;
}

// Loading.

void WorkerGroup::OnLoadProgress(AttachedWorker* worker, const LoadProgress& progress,
                                 SteadyTime now) {
  if (worker->state != WorkerState::kLoading || progress.total_bytes <= 0) return;
  worker->load_bytes = progress;
  // Only a new maximum counts as progress, so that a worker cannot keep its place by reporting the
  // same bytes again.
  if (progress.loaded_bytes > worker->loaded_bytes &&
      progress.loaded_bytes <= progress.total_bytes) {
    worker->loaded_bytes = progress.loaded_bytes;
    worker->last_progress = now;
  }
  worker->load_progress = std::clamp(
      static_cast<double>(progress.loaded_bytes) / static_cast<double>(progress.total_bytes), 0.0,
      1.0);
}

void WorkerGroup::DropStalledLoaders(SteadyTime now) {
  // Collected first: dropping a worker changes ranks_.
  std::vector<AttachedWorker*> stalled;
  for (AttachedWorker* worker : ranks_) {
    if (worker != nullptr && worker->state == WorkerState::kLoading &&
        now - worker->last_progress > options_.load_stall_timeout) {
      stalled.push_back(worker);
    }
  }
  for (AttachedWorker* worker : stalled) {
    Drop(worker,
         absl::DeadlineExceededError(
             absl::StrCat("loading got no further than ", worker->loaded_bytes, " bytes for ",
                          absl::ToInt64Seconds(now - worker->last_progress), " s")),
         now);
  }
}

void WorkerGroup::OnLoadResult(AttachedWorker* worker, LoadResult result, SteadyTime now) {
  if (worker->state != WorkerState::kLoading) {
    Drop(worker, absl::InvalidArgumentError("a load result that nobody asked for"), now);
    return;
  }
  if (!result.status.ok()) {
    detail_ = absl::StrCat(DescribeWorker(*worker), " cannot load: ", result.status.message());
    LogError("worker cannot load", {{"worker_id", worker->worker_id},
                                    {"host", worker->hello.host},
                                    {"reason", result.status.message()}});
    Drop(worker, Annotate(result.status, "cannot load"), now);
    return;
  }
  if (const absl::Status status = CheckLoaded(*worker, result.loaded, now); !status.ok()) {
    Drop(worker, status, now);
    return;
  }
  worker->state = WorkerState::kLoaded;
  worker->load_progress = 1;
  worker->loaded = std::move(result.loaded);
  worker->hello.loaded = worker->loaded;  // placement finds it here, see ChooseRank
  MaybeBeginEpoch(now);
}

absl::Status WorkerGroup::CheckLoaded(const AttachedWorker& worker, const LoadedModel& loaded,
                                      SteadyTime now) {
  if (!(loaded.load == LoadForRank(options_, worker.rank))) {
    return absl::InvalidArgumentError("loaded something else than it was told to");
  }
  absl::Status status = CheckFingerprint(worker, loaded.fingerprint, now);
  if (status.ok()) {
    status = weights_.CheckPlace(DescribeWorker(worker), worker.rank, loaded.digests);
  }
  if (status.ok()) return status;
  detail_ = std::string(status.message());
  LogError("worker refused", {{"reason", detail_}});
  return status;
}

absl::Status WorkerGroup::CheckFingerprint(const AttachedWorker& worker,
                                           const std::string& fingerprint, SteadyTime now) {
  std::vector<AttachedWorker*> holders;
  for (AttachedWorker* other : ranks_) {
    if (other != nullptr && other->state >= WorkerState::kLoaded) holders.push_back(other);
  }
  const WeightAgreement::Verdict verdict =
      weights_.Judge(fingerprint, static_cast<int32_t>(holders.size()));
  if (verdict == WeightAgreement::Verdict::kAgrees) return absl::OkStatus();
  if (verdict == WeightAgreement::Verdict::kRefused) {
    return absl::FailedPreconditionError(absl::StrCat(DescribeWorker(worker), " has checkpoint ",
                                                      fingerprint, ", the group has ",
                                                      weights_.fingerprint()));
  }
  detail_ = absl::StrCat(weights_.n_votes(fingerprint), " workers have checkpoint ", fingerprint,
                         ", ", holders.size(), " had ", weights_.fingerprint());
  LogWarning("the group's checkpoint is another", {{"reason", detail_}});
  const absl::Status reason = absl::FailedPreconditionError(detail_);
  for (AttachedWorker* holder : holders) Drop(holder, reason, now);
  weights_.TakeFingerprint(fingerprint);
  return absl::OkStatus();
}

std::vector<WeightDigests> WorkerGroup::RankDigests() const {
  std::vector<WeightDigests> digests;
  for (const AttachedWorker* worker : ranks_) digests.push_back(worker->loaded.digests);
  return digests;
}

bool WorkerGroup::CheckCopies(SteadyTime now) {
  const std::optional<DigestMismatch> mismatch = weights_.FindMismatch(RankDigests());
  if (!mismatch.has_value()) return true;
  AttachedWorker* newer = ranks_[mismatch->rank];
  AttachedWorker* older = ranks_[mismatch->other_rank];
  if (newer->worker_id < older->worker_id) std::swap(newer, older);
  const absl::Status status = absl::FailedPreconditionError(absl::StrCat(
      DescribeWorker(*newer), " has read other weights than ", DescribeWorker(*older),
      ": their copies of ", DigestPartName(mismatch->part), " differ, so their files do"));
  LogError("worker refused", {{"reason", status.message()}});
  Drop(newer, status, now);
  return false;
}

// Epochs.

absl::StatusOr<int32_t> WorkerGroup::CountBlocks() const {
  const GroupLimits& limits = options_.limits;
  // No more blocks than are used if every slot has a sequence of the greatest length.
  int64_t n_blocks =
      int64_t{limits.max_num_seqs} * CeilDiv(limits.max_model_len, limits.block_size);
  for (const AttachedWorker* worker : ranks_) {
    n_blocks = std::min(n_blocks, worker->loaded.max_blocks);
    // A worker that has set memory aside for its KV cache uses all of it, unless the operator has
    // chosen a size.
    if (worker->loaded.kv_memory_is_reserved && !options_.kv_cache_bytes_given) continue;
    n_blocks = std::min(n_blocks, options_.kv_cache_bytes_max /
                                      std::max<int64_t>(worker->loaded.kv_block_bytes, 1));
  }
  if (n_blocks * limits.block_size < limits.max_model_len) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the KV cache holds ", n_blocks * limits.block_size,
                     " tokens, one sequence of ", limits.max_model_len,
                     " does not fit: lower --max-model-len or raise --kv-cache-memory-bytes"));
  }
  return static_cast<int32_t>(std::min<int64_t>(n_blocks, INT32_MAX));
}

void WorkerGroup::MaybeBeginEpoch(SteadyTime now) {
  if (state_ >= GroupState::kJoining || now < next_join_) return;
  if (!AllAre(WorkerState::kLoaded) || !CheckCopies(now)) return;
  const absl::StatusOr<int32_t> n_blocks = CountBlocks();
  if (!n_blocks.ok()) {
    // Logged once, although it is tried again and again.
    if (detail_ != n_blocks.status().message()) {
      LogError("group cannot form", {{"reason", n_blocks.status().message()}});
    }
    detail_ = std::string(n_blocks.status().message());
    next_join_ = now + kBlocksRetryDelay;
    return;
  }
  limits_ = options_.limits;
  limits_.n_blocks = *n_blocks;
  BeginEpoch(now);
}

void WorkerGroup::BeginEpoch(SteadyTime now) {
  // A new epoch is greater than every epoch that these workers have been in, also under another
  // coordinator, so that they can tell messages of old epochs.
  for (const AttachedWorker* worker : ranks_) {
    epoch_ = std::max(epoch_, worker->hello.latest_epoch);
  }
  ++epoch_;
  JoinGroup join;
  join.epoch = epoch_;
  join.secret = make_secret_();
  join.limits = limits_;
  join.timeout_ms = static_cast<int32_t>(absl::ToInt64Milliseconds(options_.join_timeout));
  for (const AttachedWorker* worker : ranks_) join.ranks.push_back(worker->hello.endpoint);
  LogInfo("joining", {{"epoch", epoch_}, {"ranks", options_.n_ranks()}});
  state_ = GroupState::kJoining;
  join_begin_ = now;
  for (AttachedWorker* worker : ranks_) {
    worker->state = WorkerState::kJoining;
    worker->stream->Send(join);
  }
}

void WorkerGroup::OnJoinResult(AttachedWorker* worker, const JoinResult& result, SteadyTime now) {
  if (result.epoch != epoch_ || worker->state != WorkerState::kJoining) return;
  if (!result.status.ok()) {
    EndEpoch(absl::StrCat(DescribeWorker(*worker), " cannot join: ", result.status.message()), now);
    return;
  }
  worker->state = WorkerState::kServing;
  if (AllAre(WorkerState::kServing)) OnAllJoined(now);
}

void WorkerGroup::OnAllJoined(SteadyTime now) {
  state_ = GroupState::kServing;
  n_failed_joins_ = 0;
  detail_.clear();
  weights_.Settle(RankDigests());
  step_watch_.Reset();
  const int64_t n_tokens = int64_t{limits_.n_blocks} * limits_.block_size;
  LogInfo("group formed", {{"epoch", epoch_},
                           {"join_ms", absl::ToDoubleMilliseconds(now - join_begin_)},
                           {"weights_digest", weights_.weights_digest()},
                           {"tensor_parallel_size", options_.tp_size()},
                           {"pipeline_parallel_size", options_.pp_size()},
                           {"kv_blocks", limits_.n_blocks},
                           {"kv_tokens", n_tokens},
                           {"full_length_requests", n_tokens / limits_.max_model_len}});
  events_.emplace_back(GroupFormed{epoch_, limits_});
}

void WorkerGroup::EndEpoch(const std::string& reason, SteadyTime now) {
  if (state_ < GroupState::kJoining) return;
  LogWarning("group lost", {{"epoch", epoch_}, {"reason", reason}});
  if (serving()) {
    events_.emplace_back(GroupLost{reason});
  } else {
    ++n_failed_joins_;
  }
  detail_ = reason;
  state_ = GroupState::kWaitingForWorkers;
  const int n_doublings = std::clamp(n_failed_joins_ - 1, 0, 10);
  next_join_ = now + std::min(kJoinRetryDelayMax, kJoinRetryDelay * (1 << n_doublings));
  for (AttachedWorker* worker : ranks_) {
    if (worker == nullptr || worker->state < WorkerState::kJoining) continue;
    worker->state = WorkerState::kLoaded;
    worker->stream->Send(LeaveGroup{epoch_, reason});
  }
  FillPlaces(now);
}

// Steps.

void WorkerGroup::Broadcast(const std::shared_ptr<const StepPlan>& plan, SteadyTime now) {
  CHECK(serving());
  CHECK_EQ(plan->epoch, epoch_);
  step_watch_.PlanSent(now);
  for (AttachedWorker* worker : ranks_) worker->stream->SendPlan(plan);
}

void WorkerGroup::OnStepResult(AttachedWorker* worker, StepResult result, SteadyTime now) {
  if (worker->rank != answering_rank() || result.epoch > epoch_) {
    Drop(worker, absl::InvalidArgumentError("a step result that this worker does not owe"), now);
    return;
  }
  // The result may belong to an epoch that has ended while the result was under way.
  if (!serving() || result.epoch != epoch_) return;
  if (step_watch_.n_in_flight() == 0) {
    Drop(worker, absl::InvalidArgumentError("a step result without a plan"), now);
    return;
  }
  step_watch_.StepDone(now);
  events_.emplace_back(StepDone{std::move(result)});
}

void WorkerGroup::RejectStepResult(const absl::Status& reason, SteadyTime now) {
  if (!serving()) return;
  Drop(ranks_[answering_rank()], absl::InvalidArgumentError(reason.message()), now);
}

void WorkerGroup::OnStepFailed(const AttachedWorker& worker, const StepFailed& failed,
                               SteadyTime now) {
  if (failed.epoch != epoch_ || worker.rank < 0 || state_ < GroupState::kJoining) return;
  EndEpoch(absl::StrCat(DescribeWorker(worker), ": ", failed.status.message()), now);
}

void WorkerGroup::Tick(SteadyTime now, absl::Duration predicted_step) {
  step_watch_.Tick(now, all_heard());
  DropStalledLoaders(now);
  if (state_ == GroupState::kJoining && now - join_begin_ > options_.join_timeout) {
    EndEpoch(absl::StrCat("joining took longer than ",
                          absl::ToInt64Milliseconds(options_.join_timeout), " ms"),
             now);
  }
  if (serving() && step_watch_.Hangs(predicted_step)) {
    EndEpoch(absl::StrCat("a step took longer than ",
                          absl::ToInt64Milliseconds(step_watch_.Limit(predicted_step)), " ms"),
             now);
  }
  MaybeBeginEpoch(now);
}

// For people.

std::string WorkerGroup::DescribeSuspects() const {
  std::string text;
  for (const AttachedWorker* worker : ranks_) {
    if (worker == nullptr || !worker->suspect) continue;
    absl::StrAppend(&text, text.empty() ? "" : ", ", DescribeWorker(*worker),
                    " has been silent for ", absl::ToInt64Milliseconds(worker->silence.length()),
                    " ms");
  }
  return text;
}

std::string WorkerGroup::DescribeProgress() const {
  int32_t n_placed = 0;
  int32_t n_loaded = 0;
  for (const AttachedWorker* worker : ranks_) {
    n_placed += worker != nullptr ? 1 : 0;
    n_loaded += worker != nullptr && worker->state >= WorkerState::kLoaded ? 1 : 0;
  }
  return absl::StrCat(n_placed, " of ", options_.n_ranks(), " workers attached, ", n_loaded,
                      " loaded", detail_.empty() ? "" : "; ", detail_);
}

void WorkerGroup::FillSnapshot(ServerSnapshot* snapshot) const {
  snapshot->group_state = state_;
  snapshot->epoch = epoch_;
  snapshot->weights_digest = weights_.weights_digest();
  if (!serving()) {
    snapshot->group_detail = DescribeProgress();
  } else if (all_heard()) {
    snapshot->group_detail = detail_;
  } else {
    snapshot->group_state = GroupState::kSuspect;
    snapshot->group_detail = DescribeSuspects();
  }
}

void WorkerGroup::FillPlace(const AttachedWorker& worker, WorkerSnapshot* snapshot) const {
  snapshot->stage = worker.rank / options_.tp_size();
  snapshot->tensor_rank = worker.rank % options_.tp_size();
  for (int32_t stage = 0; stage <= snapshot->stage; ++stage) {
    snapshot->layer_begin = snapshot->layer_end;
    snapshot->layer_end += options_.load.layers_per_stage[stage];
  }
  snapshot->weight_bytes = worker.loaded.weight_bytes;
  if (worker.state >= WorkerState::kJoining) {
    snapshot->kv_cache_bytes = worker.loaded.kv_block_bytes * limits_.n_blocks;
  }
}

}  // namespace bora
