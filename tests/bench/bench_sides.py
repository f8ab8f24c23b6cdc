"""The two sides of a comparison: this project's engine and the CPU peer's command-line programs, asked the same questions.

Every method runs one program once and returns plain numbers. Tokens per second throughout.
"""

import json
import os
import shutil

import bench_process
import bench_service
import peer_model


class Limits:
    """The machine's limits as bora-bench-limits measures them, by name.

    Arithmetic: the best measurement, since whatever is slower was disturbed. Bandwidth: the median of the latest comparison,
    since what a virtual machine gets of it changes from minute to minute for both sides.
    """

    def __init__(self, binary_dir, n_threads, quiet):
        self.command = [os.path.join(binary_dir, "bora-bench-limits"), f"--threads={n_threads}", "--rounds=5"]
        self.quiet = quiet
        self.samples = []
        self.first_of_comparison = 0

    def begin_comparison(self):
        self.first_of_comparison = len(self.samples)

    def measure(self, n_retries):
        self.samples.append(bench_process.least_disturbed(self.measure_once, self.quiet, n_retries)[1])

    def measure_once(self):
        rows = bench_process.run(self.command, self.quiet).stdout.splitlines()
        return {name: float(value) for _, name, value, _ in (row.split() for row in rows)}

    def value(self, name):
        """In the unit of the row; None where the machine does not have it."""
        is_bandwidth = name == "limit_read_bandwidth"
        samples = self.samples[self.first_of_comparison:] if is_bandwidth else self.samples
        values = sorted(sample[name] for sample in samples if name in sample)
        if not values:
            return None
        return values[len(values) // 2] if is_bandwidth else values[-1]

    def peak(self, dtype):
        """Operations/s of the dtype's products by the better unit, or None."""
        giga = self.value({"bf16": "limit_bf16", "int8": "limit_int8", "f32": "limit_fp32"}[dtype])
        return giga and giga * 1e9

    def prefill(self, shape, dtype):
        """Prompt tokens/s at the peak of the dtype's products: layers only, without attention."""
        peak = self.peak(dtype)
        return peak and peak / (2 * shape.n_matrix_parameters())

    def decode(self, shape, dtype, batch=1, depth=0):
        """Tokens/s when every weight and every cached key and value is read once a step, and arithmetic is at its peak."""
        # 8 bits: 34 bytes for 32 weights in the peer's format, 136 for 128 in ours.
        bytes_per_weight = {"bf16": 2, "int8": 34 / 32, "f32": 4}[dtype]
        n_bytes = (shape.n_decode_parameters() * bytes_per_weight +
                   batch * depth * shape.kv_elements_per_token() * 2)
        by_memory = self.value("limit_read_bandwidth") * 1e9 / n_bytes * batch
        peak = self.peak(dtype)
        return min(by_memory, peak / (2 * shape.n_decode_parameters())) if peak else by_memory


class Ours:
    name = "ours"

    def __init__(self, binary_dir, n_threads, quiet, work):
        self.binary_dir, self.n_threads, self.quiet, self.work = binary_dir, n_threads, quiet, work

    def engine(self, shape, dtype, count_foreign=True, **flags):
        """All figures that bora-bench-engine prints, by name."""
        command = [os.path.join(self.binary_dir, "bora-bench-engine"), f"--shape={shape}", f"--dtype={dtype}",
                   f"--threads={self.n_threads}"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        rows = bench_process.run(command, self.quiet, count_foreign=count_foreign).stdout.splitlines()
        return {name: float(value) for _, name, value, _ in (row.split() for row in rows if row.startswith("figure"))}

    def prefill(self, shape, dtype, n_tokens):
        return self.engine(shape, dtype, mode="prefill", tokens=n_tokens)["prefill_tokens_per_s"]

    def decode(self, shape, dtype, n_tokens, count_foreign=True, tp=1):
        return self.engine(shape, dtype, count_foreign, mode="decode", tokens=n_tokens, tp=tp)["decode_tokens_per_s"]

    def prefill_and_decode(self, shape, dtype, n_prompt, n_decode, batch=1):
        values = self.engine(shape, dtype, mode="both", depth=n_prompt, tokens=n_decode, batch=batch)
        self.rss_beyond_weights_and_kv_mib = values["rss_peak_mib"] - values["weights_mib"] - values["kv_mib"]
        return values["prefill_tokens_per_s"], values["decode_tokens_per_s"]

    def service(self, shape):
        return bench_service.OurService(self, shape)

    def model_files(self, shape):
        """Writes a checkpoint unless it is there; the files that hold its weights."""
        path = os.path.join(self.work, f"{shape}-safetensors")
        if not os.path.exists(path):
            s = peer_model.SHAPES[shape]
            flags = {"dim": s.dim, "hidden-dim": s.hidden_dim, "n-layers": s.n_layers, "n-heads": s.n_heads,
                     "n-kv-heads": s.n_kv_heads, "head-dim": s.head_dim, "vocab-size": s.vocab_size}
            command = [os.path.join(self.binary_dir, "bora-make-checkpoint"), f"--output={path}.part", "--dtype=bf16"]
            shutil.rmtree(path + ".part", ignore_errors=True)
            bench_process.run(command + [f"--{name}={value}" for name, value in flags.items()], bench_process.Quiet(0))
            os.rename(path + ".part", path)
        return [os.path.join(path, name) for name in os.listdir(path) if name.endswith(".safetensors")]

    def first_token_s(self, shape):
        """From the start of the process to its end, with one token after a prompt of four. The files are cold."""
        files = self.model_files(shape)
        command = [os.path.join(self.binary_dir, "bora-bench-engine"), f"--model={os.path.dirname(files[0])}",
                   f"--threads={self.n_threads}", "--mode=both", "--depth=4", "--tokens=1"]
        bench_process.drop_caches(files)
        return bench_process.run(command, self.quiet).wall_s

    def plain_read_s(self, shape):
        files = self.model_files(shape)
        bench_process.drop_caches(files)
        with self.quiet.watch():
            bytes_per_s = bench_process.read_bytes_per_s(files[0])
        return sum(os.path.getsize(file) for file in files) / bytes_per_s


class Peer:
    name = "peer"
    DTYPES = {"bf16": "bf16", "int8": "q8_0"}

    def __init__(self, binary_dir, n_threads, quiet, work):
        self.binary_dir, self.n_threads, self.quiet, self.work = binary_dir, n_threads, quiet, work

    def program(self, name):
        return os.path.join(self.binary_dir, name)

    def model(self, shape, dtype):
        """Writes the model unless it is there; its path."""
        path = os.path.join(self.work, f"{shape}-{self.DTYPES[dtype]}.gguf")
        if not os.path.exists(path):
            peer_model.write_model(path + ".part", peer_model.SHAPES[shape], self.DTYPES[dtype])
            os.rename(path + ".part", path)
        return path

    def llama_bench(self, shape, dtype, n_prompt, n_decode, count_foreign=True):
        """Tokens/s of [prompt, decode], those that are not 0."""
        command = [self.program("llama-bench"), "-m", self.model(shape, dtype), "-t", self.n_threads, "-p", n_prompt,
                   "-n", n_decode, "-r", 1, "-o", "json"]
        out = bench_process.run(command, self.quiet, count_foreign=count_foreign).stdout
        return [test["avg_ts"] for test in json.loads(out)]

    def prefill(self, shape, dtype, n_tokens):
        return self.llama_bench(shape, dtype, n_tokens, 0)[0]

    def decode(self, shape, dtype, n_tokens, count_foreign=True):
        return self.llama_bench(shape, dtype, 0, n_tokens, count_foreign)[0]

    def prefill_and_decode(self, shape, dtype, n_prompt, n_decode, batch=1):
        context = batch * (n_prompt + n_decode) + 256
        command = [self.program("llama-batched-bench"), "-m", self.model(shape, dtype), "-t", self.n_threads, "-tb",
                   self.n_threads, "-c", context, "-b", 2048, "-ub", 512, "-npp", n_prompt, "-ntg", n_decode, "-npl",
                   batch, "--output-format", "jsonl"]
        out = bench_process.run(command, self.quiet).stdout
        row = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
        return row["speed_pp"], row["speed_tg"]

    def service(self, shape):
        return bench_service.PeerService(self, shape)

    def first_token_s(self, shape):
        model = self.model(shape, "bf16")
        bench_process.drop_caches([model])
        return bench_process.run([self.program("llama-simple"), "-m", model, "-n", 1, "Hello"], self.quiet).wall_s
