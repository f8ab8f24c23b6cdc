"""Time to the first token of a tenant that sends little, while another one floods the queue.

Calm: the other tenant has as many requests open as its share of the slots. Flood: fifty times as many. Through the whole
service with dummy weights. Prints `figure NAME VALUE UNIT [limit L ratio R]` rows; fairness_ttft_growth is the 99th percentile in the flood
over the calm one.
"""

import tempfile
import threading
import time

import bench_service
from bora_e2e import stream_request
from itl_under_prefill import percentile
from kv_blocks import SHAPE, cluster, figure, tokens

N_SLOTS = 8
N_REQUESTS = 60
N_OTHER_CALM = N_SLOTS // 2
N_OTHER_FLOOD = 50 * N_OTHER_CALM


def request(tenant, seed, n_prompt, n_output):
    message = stream_request(token_ids=tokens(seed, n_prompt), max_tokens=n_output, ignore_eos=True, seed=seed)
    message.tenant = tenant
    return message


class Other:
    """A tenant that has so many requests open at any time."""

    def __init__(self, stub, n_open):
        self.stub, self.stopped = stub, threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(n_open)]
        for thread in self.threads:
            thread.start()

    def run(self, i):
        n = 0
        while not self.stopped.is_set():
            n += 1
            call = self.stub.generate_stream(request("other", 1000 * i + n, 256, 64), timeout=600)
            for _ in call:
                if self.stopped.is_set():
                    call.cancel()
                    return

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def first_tokens_ms(stub):
    times = []
    for i in range(N_REQUESTS):
        begin = time.monotonic()
        call = stub.generate_stream(request("light", 500000 + i, 128, 4), timeout=600)
        next(call)
        times.append(1e3 * (time.monotonic() - begin))
        list(call)
        time.sleep(0.05)
    return times


def main():
    with tempfile.TemporaryDirectory(prefix="bora-bench-") as work:
        directory = bench_service.write_model_directory(work, SHAPE)
        p99 = {}
        for name, n_open in (("calm", N_OTHER_CALM), ("flood", N_OTHER_FLOOD)):
            with cluster(directory, 4096, "--max-model-len=2048", f"--max-num-seqs={N_SLOTS}",
                         "--step-time-budget-ms=50") as service:
                other = Other(service.stub, n_open)
                time.sleep(3)
                times = first_tokens_ms(service.stub)
                n_preemptions = service.stub.info().load.preemption_total
                other.stop()
                p99[name] = percentile(times, 0.99)
                figure(f"ttft_p50_{name}", percentile(times, 0.5), "ms")
                figure(f"ttft_p99_{name}", p99[name], "ms")
                figure(f"preemptions_{name}", n_preemptions, "times")
        figure("fairness_ttft_growth", p99["flood"] / p99["calm"], "times", 2, less_is_better=True)


if __name__ == "__main__":
    main()
