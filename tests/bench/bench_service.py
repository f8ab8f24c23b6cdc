"""The whole service under closed-loop load: this project's coordinator and worker processes, and the CPU peer's server.

Both load a model of random weights of the same shape, both are asked for the same streams by clients with the same statistics.
"""

import http.client
import json
import os
import struct
import subprocess
import tempfile
import time

import bench_process
import peer_model
import sse_client

# 32 streams of 128 prompt tokens and 64 tokens of output, with room for one more.
MAX_STREAMS = 32
MAX_MODEL_LEN = 512


def varint(value):
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(data + bytes([value]))


def field(number, value):
    """A protobuf field: int as a varint, float as fixed32, bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tokenizer_model(vocab_size):
    """A SentencePiece BPE model in which nothing merges: special tokens, bytes, and made-up words."""
    normal, unknown, control, byte = 1, 2, 3, 6
    pieces = [("<unk>", unknown), ("<s>", control), ("</s>", control)]
    pieces += [(f"<0x{b:02X}>", byte) for b in range(256)]
    pieces += [(f"t{i}", normal) for i in range(len(pieces), vocab_size)]
    model = b"".join(
        field(1, field(1, text.encode()) + field(2, -float(i)) + field(3, kind)) for i, (text, kind) in enumerate(pieces))
    trainer = field(3, 2) + field(35, 1)  # BPE, with byte fallback
    return model + field(2, trainer) + field(3, field(1, b"identity"))


def write_model_directory(directory, shape):
    """What a coordinator needs to serve dummy weights: a config and a tokenizer."""
    os.makedirs(directory, exist_ok=True)
    config = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_size": shape.dim,
        "intermediate_size": shape.hidden_dim,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_position,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_eps,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config, file)
    with open(os.path.join(directory, "tokenizer.model"), "wb") as file:
        file.write(tokenizer_model(shape.vocab_size))
    return directory


class OurService:
    """Coordinator and one worker, serving between __enter__ and __exit__."""

    def __init__(self, ours, shape):
        import bora_e2e  # needs gRPC and the built messages, which other figures do not
        self.shape = peer_model.SHAPES[shape]
        self.quiet, self.load_binary = ours.quiet, os.path.join(ours.binary_dir, "bora-bench-load")
        model = write_model_directory(os.path.join(ours.work, f"{shape}-config"), self.shape)
        n_kv_bytes = MAX_STREAMS * MAX_MODEL_LEN * self.shape.kv_elements_per_token() * 2
        self.cluster = bora_e2e.Cluster(
            model=model,
            coordinator_flags=["--load-format=dummy", "--dtype=bfloat16", f"--max-num-seqs={MAX_STREAMS}",
                               f"--max-model-len={MAX_MODEL_LEN}", f"--kv-cache-memory-bytes={n_kv_bytes}"],
            worker_flags=[f"--threads={ours.n_threads}"],
            start_timeout_s=300)

    def __enter__(self):
        self.cluster.__enter__()
        return self

    def __exit__(self, *exc):
        self.cluster.__exit__(*exc)

    def load(self, concurrency, n_requests, n_prompt, n_output):
        done = bench_process.run([
            self.load_binary, f"--server=127.0.0.1:{self.cluster.port}", f"--concurrency={concurrency}",
            f"--requests={n_requests}", f"--prompt_tokens={n_prompt}", f"--output_tokens={n_output}", "--temperature=0",
            f"--vocab_size={self.shape.vocab_size}"
        ], self.quiet, pids=[process.pid for process in self.cluster.processes])
        return json.loads(done.stdout)


class PeerService:
    """The peer's server with as many slots, serving between __enter__ and __exit__."""

    def __init__(self, peer, shape):
        self.shape = peer_model.SHAPES[shape]
        self.quiet, self.host, self.port = peer.quiet, "127.0.0.1", None
        # The programs of the peer do not report a port that they chose, so it comes from the system first.
        self.command = [peer.program("llama-server"), "-m", peer.model(shape, "bf16"), "-np", MAX_STREAMS, "-c",
                        MAX_STREAMS * MAX_MODEL_LEN, "-t", peer.n_threads, "-tb", peer.n_threads, "--host", self.host,
                        "--threads-http", MAX_STREAMS + 8, "--cache-ram", 0, "--offline"]

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+")
        self.port = bench_process.free_port()
        command = [str(c) for c in self.command + ["--port", self.port]]
        self.popen = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not self.ready():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                last_words = "".join(self.log.readlines()[-5:])
                self.__exit__()
                raise bench_process.RunFailed(f"llama-server does not serve: {last_words}")
            time.sleep(0.1)
        return self

    def __exit__(self, *exc):
        self.popen.kill()
        self.popen.wait()
        self.log.close()

    def ready(self):
        try:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=2)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def load(self, concurrency, n_requests, n_prompt, n_output):
        self.quiet.wait()
        load = sse_client.Load(self.host, self.port, concurrency, n_requests, n_prompt, n_output, self.shape.vocab_size)
        with self.quiet.watch([self.popen.pid]):
            report = load.run()
        if report["failed"]:
            raise bench_process.RunFailed(f"llama-server: {report['error']}")
        return report
