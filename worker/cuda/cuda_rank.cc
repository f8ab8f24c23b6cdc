#include "worker/cuda/cuda_rank.h"

#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/int_math.h"
#include "base/status_macros.h"
#include "worker/cuda/cuda_collectives.h"
#include "worker/cuda/cuda_links.h"
#include "worker/cuda/cuda_pipeline.h"
#include "worker/cuda/cuda_rank_memory.h"
#include "worker/stage/collectives.h"
#include "worker/stage/epoch_state.h"
#include "worker/stage/stage_boundary.h"

namespace bora {
namespace {

// Pause between two looks whether the device is done, in WaitUntil.
constexpr absl::Duration kPoll = absl::Microseconds(20);

// How many slots with penalties one plan can open before QueueTokenCounts must wait for copies:
// each takes a row of vocab_size counts in pinned memory.
constexpr int64_t kCountedTogether = 8;

}  // namespace

// The host memory and the events of a plan while it is unfinished. A lane is used again only after
// its plan has finished, so that the device never reads memory that the host is writing.
struct CudaRank::Lane {
  PinnedBuffer inputs;   // CudaStepLayout
  PinnedBuffer deltas;   // as deltas_memory_
  PinnedBuffer counts;   // uint32_t [kCountedTogether, vocab_size]
  PinnedBuffer sampled;  // CudaSampledToken [head rows]
  CudaEvent begin;       // of the step's computing time
  CudaEvent end;         // the work is done and `sampled` is filled
  CudaEvent counted;     // `counts` has been copied to the device
  int64_t step_id = 0;
  int64_t pipeline_idx = 0;  // CudaPipeline's number of the plan, if it has tokens
  bool has_tokens = false;
  std::vector<HeadRow> head_rows;  // of the plan; sampled[i] answers head_rows[i]
};

// All state of the rank that ends with the epoch.
struct CudaRank::Epoch {
  Epoch(const EpochOptions& options, const RankPlace& rank_place)
      : id(options.epoch),
        place(rank_place),
        mesh(options.mesh),
        slots(options.limits),
        inputs(options.limits, /*with_block_tables=*/false),
        times(place, options.mesh),
        last_tokens(options.limits.max_num_seqs) {
    for (int32_t slot = 0; slot < options.limits.max_num_seqs; ++slot) {
      last_tokens[slot] = LastTokenOf(slot);
    }
  }
  bool has_peers() const { return place.n_ranks() > 1; }

  const int64_t id;
  const RankPlace place;
  Mesh* const mesh;
  SlotTracker slots;
  StepInputs inputs;
  StageTimes times;
  // LastTokenOf(slot) for each slot: stands for a last token that only the device knows, until
  // ResolveTokens. [max_num_seqs]
  std::vector<int32_t> last_tokens;
  std::vector<AttentionRow> attention_rows;  // scratch of QueueInputs, as is `work`
  AttentionWork work;

  CudaLinks links;
  CudaCollectives collectives;
  std::optional<CudaPipeline> pipeline;  // set if the rank has peers

