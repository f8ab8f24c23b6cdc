#include "coordinator/grpc/model_service.h"

#include <sys/resource.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "coordinator/api/generator.h"
#include "coordinator/api/proto_duration.h"
#include "coordinator/api/request_validator.h"
#include "coordinator/grpc/unary_reactor.h"

namespace bora {
namespace {

namespace v1 = inference::v1;

// Time that all cores have spent in this process, in user and kernel mode.
absl::Duration CpuDuration() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return absl::DurationFromTimeval(usage.ru_utime) + absl::DurationFromTimeval(usage.ru_stime);
}

// A server that drains says so, whatever the state of its group.
v1::GroupState ToProto(const ServerSnapshot& snapshot) {
  if (snapshot.draining) return v1::GROUP_STATE_DRAINING;
  switch (snapshot.group_state) {
    case GroupState::kWaitingForWorkers:
      return v1::GROUP_STATE_WAITING_FOR_WORKERS;
    case GroupState::kLoading:
      return v1::GROUP_STATE_LOADING;
    case GroupState::kJoining:
      return v1::GROUP_STATE_JOINING;
    case GroupState::kServing:
      return v1::GROUP_STATE_SERVING;
    case GroupState::kSuspect:
      return v1::GROUP_STATE_SUSPECT;
  }
  return v1::GROUP_STATE_UNSPECIFIED;
}

v1::WorkerState ToProto(WorkerState state) {
  switch (state) {
    case WorkerState::kSpare:
      return v1::WORKER_STATE_SPARE;
    case WorkerState::kLoading:
      return v1::WORKER_STATE_LOADING;
    case WorkerState::kLoaded:
      return v1::WORKER_STATE_LOADED;
    case WorkerState::kJoining:
      return v1::WORKER_STATE_JOINING;
    case WorkerState::kServing:
      return v1::WORKER_STATE_SERVING;
    case WorkerState::kSuspect:
      return v1::WORKER_STATE_SUSPECT;
  }
  return v1::WORKER_STATE_UNSPECIFIED;
}

// The Fill functions write every field of *out, which is empty.
void FillConnectionLimits(v1::ConnectionLimits* out) {
  out->set_max_concurrent_streams(kMaxConnectionStreams);
  out->set_max_metadata_bytes(kMaxMetadataBytes);
  SetDuration(absl::Seconds(kMaxConnectionAgeS), out->mutable_max_age());
  SetDuration(absl::Seconds(kMaxConnectionGraceS), out->mutable_max_age_grace());
  SetDuration(absl::Seconds(kMaxConnectionIdleS), out->mutable_max_idle());
  SetDuration(absl::Seconds(kMinPingIntervalS), out->mutable_min_ping_interval());
}

void FillWorker(const WorkerSnapshot& worker, SteadyTime now, v1::WorkerInfo* out) {
  out->set_worker_id(worker.worker_id);
  out->set_host(worker.host);
  out->set_pid(worker.pid);
  out->set_device(worker.device);
  out->set_state(ToProto(worker.state));
  out->set_stage(worker.stage);
  out->set_tensor_rank(worker.tensor_rank);
  out->set_layer_begin(worker.layer_begin);
  out->set_layer_end(worker.layer_end);
  out->set_weight_bytes(worker.weight_bytes);
  out->set_kv_cache_bytes(worker.kv_cache_bytes);
  out->set_load_progress(worker.load_progress);
  SetDuration(now - worker.last_heartbeat, out->mutable_last_heartbeat_age());
}

void FillHistogram(const LatencyHistogram& histogram, v1::LatencyHistogram* out) {
  out->mutable_counts()->Add(histogram.counts().begin(), histogram.counts().end());
  SetDuration(histogram.sum(), out->mutable_sum());
}

void FillLoad(const LoadSnapshot& load, int32_t block_size, v1::Load* out) {
  out->set_running_count(load.n_running);
  out->set_waiting_count(load.n_waiting);
  out->set_waiting_prompt_token_count(load.n_waiting_prompt_tokens);
  out->set_kv_block_count(load.n_blocks);
  out->set_kv_block_used_count(load.n_blocks_used);
  out->set_kv_block_cached_count(load.n_blocks_cached);
  out->set_kv_block_size(block_size);
  out->set_step_in_flight_count(load.n_steps_in_flight);
  out->set_output_token_total(load.n_output_tokens_total);
  out->set_prompt_token_total(load.n_prompt_tokens_total);
  out->set_finished_request_total(load.n_finished_requests_total);
  out->set_step_total(load.n_steps_total);
  SetDuration(CpuDuration(), out->mutable_cpu_duration());
  out->set_cached_prompt_token_total(load.n_cached_prompt_tokens_total);
  out->set_preemption_total(load.n_preemptions_total);
  out->set_step_time_error_p90(load.step_time_error_p90);
  SetDuration(load.busy_total, out->mutable_busy_duration());
  for (const absl::Duration compute : load.stage_compute_total) {
    SetDuration(compute, out->add_stage_compute_durations());
  }
  FillHistogram(load.time_to_first_token, out->mutable_time_to_first_token());
  FillHistogram(load.token_gap, out->mutable_token_gap());
}

// Reports the defaults in force: the model's, and the API's where the model has none.
void FillSamplingDefaults(const SamplingDefaults& defaults, v1::SamplingDefaults* out) {
  const SamplingParams params = DefaultSampling(defaults);
  out->set_temperature(params.temperature);
  out->set_top_p(params.top_p);
  out->set_top_k(params.top_k);
  out->set_min_p(params.min_p);
  out->set_repetition_penalty(params.repetition_penalty);
  out->set_max_tokens(defaults.max_tokens.value_or(kDefaultMaxTokens));
}

}  // namespace

