"""Workers on the simulated device: a pipeline with more stages than cores, whose answers depend on nothing but the request."""

import os
import shutil
import subprocess
import tempfile
import time
import unittest

from bora_e2e import DEMO_MODEL, Cluster, binary, collect, inference, stream_request, wait_until
from parallel_util import OpenStream, answer_bytes

# 12 ms for a step of the whole model, 3 ms for a stage.
DEVICE = "--device=sim:base_us=12000,token_us=0,context_us=0"


class SimDeviceTest(unittest.TestCase):

    def test_the_same_bytes_alone_and_under_load(self):
        with Cluster(pp=4, worker_flags=[DEVICE]) as cluster:
            self.assertIn("sim (base_us=12000, token_us=0, context_us=0)", cluster.coordinator.log())
            alone = answer_bytes(cluster.stub)
            self.assertEqual(answer_bytes(cluster.stub), alone)

            request = dict(text="ROMEO:", max_tokens=20, seed=7, temperature=0.8, logprobs=1)
            begin = time.monotonic()
            expected = collect(cluster.stub.generate_stream(stream_request(**request)))[:2]
            # Each token passes through four stages before the next can.
            self.assertGreaterEqual(time.monotonic() - begin, 20 * 0.012)
            self.assertEqual(len(expected[1]), 20)

            streams = [
                OpenStream(cluster.stub, text="Once upon a time", seed=seed, max_tokens=200) for seed in range(8)
            ]
            wait_until(lambda: all(stream.n_tokens > 0 for stream in streams), 30, "tokens on every stream")
            under_load = collect(cluster.stub.generate_stream(stream_request(**request)))[:2]
            self.assertTrue(all(stream.end_time is None for stream in streams), "the load ended too early")
            self.assertEqual(under_load, expected)
            self.assertEqual(answer_bytes(cluster.stub), alone)
            for stream in streams:
                stream.join(60)
                self.assertEqual((stream.code, stream.n_tokens), ("OK", 200))
            cluster.wait_idle()

    def test_a_config_is_enough(self):
        with tempfile.TemporaryDirectory(prefix="bora-sim-") as directory:
            for name in ("config.json", "tokenizer.model"):
                shutil.copy(os.path.join(DEMO_MODEL, name), directory)
            with Cluster(model=directory, tp=2, pp=2, worker_flags=[DEVICE]) as cluster:
                answer = cluster.stub.generate(
                    stream_request(text="ROMEO:", max_tokens=5, seed=1, cls=inference.GenerateRequest))
                self.assertEqual(len(answer.token_ids), 5)

    def test_bad_costs_are_named(self):
        for device, message in (
            ("sim:base=1", "--device=sim:base=1: 'base' is none of base_us, token_us and context_us"),
            ("sim:token_us=-1", "--device=sim:token_us=-1: token_us is '-1', not a number in [0, 1000000]"),
            ("simulated", "--device=simulated is none of auto, cpu, cuda, cuda:N and sim"),
        ):
            with self.subTest(device=device):
                result = subprocess.run([binary("bora-worker"), f"--device={device}"], capture_output=True, text=True,
                                        env=dict(os.environ, BORA_WORKER_CREDENTIAL="of some length, as it must be"), timeout=20)
                self.assertEqual(result.returncode, 2)
                self.assertIn(message, result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
