// A coordinator takes anything that workers say, in any order: no message ends the process, members
// of the group are never more than its places, and what is kept of a text is short.
//
// The input is a list of instructions: several workers attach, load, join, answer plans, say what
// the input's bytes make, fall silent and go, while a clock moves on and plans are sent.
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "coordinator/cluster/cluster.h"
#include "model/protocol/peer_text.h"
#include "model/protocol/worker_codec.h"

namespace {

using bora::GroupLimits;
namespace pb = bora::worker::v1alpha1;

constexpr GroupLimits kLimits = {.max_num_seqs = 4,
                                 .max_num_batched_tokens = 24,
                                 .max_model_len = 32,
                                 .block_size = 4,
                                 .n_blocks = 0,
                                 .vocab_size = 100};
constexpr int32_t kTpSize = 2;
constexpr int32_t kStages = 2;
constexpr int32_t kSpares = 3;

class Input {
 public:
  Input(const uint8_t* data, size_t n_bytes) : data_(data), n_bytes_(n_bytes) {}
  bool empty() const { return n_bytes_ == 0; }
  // 0 when nothing is left.
  uint8_t Byte() {
    if (n_bytes_ == 0) return 0;
    --n_bytes_;
    return *data_++;
  }
  int32_t Below(int32_t n) { return Byte() % n; }
  std::string Bytes(size_t n) {
    std::string bytes;
    while (n-- > 0 && !empty()) bytes += static_cast<char>(Byte());
    return bytes;
  }
  // Often a number that some arithmetic cannot take.
  int64_t Number() {
    switch (Below(8)) {
      case 0:
        return std::numeric_limits<int64_t>::min();
      case 1:
        return std::numeric_limits<int64_t>::max();
      case 2:
        return -((int64_t{1} << 59) + 1);
      case 3:
        return int64_t{1} << Below(63);
      case 4:
        return -(int64_t{1} << Below(63));
      default:
        return Byte();
    }
  }

 private:
  const uint8_t* data_;
  size_t n_bytes_;
};

class Link final : public bora::WorkerStream {
 public:
  void Send(bora::CoordinatorMessage message) override {
    CHECK(open);
    if (const auto* told = std::get_if<bora::LoadModel>(&message)) load = *told;
    if (const auto* join = std::get_if<bora::JoinGroup>(&message)) epoch = join->epoch;
  }
  void SendPlan(std::shared_ptr<const bora::StepPlan>) override { CHECK(open); }
  void Close(absl::Status) override {
    CHECK(open);
    open = false;
  }

  bool open = true;
  bora::LoadModel load;
  int64_t epoch = 0;
};

// As the engine: some results make no sense to it.
class Observer {
 public:
  // Acts on what has happened to the cluster's group.
  void Take(bora::Cluster* cluster, bora::SteadyTime now) {
    for (bora::GroupEvent& event : cluster->TakeEvents()) {
      if (const auto* formed = std::get_if<bora::GroupFormed>(&event)) {
        CHECK(bora::ValidateLimits(formed->limits).ok());
        n_plans = 0;
      } else if (const auto* lost = std::get_if<bora::GroupLost>(&event)) {
        CHECK_LE(lost->detail.size(), bora::kMaxPeerReasonBytes + 2 * bora::kMaxPeerNameBytes + 64);
        n_plans = 0;
      } else {
        const bora::StepResult& result = std::get<bora::StepDone>(event).result;
        CHECK_GT(n_plans--, 0) << "a result without a plan";
        CHECK_LE(result.sampled.size(), size_t{kLimits.max_num_seqs});
        CHECK_LE(result.prompt_logprobs.size(), size_t{kLimits.max_num_batched_tokens});
        CHECK_LE(result.stage_us.size(), size_t{kStages});
        if (result.step_id % 3 == 1) {
          cluster->RejectStepResult(absl::InternalError("nonsense"), now);
          Take(cluster, now);
        }
      }
    }
  }

  int n_plans = 0;
};

class Life {
 public:
  explicit Life(Input* input)
      : input_(*input), cluster_(Options(), [] { return std::string(32, 's'); }) {}

  void Step() {
    switch (input_.Below(8)) {
      case 0:
        Attach();
        break;
      case 1:
        now_ += absl::Milliseconds(10 * input_.Byte());
        cluster_.Tick(now_);
        break;
      case 2:
        if (cluster_.serving() && observer_.n_plans < 3) {
          ++observer_.n_plans;
          bora::StepPlan plan;
          plan.epoch = cluster_.epoch();
          cluster_.Broadcast(std::make_shared<const bora::StepPlan>(plan), now_);
        }
        break;
      case 3:
        if (Link* link = Any(); link != nullptr) cluster_.OnGone(link, "gone", now_);
        break;
      case 4:
        SayBytes();
        break;
      default:
        SayWhatIsDue();
    }
    observer_.Take(&cluster_, now_);
    Check();
  }

