#!/usr/bin/python3
"""The CPU worker beside the machine's limits, and beside llama.cpp where its programs are given.

  cpu_vs_peer.py [--peer-bin DIR] [--figures a,b] [--quick] [--alternations N] [--threads N] [--work-dir DIR]
                 [--wait-quiet S] [--retries N]

Rows are `figure NAME VALUE UNIT [limit L] [peer P] [ratio R] [disturbed CORES] [jumps FACTOR]`: medians over alternations ours,
peer, ours, peer, ... Ratio is ours over the peer's, or over the limit where there is no peer; of seconds and milliseconds the
inverse, so more is better. A row that ends with `disturbed` or `jumps` is worth nothing: even the quietest attempts at one of its
samples had so many cores in other hands, or samples of one side lie so far apart. Limits are measured before every run. Lines that begin with # are remarks: all samples, and how many cores other processes
had meanwhile, in brackets behind each sample. Models are random weights of one shape, in the same data type on both sides.

Without --figures it runs everything but the 7B shape (30 GB of files, half an hour): name those figures to get them.
"""

import argparse
import contextlib
import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import typing

import bench_process
import bench_sides
import peer_model
from bench_sides import Limits

B1, B7, TINY64 = (peer_model.SHAPES[name] for name in ("1b", "7b", "tiny64"))


@dataclasses.dataclass(frozen=True)
class Figure:
    name: str
    unit: str
    limit: typing.Callable[[Limits], float] | None = None
    less_is_better: bool = False

    def row(self, ours, limit, peer, remarks=""):
        text = f"figure {self.name} {ours:.4g} {self.unit}"
        text += f" limit {limit:.4g}" if limit else ""
        text += f" peer {peer:.4g}" if peer else ""
        other = peer or limit
        if other and ours:
            text += f" ratio {other / ours if self.less_is_better else ours / other:.3g}"
        return text + remarks


@dataclasses.dataclass(frozen=True)
class Run:
    """Figures that come out of the same runs of programs. measure(side) gives {name: value}."""
    figures: tuple[Figure, ...]
    measure: typing.Callable[[typing.Any], dict[str, float]]
    ours_only: bool = False
    alternations_max: int = 100
    alternations_times: int = 1  # for runs that are short and at the mercy of the memory's speed at that moment
    shape_7b: bool = False


def prefill_512(side):
    return {"prefill_512": side.prefill("1b", "bf16", 512)}


def decode_1(side):
    return {"decode_1": side.decode("1b", "bf16", 64)}


def prefill_2048(side):
    return {"prefill_2048": side.prefill("1b", "bf16", 2048)}


def long_context(side):
    prefill, decode = side.prefill_and_decode("1b", "bf16", 8192, 48)
    return {"prefill_8192": prefill, "decode_1_depth_8192": decode}


def batch(n_sequences):
    return lambda side: {f"decode_{n_sequences}": side.prefill_and_decode("1b", "bf16", 128, 48, n_sequences)[1]}


def int8_prefill_512(side):
    return {"int8_prefill_512": side.prefill("1b", "int8", 512)}


def int8_decode_1(side):
    return {"int8_decode_1": side.decode("1b", "int8", 64)}


def tiny64(side):
    return {
        "tiny64_decode_1": side.decode("tiny64", "bf16", 256),
        "tiny64_decode_32": side.prefill_and_decode("tiny64", "bf16", 128, 96, 32)[1]
    }


def full_7b(side):
    prefill, decode = side.prefill_and_decode("7b", "bf16", 512, 32)
    values = {"full_7b_prefill_512": prefill, "full_7b_decode_1": decode}
    if side.name == "ours":
        values["full_7b_rss_beyond_weights_and_kv"] = side.rss_beyond_weights_and_kv_mib
    return values


def busy_neighbour(side):
    idle = side.decode("1b", "bf16", 48)
    with bench_process.BusyProcess():
        return {"busy_neighbour": side.decode("1b", "bf16", 24, count_foreign=False) / idle}


def tp2_over_tp1(side):
    one = side.decode("1b", "bf16", 64)
    return {"tp2_over_tp1": side.decode("1b", "bf16", 64, tp=2) / one}


