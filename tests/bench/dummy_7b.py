"""Serves the shape of Mistral 7B (v0.2: 32,768 tokens) in bf16 with dummy weights, and asks it one question.

Needs 20 GB of free memory: 14.5 GB of weights, 4 GiB of KV blocks, which is one request of full length. Prints `figure NAME
VALUE UNIT` rows; kv_tokens and full_length_requests are what the coordinator logs when the group forms.
"""

import sys
import tempfile
import time

import bench_service
import peer_model
from bora_e2e import Cluster, stream_request
from kv_blocks import figure

SHAPE = peer_model.Shape(4096, 14336, 32, 32, 8, 128, 32000, max_position=32768)
N_PROMPT, N_OUTPUT = 128, 33
KV_BYTES = SHAPE.max_position * SHAPE.kv_elements_per_token() * 2
N_BYTES_FREE_MIN = 20e9


def available_bytes():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


def ask(stub, request):
    """Seconds to the first token, and from there to the last; the messages."""
    begin, times, messages = time.monotonic(), [], []
    for message in stub.generate_stream(request, timeout=600):
        times.append(time.monotonic())
        messages.append(message)
    return times[0] - begin, times[-1] - times[0], messages


def main():
    if available_bytes() < N_BYTES_FREE_MIN:
        sys.exit(f"dummy_7b: {available_bytes() / 1e9:.1f} GB of memory are free, {N_BYTES_FREE_MIN / 1e9:.0f} are needed")
    with tempfile.TemporaryDirectory(prefix="bora-bench-") as work:
        directory = bench_service.write_model_directory(work, SHAPE)
        begin = time.monotonic()
        with Cluster(
                model=directory,
                coordinator_flags=["--load-format=dummy", "--dtype=bfloat16", f"--kv-cache-memory-bytes={KV_BYTES}"],
                start_timeout_s=600) as service:
            figure("start", time.monotonic() - begin, "s")
            worker = service.workers[0]
            figure("weights", worker.log_field("weights loaded", "bytes") / 1e9, "GB")
            figure("load", worker.log_field("weights loaded", "seconds"), "s")
            for name, unit in (("kv_tokens", "tokens"), ("full_length_requests", "requests")):
                print(f"figure {name} {service.coordinator.log_field('group formed', name)} {unit}", flush=True)
            prompt = [300 + i * 7919 % 30000 for i in range(N_PROMPT)]
            ttft_s, decode_s, messages = ask(
                service.stub, stream_request(token_ids=prompt, max_tokens=N_OUTPUT, ignore_eos=True, temperature=0))
            assert messages[0].token_count == 1, messages[0]
            assert messages[-1].usage.output_token_count == N_OUTPUT, messages[-1]
            figure(f"ttft_{N_PROMPT}", ttft_s, "s")
            figure(f"prefill_{N_PROMPT}", N_PROMPT / ttft_s, "tokens/s")
            figure("decode_1", (N_OUTPUT - 1) / decode_s, "tokens/s")
            figure("worker_rss", worker.rss_bytes() / 2**30, "GiB")
            figure("coordinator_rss", service.coordinator.rss_bytes() / 2**20, "MiB")


if __name__ == "__main__":
    main()
