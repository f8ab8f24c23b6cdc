#include "coordinator/cluster/cluster.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/variant.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/int_math.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace bora {
namespace {

constexpr absl::Duration kJoinRetryDelay = absl::Milliseconds(300);

}  // namespace

Cluster::Cluster(ClusterOptions options, ClusterObserver* observer,
                 std::function<std::string()> make_secret)
    : options_(std::move(options)),
      observer_(observer),
      make_secret_(std::move(make_secret)),
      fingerprint_(options_.fingerprint),
      fingerprint_is_settled_(!options_.fingerprint.empty()) {
  CHECK_GT(options_.load.tensor_parallel_size, 0);
  CHECK(!options_.load.layers_per_stage.empty());
  ranks_.resize(n_ranks(), nullptr);
}

Cluster::Worker* Cluster::Find(const WorkerLink* link) {
  for (const auto& worker : workers_) {
    if (worker->link.get() == link) return worker.get();
  }
  return nullptr;
}

absl::Status Cluster::CheckHello(const Hello& hello) const {
  if (hello.build_id != options_.build_id) {
    return absl::FailedPreconditionError(absl::StrCat("worker on ", hello.host, " is build ",
                                                      hello.build_id, ", coordinator is build ",
                                                      options_.build_id));
  }
  RETURN_IF_ERROR(CheckCollectives(hello));
  if (static_cast<int32_t>(workers_.size()) >= n_ranks() + options_.max_spares) {
    return absl::ResourceExhaustedError(absl::StrCat(
        workers_.size(), " workers are attached, the limit is ", n_ranks() + options_.max_spares,
        " (", n_ranks(), " ranks and ", options_.max_spares, " spares)"));
  }
  return absl::OkStatus();
}

// Ranks that exchange data must do it by the same library of the same version.
absl::Status Cluster::CheckCollectives(const Hello& hello) const {
  if (n_ranks() == 1) return absl::OkStatus();
  if (hello.collectives == "none") {
    return absl::FailedPreconditionError(
        absl::StrCat("worker on ", hello.host, " (", hello.device,
                     ") has no NCCL, and this model is divided over ", n_ranks(), " ranks"));
  }
  for (const auto& worker : workers_) {
    if (worker->hello.collectives == hello.collectives) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("worker on ", hello.host, " (", hello.device, ") exchanges data by ",
                     hello.collectives, ", worker ", worker->worker_id, " on ", worker->hello.host,
                     " by ", worker->hello.collectives, ": they cannot be in one group"));
  }
  return absl::OkStatus();
}

void Cluster::OnAttached(std::shared_ptr<WorkerLink> link, const Hello& hello, SteadyTime now) {
  if (const absl::Status status = CheckHello(hello); !status.ok()) {
    if (const auto n_left_out = refusal_lines_.Take(); n_left_out.has_value()) {
      LogWarning("worker refused",
                 {{"host", hello.host}, {"reason", status.message()}, {"left_out", *n_left_out}});
    }
    link->Close(status);
    return;
  }
  auto worker =
      std::make_unique<Worker>(Worker{.link = std::move(link),
                                      .hello = hello,
                                      .last_heard = now,
                                      .silence = PeerSilence(now, options_.heartbeat_interval)});
  worker->worker_id = next_worker_id_++;
  worker->link->Send(
      Welcome{worker->worker_id,
              static_cast<int32_t>(absl::ToInt64Milliseconds(options_.heartbeat_interval)),
              static_cast<int32_t>(absl::ToInt64Milliseconds(options_.heartbeat_timeout))});
  LogInfo("worker attached", {{"worker_id", worker->worker_id},
                              {"host", hello.host},
                              {"pid", hello.pid},
                              {"device", hello.device},
                              {"has_weights", hello.loaded.has_value()}});
  workers_.push_back(std::move(worker));
  FillPlaces(now);
}

