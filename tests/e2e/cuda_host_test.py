"""The service with a worker whose GPU is the CPU: every kernel and the device layer of --device=cuda run, without a GPU."""

import subprocess
import time
import unittest

import grpc

from bora_e2e import Cluster, binary, collect, inference, stream_request, wait_until
from parallel_util import REQUESTS, OpenStream, answer_bytes

WORKER = "bora-worker-cuda-host"
FLAGS = dict(worker_binary=WORKER, worker_flags=["--device=cuda:0"],
             coordinator_flags=["--dtype=bfloat16", "--max-model-len=512", "--max-num-seqs=8"])


class CudaHostTest(unittest.TestCase):

    def test_the_demo_model_gives_the_same_bytes_alone_under_load_and_after_a_loss(self):
        with Cluster(**FLAGS) as cluster:
            self.assertIn("cuda:0 (CUDA on the CPU, deterministic)", cluster.coordinator.log())
            alone = answer_bytes(cluster.stub, REQUESTS[:1])
            alone += answer_bytes(cluster.stub, REQUESTS[1:])
            # Both together, beside other streams.
            streams = [
                OpenStream(cluster.stub, text="Once upon a time", seed=seed, max_tokens=40, temperature=1.0,
                           ignore_eos=True) for seed in range(4)
            ]
            wait_until(lambda: all(stream.n_tokens > 0 for stream in streams), 60, "tokens on every stream")
            self.assertEqual(answer_bytes(cluster.stub), alone)
            for stream in streams:
                stream.join(120)
                self.assertEqual((stream.code, stream.n_tokens), ("OK", 40))
            cluster.wait_idle()

            cluster.workers[0].kill()
            cluster.wait_not_serving(10)
            cluster.start_worker()
            cluster.wait_serving(60)
            self.assertEqual(answer_bytes(cluster.stub), alone)

    def test_the_text_is_the_cpu_workers(self):
        """Greedy text of a trained model does not hang on the last bits of its numbers."""
        answers = []
        for worker in (WORKER, "bora-worker"):
            flags = {**FLAGS, "worker_binary": worker}
            if worker == "bora-worker":
                flags["worker_flags"] = ["--device=cpu"]
            with Cluster(**flags) as cluster:
                request = stream_request(text="ROMEO:\n", max_tokens=24, temperature=0, logprobs=0, ignore_eos=True)
                answers.append(collect(cluster.stub.generate_stream(request, timeout=120))[:3])
        (text, ids, logprobs), (cpu_text, cpu_ids, cpu_logprobs) = answers
        self.assertEqual((text, ids), (cpu_text, cpu_ids))
        worst = max(abs(a.logprob - b.logprob) for a, b in zip(logprobs, cpu_logprobs))
        print(f"worst difference of a log-probability: {worst:.4f}")
        self.assertGreater(len(ids), 0)

    def test_what_a_gpu_does_not_serve_is_refused_by_name(self):
        for dtype, message in (
            ("float32", "a GPU serves bfloat16 without quantization"),
            ("float16", "float16 weights are not supported on GPUs: --dtype bfloat16 rounds them"),
        ):
            with self.subTest(dtype=dtype), Cluster(**{**FLAGS, "coordinator_flags": [f"--dtype={dtype}"]},
                                                    start_workers=False) as cluster:
                cluster.start_worker()
                wait_until(lambda message=message: message in cluster.coordinator.log(), 30, message)

    def test_too_little_memory_is_refused_with_the_numbers(self):
        flags = {**FLAGS, "worker_flags": ["--device=cuda", "--gpu-memory-utilization=0.05"]}
        with Cluster(**flags, start_workers=False) as cluster:
            cluster.start_worker()
            wait_until(lambda: "--gpu-memory-utilization=0.05 gives this process" in cluster.coordinator.log(), 30,
                       "refusal")

    def test_bad_devices_are_named(self):
        for device, message in (
            ("cuda:1", "--device=cuda:1: there is only cuda:0"),
            ("cuda:x", "--device=cuda:x: a GPU is cuda or cuda:N with N >= 0"),
        ):
            with self.subTest(device=device):
                result = subprocess.run([binary(WORKER), f"--device={device}"], capture_output=True, text=True, timeout=30)
                self.assertIn(message, result.stderr)
                self.assertNotEqual(result.returncode, 0)

    def test_every_gpu_is_listed(self):
        result = subprocess.run([binary(WORKER), "--list-devices"], capture_output=True, text=True, timeout=30)
        self.assertRegex(result.stdout, r"cuda:0: CUDA on the CPU, compute capability 9.0, 4 multiprocessors, \d+ MiB")


if __name__ == "__main__":
    unittest.main(verbosity=2)
