// bora-coordinator: the process that clients and workers connect to. Wires flags, engine and
// listeners together.
#include <google/protobuf/stubs/logging.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/clock.h"
#include "base/credential.h"
#include "base/flag_names.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "base/steady_waits.h"
#include "coordinator/engine.h"
#include "coordinator/public_server.h"
#include "coordinator/server_config.h"
#include "coordinator/worker_server.h"

ABSL_FLAG(std::string, model, "", "Model directory: Hugging Face or Mistral layout. Required.");
ABSL_FLAG(std::string, served_model_name, "", "Name in the API. Default: the directory's name.");
ABSL_FLAG(std::string, tokenizer, "",
          "tokenizer.model file. Default: the one in the model directory.");
ABSL_FLAG(std::string, load_format, "auto",
          "auto: the checkpoint's weights. dummy: random weights of the config's shape.");
ABSL_FLAG(std::string, dtype, "auto",
          "Weights and KV cache: auto (as the checkpoint), float32 or bfloat16.");
ABSL_FLAG(
    std::string, quantization, "none",
    "none, or int8: workers keep their matrices in 8 bits with a scale for each row and group "
    "of up to 128 columns.");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051", "HOST:PORT for clients; port 0 = any.");
ABSL_FLAG(std::string, worker_listen, "127.0.0.1:50052", "HOST:PORT for workers; port 0 = any.");
ABSL_FLAG(bool, insecure_listen, false,
          "Allow listeners without encryption on addresses other than loopback.");
ABSL_FLAG(std::string, worker_credential_file, "",
          "File whose first line workers must know. Empty: the environment variable "
          "BORA_WORKER_CREDENTIAL. Required unless --worker-listen is a loopback address.");
ABSL_FLAG(int32_t, tensor_parallel_size, 1, "Ranks that share each layer.");
ABSL_FLAG(int32_t, pipeline_parallel_size, 1, "Stages that share the layers.");
ABSL_FLAG(std::vector<std::string>, layers_per_stage, {},
          "Layers of each stage, comma-separated. Default: balanced.");
ABSL_FLAG(int32_t, max_model_len, 0,
          "Tokens of prompt and completion together. Default: the model's context length.");
ABSL_FLAG(int32_t, max_num_seqs, 64, "Requests that run at the same time.");
ABSL_FLAG(
    int32_t, max_num_batched_tokens, 128,
    "Tokens of one step; longer prompts are cut in chunks. Open streams wait that long for their "
    "next token; a CPU is as efficient with 64 tokens as with more.");
ABSL_FLAG(int32_t, max_num_queued_reqs, 1024,
          "Sequences that wait, one for each candidate of a request; more are refused.");
ABSL_FLAG(
    int64_t, kv_cache_memory_bytes, 0,
    "KV cache of each worker, at most. Default: on a GPU all that its worker has set aside "
    "(--gpu-memory-utilization), otherwise 1 GiB, or what a request of --max-model-len takes if "
    "that is more.");
ABSL_FLAG(bool, enable_prefix_caching, true,
          "Share the KV blocks of prompts that begin alike; answers are the same without.");
ABSL_FLAG(std::vector<std::string>, tenant_weights, {},
          "Shares of the server's time as TENANT=WEIGHT,...; a tenant that is not named has 1.");
ABSL_FLAG(
    bool, async_scheduling, true,
    "Plan the next step before the last one's result is back, so that no worker waits for the "
    "coordinator; answers are the same without.");
ABSL_FLAG(
    int32_t, step_time_budget_ms, 100,
    "While requests decode, prompts are cut so that a step takes about this long; 16 tokens a "
    "step at least. 0: no limit but --max-num-batched-tokens.");
ABSL_FLAG(uint64_t, seed, 0, "Seed of dummy weights.");
ABSL_FLAG(absl::Duration, shutdown_timeout, absl::Seconds(30),
          "After SIGTERM, time for requests to end.");