LoadModel Cluster::LoadForRank(int32_t rank) const {
  LoadModel load = options_.load;
  load.stage = rank / load.tensor_parallel_size;
  load.tensor_rank = rank % load.tensor_parallel_size;
  return load;
}

int32_t Cluster::ChooseRank(const Worker& worker) const {
  const int32_t tp_size = options_.load.tensor_parallel_size;
  int32_t best = -1;
  int best_score = -1;
  for (int32_t rank = 0; rank < n_ranks(); ++rank) {
    if (ranks_[rank] != nullptr) continue;
    int score = 0;
    bool stage_is_empty = true;
    bool stage_is_here = true;
    const int32_t stage_begin = rank / tp_size * tp_size;
    for (int32_t other = stage_begin; other < stage_begin + tp_size; ++other) {
      if (ranks_[other] == nullptr) continue;
      stage_is_empty = false;
      stage_is_here &= ranks_[other]->hello.endpoint.host_id == worker.hello.endpoint.host_id;
    }
    if (stage_is_empty) {
      score = 1;
    } else if (stage_is_here) {
      score = 2;
    }
    if (worker.hello.loaded.has_value() && worker.hello.loaded->load == LoadForRank(rank))
      score = 3;
    if (score > best_score) {
      best = rank;
      best_score = score;
    }
  }
  return best;
}

void Cluster::Place(Worker* worker, SteadyTime now) {
  const int32_t rank = ChooseRank(*worker);
  if (rank < 0) return;
  worker->rank = rank;
  worker->state = WorkerState::kLoading;
  worker->load_progress = 0;
  worker->loaded_bytes = 0;
  worker->last_progress = now;
  worker->load_bytes = LoadProgress();
  ranks_[rank] = worker;
  const LoadModel load = LoadForRank(rank);
  for (const Worker* other : ranks_) {
    if (other != nullptr && other != worker &&
        other->rank / load.tensor_parallel_size == load.stage &&
        other->hello.endpoint.host_id != worker->hello.endpoint.host_id) {
      LogWarning(
          "tensor parallel ranks of one stage are on different hosts",
          {{"stage", load.stage}, {"host", worker->hello.host}, {"other_host", other->hello.host}});
      break;
    }
  }
  LogInfo(
      "worker placed",
      {{"worker_id", worker->worker_id}, {"stage", load.stage}, {"tensor_rank", load.tensor_rank}});
  worker->link->Send(load);
}

void Cluster::FillPlaces(SteadyTime now) {
  // Workers that hold weights choose first, so that nobody takes the place that they fit.
  for (const bool with_weights : {true, false}) {
    for (const auto& worker : workers_) {
      if (worker->rank < 0 && worker->hello.loaded.has_value() == with_weights)
        Place(worker.get(), now);
    }
  }
  if (state_ == GroupState::kWaitingForWorkers &&
      std::find(ranks_.begin(), ranks_.end(), nullptr) == ranks_.end()) {
    state_ = GroupState::kLoading;
  }
}

void Cluster::CountSuspects() {
  n_suspects_ = static_cast<int32_t>(std::count_if(
      ranks_.begin(), ranks_.end(), [](Worker* rank) { return rank != nullptr && rank->suspect; }));
}

void Cluster::Hear(Worker* worker, SteadyTime now) {
  if (worker->suspect) {
    LogInfo("worker heard again",
            {{"worker_id", worker->worker_id},
             {"silent_ms", absl::ToInt64Milliseconds(now - worker->last_heard)}});
    worker->suspect = false;
    CountSuspects();
  }
  worker->last_heard = now;
  worker->silence.Heard(now);
}

void Cluster::CheckHeartbeats(SteadyTime now) {
  std::vector<Worker*> lost;
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
  for (Worker* worker : lost) {
    Drop(worker,
         absl::DeadlineExceededError(absl::StrCat(
             "no heartbeat for ", absl::ToInt64Milliseconds(worker->silence.length()), " ms")),
         now);
  }
  CountSuspects();
}