  std::deque<Lane*> begun;   // lanes of unfinished plans, oldest first
  int64_t n_begun = 0;       // plans begun in this epoch
  absl::Status failure;      // error of the plan with which the epoch was lost; OK until then
  absl::Status group_error;  // result of GroupError
  SteadyTime next_look = SteadyTime::InfinitePast();  // earliest time to look for a group error
};

CudaRank::CudaRank(CudaDevice* device, const CudaStream* stream,
                   std::unique_ptr<const RankWeights> weights, const CudaRankOptions& options)
    : device_(device),
      stream_(stream),
      weights_(std::move(weights)),
      options_(options),
      stage_(device, weights_.get()) {}

CudaRank::~CudaRank() { EndEpoch(); }

absl::Status CudaRank::BeginEpoch(const EpochOptions& options) {
  CHECK(epoch_ == nullptr) << "an epoch has not ended";
  RETURN_IF_ERROR(CheckEpochOptions(config(), shape(), options));
  RETURN_IF_ERROR(CheckCudaModel(config(), shape()));
  const RankPlace place = PlaceOf(shape(), options.pp_size);
  if (place.n_ranks() > 1 && options_.nccl == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("a group of ", place.n_ranks(), " GPUs needs NCCL"));
  }
  if (limits_ != options.limits) {
    // Graphs refer to the buffers that Allocate replaces. limits_ stays empty if Allocate fails.
    graphs_.clear();
    limits_ = {};
    RETURN_IF_ERROR(Allocate(options.limits));
    limits_ = options.limits;
  } else {
    RETURN_IF_ERROR(stage_.Prepare(WithPadding(limits_), options_.poison_kv));
  }
  epoch_ = std::make_unique<Epoch>(options, place);
  epoch_->attention_rows.reserve(MaxRows(limits_));
  const AttentionWorkSizes sizes = MaxAttentionWork(attention_limits_);
  epoch_->work.decode_items.reserve(sizes.n_decode_items);
  epoch_->work.prefill_items.reserve(sizes.n_prefill_items);
  epoch_->work.merges.reserve(sizes.n_merges);
  // All slots begin closed: last tokens of an earlier epoch must not look like tokens of this one.
  FillDevice(stream_->get(), last_tokens_memory_.data(), 0, last_tokens_memory_.bytes());
  stream_->Synchronize();
  absl::Status status = ConnectEpoch(options);
  if (status.ok() && options_.use_graphs && graphs_.empty()) status = CaptureGraphs(limits_);
  if (!status.ok()) EndEpoch();
  // 1 ns of timer slack. The agent asks every 20 us whether a step is done; by default Linux may
  // end a thread's sleep 50 us late.
  prctl(PR_SET_TIMERSLACK, 1);
  return status;
}

absl::Status CudaRank::ConnectEpoch(const EpochOptions& options) {
  Epoch& epoch = *epoch_;
  if (!epoch.has_peers()) return absl::OkStatus();
  ASSIGN_OR_RETURN(epoch.links, ConnectCudaLinks(*options_.nccl, epoch.place, epoch.id, epoch.mesh,
                                                 *stream_, options.deadline));
  epoch.collectives = CudaCollectives(device_, epoch.links.tensor.get(), epoch.place,
                                      options_.deterministic, collectives_memory_.data());
  ASSIGN_OR_RETURN(epoch.pipeline,
                   CudaPipeline::Create(epoch.place, limits_, config().dim, &epoch.links, stream_));
  return absl::OkStatus();
}

absl::Status CudaRank::Allocate(const GroupLimits& limits) {
  RETURN_IF_ERROR(stage_.Prepare(WithPadding(limits), options_.poison_kv));
  attention_limits_ = AttentionLimitsOf(config(), shape(), limits);
  max_blocks_per_row_ = MaxBlocksPerRow(limits);
  const CudaRankBuffers bytes = PlanCudaRankBuffers(config(), shape(), limits);
  for (const auto& [buffer, n_bytes, what] :
       {std::tuple(&rope_memory_, bytes.rope, "rotary table"),
        std::tuple(&inputs_memory_, bytes.inputs, "step inputs"),
        std::tuple(&deltas_memory_, bytes.deltas(), "changes of slots"),
        std::tuple(&block_table_memory_, bytes.block_table, "block tables"),
        std::tuple(&sampling_memory_, bytes.sampling, "sampling parameters"),
        std::tuple(&last_tokens_memory_, bytes.last_tokens, "last tokens"),
        std::tuple(&token_counts_memory_, bytes.token_counts, "counts of tokens"),
        std::tuple(&sampled_memory_, bytes.sampled, "results"),
        std::tuple(&collectives_memory_, bytes.collectives, "sums of the tensor group")}) {
    *buffer = CudaBuffer();
    ASSIGN_OR_RETURN(*buffer, CudaBuffer::Allocate(n_bytes, what));
  }
  for (std::unique_ptr<Lane>& lane : lanes_) {
    lane = std::make_unique<Lane>();
    ASSIGN_OR_RETURN(lane->inputs, PinnedBuffer::Allocate(bytes.inputs, "step inputs"));
    ASSIGN_OR_RETURN(lane->deltas, PinnedBuffer::Allocate(bytes.deltas(), "changes of slots"));
    if (IsSampler(shape())) {
      ASSIGN_OR_RETURN(lane->counts,
                       PinnedBuffer::Allocate(kCountedTogether * TokenCountsBytes(config()),
                                              "counts of tokens"));
    }
    ASSIGN_OR_RETURN(lane->sampled, PinnedBuffer::Allocate(bytes.sampled, "results"));
    ASSIGN_OR_RETURN(lane->begin, CudaEvent::CreateTimed());
    ASSIGN_OR_RETURN(lane->end, CudaEvent::CreateTimed());
    ASSIGN_OR_RETURN(lane->counted, CudaEvent::Create());
    lane->head_rows.reserve(MaxHeadRows(limits));
  }

  const RopeTable rope(config().head_dim, limits.max_model_len, config().rope_theta);
  const int64_t half_bytes = bytes.rope / 2;
  CopyToDevice(stream_->get(), rope_memory_.data(), rope.view().cosines, half_bytes);
  CopyToDevice(stream_->get(), rope_memory_.data() + half_bytes, rope.view().sines, half_bytes);
  rope_ = {reinterpret_cast<const float*>(rope_memory_.data()),
           reinterpret_cast<const float*>(rope_memory_.data() + half_bytes), limits.max_model_len};
  // Padding tokens write to blocks of their own, which follow those of the limits; the padding
  // slot's line of the table follows those of the real slots.
  std::vector<int32_t> padding_blocks(PaddingBlocks(limits));
  for (size_t i = 0; i < padding_blocks.size(); ++i) {
    padding_blocks[i] = limits.n_blocks + static_cast<int32_t>(i);
  }
  int32_t* const block_table = reinterpret_cast<int32_t*>(block_table_memory_.data());
  CopyToDevice(stream_->get(), block_table + limits.max_num_seqs * max_blocks_per_row_,
               padding_blocks.data(),
               static_cast<int64_t>(padding_blocks.size() * sizeof(int32_t)));
  stream_->Synchronize();
  return absl::OkStatus();
}