ABSL_FLAG(absl::Duration, heartbeat_timeout, absl::Seconds(5),
          "Silence after which a worker is lost, and every open stream with it; 2s at least. "
          "After 1.5 s already nothing new is accepted.");
ABSL_FLAG(bool, exit_with_parent, false, "Exit when the process that started this one is gone.");

namespace bora {
namespace {

constexpr int kExitCannotStart = 1;
constexpr int kExitUsage = 2;
// After --shutdown-timeout, until everything is closed.
constexpr absl::Duration kStopMargin = absl::Seconds(10);

absl::StatusOr<ServerFlags> ReadFlags() {
  ServerFlags flags;
  flags.model = absl::GetFlag(FLAGS_model);
  flags.served_model_name = absl::GetFlag(FLAGS_served_model_name);
  flags.tokenizer = absl::GetFlag(FLAGS_tokenizer);
  flags.load_format = absl::GetFlag(FLAGS_load_format);
  flags.dtype = absl::GetFlag(FLAGS_dtype);
  flags.quantization = absl::GetFlag(FLAGS_quantization);
  flags.tensor_parallel_size = absl::GetFlag(FLAGS_tensor_parallel_size);
  flags.pipeline_parallel_size = absl::GetFlag(FLAGS_pipeline_parallel_size);
  flags.layers_per_stage = absl::GetFlag(FLAGS_layers_per_stage);
  flags.max_model_len = absl::GetFlag(FLAGS_max_model_len);
  flags.max_num_seqs = absl::GetFlag(FLAGS_max_num_seqs);
  flags.max_num_batched_tokens = absl::GetFlag(FLAGS_max_num_batched_tokens);
  flags.max_num_queued_reqs = absl::GetFlag(FLAGS_max_num_queued_reqs);
  flags.kv_cache_memory_bytes = absl::GetFlag(FLAGS_kv_cache_memory_bytes);
  flags.enable_prefix_caching = absl::GetFlag(FLAGS_enable_prefix_caching);
  flags.tenant_weights = absl::GetFlag(FLAGS_tenant_weights);
  flags.async_scheduling = absl::GetFlag(FLAGS_async_scheduling);
  flags.step_time_budget_ms = absl::GetFlag(FLAGS_step_time_budget_ms);
  flags.heartbeat_timeout = absl::GetFlag(FLAGS_heartbeat_timeout);
  flags.seed = absl::GetFlag(FLAGS_seed);
  ASSIGN_OR_RETURN(
      flags.worker_credential,
      ReadCredential("--worker-credential-file", absl::GetFlag(FLAGS_worker_credential_file)));
  return flags;
}

PublicServerOptions PublicOptions() {
  PublicServerOptions options;
  options.listen_address = absl::GetFlag(FLAGS_listen);
  options.insecure_listen = absl::GetFlag(FLAGS_insecure_listen);
  return options;
}

absl::Status CheckWorkerListen(const std::string& credential) {
  PublicServerOptions as_public = PublicOptions();
  as_public.listen_address = absl::GetFlag(FLAGS_worker_listen);
  RETURN_IF_ERROR(Annotate(CheckListenAddress(as_public), "--worker-listen"));
  as_public.insecure_listen = false;
  if (credential.empty() && !CheckListenAddress(as_public).ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--worker-listen=", as_public.listen_address,
                     " is not a loopback address: --worker-credential-file is required"));
  }
  return absl::OkStatus();
}

// Waits until the process is told to stop, and returns when that was.
SteadyTime WaitForStop(StopSignals* signals, absl::Duration shutdown_timeout) {
  auto told = std::make_shared<absl::Notification>();
  signals->OnStop([told] { told->Notify(); }, shutdown_timeout + kStopMargin);
  told->WaitForNotification();
  LogInfo("draining");
  return SteadyNow();
}

int Fail(const absl::Status& status, int exit_code) {
  std::fprintf(stderr, "bora-coordinator: %s\n", std::string(status.message()).c_str());
  return exit_code;
}

