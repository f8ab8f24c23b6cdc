// bora-coordinator: the process that clients and workers connect to. Makes engine and listeners
// from the flags, waits for a stop signal, and shuts down in order.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/auth/credential.h"
#include "base/clock.h"
#include "base/error_list.h"
#include "base/flags/command_line.h"
#include "base/host/cgroup.h"
#include "base/host/listen_check.h"
#include "base/host/process.h"
#include "base/host/process_limits.h"
#include "base/host/start_log.h"
#include "base/log.h"
#include "base/rpc/accept_guard.h"
#include "base/rpc/rpc_log.h"
#include "base/status_macros.h"
#include "base/steady_waits.h"
#include "coordinator/api/reporter.h"
#include "coordinator/coordinator_flags.h"
#include "coordinator/engine/engine.h"
#include "coordinator/grpc/public_server.h"
#include "coordinator/server_config.h"
#include "coordinator/worker_port/worker_server.h"

namespace bora {
namespace {

constexpr char kProgram[] = "bora-coordinator";
// How long closing everything may take after --shutdown-timeout, before the process is ended.
constexpr absl::Duration kStopMargin = absl::Seconds(10);

// The options of the clients' listener.
PublicServerOptions PublicOptions(const CoordinatorFlags& flags) {
  PublicServerOptions options;
  options.listen_address = flags.listen;
  options.insecure_listen = flags.insecure_listen;
  if (flags.access_log == "errors") options.access_log.mode = AccessLogMode::kErrors;
  if (flags.access_log == "off") options.access_log.mode = AccessLogMode::kOff;
  options.access_log.sample = flags.access_log_sample;
  return options;
}

// OK if the workers' listener may be plaintext on its address, as for clients. A listener that
// other machines can reach also needs a credential.
absl::Status CheckWorkerListen(const CoordinatorFlags& flags) {
  PublicServerOptions as_public = PublicOptions(flags);
  as_public.listen_address = flags.worker_listen;
  RETURN_IF_ERROR(Annotate(CheckListenAddress(as_public), "--worker-listen"));
  as_public.insecure_listen = false;
  if (flags.server.worker_credential.empty() && !CheckListenAddress(as_public).ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--worker-listen=", as_public.listen_address,
                     " is not a loopback address: --worker-credential-file is required"));
  }
  return absl::OkStatus();
}

// Waits for a stop signal and returns the time at which it came. From then on the process has
// shutdown_timeout + kStopMargin to end by itself.
SteadyTime WaitForStop(StopSignals* signals, absl::Duration shutdown_timeout) {
  auto told = std::make_shared<absl::Notification>();
  signals->OnStop([told] { told->Notify(); }, shutdown_timeout + kStopMargin);
  told->WaitForNotification();
  LogInfo("draining");
  return SteadyNow();
}

// Prints the reason why the process cannot start, and returns its exit code.
int Fail(const absl::Status& status) {
  ErrorList errors;
  errors.Add(status);
  PrintErrors(kProgram, errors.lines(), /*is_usage=*/false);
  return kExitCannotStart;
}

// How many descriptors the process needs. Every request may come over a connection of its own, and
// every worker has one. The process itself takes 10 descriptors when it is idle and more for short
// times: 64 are counted for that, and 64 for peers on the worker port that have not authenticated.
DescriptorNeeds NeedsOf(const ServerConfig& config) {
  const ServerFacts& facts = config.server_facts;
  DescriptorNeeds needs;
  needs.to_start = 64 + int64_t{facts.tensor_parallel_size} * facts.pipeline_parallel_size +
                   config.engine.cluster.max_spares;
  needs.at_full_load = needs.to_start + 64 + facts.max_num_seqs + facts.max_num_queued_reqs;
  return needs;
}

// Logs a warning if the control groups leave less memory than the process may need: 64 MiB when it
// is idle, and the token ids of a prompt of full length for each slot and each place in the queue.
void WarnOfLittleMemory(const ServerConfig& config) {
  constexpr int64_t kIdleBytes = 64 << 20;
  const ServerFacts& facts = config.server_facts;
  const int64_t n_sequences = int64_t{facts.max_num_seqs} + facts.max_num_queued_reqs;
  const int64_t needed_bytes = kIdleBytes + n_sequences * config.model_facts.context_length *
                                                static_cast<int64_t>(sizeof(int32_t));
  const std::optional<CgroupMemory> memory = LeastCgroupMemory(kCgroupRoot, CgroupMembership());
  if (!memory.has_value() || memory->left_bytes >= needed_bytes) return;
  LogWarning("little memory", {{"control_group", memory->dir},
                               {"left_bytes", memory->left_bytes},
                               {"needed_bytes", needed_bytes},
                               {"for", "as many prompts of full length as may run and wait"}});
}

// Checks everything that can be checked before the process starts, so that an operator sees all
// errors at once. Adds errors of flags and model files to `usage`, and addresses that cannot be
// listened on to `addresses`. Fills in the credential in `flags`. Returns the configuration unless
// `usage` has errors.
absl::StatusOr<ServerConfig> CheckStart(CoordinatorFlags* flags, ErrorList* usage,
                                        ErrorList* addresses) {
  absl::StatusOr<std::string> credential =
      ReadCredential("--worker-credential-file", flags->worker_credential_file);
  const bool has_credential = usage->Add(credential.status());
  if (has_credential) flags->server.worker_credential = *std::move(credential);
  if (usage->Add(Annotate(CheckListenAddress(PublicOptions(*flags)), "--listen"))) {
    addresses->Add(Annotate(CheckCanListen(flags->listen), "--listen"));
  }
  if (has_credential && usage->Add(CheckWorkerListen(*flags))) {
    addresses->Add(Annotate(CheckCanListen(flags->worker_listen), "--worker-listen"));
  }
  if (!usage->empty()) {
    usage->Add(CheckModelFiles(flags->server));
    return usage->ToStatus();
  }
  absl::StatusOr<ServerConfig> config = MakeServerConfig(flags->server);
  usage->Add(config.status());
  return config;
}