def serve(side):
    with side.service("1b") as service:
        service.load(4, 4, 16, 4)  # warm-up
        report = service.load(32, 64, 128, 64)
        return {
            "serve_req_per_s": report["requests_per_s"],
            "serve_itl_p99": report["gap_p99_ms"],
            "serve_itl_p50": report["gap_p50_ms"],
            "serve_ttft_p50": report["ttft_p50_ms"]
        }


def serve_decode(side):
    """All streams start together with short prompts; the median step serves each of them once."""
    values = {}
    with side.service("1b") as service:
        service.load(4, 4, 16, 4)
        for n in (1, 8, 32):
            values[f"serve_decode_{n}"] = n * 1e3 / service.load(n, n, 16, 64)["gap_p50_ms"]
    return values


def load(shape):
    """From a cold file to the first token, and what a plain read of our file takes."""

    def measure(side):
        values = {f"load_{shape}": side.first_token_s(shape)}
        if side.name == "ours":
            values[f"plain_read_{shape}"] = side.plain_read_s(shape)
        return values

    return measure


def serve_limit(limits):
    """Requests of 128 + 64 tokens when every token costs the layers' arithmetic at the peak, and 64 of them the head's."""
    flops = 2 * (192 * B1.n_matrix_parameters() + 64 * B1.dim * B1.vocab_size)
    peak = limits.peak("bf16")
    return peak and peak / flops


def speed(name, limit=None):
    return Figure(name, "tokens/s", limit)


RUNS = (
    Run((speed("prefill_512", lambda l: l.prefill(B1, "bf16")),), prefill_512),
    Run((speed("decode_1", lambda l: l.decode(B1, "bf16")),), decode_1, alternations_times=4),
    Run((speed("prefill_2048", lambda l: l.prefill(B1, "bf16")),), prefill_2048),
    Run((speed("prefill_8192", lambda l: l.prefill(B1, "bf16")),
         speed("decode_1_depth_8192", lambda l: l.decode(B1, "bf16", 1, 8192))), long_context, alternations_max=2),
    Run((speed("decode_8", lambda l: l.decode(B1, "bf16", 8, 152)),), batch(8)),
    Run((speed("decode_32", lambda l: l.decode(B1, "bf16", 32, 152)),), batch(32)),
    Run((speed("int8_prefill_512", lambda l: l.prefill(B1, "int8")),), int8_prefill_512),
    Run((speed("int8_decode_1", lambda l: l.decode(B1, "int8")),), int8_decode_1, alternations_times=4),
    Run((speed("tiny64_decode_1"), speed("tiny64_decode_32")), tiny64),
    Run((Figure("busy_neighbour", "fraction"),), busy_neighbour),
    Run((Figure("tp2_over_tp1", "fraction", lambda l: 1.0),), tp2_over_tp1, ours_only=True,
        alternations_times=4),
    Run((Figure("serve_req_per_s", "req/s", serve_limit), Figure("serve_itl_p99", "ms", less_is_better=True),
         Figure("serve_itl_p50", "ms", less_is_better=True), Figure("serve_ttft_p50", "ms", less_is_better=True)),
        serve, alternations_max=2),
    Run(tuple(speed(f"serve_decode_{n}", lambda l, n=n: l.decode(B1, "bf16", n, 48)) for n in (1, 8, 32)), serve_decode,
        alternations_max=2),
    Run((Figure("load_1b", "s", less_is_better=True), Figure("plain_read_1b", "s")), load("1b")),
    Run((speed("full_7b_prefill_512", lambda l: l.prefill(B7, "bf16")),
         speed("full_7b_decode_1", lambda l: l.decode(B7, "bf16", 1, 512)),
         Figure("full_7b_rss_beyond_weights_and_kv", "MiB", lambda l: 300.0, less_is_better=True)), full_7b,
        alternations_max=2, shape_7b=True),
    Run((Figure("load_7b", "s", less_is_better=True), Figure("plain_read_7b", "s")), load("7b"), alternations_max=2,
        shape_7b=True),
)
QUICK = ("prefill_512", "decode_1", "decode_8", "decode_32", "tiny64_decode_1", "tiny64_decode_32")
NAMES = tuple(figure.name for run in RUNS for figure in run.figures)


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def remark(text):
    print(f"# {text}", flush=True)


