// bora-worker runs one rank of a model. Its flags name a coordinator and a credential; the
// coordinator tells it everything else.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/auth/credential.h"
#include "base/build_info.h"
#include "base/error_list.h"
#include "base/flags/command_line.h"
#include "base/host/host_port.h"
#include "base/host/process.h"
#include "base/host/process_limits.h"
#include "base/host/start_log.h"
#include "base/log.h"
#include "base/rpc/rpc_log.h"
#include "base/status_macros.h"
#include "base/steady_waits.h"
#include "kernels/cpu/device_list.h"
#include "worker/agent.h"
#include "worker/comm/listener.h"
#include "worker/coordinator_client.h"
#include "worker/cpu/cpu_rank_loader.h"
#include "worker/cuda/cuda_rank_loader.h"
#include "worker/sim/sim_cost.h"
#include "worker/sim/sim_rank_loader.h"
#include "worker/stage/rank_loader.h"
#include "worker/weights/host_memory.h"
#include "worker/worker_flags.h"

namespace bora {
namespace {

constexpr char kProgram[] = "bora-worker";
// Exit code, besides those of all programs: the coordinator has refused this worker for good.
constexpr int kExitRefused = 3;

// The time that a stop signal leaves for ending a step or a load and for giving back the device.
constexpr absl::Duration kStopLimit = absl::Seconds(10);

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

// The instruction sets that --isa selects. Errors name the flag.
absl::StatusOr<SimdChoice> ChosenSimd(const WorkerFlags& flags) {
  absl::StatusOr<SimdChoice> simd = SimdChoiceByName(flags.isa);
  if (!simd.ok()) return Annotate(simd.status(), "--isa");
  return simd;
}

absl::StatusOr<std::unique_ptr<RankLoader>> MakeCpuRankLoader(const WorkerFlags& flags) {
  CpuRankOptions options;
  ASSIGN_OR_RETURN(options.simd, ChosenSimd(flags));
  LogInfo("instruction sets", {{"isa", flags.isa}, {"chosen", DescribeSimdChoice(options.simd)}});
  options.n_threads = flags.threads;
  options.pin_threads = flags.pin_threads;
  return std::make_unique<CpuRankLoader>(options);
}

// ordinal: the text that follows "cuda" in --device, "" or ":N".
absl::StatusOr<std::unique_ptr<RankLoader>> MakeCudaLoader(const WorkerFlags& flags,
                                                           absl::string_view ordinal) {
  CudaLoaderOptions options;
  if (!ordinal.empty() && (!absl::ConsumePrefix(&ordinal, ":") ||
                           !absl::SimpleAtoi(ordinal, &options.ordinal) || options.ordinal < 0)) {
    return absl::InvalidArgumentError("a GPU is cuda or cuda:N with N >= 0");
  }
  options.memory_utilization = flags.gpu_memory_utilization;
  options.deterministic = flags.deterministic;
  options.use_graphs = !flags.enforce_eager;
  return MakeCudaRankLoader(options);
}

// The loader for --device. INVALID_ARGUMENT if the flag names no device; other errors if the device
// cannot be used.
absl::StatusOr<std::unique_ptr<RankLoader>> MakeRankLoader(const WorkerFlags& flags) {
  const std::string& device = flags.device;
  absl::string_view costs = device;
  if (absl::ConsumePrefix(&costs, "sim") && (costs.empty() || absl::ConsumePrefix(&costs, ":"))) {
    const absl::StatusOr<SimCost> cost = ParseSimCost(costs);
    if (!cost.ok()) return Annotate(cost.status(), absl::StrCat("--device=", device));
    return std::make_unique<SimRankLoader>(*cost);
  }
  if (device == "cpu" || (device == "auto" && !HasCudaDevice())) return MakeCpuRankLoader(flags);
  absl::string_view ordinal = device == "auto" ? absl::string_view("cuda") : device;
  if (absl::ConsumePrefix(&ordinal, "cuda")) {
    absl::StatusOr<std::unique_ptr<RankLoader>> loader = MakeCudaLoader(flags, ordinal);
    if (!loader.ok()) return Annotate(loader.status(), absl::StrCat("--device=", device));
    return loader;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--device=", device, " is none of auto, cpu, cuda, cuda:N and sim"));
}

// The address on which other ranks reach this one: --bind, or the address from which this host
// reaches the coordinator. Waits while the coordinator's name does not resolve, because both may be
// started at the same time.
absl::StatusOr<std::string> AwaitBindAddress(const WorkerFlags& flags) {
  if (!flags.bind.empty()) return flags.bind;
  while (true) {
    absl::StatusOr<std::string> address = LocalAddressTowards(flags.coordinator);
    if (!absl::IsUnavailable(address.status())) return address;
    LogWarning("waiting for the coordinator's address", {{"reason", address.status().message()}});
    absl::SleepFor(absl::Seconds(1));
  }
}

// Prints the error; returns `exit_code`.
int Fail(const absl::Status& status, int exit_code) {
  ErrorList errors;
  errors.Add(status);
  PrintErrors(kProgram, errors.lines(), /*is_usage=*/false);
  return exit_code;
}

// The program after its set-up; returns the exit code.
int Run(const WorkerFlags& flags, const CommandLine::Parsed& parsed, StopSignals* signals) {
  if (flags.list_devices && parsed.errors.empty()) {
    const absl::StatusOr<SimdChoice> simd = ChosenSimd(flags);
    if (!simd.ok()) return Fail(simd.status(), kExitUsage);
    for (const std::string& line : ListDevices(*simd)) std::printf("%s\n", line.c_str());
    for (const std::string& line : DescribeCudaDevices()) std::printf("%s\n", line.c_str());
    return 0;
  }
  ErrorList usage;
  ErrorList devices;  // named by --device but unusable
  for (const std::string& error : parsed.errors) usage.Add(absl::InvalidArgumentError(error));
  usage.Add(Annotate(CheckHostPort(flags.coordinator, /*min_port=*/1), "--coordinator"));
  const absl::StatusOr<std::string> credential =
      ReadCredential("--credential-file", flags.credential_file);
  usage.Add(credential.status());
  absl::StatusOr<std::unique_ptr<RankLoader>> loader = MakeRankLoader(flags);
  (absl::IsInvalidArgument(loader.status()) ? usage : devices).Add(loader.status());
  if (!usage.empty() || !devices.empty()) {
    PrintErrors(kProgram, usage.lines(), /*is_usage=*/false);
    PrintErrors(kProgram, devices.lines(), /*is_usage=*/!parsed.errors.empty());
    return usage.empty() ? kExitCannotStart : kExitUsage;
  }
  LogConfiguration(parsed.settings, {{"available_memory_bytes", AvailableMemoryBytes()},
                                     {"memory_bound", MemoryBoundText()}});
  // A link takes a few descriptors; the number of other ranks is not known yet.
  const absl::Status descriptors =
      CheckDescriptors(RaiseDescriptorLimit(), {.to_start = 64, .at_full_load = 256});
  if (!descriptors.ok()) return Fail(descriptors, kExitCannotStart);
  const absl::StatusOr<std::string> bind_address = AwaitBindAddress(flags);
  if (!bind_address.ok()) return Fail(bind_address.status(), kExitUsage);
  (*loader)->UseAddress(*bind_address);
  ListenerOptions listener_options;
  listener_options.bind_address = *bind_address;
  absl::StatusOr<std::unique_ptr<Listener>> listener = Listener::Create(listener_options);
  if (!listener.ok()) return Fail(listener.status(), kExitCannotStart);

  CoordinatorClientOptions client_options;
  client_options.address = flags.coordinator;
  client_options.credential = *credential;
  // Shared with the signal thread, which outlives this function.
  const auto client = std::make_shared<CoordinatorClient>(client_options);
  AgentOptions agent_options;
  agent_options.build_id = BuildId();
  agent_options.host = HostName();
  WorkerAgent agent(agent_options, *std::move(loader), *std::move(listener),
                    [&client](int64_t connection_id, const WorkerMessage& message) {
                      return client->Send(connection_id, message);
                    });

  signals->OnStop([client] { client->Stop(); }, kStopLimit);

  const absl::Status status = client->Run(&agent);
  if (!status.ok()) {
    LogError("refused by the coordinator", {{"reason", status.message()}});
    return kExitRefused;
  }
  return 0;
}

}  // namespace
}  // namespace bora

int main(int argc, char** argv) {
  const pid_t parent = getppid();
  bora::WorkerFlags flags;
  const bora::CommandLine::Parsed parsed = bora::WorkerCommandLine(&flags).Parse(argc, argv);
  if (parsed.exit_code.has_value()) return *parsed.exit_code;
  bora::BlockStopSignals();
  if (flags.exit_with_parent && !bora::EndWithParent(parent)) return 0;
  bora::StartLog("worker", flags.log_level, flags.log_format);
  bora::StopSignals signals;
  if (!bora::UseSteadyWaits()) {
    bora::LogWarning("this Abseil sleeps by the system clock: setting it back delays timers");
  }
  bora::TakeOverRpcLogs(bora::LogLevel::kWarning);
  // Debian builds Abseil with assertions, with which every lock looks for cycles in a global graph.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const int exit_code = bora::Run(flags, parsed, &signals);
  bora::FlushLog();
  std::fflush(stdout);
  // The thread of `signals` still runs; destructors of globals must not run while it does.
  _exit(exit_code);
}