// Runs the coordinator until a stop signal, and returns the exit code.
int Run(CoordinatorFlags flags, const CommandLine::Parsed& parsed, StopSignals* signals) {
  ErrorList usage;
  ErrorList addresses;
  for (const std::string& error : parsed.errors) usage.Add(absl::InvalidArgumentError(error));
  const absl::StatusOr<ServerConfig> config = CheckStart(&flags, &usage, &addresses);
  if (!usage.empty() || !addresses.empty()) {
    PrintErrors(kProgram, usage.lines(), /*is_usage=*/false);
    PrintErrors(kProgram, addresses.lines(), /*is_usage=*/!parsed.errors.empty());
    return usage.empty() ? kExitCannotStart : kExitUsage;
  }

  LogConfiguration(parsed.settings);
  WarnOfLittleMemory(*config);
  const absl::Status descriptors = CheckDescriptors(RaiseDescriptorLimit(), NeedsOf(*config));
  if (!descriptors.ok()) return Fail(descriptors);

  // The engine reports to the clients' listener, which needs the engine: so the engine gets a
  // pointer that is set before the engine's thread starts.
  std::atomic<PublicServer*> public_server{nullptr};
  Engine engine(config->engine, *config->tokenizer, [&public_server](bool serving) {
    LogInfo(serving ? "serving" : "not serving");
    public_server.load()->SetServing(serving);
  });
  absl::StatusOr<std::unique_ptr<PublicServer>> clients = PublicServer::Start(
      PublicOptions(flags), config->model_facts, config->server_facts, &engine, *config->tokenizer);
  if (!clients.ok()) return Fail(Annotate(clients.status(), "--listen"));
  public_server = clients->get();
  engine.Start();
  const ClusterOptions& cluster = config->engine.cluster;
  const auto n_stages = static_cast<int32_t>(cluster.load.layers_per_stage.size());
  const absl::StatusOr<std::unique_ptr<WorkerServer>> workers = WorkerServer::Start(
      flags.worker_listen,
      {flags.server.worker_credential, WorkerMessageLimits::Of(cluster.limits, n_stages)}, &engine);
  if (!workers.ok()) return Fail(Annotate(workers.status(), "--worker-listen"));
  LogInfo("listening", {{"port", (*clients)->port()},
                        {"worker_port", (*workers)->port()},
                        {"model", config->model_facts.name},
                        {"max_model_len", config->model_facts.context_length},
                        {"dtype", config->model_facts.dtype}});
  ReporterSources sources;
  sources.n_ranks =
      config->server_facts.tensor_parallel_size * config->server_facts.pipeline_parallel_size;
  sources.snapshot = [&engine] { return engine.Snapshot(); };
  sources.engine_loop_count = [&engine] { return engine.loop_count(); };
  sources.set_live = [&clients](bool live) { (*clients)->SetLive(live); };
  sources.take_call_stats = [&clients] { return (*clients)->access_log().TakeStats(); };
  sources.flush_refusals = [&clients] { (*clients)->access_log().FlushRefusals(); };
  auto reporter = std::make_unique<Reporter>(std::move(sources));

  // In this order: requests end, their last messages are written, then the workers are let go.
  const SteadyTime deadline = WaitForStop(signals, flags.shutdown_timeout) + flags.shutdown_timeout;
  auto drained = std::make_shared<absl::Notification>();
  engine.Drain(deadline, [drained] { drained->Notify(); });
  drained->WaitForNotification();
  // The last messages of streams that have ended are still being written.
  (*clients)->Shutdown(SteadyNow() + absl::Seconds(2));
  reporter.reset();
  engine.Stop();
  (*workers)->Shutdown(SteadyNow() + absl::Seconds(1));
  LogInfo("stopped");
  return 0;
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  const pid_t parent = getppid();  // read first: the parent may end at any time
  bora::CoordinatorFlags flags;
  const bora::CommandLine::Parsed parsed = bora::CoordinatorCommandLine(&flags).Parse(argc, argv);
  if (parsed.exit_code.has_value()) return *parsed.exit_code;
  // Before any thread starts, so that all of them inherit the mask.
  bora::BlockStopSignals();
  if (flags.exit_with_parent && !bora::EndWithParent(parent)) return 0;
  bora::StartLog("coordinator", flags.log_level, flags.log_format);
  bora::StopSignals signals;
  bora::TakeOverRpcLogs(bora::LogLevel::kWarning);
  bora::GuardAccept();
  if (!bora::UseSteadyWaits()) {
    bora::LogWarning("this Abseil sleeps by the system clock: setting it back delays timers");
  }
  // Debian builds Abseil with assertions, and every lock would search a global graph for cycles.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const int exit_code = bora::Run(std::move(flags), parsed, &signals);
  bora::FlushLog();
  std::fflush(stdout);
  // The signal thread is still waiting: exit without destroying objects that it uses.
  _exit(exit_code);
}