CudaStepCapacity CudaRank::DecodeCapacity(int64_t n_rows) const {
  AttentionLimits limits = attention_limits_;
  limits.max_rows = limits.max_tokens = n_rows;
  const AttentionWorkSizes work = MaxAttentionWork(limits);
  return {.n_tokens = n_rows,
          .n_head_rows = n_rows,
          .n_merges = work.n_merges,
          .n_prefill_items = 0,
          .n_decode_items = work.n_decode_items,
          .n_partials = work.n_partials};
}

absl::Status CudaRank::CaptureGraphs(const GroupLimits& limits) {
  for (const int64_t n_rows : GraphSizes(limits)) {
    const CudaStepLayout layout(DecodeCapacity(n_rows));
    CudaStepView step =
        ViewOf(layout, inputs_memory_.data(),
               reinterpret_cast<const int32_t*>(block_table_memory_.data()), max_blocks_per_row_);
    step.tokens.attention_work = &step.attention_work;
    absl::Status queued;
    ASSIGN_OR_RETURN(graphs_[n_rows],
                     CudaGraph::Capture(*stream_, [&] { queued = QueueStep(step); }));
    RETURN_IF_ERROR(queued);
  }
  return absl::OkStatus();
}

void CudaRank::EndEpoch() {
  if (epoch_ == nullptr) return;
  if (epoch_->has_peers()) {
    // Graphs first: NCCL's abort waits until no graph refers to a communicator.
    graphs_.clear();
    epoch_->links.Abort();
    stream_->Synchronize();
  } else if (!epoch_->begun.empty()) {
    // Work of unfinished plans uses buffers that the next epoch uses, too.
    stream_->Synchronize();
  }
  epoch_.reset();
}

absl::Status CudaRank::Begin(const StepPlan& plan) {
  if (epoch_ == nullptr) return absl::FailedPreconditionError("no epoch has begun");
  RETURN_IF_ERROR(CheckPlanEpoch(plan, epoch_->id, epoch_->failure));
  CHECK_LT(static_cast<int>(epoch_->begun.size()), kMaxBegun) << "plans that are not finished";
  epoch_->failure = QueuePlan(plan);
  if (!epoch_->failure.ok() && epoch_->has_peers()) {
    // If a peer is gone NCCL says only that the call was cancelled; the mesh says why.
    const absl::Status peers = epoch_->mesh->CheckPeers();
    if (!peers.ok()) epoch_->failure = peers;
  }
  return epoch_->failure;
}

