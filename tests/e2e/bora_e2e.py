"""Runs the real processes on ports of their own and talks to them with grpcio, as a user's client would.

Tests use `with Cluster(...) as cluster:`; everything it starts is stopped at the end, also when a test fails, and the logs of
all processes are printed then. Binaries come from $BORA_BINARY_DIR/bin, generated messages from $BORA_BINARY_DIR/python.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

BINARY_DIR = os.environ["BORA_BINARY_DIR"]
SOURCE_DIR = os.environ["BORA_SOURCE_DIR"]
sys.path.insert(0, os.path.join(BINARY_DIR, "python"))

import google  # noqa: E402
import grpc  # noqa: E402

# Generated packages that share their first name with installed ones.
for package in (google, grpc):
    package.__path__.append(os.path.join(BINARY_DIR, "python", package.__name__))

from bora.inference.v1 import inference_service_pb2 as inference  # noqa: E402
from bora.inference.v1 import model_service_pb2 as model_service  # noqa: E402
from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from grpc.health.v1 import health_pb2  # noqa: E402

DEMO_MODEL = os.path.join(SOURCE_DIR, "deploy", "demo-model")
SKIP = 77  # exit code that ctest reads as skipped


def binary(name):
    return os.path.join(BINARY_DIR, "bin", name)


def wait_until(condition, timeout_s, what):
    """Polls until condition() is true and returns the seconds it took."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > timeout_s:
            raise AssertionError(f"{what}: not within {timeout_s} s")
        time.sleep(0.01)
    return time.monotonic() - begin


