// bora-worker: needs a coordinator's address and a credential; everything else it is told.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/build_info.h"
#include "base/credential.h"
#include "base/flag_names.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "base/steady_waits.h"
#include "kernels/device_list.h"
#include "worker/agent.h"
#include "worker/comm/communicator.h"
#include "worker/coordinator_client.h"
#include "worker/cpu_rank_loader.h"
#include "worker/cuda_rank_loader.h"
#include "worker/rank_loader.h"
#include "worker/sim_cost.h"
#include "worker/sim_rank_loader.h"

ABSL_FLAG(std::string, coordinator, "127.0.0.1:50052",
          "HOST:PORT of the coordinator's worker port (its --worker-listen).");
ABSL_FLAG(std::string, credential_file, "",
          "File with the credential that the coordinator expects (its --worker-credential-file). "
          "Empty: the environment variable BORA_WORKER_CREDENTIAL.");
ABSL_FLAG(
    std::string, device, "auto",
    "Device to run on: auto, cpu, cuda, cuda:N or sim. auto is cuda:0 where there is a GPU and cpu "
    "otherwise. sim runs no model: it sleeps for the time of a step "
    "and draws tokens by seed and position, for experiments with capacity and scheduling. Its "
    "times in microseconds may follow, these being the defaults: "
    "sim:base_us=2000,token_us=10,context_us=0.01, for each step of the whole model, each "
    "token in it and each token that a row's attention reads; a stage takes its layers' "
    "share.");
ABSL_FLAG(int, threads, 0,
          "Threads of the CPU device. 0: the CPUs that this process may use (affinity and control "
          "group), divided by the ranks of the group on this host.");
ABSL_FLAG(
    bool, pin_threads, false,
    "Pin each thread of the CPU device to a CPU: the ranks of the group on this host take the "
    "process's CPUs one after another.");
ABSL_FLAG(
    std::string, isa, "auto",
    "Instruction set of the CPU device: auto, avx512bf16, avx512, avx2 or portable. auto is "
    "the quickest for each operation, by a few milliseconds of measurement at start. All give "
    "the same tokens.");
ABSL_FLAG(double, gpu_memory_utilization, 0.9,
          "Part of the GPU's memory for this process, in (0, 1]: weights, working memory, and what "
          "is left for the KV cache.");
ABSL_FLAG(
    bool, deterministic, true,
    "On a GPU: all matrix products by our own kernels, so that a request's tokens depend on "
    "nothing but the request. Without it large products are left to cuBLASLt: the same tokens at "
    "the same load only, and streams that are replayed after a failure may go on differently.");
ABSL_FLAG(bool, enforce_eager, false,
          "On a GPU: queue every kernel of every step instead of recorded graphs.");
ABSL_FLAG(
    std::string, bind, "",
    "Local address on which other ranks reach this one. Empty: the address from which this host "
    "reaches the coordinator.");
ABSL_FLAG(bool, list_devices, false, "Print this host's devices and exit.");
ABSL_FLAG(bool, exit_with_parent, false,
          "Exit when the process that started this one is gone, so that no orphan keeps a device.");