 private:
  static bora::ClusterOptions Options() {
    bora::ClusterOptions options;
    options.build_id = "b";
    options.max_spares = kSpares;
    options.limits = kLimits;
    options.load.model_path = "/model";
    options.load.tensor_parallel_size = kTpSize;
    options.load.layers_per_stage.assign(kStages, 1);
    return options;
  }

  Link* Any() {
    if (links_.empty()) return nullptr;
    return links_[input_.Below(static_cast<int32_t>(links_.size()))].get();
  }

  void Attach() {
    if (links_.size() >= 32) return;
    pb::WorkerMessage proto;
    pb::Hello* hello = proto.mutable_hello();
    hello->set_build_id("b");
    hello->set_collectives(input_.Below(4) == 0 ? "none" : "host");
    hello->set_host(input_.Below(4) == 0 ? std::string(5000, 'h') : "h");
    hello->set_memory_bytes(input_.Below(4) == 0 ? input_.Number() : 1);
    const auto message = bora::FromProto(proto);
    if (!message.ok()) return;
    links_.push_back(std::make_shared<Link>());
    cluster_.OnAttached(links_.back(), std::get<bora::Hello>(*message), now_);
  }

  // Over the wire and through the edge's checks.
  void Say(Link* link, const pb::WorkerMessage& proto) {
    const auto message = bora::FromProto(proto, bora::WorkerMessageLimits::Of(kLimits, kStages));
    if (message.ok()) cluster_.OnMessage(link, *message, now_);
  }

  void SayBytes() {
    Link* link = Any();
    pb::WorkerMessage proto;
    if (link != nullptr && proto.ParseFromString(input_.Bytes(input_.Byte()))) Say(link, proto);
  }

  void SayWhatIsDue() {
    Link* link = Any();
    if (link == nullptr) return;
    pb::WorkerMessage proto;
    const int32_t lie = input_.Below(8);
    switch (input_.Below(5)) {
      case 0: {
        bora::LoadResult result;
        result.loaded = {.load = link->load, .fingerprint = lie == 1 ? "g" : "f"};
        result.loaded.weight_bytes = 1;
        result.loaded.kv_block_bytes = 64;
        result.loaded.max_blocks = 100;
        bora::ToProto(bora::WorkerMessage(result), &proto);
        pb::LoadedModel* loaded = proto.mutable_load_result()->mutable_loaded();
        if (lie == 2) loaded->set_max_blocks(input_.Number());
        if (lie == 3) loaded->set_kv_block_bytes(input_.Number());
        if (lie == 4) loaded->set_weight_bytes(input_.Number());
        if (lie == 5) loaded->mutable_load()->set_stage(static_cast<int32_t>(input_.Number()));
        if (lie == 6) proto.mutable_load_result()->set_status_code(13);
        if (lie == 6) proto.mutable_load_result()->set_error(std::string(5000, 'e'));
        if (lie == 7) loaded->set_kv_memory_is_reserved(true);
        break;
      }
      case 1:
        proto.mutable_join_result()->set_epoch(lie == 1 ? input_.Number() : link->epoch);
        if (lie == 2)
          proto.mutable_join_result()->set_status_code(static_cast<int>(input_.Number()));
        break;
      case 2:
        proto.mutable_step_result()->set_epoch(lie == 1 ? input_.Number() : link->epoch);
        proto.mutable_step_result()->set_step_id(lie == 2 ? input_.Number() : 0);
        if (lie == 3) proto.mutable_step_result()->add_stage_us(input_.Number());
        break;
      case 3:
        proto.mutable_load_progress()->set_loaded_bytes(input_.Number());
        proto.mutable_load_progress()->set_total_bytes(input_.Number());
        break;
      default:
        proto.mutable_step_failed()->set_epoch(lie == 1 ? input_.Number() : link->epoch);
        proto.mutable_step_failed()->set_status_code(13);
        proto.mutable_step_failed()->set_error(std::string(lie * 1000, 'e'));
    }
    Say(link, proto);
  }

  void Check() {
    std::erase_if(links_, [](const auto& link) { return !link->open; });
    bora::ServerSnapshot snapshot;
    cluster_.FillSnapshot(&snapshot);
    CHECK_LE(snapshot.workers.size(), size_t{kTpSize * kStages + kSpares});
    for (const bora::WorkerSnapshot& worker : snapshot.workers) {
      CHECK_LE(worker.host.size(), bora::kMaxPeerNameBytes);
      CHECK(worker.load_progress >= 0 && worker.load_progress <= 1);
      CHECK_GE(worker.weight_bytes, 0);
      CHECK_GE(worker.kv_cache_bytes, 0);
    }
  }

  Input& input_;
  Observer observer_;
  bora::Cluster cluster_;
  std::vector<std::shared_ptr<Link>> links_;
  bora::SteadyTime now_ = bora::SteadyTime() + absl::Seconds(1000);
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t n_bytes) {
  static const bool is_quiet = [] {
    bora::InitLog("fuzz", static_cast<bora::LogLevel>(100));
    return true;
  }();
  (void)is_quiet;
  Input input(data, n_bytes);
  Life life(&input);
  for (int i = 0; i < 2000 && !input.empty(); ++i) life.Step();
  return 0;
}
