"""How much of a busy period each pipeline stage idles.

Stages of the simulated device, so that there may be more of them than cores, and of the CPU with dummy weights, as many as
cores. Eight streams decode; then prompts of 2k tokens arrive beside them all the time. Prints `figure NAME VALUE UNIT [limit L
ratio R]` rows; a bubble is the worst stage's.
"""

import os
import tempfile
import threading
import time

import bench_service
import peer_model
from bora_e2e import Cluster, stream_request
from kv_blocks import SHAPE, figure, tokens

N_STREAMS = 8
MEASURE_S = 6
# 230M parameters: a stage takes milliseconds, many times what a core needs for the client and the coordinator.
CPU_SHAPE = peer_model.Shape(1024, 3584, 16, 16, 4, 64, 4096, max_position=16384)
# A step of the whole model: 20 ms, and as long again for 1000 tokens.
SIM = "--device=sim:base_us=20000,token_us=20,context_us=0.01"


def seconds(duration):
    return duration.seconds + duration.nanos / 1e9


def stage_times(stub):
    load = stub.info().load
    return seconds(load.busy_duration), [seconds(d) for d in load.stage_compute_durations]


def bubbles(stub, begin):
    busy, computed = stage_times(stub)
    return [1 - (after - before) / (busy - begin[0]) for before, after in zip(begin[1], computed)]


def measure(stub, prompts):
    """Idle part of each stage while streams decode, and while prompts are computed beside them."""
    streams = [
        stub.generate_stream(
            stream_request(token_ids=prompts(i, 64), max_tokens=16000, ignore_eos=True, seed=i), timeout=600)
        for i in range(N_STREAMS)
    ]
    readers = [threading.Thread(target=drain, args=(call,)) for call in streams]
    for reader in readers:
        reader.start()
    time.sleep(2)
    begin = stage_times(stub)
    time.sleep(MEASURE_S)
    decode = bubbles(stub, begin)
    stop = threading.Event()
    senders = [threading.Thread(target=send_prompts, args=(stub, stop, prompts, i)) for i in range(3)]
    for sender in senders:
        sender.start()
    time.sleep(1)
    begin = stage_times(stub)
    time.sleep(MEASURE_S)
    mixed = bubbles(stub, begin)
    stop.set()
    for call in streams:
        call.cancel()
    for thread in readers + senders:
        thread.join()
    return decode, mixed


def drain(call):
    try:
        for _ in call:
            pass
    except Exception:  # cancelled
        pass


def send_prompts(stub, stop, prompts, which):
    i = 0
    while not stop.is_set():
        i += 1
        list(stub.generate_stream(stream_request(token_ids=prompts(1000 * which + i, 2000), max_tokens=2), timeout=600))


def show(name, result):
    decode, mixed = result
    for kind, stages in (("", decode), ("_with_prompts", mixed)):
        for stage, idle in enumerate(stages):
            figure(f"idle_{name}{kind}_stage{stage}", idle, "fraction")
        figure(f"bubble_{name}{kind}", max(stages), "fraction", 0.10, less_is_better=True)


def sim(pp, *flags):
    with tempfile.TemporaryDirectory(prefix="bora-bench-") as work:
        directory = bench_service.write_model_directory(work, SHAPE)
        limits = ["--load-format=dummy", "--max-model-len=16384", "--max-num-batched-tokens=1024"]
        with Cluster(model=directory, pp=pp, worker_flags=[SIM], coordinator_flags=limits + list(flags)) as service:
            return measure(service.stub, tokens)


def cpu(pp):
    with tempfile.TemporaryDirectory(prefix="bora-bench-") as work:
        directory = bench_service.write_model_directory(work, CPU_SHAPE)
        flags = ["--load-format=dummy", "--dtype=bfloat16", "--max-model-len=16384"]
        with Cluster(model=directory, pp=pp, coordinator_flags=flags) as service:
            return measure(service.stub, tokens)


def main():
    show("pp2", sim(2))
    show("pp4", sim(4))
    show("pp4_without_async_scheduling", sim(4, "--async-scheduling=false"))
    n_cores = len(os.sched_getaffinity(0))
    if n_cores >= 2:
        show(f"cpu_pp{min(n_cores, 4)}", cpu(min(n_cores, 4)))


if __name__ == "__main__":
    main()