std::string Cluster::DescribeSuspects() const {
  std::string text;
  for (const Worker* worker : ranks_) {
    if (worker == nullptr || !worker->suspect) continue;
    absl::StrAppend(&text, text.empty() ? "" : ", ", "worker ", worker->worker_id, " on ",
                    worker->hello.host, " has been silent for ",
                    absl::ToInt64Milliseconds(worker->silence.length()), " ms");
  }
  return text;
}

void Cluster::OnMessage(const WorkerLink* link, WorkerMessage message, SteadyTime now) {
  Worker* worker = Find(link);
  if (worker == nullptr) return;
  Hear(worker, now);
  if (auto* progress = std::get_if<LoadProgress>(&message)) {
    OnLoadProgress(worker, *progress, now);
  } else if (auto* load_result = std::get_if<LoadResult>(&message)) {
    OnLoadResult(worker, std::move(*load_result), now);
  } else if (auto* join_result = std::get_if<JoinResult>(&message)) {
    OnJoinResult(worker, *join_result, now);
  } else if (auto* step_result = std::get_if<StepResult>(&message)) {
    OnStepResult(worker, std::move(*step_result), now);
  } else if (auto* failed = std::get_if<StepFailed>(&message)) {
    if (failed->epoch == epoch_ && worker->rank >= 0 && state_ >= GroupState::kJoining) {
      EndEpoch(absl::StrCat("worker ", worker->worker_id, " on ", worker->hello.host, ": ",
                            failed->status.message()),
               now);
    }
  } else if (std::holds_alternative<Hello>(message)) {
    Drop(worker, absl::InvalidArgumentError("a worker says hello once"), now);
  }
}

void Cluster::OnStepResult(Worker* worker, StepResult result, SteadyTime now) {
  // Tensor rank 0 of the last stage, and nobody else.
  if (worker->rank != (pp_size() - 1) * options_.load.tensor_parallel_size ||
      result.epoch > epoch_) {
    Drop(worker, absl::InvalidArgumentError("a step result that this worker does not owe"), now);
    return;
  }
  // Of an epoch that has ended, it may have been under way.
  if (!serving() || result.epoch != epoch_) return;
  if (n_plans_in_flight_ == 0) {
    Drop(worker, absl::InvalidArgumentError("a step result without a plan"), now);
    return;
  }
  --n_plans_in_flight_;
  oldest_plan_time_ = now;
  step_age_ = absl::ZeroDuration();
  if (const absl::Status status = observer_->OnStepResult(std::move(result)); !status.ok()) {
    Drop(worker, absl::InvalidArgumentError(status.message()), now);
  }
}

void Cluster::OnLoadProgress(Worker* worker, const LoadProgress& progress, SteadyTime now) {
  if (worker->state != WorkerState::kLoading || progress.total_bytes <= 0) return;
  worker->load_bytes = progress;
  if (progress.loaded_bytes > worker->loaded_bytes &&
      progress.loaded_bytes <= progress.total_bytes) {
    worker->loaded_bytes = progress.loaded_bytes;
    worker->last_progress = now;
  }
  worker->load_progress = std::clamp(
      static_cast<double>(progress.loaded_bytes) / static_cast<double>(progress.total_bytes), 0.0,
      1.0);
}

