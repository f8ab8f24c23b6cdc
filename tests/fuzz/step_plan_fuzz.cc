// A worker takes any plans that a coordinator may send: each is refused or applied, and what is
// applied leaves slots and blocks consistent. A coordinator takes any message that a worker may
// send: it is refused or survives being sent on.
//
// The input's first byte chooses how the rest becomes plans. Even: messages as they travel, each
// after a byte with its length. Odd: instructions that make plans which are right in all but what
// the instructions spoil, so that long lives of many slots are reached.
#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/check.h"
#include "model/protocol/worker_codec.h"

namespace {

using bora::GroupLimits;
namespace pb = bora::worker::v1alpha1;

constexpr GroupLimits kLimits = {.max_num_seqs = 4,
                                 .max_num_batched_tokens = 24,
                                 .max_model_len = 32,
                                 .block_size = 4,
                                 .n_blocks = 16,
                                 .vocab_size = 100};

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

 private:
  const uint8_t* data_;
  size_t n_bytes_;
};

// The receiving side: what the message's bytes do to a worker's slots.
class Receiver {
 public:
  Receiver() : tracker_(kLimits) {}

  // False once something was refused: then the worker leaves the group.
  bool Take(const std::string& bytes) {
    pb::CoordinatorMessage proto;
    if (!proto.ParseFromString(bytes)) return false;
    const auto message = bora::FromProto(proto);
    if (!message.ok()) return false;
    const auto* plan = std::get_if<bora::StepPlan>(&*message);
    if (plan == nullptr) return true;
    const bool is_valid = bora::ValidatePlan(*plan, kLimits).ok();
    if (!tracker_.Apply(*plan).ok()) return false;
    CHECK(is_valid);
    CheckState(*plan);
    return true;
  }

 private:
  // No block is written by two slots or behind what a slot found cached, and every row has blocks
  // for all of its tokens.
  void CheckState(const bora::StepPlan& plan) {
    for (const int32_t slot : plan.closed) open_.erase(slot);
    for (const bora::SlotOpen& open : plan.opened) open_[open.slot] = open.n_cached_tokens;
    std::set<int32_t> written;
    for (const auto& [slot, n_cached] : open_) {
      const auto block_ids = tracker_.block_ids(slot);
      for (size_t i = 0; i < block_ids.size(); ++i) {
        CHECK(block_ids[i] >= 0 && block_ids[i] < kLimits.n_blocks);
        const bool is_cached = static_cast<int32_t>(i) * kLimits.block_size < n_cached;
        CHECK(is_cached || written.insert(block_ids[i]).second);
      }
    }
    for (const bora::StepRow& row : plan.rows) {
      CHECK(open_.count(row.slot) == 1);
      CHECK_GE(row.position, open_.at(row.slot));
      CHECK_LE(row.position + row.n_tokens,
               static_cast<int32_t>(tracker_.block_ids(row.slot).size()) * kLimits.block_size);
    }
  }

  bora::SlotTracker tracker_;
  std::map<int32_t, int32_t> open_;  // slots and their cached tokens
};

// What a coordinator does with the bytes, were they a worker's.
void ReadWorkerMessage(const std::string& bytes) {
  pb::WorkerMessage proto;
  if (!proto.ParseFromString(bytes)) return;
  const auto message = bora::FromProto(proto);
  if (!message.ok()) return;
  if (const auto* result = std::get_if<bora::StepResult>(&*message)) {
    for (const int64_t us : result->stage_us) CHECK_GE(us, 0);
  }
  bora::ToProto(*message, &proto);
  CHECK(bora::FromProto(proto).ok());
}

// The sending side: knows enough of the slots to make plans that are right.
class Sender {
 public:
  explicit Sender(Input* input)
      : input_(*input), slots_(kLimits.max_num_seqs), n_holders_(kLimits.n_blocks) {
    for (int32_t id = 0; id < kLimits.n_blocks; ++id) free_blocks_.push_back(id);
  }

  std::string NextMessage() {
    pb::CoordinatorMessage message;
    plan_ = message.mutable_step_plan();
    plan_->set_step_id(Spoil(step_id_++));
    n_tokens_ = 0;
    for (Slot& slot : slots_) slot.n_tokens_before = slot.n_tokens;
    std::vector<int32_t> targets;
    for (int32_t slot = 0; slot < kLimits.max_num_seqs; ++slot) {
      const int32_t what = input_.Below(8);
      if (slots_[slot].open && what == 0) Close(slot);
      if (!slots_[slot].open && what <= 4) Open(slot);
      if (slots_[slot].open && what != 7) AddRow(slot, &targets);
    }
    if (wants_next_) {
      for (const int32_t target : targets) plan_->add_next_tokens_plus_1(Spoil(target));
    }
    wants_next_ = false;
    return message.SerializeAsString();
  }

 private:
  struct Slot {
    bool open = false;
    int32_t n_tokens = 0;
    int32_t n_tokens_before = 0;  // the plan
    int32_t n_prompt = 0;
    bool wants_prompt_logprobs = false;
    bool has_sampled = false;
    std::vector<int32_t> blocks;
  };

