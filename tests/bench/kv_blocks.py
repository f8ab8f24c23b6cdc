"""What sharing and taking away KV blocks costs and gains, through the whole service with dummy weights.

  kv_blocks.py prefix_cache | preemption

prefix_cache: time to the first token of a prompt that nobody has sent before, and of the same prompt sent again.
preemption: output tokens/s of 24 streams with KV blocks for a quarter of what they need together, over the rate with
blocks for all. Prints `figure NAME VALUE UNIT [limit L ratio R] [disturbed CORES]` rows.
"""

import sys
import tempfile
import threading
import time

import bench_process
import bench_service
import peer_model
from bora_e2e import Cluster, stream_request

SHAPE = peer_model.Shape(512, 1536, 8, 8, 2, 64, 4096, max_position=16384)
BLOCK_BYTES = 16 * 2 * SHAPE.kv_elements_per_token()
N_REPETITIONS = 5
NEIGHBOURS = bench_process.Neighbours()


def figure(name, value, unit, limit=None, less_is_better=False):
    row = f"figure {name} {value:.4g} {unit}"
    if limit:
        row += f" limit {limit:g} ratio {limit / value if less_is_better else value / limit:.3g}"
    print(row + bench_process.remark_on(NEIGHBOURS.take()), flush=True)


def tokens(seed, n):
    return [300 + (seed * 7919 + i * 104729 + i * i) % 3000 for i in range(n)]


def cluster(directory, n_blocks, *flags):
    return Cluster(model=directory, coordinator_flags=["--load-format=dummy", "--dtype=bfloat16",
                                                       f"--kv-cache-memory-bytes={n_blocks * BLOCK_BYTES}", *flags])


def first_token_ms(stub, prompt):
    begin = time.monotonic()
    call = stub.generate_stream(stream_request(token_ids=prompt, max_tokens=1, ignore_eos=True), timeout=600)
    messages = list(call)
    return 1e3 * (time.monotonic() - begin), messages[-1].usage.cached_prompt_token_count


def median(values):
    return sorted(values)[len(values) // 2]


def prefix_cache(directory):
    # Room for all that is sent, so that what is measured cold was never there and what is warm still is.
    with cluster(directory, 4096, "--max-model-len=16384") as service:
        first_token_ms(service.stub, tokens(99, 512))  # warm-up
        for name, n in (("1k", 1024), ("8k", 8192)):
            cold, warm = [], []
            for i in range(N_REPETITIONS):
                prompt = tokens(n + i, n)
                cold.append(first_token_ms(service.stub, prompt)[0])
                ms, n_cached = first_token_ms(service.stub, prompt)
                assert n_cached == (n - 1) // 16 * 16, n_cached
                warm.append(ms)
            figure(f"ttft_cold_{name}", median(cold), "ms")
            figure(f"ttft_warm_{name}", median(warm), "ms")
            figure(f"ttft_warm_over_cold_{name}", median(warm) / median(cold), "fraction",
                   0.05 if name == "8k" else None, less_is_better=True)


def goodput(service, n_streams, n_prompt, n_output):
    def run(i):
        request = stream_request(token_ids=tokens(i, n_prompt), max_tokens=n_output, ignore_eos=True, seed=i)
        for _ in service.stub.generate_stream(request, timeout=600):
            pass

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n_streams)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return n_streams * n_output / (time.monotonic() - begin)


def preemption(directory):
    n_streams, n_prompt, n_output = 24, 64, 448
    n_blocks = n_streams * (n_prompt + n_output) // 16
    rates = {}
    for name, n in (("all", n_blocks), ("quarter", n_blocks // 4)):
        samples = []
        for _ in range(3):
            with cluster(directory, n, "--max-model-len=512", f"--max-num-seqs={n_streams}") as service:
                first_token_ms(service.stub, tokens(99, 256))
                samples.append(goodput(service, n_streams, n_prompt, n_output))
                time.sleep(0.2)  # the load's age at most
                n_preemptions = service.stub.info().load.preemption_total
        rates[name] = median(samples)
        figure(f"goodput_blocks_for_{name}", rates[name], "tokens/s")
        figure(f"preemptions_blocks_for_{name}", n_preemptions, "times")
    figure("preemption_goodput_ratio", rates["quarter"] / rates["all"], "fraction", 0.7)


def main():
    modes = {"prefix_cache": prefix_cache, "preemption": preemption}
    if len(sys.argv) != 2 or sys.argv[1] not in modes:
        sys.exit(f"usage: kv_blocks.py {' | '.join(modes)}")
    with tempfile.TemporaryDirectory(prefix="bora-bench-") as work:
        modes[sys.argv[1]](bench_service.write_model_directory(work, SHAPE))


if __name__ == "__main__":
    main()