int64_t CudaRank::GraphRows(const StepPlan& plan, const StepInputs& inputs) const {
  // A graph has room for one token and one head row per row, and scores no prompt tokens.
  const bool is_decode = inputs.n_tokens() == static_cast<int64_t>(plan.rows.size()) &&
                         inputs.n_draws() == static_cast<int64_t>(inputs.head_rows().size());
  const auto graph = graphs_.lower_bound(inputs.n_tokens());
  return is_decode && graph != graphs_.end() ? graph->first : 0;
}

absl::Status CudaRank::QueuePlan(const StepPlan& plan) {
  Epoch& epoch = *epoch_;
  RETURN_IF_ERROR(epoch.slots.Apply(plan));
  Lane& lane = *lanes_[epoch.n_begun++ % kMaxBegun];
  epoch.inputs.Build(plan, epoch.slots, epoch.last_tokens);
  lane.step_id = plan.step_id;
  lane.has_tokens = epoch.inputs.n_tokens() > 0;
  lane.head_rows.assign(epoch.inputs.head_rows().begin(), epoch.inputs.head_rows().end());
  QueueDeltas(plan, lane);
  if (IsSampler(shape())) RETURN_IF_ERROR(QueueTokenCounts(plan, lane));
  // Without tokens there is nothing to compute or to exchange, only changes of slots.
  if (!lane.has_tokens) {
    lane.begin.Record(*stream_);
    lane.end.Record(*stream_);
    epoch.begun.push_back(&lane);
    return absl::OkStatus();
  }
  const int64_t n_tokens = epoch.inputs.n_tokens();
  int32_t* const last_tokens = reinterpret_cast<int32_t*>(last_tokens_memory_.data());
  float* const residual = stage_.residual(n_tokens).data();
  CudaStepView step;
  int64_t graph_rows = 0;
  RETURN_IF_ERROR(QueueInputs(plan, lane, &step, &graph_rows));
  if (epoch.pipeline.has_value()) {
    RETURN_IF_ERROR(epoch.pipeline->Enter(plan, n_tokens, last_tokens, residual));
  }
  // After Enter, so that waiting for the stage before does not count as computing time.
  lane.begin.Record(*stream_);
  if (graph_rows > 0) {
    graphs_.at(graph_rows).Launch(*stream_);
  } else {
    RETURN_IF_ERROR(QueueStep(step));
  }
  if (IsSampler(shape())) {
    CopyToHost(stream_->get(), lane.sampled.data(), sampled_memory_.data(),
               static_cast<int64_t>(lane.head_rows.size() * sizeof(CudaSampledToken)));
  }
  lane.end.Record(*stream_);
  epoch.begun.push_back(&lane);
  if (!epoch.pipeline.has_value()) return absl::OkStatus();
  lane.pipeline_idx = epoch.pipeline->n_plans();
  return epoch.pipeline->Leave(plan, n_tokens, last_tokens, residual);
}

absl::Status CudaRank::QueueInputs(const StepPlan& plan, Lane& lane, CudaStepView* step,
                                   int64_t* graph_rows) {
  Epoch& epoch = *epoch_;
  const StepTokensView tokens = epoch.inputs.view();
  epoch.attention_rows.clear();
  for (int64_t row = 0; row < tokens.n_rows; ++row) {
    epoch.attention_rows.push_back({.table_row = plan.rows[row].slot,
                                    .token_begin = tokens.row_begin[row],
                                    .n_tokens = tokens.row_begin[row + 1] - tokens.row_begin[row],
                                    .position = tokens.row_position[row]});
  }
  PlanAttention(attention_limits_, epoch.attention_rows, &epoch.work);
  *graph_rows = GraphRows(plan, epoch.inputs);
  const CudaStepLayout layout(
      *graph_rows > 0
          ? DecodeCapacity(*graph_rows)
          : CudaStepCapacity{
                .n_tokens = tokens.n_tokens,
                .n_head_rows = static_cast<int64_t>(lane.head_rows.size()),
                .n_merges = static_cast<int64_t>(epoch.work.merges.size()),
                .n_prefill_items = static_cast<int64_t>(epoch.work.prefill_items.size()),
                .n_decode_items = static_cast<int64_t>(epoch.work.decode_items.size()),
                .n_partials = epoch.work.n_partials});
  const int64_t n_bytes =
      WriteStep(layout, plan, epoch.inputs, epoch.work, limits_.max_num_seqs, lane.inputs.data());
  CopyToDevice(stream_->get(), inputs_memory_.data(), lane.inputs.data(), n_bytes);
  *step = ViewOf(layout, inputs_memory_.data(),
                 reinterpret_cast<const int32_t*>(block_table_memory_.data()), max_blocks_per_row_);
  step->tokens.attention_work = &step->attention_work;
  return absl::OkStatus();
}