absl::Status Cluster::CheckFingerprint(const Worker& worker, const std::string& fingerprint,
                                       SteadyTime now) {
  if (fingerprint_.empty()) fingerprint_ = fingerprint;
  if (fingerprint == fingerprint_) return absl::OkStatus();
  std::vector<Worker*> holders;
  for (Worker* other : ranks_) {
    if (other != nullptr && other->state >= WorkerState::kLoaded) holders.push_back(other);
  }
  const int32_t n_others = ++n_refused_by_fingerprint_[fingerprint];
  if (fingerprint_is_settled_ || n_others <= static_cast<int32_t>(holders.size())) {
    detail_ = absl::StrCat("worker ", worker.worker_id, " on ", worker.hello.host,
                           " has checkpoint ", fingerprint, ", the group has ", fingerprint_);
    return absl::FailedPreconditionError(detail_);
  }
  detail_ = absl::StrCat(n_others, " workers have checkpoint ", fingerprint, ", ", holders.size(),
                         " had ", fingerprint_);
  LogWarning("the group's checkpoint is another", {{"reason", detail_}});
  const absl::Status reason = absl::FailedPreconditionError(detail_);
  for (Worker* holder : holders) Drop(holder, reason, now);
  fingerprint_ = fingerprint;
  n_refused_by_fingerprint_.clear();
  return absl::OkStatus();
}

void Cluster::ForgetFingerprint() {
  if (!options_.fingerprint.empty()) return;
  for (const Worker* worker : ranks_) {
    if (worker != nullptr && worker->state >= WorkerState::kLoaded) return;
  }
  fingerprint_.clear();
  fingerprint_is_settled_ = false;
  n_refused_by_fingerprint_.clear();
}

void Cluster::CheckLoading(SteadyTime now) {
  std::vector<Worker*> stalled;
  for (Worker* worker : ranks_) {
    if (worker != nullptr && worker->state == WorkerState::kLoading &&
        now - worker->last_progress > options_.load_stall_timeout) {
      stalled.push_back(worker);
    }
  }
  for (Worker* worker : stalled) {
    Drop(worker,
         absl::DeadlineExceededError(
             absl::StrCat("loading got no further than ", worker->loaded_bytes, " bytes for ",
                          absl::ToInt64Seconds(now - worker->last_progress), " s")),
         now);
  }
}

void Cluster::OnLoadResult(Worker* worker, LoadResult result, SteadyTime now) {
  if (worker->state != WorkerState::kLoading) {
    Drop(worker, absl::InvalidArgumentError("a load result that nobody asked for"), now);
    return;
  }
  if (!result.status.ok()) {
    detail_ = absl::StrCat("worker ", worker->worker_id, " on ", worker->hello.host,
                           " cannot load: ", result.status.message());
    LogError("worker cannot load", {{"worker_id", worker->worker_id},
                                    {"host", worker->hello.host},
                                    {"reason", result.status.message()}});
    Drop(worker, Annotate(result.status, "cannot load"), now);
    return;
  }
  if (!(result.loaded.load == LoadForRank(worker->rank))) {
    Drop(worker, absl::InvalidArgumentError("loaded something else than it was told to"), now);
    return;
  }
  if (const absl::Status status = CheckFingerprint(*worker, result.loaded.fingerprint, now);
      !status.ok()) {
    LogError("worker refused", {{"reason", status.message()}});
    Drop(worker, status, now);
    return;
  }
  if (const absl::Status status = CheckPlaceDigest(*worker, result.loaded.digests); !status.ok()) {
    detail_ = std::string(status.message());
    LogError("worker refused", {{"reason", detail_}});
    Drop(worker, status, now);
    return;
  }
  worker->state = WorkerState::kLoaded;
  worker->load_progress = 1;
  worker->loaded = std::move(result.loaded);
  worker->hello.loaded = worker->loaded;
  MaybeBeginEpoch(now);
}

DigestLayout Cluster::digest_layout() const {
  return {.tp_size = options_.load.tensor_parallel_size,
          .n_kv_heads = options_.n_kv_heads,
          .tied_head = options_.tied_head};
}

std::vector<WeightDigests> Cluster::RankDigests() const {
  std::vector<WeightDigests> digests;
  for (const Worker* worker : ranks_) digests.push_back(worker->loaded.digests);
  return digests;
}