def make_checkpoint(directory, **flags):
    """Writes a random checkpoint with bora-make-checkpoint: make_checkpoint(dir, dim=64, n_layers=4, ...)."""
    command = [binary("bora-make-checkpoint"), f"--output={directory}"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return directory


def write_credential(path, credential):
    """A file that only its owner can read, as the programs want it."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(credential + "\n")


class Stub:
    """The public services over one channel, by hand, so that no generated gRPC code is needed."""

    def __init__(self, address):
        self.address = address
        options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(address, options)

        def unary(service, method, response):
            return self.channel.unary_unary(
                f"/{service}/{method}",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=response.FromString)

        inference_name = "bora.inference.v1.InferenceService"
        model_name = "bora.inference.v1.ModelService"
        self.generate = unary(inference_name, "Generate", inference.GenerateResponse)
        self.generate_stream = self.channel.unary_stream(
            f"/{inference_name}/GenerateStream",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=inference.GenerateStreamResponse.FromString)
        self.tokenize = unary(inference_name, "Tokenize", inference.TokenizeResponse)
        self.detokenize = unary(inference_name, "Detokenize", inference.DetokenizeResponse)
        self.list_models = unary(model_name, "ListModels", model_service.ListModelsResponse)
        self.get_model = unary(model_name, "GetModel", model_service.Model)
        self.get_server_info = unary(model_name, "GetServerInfo", model_service.ServerInfo)
        self.health_check = unary("grpc.health.v1.Health", "Check", health_pb2.HealthCheckResponse)

    def info(self, timeout=5):
        return self.get_server_info(model_service.GetServerInfoRequest(), timeout=timeout)

    def health(self, service="", timeout=5):
        """True when SERVING; False when NOT_SERVING or nobody answers."""
        try:
            response = self.health_check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError:
            return False
        return response.status == health_pb2.HealthCheckResponse.SERVING

    def close(self):
        self.channel.close()


def error_details(error):
    """The google.rpc details of an RpcError by their type: {"ErrorInfo": message, "RetryInfo": message, ...}."""
    details = {}
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            message = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])()
            assert detail.Unpack(message), detail
            details[message.DESCRIPTOR.name] = message
    return details


def error_reason(error):
    """(code name, ErrorInfo.reason) of an RpcError; reason is '' without details."""
    info = error_details(error).get("ErrorInfo")
    return error.code().name, info.reason if info is not None else ""


def stream_request(text=None, token_ids=None, max_tokens=None, seed=None, temperature=None, logprobs=None,
                   prompt_logprobs=None, stop=(), ignore_eos=False, cls=inference.GenerateStreamRequest):
    request = cls()
    if text is not None:
        request.prompt.text = text
    if token_ids is not None:
        request.prompt.token_ids.ids.extend(token_ids)
    if max_tokens is not None:
        request.stopping.max_tokens = max_tokens
    if seed is not None:
        request.sampling.seed = seed
    if temperature is not None:
        request.sampling.temperature = temperature
    if logprobs is not None:
        request.output.logprobs = logprobs
    if prompt_logprobs is not None:
        request.output.prompt_logprobs = prompt_logprobs
    request.stopping.stop.extend(stop)
    request.stopping.ignore_eos = ignore_eos
    request.output.token_ids = True
    return request


class Process:
    """One process with its log in a file; stopped by the Cluster that made it."""

    def __init__(self, name, command, log_path, env=None):
        self.name = name
        self.log_path = log_path
        with open(log_path, "ab") as log:
            self.popen = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def signal(self, signal_number):
        self.popen.send_signal(signal_number)

    def kill(self):
        if self.alive():
            self.popen.kill()
        self.popen.wait()

    def wait(self, timeout_s):
        return self.popen.wait(timeout=timeout_s)

    def log(self):
        with open(self.log_path, errors="replace") as file:
            return file.read()

    def log_field(self, message, field):
        """The field of the first log line with this message, or None."""
        for line in self.log().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("message") == message and field in entry:
                return entry[field]
        return None

    def n_fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu_s(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self):
        match = re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{self.pid}/status").read_text())
        return int(match.group(1)) * 1024


class Cluster:
    """A coordinator and tp * pp workers on loopback, serving when __enter__ returns.

    coordinator_flags, worker_flags: lists of extra flags. prefix, worker_prefix: command prefixes such as
    ["ip", "netns", "exec", NAME]; worker_prefix is a function of the worker's index then.
    """

    def __init__(self, model=DEMO_MODEL, tp=1, pp=1, coordinator_flags=(), worker_flags=(), start_timeout_s=60,
                 prefix=(), worker_prefix=None, host="127.0.0.1", start_workers=True, worker_binary="bora-worker"):
        self.model, self.tp, self.pp = model, tp, pp
        self.coordinator_flags, self.worker_flags = list(coordinator_flags), list(worker_flags)
        self.start_timeout_s, self.start_workers = start_timeout_s, start_workers
        self.prefix, self.worker_prefix, self.host = list(prefix), worker_prefix, host
        self.worker_binary = worker_binary
        self.directory = tempfile.mkdtemp(prefix="bora-e2e-")
        self.processes, self.workers = [], []
        self.coordinator = self.stub = None
        self.credential = os.path.join(self.directory, "credential")
        write_credential(self.credential, "test-credential-" + os.urandom(8).hex())

    def __enter__(self):
        try:
            self.start_coordinator()
            if self.start_workers:
                for _ in range(self.tp * self.pp):
                    self.start_worker()
                self.wait_serving(self.start_timeout_s)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, exc_type, exc, traceback):
        if self.stub is not None:
            self.stub.close()
        for process in self.processes:
            if process.alive():
                process.signal(signal.SIGCONT)
                process.kill()
        if exc_type is not None:
            for process in self.processes:
                print(f"---- log of {process.name} (pid {process.pid}, exit {process.popen.returncode})")
                print("\n".join(process.log().splitlines()[-60:]))
        shutil.rmtree(self.directory, ignore_errors=True)

    def worker_at(self, stage, tensor_rank):
        """The process that holds this place of the group: which one does depends on the order in which they attached."""
        pid = next(w.pid for w in self.stub.info().workers if (w.stage, w.tensor_rank) == (stage, tensor_rank))
        return next(w for w in self.workers if w.alive() and w.pid == pid)

    def start_coordinator(self, port=0, worker_port=0):
        command = self.prefix + [
            binary("bora-coordinator"), f"--model={self.model}", f"--listen={self.host}:{port}",
            f"--worker-listen={self.host}:{worker_port}", f"--worker-credential-file={self.credential}",
            f"--tensor-parallel-size={self.tp}", f"--pipeline-parallel-size={self.pp}"
        ] + self.coordinator_flags
        self.coordinator = Process("coordinator", command,
                                   os.path.join(self.directory, f"coordinator{len(self.processes)}.log"))
        self.processes.append(self.coordinator)

        def listening():
            assert self.coordinator.alive(), "the coordinator has stopped:\n" + self.coordinator.log()
            return self.coordinator.log_field("listening", "port") is not None

        wait_until(listening, 30, "coordinator listening")
        self.port = self.coordinator.log_field("listening", "port")
        self.worker_port = self.coordinator.log_field("listening", "worker_port")
        if self.stub is not None:
            self.stub.close()
        self.stub = Stub(f"{self.host}:{self.port}")

    def start_worker(self, extra_flags=(), credential=None, port=None):
        """port: that it dials, if that is not the coordinator's worker port."""
        index = len(self.workers)
        prefix = list(self.worker_prefix(index)) if self.worker_prefix is not None else self.prefix
        command = prefix + [
            binary(self.worker_binary), f"--coordinator={self.host}:{port or self.worker_port}",
            f"--credential-file={credential or self.credential}"
        ] + self.worker_flags + list(extra_flags)
        worker = Process(f"worker {index}", command, os.path.join(self.directory, f"worker{index}.log"))
        self.processes.append(worker)
        self.workers.append(worker)
        return worker

    def serving(self):
        return self.stub.health(timeout=2)

    def wait_serving(self, timeout_s=30):
        return wait_until(self.serving, timeout_s, "serving")

    def wait_not_serving(self, timeout_s):
        return wait_until(lambda: not self.serving(), timeout_s, "not serving")

    def wait_idle(self, timeout_s=10):
        """Until nothing runs or waits and no KV block is used."""

        def idle():
            load = self.stub.info().load
            return (load.running_count == 0 and load.waiting_count == 0 and load.kv_block_used_count == 0
                    and load.step_in_flight_count == 0)

        return wait_until(idle, timeout_s, "idle")


def collect(call):
    """Reads a stream to its end: (text, token ids, logprobs as exact floats, messages)."""
    messages = list(call)
    text = "".join(m.text_delta for m in messages)
    ids = [i for m in messages for i in m.token_ids]
    logprobs = [l for m in messages for l in m.logprobs]
    return text, ids, logprobs, messages