void CudaRank::QueueDeltas(const StepPlan& plan, Lane& lane) {
  if (plan.grants.empty() && plan.opened.empty()) return;
  TableEntry* const entries = reinterpret_cast<TableEntry*>(lane.deltas.data());
  const int64_t entries_bytes =
      RoundUp(static_cast<int64_t>(plan.grants.size() * sizeof(TableEntry)), 256);
  SlotSampling* const opened = reinterpret_cast<SlotSampling*>(lane.deltas.data() + entries_bytes);
  const int64_t n_bytes =
      entries_bytes + static_cast<int64_t>(plan.opened.size() * sizeof(SlotSampling));
  CHECK_LE(n_bytes, lane.deltas.bytes()) << "changes of slots";
  for (size_t i = 0; i < plan.grants.size(); ++i) {
    const BlockGrant& grant = plan.grants[i];
    entries[i] = {grant.slot, grant.block_idx, grant.block_id};
  }
  for (size_t i = 0; i < plan.opened.size(); ++i) {
    opened[i] = {plan.opened[i].slot, ToCudaSampling(plan.opened[i].sampling)};
  }
  uint8_t* const base = deltas_memory_.data();
  CopyToDevice(stream_->get(), base, lane.deltas.data(), n_bytes);
  ApplyStepDeltas(*device_,
                  {.entries = reinterpret_cast<const TableEntry*>(base),
                   .n_entries = static_cast<int64_t>(plan.grants.size()),
                   .opened = reinterpret_cast<const SlotSampling*>(base + entries_bytes),
                   .n_opened = static_cast<int64_t>(plan.opened.size())},
                  max_blocks_per_row_, reinterpret_cast<int32_t*>(block_table_memory_.data()),
                  reinterpret_cast<CudaSampling*>(sampling_memory_.data()));
}

absl::Status CudaRank::QueueTokenCounts(const StepPlan& plan, Lane& lane) {
  const int64_t vocab_size = config().vocab_size;
  int64_t n_counted = 0;
  for (const SlotOpen& open : plan.opened) {
    if (!open.sampling.has_penalties()) continue;
    if (n_counted == kCountedTogether) {
      // The host memory is full: the copies from it must end before it is overwritten.
      lane.counted.Record(*stream_);
      RETURN_IF_ERROR(WaitUntil([&] { return lane.counted.IsDone(); }));
      n_counted = 0;
    }
    uint32_t* const counts =
        reinterpret_cast<uint32_t*>(lane.counts.data()) + n_counted++ * vocab_size;
    CountTokens(open.known_tokens, open.n_prompt_tokens, absl::MakeSpan(counts, vocab_size));
    CopyToDevice(stream_->get(),
                 token_counts_memory_.data() + open.slot * TokenCountsBytes(config()), counts,
                 TokenCountsBytes(config()));
  }
  return absl::OkStatus();
}

absl::Status CudaRank::QueueStep(const CudaStepView& step) {
  if (shape().has_embedding) {
    ResolveTokens(*device_, step.tokens.n_tokens,
                  reinterpret_cast<const int32_t*>(last_tokens_memory_.data()),
                  step.token_ids.data());
    stage_.EmbedTokens(step.token_ids);
  }
  RETURN_IF_ERROR(stage_.RunLayers(step.tokens, rope_, epoch_->collectives));
  return shape().has_head ? QueueHead(step) : absl::OkStatus();
}