absl::Status Cluster::CheckPlaceDigest(const Worker& worker, const WeightDigests& digests) const {
  if (place_digests_.empty()) return absl::OkStatus();
  const WeightDigests& before = place_digests_[worker.rank];
  for (int i = 0; i < kNDigestParts; ++i) {
    if (digests.parts[i] == before.parts[i]) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "worker ", worker.worker_id, " on ", worker.hello.host,
        " has read other weights than rank ", worker.rank, " had before (",
        DigestPartName(static_cast<DigestPart>(i)), ": digest ", digests.parts[i].ToHex(), ", was ",
        before.parts[i].ToHex(),
        "): its files differ from the group's; to change the weights restart all workers"));
  }
  return absl::OkStatus();
}

bool Cluster::CheckCopies(SteadyTime now) {
  const std::optional<DigestMismatch> mismatch = FindDigestMismatch(RankDigests(), digest_layout());
  if (!mismatch.has_value()) return true;
  Worker* newer = ranks_[mismatch->rank];
  Worker* older = ranks_[mismatch->other_rank];
  if (newer->worker_id < older->worker_id) std::swap(newer, older);
  const absl::Status status = absl::FailedPreconditionError(absl::StrCat(
      "worker ", newer->worker_id, " on ", newer->hello.host,
      " has read other weights than worker ", older->worker_id, " on ", older->hello.host,
      ": their copies of ", DigestPartName(mismatch->part), " differ, so their files do"));
  LogError("worker refused", {{"reason", status.message()}});
  Drop(newer, status, now);
  return false;
}

void Cluster::NoteDigests() {
  place_digests_ = RankDigests();
  const std::string digest =
      WeightsDigestText(fingerprint_, ModelDigest(place_digests_, digest_layout()));
  if (!weights_digest_.empty() && digest != weights_digest_) {
    LogWarning("the group has other weights than the one before",
               {{"before", weights_digest_}, {"now", digest}});
  }
  weights_digest_ = digest;
}