# Samples of one side whose greatest is more than so many times the least are not of one machine: decoding, which depends on the
# memory's speed of the minute, varies by 15 % from run to run.
JUMP = 1.5


def remarks_on(sides):
    """What makes a row doubtful, as its end. sides: for each side its [(value, foreign cores)]."""
    text = bench_process.remark_on(max(foreign for pairs in sides for _, foreign in pairs))
    values_of_sides = [[value for value, _ in pairs] for pairs in sides]
    jump = max((max(values) / min(values) for values in values_of_sides if min(values) > 0), default=1)
    return text + (f" jumps {jump:.2g}" if jump > JUMP else "")


def execute(run, names, sides, limits, quiet, args):
    """Prints the rows of one Run. False when a program failed."""
    samples = {side.name: {} for side in sides}
    limits.begin_comparison()
    try:
        for _ in range(min(args.alternations * run.alternations_times, run.alternations_max)):
            limits.measure(args.retries)
            for side in sides[:1] if run.ours_only else sides:
                foreign_cores, values = bench_process.least_disturbed(lambda side=side: run.measure(side), quiet,
                                                                      args.retries)
                for name, value in values.items():
                    samples[side.name].setdefault(name, []).append((value, foreign_cores))
    except bench_process.RunFailed as failure:
        remark(f"{run.figures[0].name} failed: {failure}")
        return False
    for figure in run.figures:
        if figure.name not in names:
            continue
        medians, sides_pairs = {}, []
        for side, values in samples.items():
            if pairs := values.get(figure.name):
                sides_pairs.append(pairs)
                medians[side] = median([value for value, _ in pairs])
                each = ", ".join(f"{value:.4g} ({foreign:.2f})" for value, foreign in pairs)
                remark(f"{figure.name} {side}: {each}")
        limit = figure.limit(limits) if figure.limit else None
        print(figure.row(medians["ours"], limit, medians.get("peer"), remarks_on(sides_pairs)), flush=True)
    return True


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-bin", help="directory with llama-bench, llama-batched-bench, llama-simple and llama-server")
    parser.add_argument("--figures", help="comma-separated; of: " + ", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="only " + ", ".join(QUICK))
    parser.add_argument("--alternations", type=int, default=3, help="runs of each side (at most 2 of the longest)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each side (default: all cores)")
    parser.add_argument("--work-dir", help="keeps the made models here; default: a temporary directory, removed at the end")
    parser.add_argument("--wait-quiet", type=float, default=60, help="seconds to wait for other processes before each run")
    parser.add_argument("--retries", type=int, default=2, help="of a run that other processes disturbed")
    args = parser.parse_args()
    names = set(args.figures.split(",")) if args.figures else None
    if unknown := (names or set()) - set(NAMES):
        parser.error(f"--figures: unknown: {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    if names is None:
        names = set(QUICK) if args.quick else {f.name for run in RUNS if not run.shape_7b for f in run.figures}
    args.names = names
    return args


def main():
    args = parse_arguments()
    # Servers and temporary files go when this process is told to end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    quiet = bench_process.Quiet(args.wait_quiet)
    binary_dir = os.path.join(os.environ["BORA_BINARY_DIR"], "bin")
    with contextlib.ExitStack() as stack:
        work = args.work_dir
        if work is None:
            work = tempfile.mkdtemp(prefix="bora-bench-")
            stack.callback(shutil.rmtree, work, ignore_errors=True)
        os.makedirs(work, exist_ok=True)
        limits = bench_sides.Limits(binary_dir, args.threads, quiet)
        sides = [bench_sides.Ours(binary_dir, args.threads, quiet, work)]
        if args.peer_bin:
            sides.append(bench_sides.Peer(args.peer_bin, args.threads, quiet, work))
        ok = True
        for run in RUNS:
            if args.names & {figure.name for figure in run.figures}:
                ok &= execute(run, args.names, sides, limits, quiet, args)
        limits.first_of_comparison = 0
        for name in ("limit_read_bandwidth", "limit_fp32", "limit_bf16", "limit_vdpbf16ps", "limit_int8"):
            if limits.value(name):
                unit = {"limit_read_bandwidth": "GB/s", "limit_int8": "Gop/s"}.get(name, "GFLOP/s")
                print(f"figure {name} {limits.value(name):.4g} {unit}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