v1::Model MakeModel(const ModelFacts& model, const Tokenizer& tokenizer,
                    const std::string& weights_digest) {
  v1::Model out;
  out.set_name(absl::StrCat("models/", model.name));
  out.set_context_length(model.context_length);
  out.set_vocab_size(tokenizer.vocab_size());
  out.set_bos_token_id(tokenizer.bos_id());
  out.mutable_eos_token_ids()->Add(model.eos_token_ids.begin(), model.eos_token_ids.end());
  out.set_dtype(model.dtype);
  out.set_quantization(model.quantization);
  out.set_layer_count(model.n_layers);
  out.set_dim(model.dim);
  out.set_head_count(model.n_heads);
  out.set_kv_head_count(model.n_kv_heads);
  out.set_weights_digest(weights_digest);
  FillSamplingDefaults(model.sampling_defaults, out.mutable_sampling_defaults());
  v1::Limits* limits = out.mutable_limits();
  limits->set_max_prompt_bytes(kMaxPromptBytes);
  limits->set_max_logprobs(kMaxLogprobs);
  limits->set_max_stop_sequences(kMaxStopSequences);
  limits->set_max_stop_sequence_code_points(kMaxStopSequenceCodePoints);
  limits->set_max_stop_token_ids(kMaxStopTokenIds);
  limits->set_max_batch_inputs(kMaxBatchInputs);
  limits->set_max_request_bytes(kMaxMessageBytes);
  limits->set_max_candidates(kMaxCandidates);
  return out;
}

v1::ServerInfo MakeServerInfo(const ServerFacts& facts, const ServerSnapshot& snapshot,
                              SteadyTime start, SteadyTime now) {
  v1::ServerInfo out;
  out.set_version(facts.version);
  out.set_git_commit(facts.git_commit);
  out.set_tensor_parallel_size(facts.tensor_parallel_size);
  out.set_pipeline_parallel_size(facts.pipeline_parallel_size);
  out.set_group_state(ToProto(snapshot));
  out.set_group_detail(snapshot.group_detail);
  out.set_epoch(snapshot.epoch);
  for (const WorkerSnapshot& worker : snapshot.workers) FillWorker(worker, now, out.add_workers());
  FillLoad(snapshot.load, facts.block_size, out.mutable_load());
  SetDuration(now - start, out.mutable_uptime());
  out.set_max_num_seqs(facts.max_num_seqs);
  out.set_max_num_batched_tokens(facts.max_num_batched_tokens);
  out.set_max_num_queued_reqs(facts.max_num_queued_reqs);
  FillConnectionLimits(out.mutable_connection_limits());
  out.set_generation_config(facts.generation_config);
  return out;
}

ModelServiceImpl::ModelServiceImpl(const ServerFacts& facts, const CallServices& services)
    : facts_(facts), services_(services), start_(SteadyNow()) {}

v1::Model ModelServiceImpl::CurrentModel() const {
  return MakeModel(services_.validator->model(), services_.validator->tokenizer(),
                   services_.engine->Snapshot().weights_digest);
}

grpc::ServerUnaryReactor* ModelServiceImpl::ListModels(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return RunUnary<v1::ListModelsRequest, v1::ListModelsResponse>(
      "ListModels", context, request, response, services_,
      [this](const v1::ListModelsRequest&,
             v1::ListModelsResponse* answer) -> std::optional<ApiError> {
        *answer->add_models() = CurrentModel();
        return std::nullopt;
      });
}

grpc::ServerUnaryReactor* ModelServiceImpl::GetModel(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return RunUnary<v1::GetModelRequest, v1::Model>(
      "GetModel", context, request, response, services_,
      [this](const v1::GetModelRequest& message, v1::Model* answer) -> std::optional<ApiError> {
        if (auto error = services_.validator->CheckModel(message.name())) return error;
        *answer = CurrentModel();
        return std::nullopt;
      });
}

grpc::ServerUnaryReactor* ModelServiceImpl::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  return RunUnary<v1::GetServerInfoRequest, v1::ServerInfo>(
      "GetServerInfo", context, request, response, services_,
      [this](const v1::GetServerInfoRequest&, v1::ServerInfo* answer) -> std::optional<ApiError> {
        *answer = MakeServerInfo(facts_, services_.engine->Snapshot(), start_, SteadyNow());
        return std::nullopt;
      });
}

}  // namespace bora