absl::Status CudaRank::QueueHead(const CudaStepView& step) {
  int32_t* const last_tokens = reinterpret_cast<int32_t*>(last_tokens_memory_.data());
  CudaSampledToken* const sampled = reinterpret_cast<CudaSampledToken*>(sampled_memory_.data());
  constexpr int64_t kTile = StageTraits<CudaDevice>::kHeadTileRows;
  const int64_t n_head_rows = static_cast<int64_t>(step.head_token_idx.size());
  for (int64_t begin = 0; begin < n_head_rows; begin += kTile) {
    const absl::Span<const int32_t> tile = step.head_token_idx.subspan(begin, kTile);
    ASSIGN_OR_RETURN(const auto logits, stage_.Logits(tile, epoch_->collectives));
    if (!IsSampler(shape())) continue;
    Sample(*device_, {.n_rows = static_cast<int64_t>(tile.size()),
                      .n_tokens = limits_.vocab_size,
                      .row_stride = config().vocab_size,
                      .logits = logits.data(),
                      .rows = step.sample_rows + begin,
                      .sampling = reinterpret_cast<const CudaSampling*>(sampling_memory_.data()),
                      .sampled = sampled + begin,
                      .last_tokens = last_tokens,
                      .token_counts = reinterpret_cast<uint32_t*>(token_counts_memory_.data())});
  }
  // With one stage the other ranks of the tensor group embed the tokens in the next plan. With
  // several stages CudaPipeline sends them to the first.
  if (epoch_->links.tensor == nullptr || !shape().has_embedding) return absl::OkStatus();
  return epoch_->links.tensor->Broadcast(stream_->get(), /*root=*/0, last_tokens,
                                         last_tokens_memory_.bytes());
}

bool CudaRank::LaneIsDone(const Lane& lane) const {
  return lane.end.IsDone() && (!epoch_->pipeline.has_value() || !lane.has_tokens ||
                               epoch_->pipeline->HasSent(lane.pipeline_idx));
}

const absl::Status& CudaRank::GroupError() const {
  Epoch& epoch = *epoch_;
  if (!epoch.has_peers() || !epoch.group_error.ok()) return epoch.group_error;
  const SteadyTime now = SteadyNow();
  if (now < epoch.next_look) return epoch.group_error;
  epoch.next_look = now + absl::Milliseconds(1);
  epoch.group_error = epoch.mesh->CheckPeers();
  if (epoch.group_error.ok()) epoch.group_error = epoch.links.AsyncError();
  return epoch.group_error;
}

absl::Status CudaRank::WaitUntil(absl::FunctionRef<bool()> is_done) const {
  while (!is_done()) {
    RETURN_IF_ERROR(GroupError());
    absl::SleepFor(kPoll);
  }
  return absl::OkStatus();
}

bool CudaRank::IsDone() const {
  CHECK(epoch_ != nullptr && !epoch_->begun.empty()) << "no plan is unfinished";
  return LaneIsDone(*epoch_->begun.front()) || !GroupError().ok();
}

absl::StatusOr<std::optional<StepResult>> CudaRank::Finish() {
  CHECK(epoch_ != nullptr && !epoch_->begun.empty()) << "no plan is unfinished";
  const Lane& lane = *epoch_->begun.front();
  // Without peers nothing can keep the work from ending, so that the driver may wait for it.
  if (!epoch_->has_peers()) lane.end.Wait();
  epoch_->failure = WaitUntil([&] { return LaneIsDone(lane); });
  RETURN_IF_ERROR(epoch_->failure);
  epoch_->begun.pop_front();
  // The mesh keeps the order of plans, so that these are the times of this plan. The device of the
  // stage before has done its part already, so that the wait is short.
  epoch_->failure = epoch_->times.Enter(lane.has_tokens);
  RETURN_IF_ERROR(epoch_->failure);
  const double took_us = lane.end.MillisecondsSince(lane.begin) * 1000;
  epoch_->failure = epoch_->times.Leave(
      lane.has_tokens, lane.has_tokens ? static_cast<int64_t>(std::ceil(took_us)) : 0);
  RETURN_IF_ERROR(epoch_->failure);
  if (!IsSampler(shape())) return std::nullopt;
  StepResult result{.epoch = epoch_->id, .step_id = lane.step_id};
  const auto* sampled = reinterpret_cast<const CudaSampledToken*>(lane.sampled.data());
  for (size_t i = 0; i < lane.head_rows.size(); ++i) {
    const HeadRow& row = lane.head_rows[i];
    std::vector<SampledToken>& list =
        row.target_token_id < 0 ? result.sampled : result.prompt_logprobs;
    list.push_back(ToSampledToken(sampled[i], {.slot = row.slot,
                                               .position = row.position,
                                               .n_generated_tokens = row.n_generated_tokens,
                                               .target_token_id = row.target_token_id}));
  }
  const absl::Span<const int64_t> stage_us = epoch_->times.stage_us();
  result.stage_us.assign(stage_us.begin(), stage_us.end());
  return result;
}

}  // namespace bora