absl::StatusOr<int32_t> Cluster::CountBlocks() const {
  const GroupLimits& limits = options_.limits;
  // More than every slot can fill is of no use.
  int64_t n_blocks =
      int64_t{limits.max_num_seqs} * CeilDiv(limits.max_model_len, limits.block_size);
  for (const Worker* worker : ranks_) {
    n_blocks = std::min(n_blocks, worker->loaded.max_blocks);
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

void Cluster::MaybeBeginEpoch(SteadyTime now) {
  if (state_ >= GroupState::kJoining || now < next_join_) return;
  for (const Worker* worker : ranks_) {
    if (worker == nullptr || worker->state != WorkerState::kLoaded) return;
  }
  if (!CheckCopies(now)) return;
  const absl::StatusOr<int32_t> n_blocks = CountBlocks();
  if (!n_blocks.ok()) {
    if (detail_ != n_blocks.status().message()) {
      LogError("group cannot form", {{"reason", n_blocks.status().message()}});
    }
    detail_ = std::string(n_blocks.status().message());
    next_join_ = now + absl::Seconds(5);
    return;
  }
  limits_ = options_.limits;
  limits_.n_blocks = *n_blocks;
  // Greater than every epoch of an earlier coordinator process too: its workers know them.
  for (const Worker* worker : ranks_) epoch_ = std::max(epoch_, worker->hello.latest_epoch);
  ++epoch_;
  JoinGroup join;
  join.epoch = epoch_;
  join.secret = make_secret_();
  join.limits = limits_;
  join.timeout_ms = static_cast<int32_t>(absl::ToInt64Milliseconds(options_.join_timeout));
  for (const Worker* worker : ranks_) join.ranks.push_back(worker->hello.endpoint);
  LogInfo("joining", {{"epoch", epoch_}, {"ranks", n_ranks()}});
  state_ = GroupState::kJoining;
  join_deadline_ = now + options_.join_timeout;
  for (Worker* worker : ranks_) {
    worker->state = WorkerState::kJoining;
    worker->link->Send(join);
  }
}

void Cluster::OnJoinResult(Worker* worker, const JoinResult& result, SteadyTime now) {
  if (result.epoch != epoch_ || worker->state != WorkerState::kJoining) return;
  if (!result.status.ok()) {
    EndEpoch(absl::StrCat("worker ", worker->worker_id, " on ", worker->hello.host,
                          " cannot join: ", result.status.message()),
             now);
    return;
  }
  worker->state = WorkerState::kServing;
  for (const Worker* other : ranks_) {
    if (other->state != WorkerState::kServing) return;
  }
  state_ = GroupState::kServing;
  fingerprint_is_settled_ = true;
  detail_.clear();
  NoteDigests();
  n_plans_in_flight_ = 0;
  const absl::Duration joining = now - (join_deadline_ - options_.join_timeout);
  LogInfo("group formed", {{"epoch", epoch_},
                           {"join_ms", absl::ToDoubleMilliseconds(joining)},
                           {"weights_digest", weights_digest_},
                           {"tensor_parallel_size", options_.load.tensor_parallel_size},
                           {"pipeline_parallel_size", pp_size()},
                           {"kv_blocks", limits_.n_blocks},
                           {"kv_tokens", int64_t{limits_.n_blocks} * limits_.block_size},
                           {"full_length_requests", int64_t{limits_.n_blocks} * limits_.block_size /
                                                        limits_.max_model_len}});
  observer_->OnGroupFormed(epoch_, limits_);
}

void Cluster::EndEpoch(const std::string& reason, SteadyTime now) {
  if (state_ < GroupState::kJoining) return;
  const bool was_serving = serving();
  LogWarning("group lost", {{"epoch", epoch_}, {"reason", reason}});
  detail_ = reason;
  state_ = GroupState::kWaitingForWorkers;
  next_join_ = now + kJoinRetryDelay;
  for (Worker* worker : ranks_) {
    if (worker == nullptr || worker->state < WorkerState::kJoining) continue;
    worker->state = WorkerState::kLoaded;
    worker->link->Send(LeaveGroup{epoch_, reason});
  }
  if (was_serving) observer_->OnGroupLost(reason);
  FillPlaces(now);
}

void Cluster::Drop(Worker* worker, const absl::Status& reason, SteadyTime now) {
  worker->link->Close(reason);
  const std::shared_ptr<WorkerLink> link = worker->link;
  OnGone(link.get(), std::string(reason.message()), now);
}

void Cluster::OnGone(const WorkerLink* link, const std::string& reason, SteadyTime now) {
  const auto it = std::find_if(workers_.begin(), workers_.end(),
                               [&](const auto& worker) { return worker->link.get() == link; });
  if (it == workers_.end()) return;
  const std::unique_ptr<Worker> worker = std::move(*it);
  workers_.erase(it);
  // Nobody is left whom a newcomer would have to agree with.
  if (workers_.empty()) place_digests_.clear();
  LogWarning("worker gone", {{"worker_id", worker->worker_id},
                             {"host", worker->hello.host},
                             {"pid", worker->hello.pid},
                             {"reason", reason}});
  if (worker->rank < 0) return;
  ranks_[worker->rank] = nullptr;
  CountSuspects();
  ForgetFingerprint();
  const std::string text =
      absl::StrCat("worker ", worker->worker_id, " on ", worker->hello.host, " is gone: ", reason);
  if (worker->state >= WorkerState::kJoining) {
    EndEpoch(text, now);
  } else {
    detail_ = text;
    state_ = GroupState::kWaitingForWorkers;
    FillPlaces(now);
  }
}

void Cluster::CheckStep(SteadyTime now, absl::Duration predicted_step) {
  if (!serving() || n_plans_in_flight_ == 0) return;
  absl::Duration limit = options_.step_timeout;
  if (predicted_step > absl::ZeroDuration()) {
    limit = std::min(
        limit, options_.step_timeout_min + options_.step_timeout_predictions * predicted_step);
  }
  if (step_age_ <= limit) return;
  EndEpoch(absl::StrCat("a step took longer than ", absl::ToInt64Milliseconds(limit), " ms"), now);
}

void Cluster::Tick(SteadyTime now, absl::Duration predicted_step) {
  CheckHeartbeats(now);
  if (all_heard()) {
    step_age_ += std::clamp(now - std::max(last_tick_, oldest_plan_time_), absl::ZeroDuration(),
                            options_.heartbeat_interval);
  }
  last_tick_ = now;
  CheckLoading(now);
  if (state_ == GroupState::kJoining && now > join_deadline_) {
    EndEpoch(absl::StrCat("joining took longer than ",
                          absl::ToInt64Milliseconds(options_.join_timeout), " ms"),
             now);
  }
  CheckStep(now, predicted_step);
  if (now >= next_heartbeat_) {
    next_heartbeat_ = now + options_.heartbeat_interval;
    for (const auto& worker : workers_) worker->link->Send(Heartbeat{});
  }
  MaybeBeginEpoch(now);
}

void Cluster::Broadcast(const StepPlan& plan, SteadyTime now) {
  CHECK(serving());
  CHECK_EQ(plan.epoch, epoch_);
  if (n_plans_in_flight_++ == 0) {
    oldest_plan_time_ = now;
    step_age_ = absl::ZeroDuration();
  }
  for (Worker* worker : ranks_) worker->link->Send(plan);
}

void Cluster::CloseAll(const std::string& reason) {
  for (const auto& worker : workers_) worker->link->Close(absl::UnavailableError(reason));
  workers_.clear();
  std::fill(ranks_.begin(), ranks_.end(), nullptr);
  state_ = GroupState::kWaitingForWorkers;
}

void Cluster::FillSnapshot(ServerSnapshot* snapshot) const {
  snapshot->group_state = state_;
  snapshot->epoch = epoch_;
  snapshot->weights_digest = weights_digest_;
  snapshot->group_detail = detail_;
  if (serving() && !all_heard()) {
    snapshot->group_state = GroupState::kSuspect;
    snapshot->group_detail = DescribeSuspects();
  }
  if (!serving()) {
    int32_t n_placed = 0;
    int32_t n_loaded = 0;
    for (const Worker* worker : ranks_) {
      n_placed += worker != nullptr ? 1 : 0;
      n_loaded += worker != nullptr && worker->state >= WorkerState::kLoaded ? 1 : 0;
    }
    snapshot->group_detail =
        absl::StrCat(n_placed, " of ", n_ranks(), " workers attached, ", n_loaded, " loaded",
                     detail_.empty() ? "" : "; ", detail_);
  }
  for (const auto& worker : workers_) {
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
    if (worker->rank < 0) continue;
    const int32_t stage = worker->rank / options_.load.tensor_parallel_size;
    out.stage = stage;
    out.tensor_rank = worker->rank % options_.load.tensor_parallel_size;
    for (int32_t s = 0; s <= stage; ++s) {
      out.layer_begin = out.layer_end;
      out.layer_end += options_.load.layers_per_stage[s];
    }
    out.weight_bytes = worker->loaded.weight_bytes;
    if (worker->state >= WorkerState::kJoining) {
      out.kv_cache_bytes = worker->loaded.kv_block_bytes * limits_.n_blocks;
    }
  }
  std::sort(snapshot->workers.begin(), snapshot->workers.end(),
            [](const WorkerSnapshot& a, const WorkerSnapshot& b) {
              const bool a_spare = a.stage < 0;
              const bool b_spare = b.stage < 0;
              return std::tie(a_spare, a.stage, a.tensor_rank, a.worker_id) <
                     std::tie(b_spare, b.stage, b.tensor_rank, b.worker_id);
            });
}

}  // namespace bora