int Run(StopSignals* signals) {
  const absl::StatusOr<ServerFlags> flags = ReadFlags();
  if (!flags.ok()) return Fail(flags.status(), kExitUsage);
  const absl::Status listen = Annotate(CheckListenAddress(PublicOptions()), "--listen");
  if (!listen.ok()) return Fail(listen, kExitUsage);
  const absl::Status worker_listen = CheckWorkerListen(flags->worker_credential);
  if (!worker_listen.ok()) return Fail(worker_listen, kExitUsage);
  const absl::StatusOr<ServerConfig> config = MakeServerConfig(*flags);
  if (!config.ok()) return Fail(config.status(), kExitUsage);

  std::atomic<PublicServer*> public_server{nullptr};
  Engine engine(config->engine, *config->tokenizer, [&public_server](bool serving) {
    LogInfo(serving ? "serving" : "not serving");
    public_server.load()->SetServing(serving);
  });
  absl::StatusOr<std::unique_ptr<PublicServer>> clients = PublicServer::Start(
      PublicOptions(), config->model_facts, config->server_facts, &engine, *config->tokenizer);
  if (!clients.ok()) return Fail(clients.status(), kExitCannotStart);
  public_server = clients->get();
  engine.Start();
  const ClusterOptions& cluster = config->engine.cluster;
  const auto n_stages = static_cast<int32_t>(cluster.load.layers_per_stage.size());
  const absl::StatusOr<std::unique_ptr<WorkerServer>> workers = WorkerServer::Start(
      absl::GetFlag(FLAGS_worker_listen),
      {flags->worker_credential, WorkerMessageLimits::Of(cluster.limits, n_stages)}, &engine);
  if (!workers.ok()) {
    return Fail(Annotate(workers.status(), "--worker-listen"), kExitCannotStart);
  }
  LogInfo("listening", {{"port", (*clients)->port()},
                        {"worker_port", (*workers)->port()},
                        {"model", config->model_facts.name},
                        {"max_model_len", config->model_facts.context_length},
                        {"dtype", config->model_facts.dtype}});

  const absl::Duration timeout = absl::GetFlag(FLAGS_shutdown_timeout);
  const SteadyTime deadline = WaitForStop(signals, timeout) + timeout;
  auto drained = std::make_shared<absl::Notification>();
  engine.Drain(deadline, [drained] { drained->Notify(); });
  drained->WaitForNotification();
  // The last messages of streams that have ended are still being written.
  (*clients)->Shutdown(SteadyNow() + absl::Seconds(2));
  engine.Stop();
  (*workers)->Shutdown(SteadyNow() + absl::Seconds(1));
  LogInfo("stopped");
  return 0;
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  const pid_t parent = getppid();
  absl::SetProgramUsageMessage(
      "Serves a model over gRPC with the workers that connect to it.\n"
      "  bora-coordinator --model=DIR [--tensor-parallel-size=T] [--pipeline-parallel-size=P]");
  bora::NormalizeFlagNames(argc, argv);
  absl::ParseCommandLine(argc, argv);
  bora::InitLog("coordinator", bora::LogLevel::kInfo);
  bora::BlockStopSignals();
  if (absl::GetFlag(FLAGS_exit_with_parent) && !bora::EndWithParent(parent)) return 0;
  bora::StopSignals signals;
  if (!bora::UseSteadyWaits()) {
    bora::LogWarning("this Abseil sleeps by the system clock: setting it back delays timers");
  }
  // Debian builds Abseil with assertions: every lock would look for cycles in a global graph.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  // It would print a line that is not JSON for every string of a client that is not UTF-8.
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char*, int, const std::string& message) {
        bora::Log(bora::LogLevel::kDebug, message);
      });
  const int exit_code = bora::Run(&signals);
  std::fflush(nullptr);
  // The signal thread still waits: leave without running destructors under it.
  _exit(exit_code);
}