namespace bora {
namespace {

// Exit codes: 0 told to stop, 1 cannot start, 2 bad usage, 3 refused by the coordinator for good.
constexpr int kExitCannotStart = 1;
constexpr int kExitUsage = 2;
constexpr int kExitRefused = 3;

// To end a step or a load, and to give back a device.
constexpr absl::Duration kStopLimit = absl::Seconds(10);

// More than the CPUs of any host; each costs a stack.
constexpr int kMaxThreads = 1024;

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

absl::Status CheckFlags() {
  const int n_threads = absl::GetFlag(FLAGS_threads);
  if (n_threads < 0 || n_threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("--threads=", n_threads, " is not in [0, ", kMaxThreads, "]"));
  }
  const double utilization = absl::GetFlag(FLAGS_gpu_memory_utilization);
  if (!(utilization > 0 && utilization <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpu-memory-utilization=", utilization, " is not in (0, 1]"));
  }
  return Annotate(CheckHostPort(absl::GetFlag(FLAGS_coordinator), /*min_port=*/1), "--coordinator");
}

absl::StatusOr<SimdChoice> ChosenSimd() {
  const std::string isa = absl::GetFlag(FLAGS_isa);
  absl::StatusOr<SimdChoice> simd = SimdChoiceByName(isa);
  if (!simd.ok()) return Annotate(simd.status(), "--isa");
  return simd;
}

absl::StatusOr<std::unique_ptr<RankLoader>> MakeCpuRankLoader() {
  CpuRankOptions options;
  ASSIGN_OR_RETURN(options.simd, ChosenSimd());
  LogInfo("instruction sets",
          {{"isa", absl::GetFlag(FLAGS_isa)}, {"chosen", DescribeSimdChoice(options.simd)}});
  options.n_threads = absl::GetFlag(FLAGS_threads);
  options.pin_threads = absl::GetFlag(FLAGS_pin_threads);
  return std::make_unique<CpuRankLoader>(options);
}

// ordinal: what follows "cuda".
absl::StatusOr<std::unique_ptr<RankLoader>> MakeCudaLoader(absl::string_view ordinal) {
  CudaLoaderOptions options;
  if (!ordinal.empty() && (!absl::ConsumePrefix(&ordinal, ":") ||
                           !absl::SimpleAtoi(ordinal, &options.ordinal) || options.ordinal < 0)) {
    return absl::InvalidArgumentError("a GPU is cuda or cuda:N with N >= 0");
  }
  options.memory_utilization = absl::GetFlag(FLAGS_gpu_memory_utilization);
  options.deterministic = absl::GetFlag(FLAGS_deterministic);
  options.use_graphs = !absl::GetFlag(FLAGS_enforce_eager);
  return MakeCudaRankLoader(options);
}

// INVALID_ARGUMENT when --device names none; errors of a device that cannot be used.
absl::StatusOr<std::unique_ptr<RankLoader>> MakeRankLoader() {
  const std::string device = absl::GetFlag(FLAGS_device);
  absl::string_view costs = device;
  if (absl::ConsumePrefix(&costs, "sim") && (costs.empty() || absl::ConsumePrefix(&costs, ":"))) {
    const absl::StatusOr<SimCost> cost = ParseSimCost(costs);
    if (!cost.ok()) return Annotate(cost.status(), absl::StrCat("--device=", device));
    return std::make_unique<SimRankLoader>(*cost);
  }
  if (device == "cpu" || (device == "auto" && !HasCudaDevice())) return MakeCpuRankLoader();
  absl::string_view ordinal = device == "auto" ? absl::string_view("cuda") : device;
  if (absl::ConsumePrefix(&ordinal, "cuda")) {
    absl::StatusOr<std::unique_ptr<RankLoader>> loader = MakeCudaLoader(ordinal);
    if (!loader.ok()) return Annotate(loader.status(), absl::StrCat("--device=", device));
    return loader;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--device=", device, " is none of auto, cpu, cuda, cuda:N and sim"));
}

// The address on which other ranks reach this one. Waits while the coordinator's name does not
// resolve, for both may start together.
absl::StatusOr<std::string> AwaitBindAddress() {
  const std::string given = absl::GetFlag(FLAGS_bind);
  if (!given.empty()) return given;
  while (true) {
    absl::StatusOr<std::string> address = LocalAddressTowards(absl::GetFlag(FLAGS_coordinator));
    if (!absl::IsUnavailable(address.status())) return address;
    LogWarning("waiting for the coordinator's address", {{"reason", address.status().message()}});
    absl::SleepFor(absl::Seconds(1));
  }
}

int Fail(const absl::Status& status, int exit_code) {
  std::fprintf(stderr, "bora-worker: %s\n", std::string(status.message()).c_str());
  return exit_code;
}

int Run(StopSignals* signals) {
  if (absl::GetFlag(FLAGS_list_devices)) {
    const absl::StatusOr<SimdChoice> simd = ChosenSimd();
    if (!simd.ok()) {
      std::fprintf(stderr, "bora-worker: %s\n", std::string(simd.status().message()).c_str());
      return kExitUsage;
    }
    for (const std::string& line : ListDevices(*simd)) std::printf("%s\n", line.c_str());
    for (const std::string& line : DescribeCudaDevices()) std::printf("%s\n", line.c_str());
    return 0;
  }
  if (const absl::Status status = CheckFlags(); !status.ok()) return Fail(status, kExitUsage);
  const absl::StatusOr<std::string> credential =
      ReadCredential("--credential_file", absl::GetFlag(FLAGS_credential_file));
  if (!credential.ok()) return Fail(credential.status(), kExitUsage);
  absl::StatusOr<std::unique_ptr<RankLoader>> loader = MakeRankLoader();
  if (!loader.ok()) {
    return Fail(loader.status(),
                absl::IsInvalidArgument(loader.status()) ? kExitUsage : kExitCannotStart);
  }
  const absl::StatusOr<std::string> bind_address = AwaitBindAddress();
  if (!bind_address.ok()) return Fail(bind_address.status(), kExitUsage);
  (*loader)->UseAddress(*bind_address);
  ListenerOptions listener_options;
  listener_options.bind_address = *bind_address;
  absl::StatusOr<std::unique_ptr<Listener>> listener = Listener::Create(listener_options);
  if (!listener.ok()) return Fail(listener.status(), kExitCannotStart);

  CoordinatorClientOptions client_options;
  client_options.address = absl::GetFlag(FLAGS_coordinator);
  client_options.credential = *credential;
  CoordinatorClient client(client_options);
  AgentOptions agent_options;
  agent_options.build_id = BuildId();
  agent_options.host = HostName();
  WorkerAgent agent(agent_options, *std::move(loader), *std::move(listener),
                    [&client](int64_t connection_id, WorkerMessage message) {
                      return client.Send(connection_id, message);
                    });

  signals->OnStop([&client] { client.Stop(); }, kStopLimit);

  const absl::Status status = client.Run(&agent);
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
  absl::SetProgramUsageMessage(
      "Runs one rank of a model for a Bora coordinator.\n"
      "  bora-worker --coordinator=HOST:PORT --credential_file=FILE");
  bora::NormalizeFlagNames(argc, argv);
  absl::ParseCommandLine(argc, argv);
  bora::InitLog("worker", bora::LogLevel::kInfo);
  bora::BlockStopSignals();
  if (absl::GetFlag(FLAGS_exit_with_parent) && !bora::EndWithParent(parent)) return 0;
  bora::StopSignals signals;
  if (!bora::UseSteadyWaits()) {
    bora::LogWarning("this Abseil sleeps by the system clock: setting it back delays timers");
  }
  // Debian builds Abseil with assertions: every lock would look for cycles in a global graph.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const int exit_code = bora::Run(&signals);
  std::fflush(nullptr);
  // The signal thread still waits: leave without running destructors under it.
  _exit(exit_code);
}
