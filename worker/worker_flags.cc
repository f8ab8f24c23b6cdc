#include "worker/worker_flags.h"

#include "base/build_info.h"

namespace bora {
namespace {

constexpr char kSummary[] =
    "Runs one rank of a model for a Bora coordinator, which tells it everything else.\n"
    "  bora-worker --coordinator HOST:PORT --credential-file FILE";

constexpr char kEpilogue[] =
    "Names may have underscores for dashes; a boolean is set by --NAME, --NAME=false or "
    "--no-NAME.\n"
    "Exit codes: 0 told to stop (SIGTERM, SIGINT), 1 cannot start, 2 bad usage, 3 refused by the "
    "coordinator for good: another build or credential, or a model that it cannot load.";

// The largest value of --threads: more than the CPUs of any host, and each thread takes a stack.
constexpr int64_t kMaxThreads = 1024;

}  // namespace

CommandLine WorkerCommandLine(WorkerFlags* flags) {
  CommandLine command_line({"bora-worker", kSummary, kEpilogue, DescribeBuild("bora-worker")});
  CommandFlags& table = command_line.flags();
  table.Heading("Coordinator");
  table.Flag("coordinator", TextFlag(&flags->coordinator, "HOST:PORT"),
             "The coordinator's worker port: its --worker-listen, not its --listen.");
  table.Flag("credential-file", TextFlag(&flags->credential_file, "FILE"),
             "File with the credential that the coordinator expects (its "
             "--worker-credential-file). Without: the environment variable "
             "BORA_WORKER_CREDENTIAL.");
  table.Flag("bind",
             TextFlag(&flags->bind, "ADDRESS")
                 .Default("the address from which this host reaches the coordinator"),
             "Local address on which other ranks reach this one.");

  table.Heading("Device");
  table.Flag("device", TextFlag(&flags->device, "DEVICE"),
             "auto, cpu, cuda, cuda:N or sim. auto is cuda:0 where there is a GPU and cpu "
             "otherwise. sim runs no model: it sleeps for the time of a step and draws tokens by "
             "seed and position, for experiments with capacity and scheduling. Its times in "
             "microseconds may follow, these being the defaults:\n"
             "sim:base_us=2000,token_us=10,context_us=0.01\n"
             "for each step of the whole model, each token in it and each token that a row's "
             "attention reads; a stage takes its layers' share.");
  table.Flag("list-devices", BooleanFlag(&flags->list_devices),
             "Print this host's devices and exit.");

  table.Heading("CPU");
  table.Flag("threads",
             IntegerFlag(&flags->threads, 0, kMaxThreads)
                 .Default("the CPUs that this process may use, divided by the group's ranks here"),
             "Threads of the CPU device; what a process may use is by its affinity and control "
             "group.");
  table.Flag("pin-threads", BooleanFlag(&flags->pin_threads),
             "Pin each thread to a CPU: the ranks of the group on this host take the process's "
             "CPUs one after another.");
  table.Flag("isa", TextFlag(&flags->isa, "NAME"),
             "Instruction set: auto, avx512bf16, avx512, avx2 or portable. auto is the quickest "
             "for each operation, by a few milliseconds of measurement at start. All give the same "
             "tokens.");

  table.Heading("GPU");
  table.Flag("gpu-memory-utilization",
             NumberFlag(&flags->gpu_memory_utilization, {.min = 0, .max = 1, .excludes_min = true}),
             "Part of the GPU's memory for this process: weights, working memory, and what is "
             "left for the KV cache.");
  table.Flag("deterministic", BooleanFlag(&flags->deterministic),
             "All matrix products by our own kernels, so that a request's tokens depend on nothing "
             "but the request. Without it large products are left to cuBLASLt: the same tokens at "
             "the same load only, and streams that are replayed after a failure may go on "
             "differently.");
  table.Flag("enforce-eager", BooleanFlag(&flags->enforce_eager),
             "Queue every kernel of every step instead of recorded graphs.");

  table.Heading("Log");
  table.Flag("log-level", ChoiceFlag(&flags->log_level, {"debug", "info", "warning", "error"}),
             "Lowest level of the lines that are written to standard error.");
  table.Flag("log-format", ChoiceFlag(&flags->log_format, {"json", "text"}),
             "One JSON object a line, or text for people.");

  table.Heading("Process");
  table.Flag("exit-with-parent", BooleanFlag(&flags->exit_with_parent),
             "Exit when the process that started this one is gone, so that no orphan keeps a "
             "device.");
  return command_line;
}

}  // namespace bora
