"""How long 8 open streams wait between tokens, alone and while a prompt of 16k tokens is computed beside them.

Through the whole service with dummy weights, with a step time budget and without. Prints `figure NAME VALUE UNIT [limit L
ratio R]` rows; itl_p99_over_budget is the 99th percentile with the prompt over the budget.
"""

import tempfile
import threading
import time

import bench_service
from bora_e2e import stream_request
from kv_blocks import SHAPE, cluster, figure, tokens

N_STREAMS = 8
N_PROMPT = 16000
BUDGET_MS = 25


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


class Streams:
    """Streams that note when each message came, until they are told to stop."""

    def __init__(self, stub):
        self.times = [[] for _ in range(N_STREAMS)]
        self.calls = [
            stub.generate_stream(
                stream_request(token_ids=tokens(i, 64), max_tokens=16000, ignore_eos=True, seed=i), timeout=600)
            for i in range(N_STREAMS)
        ]
        self.threads = [threading.Thread(target=self.read, args=(i,)) for i in range(N_STREAMS)]
        for thread in self.threads:
            thread.start()

    def read(self, i):
        try:
            for _ in self.calls[i]:
                self.times[i].append(time.monotonic())
        except Exception:  # cancelled
            pass

    def gaps_ms(self, begin, end):
        """Between messages of one stream, of which the later came in the interval."""
        return [1e3 * (b - a) for times in self.times for a, b in zip(times, times[1:]) if begin <= b <= end]

    def stop(self):
        for call in self.calls:
            call.cancel()
        for thread in self.threads:
            thread.join()


def measure(directory, budget_ms):
    with cluster(directory, 4096, "--max-model-len=16384", f"--step-time-budget-ms={budget_ms}") as service:
        stub = service.stub
        list(stub.generate_stream(stream_request(token_ids=tokens(98, 2000), max_tokens=1), timeout=600))  # warm-up
        streams = Streams(stub)
        while min(len(times) for times in streams.times) < 50:
            time.sleep(0.05)
        begin = time.monotonic()
        time.sleep(2)
        middle = time.monotonic()
        list(stub.generate_stream(stream_request(token_ids=tokens(97, N_PROMPT), max_tokens=1), timeout=600))
        end = time.monotonic()
        alone, beside = streams.gaps_ms(begin, middle), streams.gaps_ms(middle, end)
        error = stub.info().load.step_time_error_p90
        streams.stop()
        return alone, beside, end - middle, error


def main():
    assert SHAPE.max_position > N_PROMPT
    with tempfile.TemporaryDirectory(prefix="bora-bench-") as work:
        directory = bench_service.write_model_directory(work, SHAPE)
        for name, budget_ms in (("no_budget", 0), ("budget", BUDGET_MS)):
            alone, beside, ttft_s, error = measure(directory, budget_ms)
            figure(f"itl_p99_alone_{name}", percentile(alone, 0.99), "ms")
            figure(f"itl_p50_under_prefill_{name}", percentile(beside, 0.5), "ms")
            figure(f"itl_p99_under_prefill_{name}", percentile(beside, 0.99), "ms")
            figure(f"ttft_16k_{name}", ttft_s, "s")
            figure(f"step_time_error_p90_{name}", error, "fraction", 0.2, less_is_better=True)
        figure("itl_p99_over_budget", percentile(beside, 0.99) / BUDGET_MS, "times", 2.5, less_is_better=True)


if __name__ == "__main__":
    main()