  // Nearly always the value itself.
  int32_t Spoil(int32_t value) {
    switch (input_.Byte()) {
      case 251:
        return value + 1;
      case 252:
        return value - 1;
      case 253:
        return input_.Byte();
      case 254:
        return INT32_MAX;
      case 255:
        return INT32_MIN;
      default:
        return value;
    }
  }

  void Close(int32_t slot) {
    plan_->add_closed(Spoil(slot));
    for (const int32_t id : slots_[slot].blocks) {
      if (--n_holders_[id] == 0) free_blocks_.push_back(id);
    }
    slots_[slot] = Slot();
  }

  void Grant(int32_t slot, int32_t block_id) {
    plan_->add_grants(Spoil(slot));
    plan_->add_grants(Spoil(static_cast<int32_t>(slots_[slot].blocks.size())));
    plan_->add_grants(Spoil(block_id));
    slots_[slot].blocks.push_back(block_id);
    ++n_holders_[block_id];
  }

  void Open(int32_t slot) {
    Slot& state = slots_[slot];
    state.open = true;
    state.n_prompt = 1 + input_.Below(16);
    state.wants_prompt_logprobs = input_.Below(2) == 0;
    pb::SlotOpen* open = plan_->add_opened();
    open->set_slot(Spoil(slot));
    open->set_n_prompt_tokens(Spoil(state.n_prompt));
    open->set_n_generated_tokens(Spoil(0));
    const Slot& other = slots_[input_.Below(kLimits.max_num_seqs)];
    const int32_t n_shared = input_.Below(other.n_tokens_before / kLimits.block_size + 1);
    open->set_n_cached_tokens(Spoil(n_shared * kLimits.block_size));
    state.n_tokens = n_shared * kLimits.block_size;
    for (int32_t i = 0; i < n_shared; ++i) Grant(slot, other.blocks[i]);
    pb::SamplingParams* sampling = open->mutable_sampling();
    sampling->set_temperature(static_cast<float>(Spoil(1)));
    sampling->set_top_p(static_cast<float>(Spoil(1)));
    sampling->set_top_k(Spoil(0));
    sampling->set_n_logprobs(Spoil(-1));
    sampling->set_n_prompt_logprobs(Spoil(state.wants_prompt_logprobs ? 0 : -1));
    sampling->set_min_tokens(Spoil(0));
    for (int32_t i = input_.Below(4); i > 0; --i) sampling->add_stop_token_ids(Spoil(10 - i));
  }

  void AddRow(int32_t slot, std::vector<int32_t>* targets) {
    Slot& state = slots_[slot];
    const bool in_prompt = state.n_tokens < state.n_prompt;
    const bool use_last = state.has_sampled && input_.Below(2) == 0;
    int32_t n = use_last || !in_prompt ? 1 : 1 + input_.Below(state.n_prompt - state.n_tokens);
    n = std::min(n, kLimits.max_num_batched_tokens - n_tokens_);
    const int32_t end = state.n_tokens + n;
    if (n <= 0 || end >= kLimits.max_model_len) return;
    while (static_cast<int32_t>(state.blocks.size()) * kLimits.block_size < end) {
      if (free_blocks_.empty()) return;
      const int32_t block_id = free_blocks_.back();
      free_blocks_.pop_back();
      Grant(slot, block_id);
    }
    const bool sample = end >= state.n_prompt && input_.Below(4) != 0;
    const bool prompt_logprobs = state.wants_prompt_logprobs && !use_last;
    plan_->add_rows(Spoil(slot));
    plan_->add_rows(Spoil(state.n_tokens));
    plan_->add_rows(Spoil(n));
    plan_->add_rows(Spoil((use_last ? 1 : 0) | (sample ? 2 : 0) | (prompt_logprobs ? 4 : 0)));
    for (int32_t i = use_last ? n : 0; i < n; ++i) plan_->add_tokens(Spoil(i));
    wants_next_ |= prompt_logprobs;
    targets->push_back(prompt_logprobs && end < state.n_prompt ? 1 + end : 0);
    state.n_tokens = end;
    state.has_sampled = sample;
    n_tokens_ += n;
  }

  Input& input_;
  std::vector<Slot> slots_;
  std::vector<int32_t> free_blocks_;
  std::vector<int32_t> n_holders_;  // of each block
  pb::StepPlan* plan_ = nullptr;
  int32_t step_id_ = 0;
  int32_t n_tokens_ = 0;  // of this plan
  bool wants_next_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t n_bytes) {
  Input input(data, n_bytes);
  Receiver receiver;
  if (input.Byte() % 2 == 0) {
    while (!input.empty()) {
      const size_t n = input.Byte();
      const std::string bytes = input.Bytes(n);
      ReadWorkerMessage(bytes);
      if (!receiver.Take(bytes)) break;
    }
    return 0;
  }
  Sender sender(&input);
  while (!input.empty()) {
    if (!receiver.Take(sender.NextMessage())) break;
  }
  return 0;
}
