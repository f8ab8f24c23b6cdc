"""The service with groups of workers whose GPUs are the CPU, linked by a library with NCCL's interface: 2 tensor ranks x 2
stages give the bytes of one worker, and a group comes back after whatever happens to one of its ranks.
"""

import os
import signal
import unittest

import grpc

from bora_e2e import BINARY_DIR, Cluster, error_reason, wait_until
from parallel_util import REQUESTS, OpenStream, answer_bytes

WORKER = "bora-worker-cuda-host"
FLAGS = dict(worker_binary=WORKER, worker_flags=["--device=cuda:0"],
             coordinator_flags=["--dtype=bfloat16", "--max-model-len=256", "--max-num-seqs=4"])
GROUP = dict(tp=2, pp=2, **FLAGS)
REFUSED = 3  # exit code of a worker that its coordinator refuses
HUNG = 70  # of one whose rank thread does not come back


class CudaGroupTest(unittest.TestCase):

    def setUp(self):
        # The loader finds the library that stands in for NCCL.
        os.environ["LD_LIBRARY_PATH"] = os.path.join(BINARY_DIR, "fake_nccl")
        self.addCleanup(os.environ.pop, "LD_LIBRARY_PATH")

    def setting(self, name, value):
        """For the processes that are started from here on."""
        os.environ[name] = value
        self.addCleanup(os.environ.pop, name, None)

    def start(self, cluster, n_workers, **settings):
        """Starts workers with settings of the library that others do not have."""
        for name, value in settings.items():
            os.environ[name] = value
        try:
            return [cluster.start_worker() for _ in range(n_workers)]
        finally:
            for name in settings:
                del os.environ[name]

    def test_two_by_two_give_the_bytes_of_one(self):
        with Cluster(**FLAGS) as cluster:
            alone = answer_bytes(cluster.stub)
        with Cluster(**GROUP) as cluster:
            log = cluster.workers[0].log()
            self.assertRegex(cluster.workers[0].log_field("NCCL", "version"), r"^2\.\d+\.\d+$")
            # The operator has set no interface, address or rank.
            self.assertIn("NCCL_SOCKET_IFNAME==lo", cluster.workers[0].log_field("NCCL", "settings"), log)
            self.assertEqual(answer_bytes(cluster.stub), alone)
            # Beside others.
            streams = [
                OpenStream(cluster.stub, text="Once upon a time", seed=seed, max_tokens=12, temperature=1.0,
                           ignore_eos=True) for seed in range(2)
            ]
            self.assertEqual(answer_bytes(cluster.stub), alone)
            for stream in streams:
                stream.join(120)
                self.assertEqual((stream.code, stream.n_tokens), ("OK", 12))
            cluster.wait_idle()
            stages = cluster.stub.info().load
            print(stages)

    def test_a_killed_rank_is_replaced_and_the_others_keep_their_weights(self):
        with Cluster(**GROUP) as cluster:
            alone = answer_bytes(cluster.stub, REQUESTS[:1])
            for victim in (0, 3):
                stream = OpenStream(cluster.stub, text="First Citizen:", seed=1, max_tokens=200, ignore_eos=True)
                wait_until(lambda: stream.n_tokens > 2, 60, "tokens")
                cluster.workers[victim].kill()
                took_s = cluster.wait_not_serving(5)
                stream.join(10)
                self.assertEqual((stream.code, stream.reason), ("UNAVAILABLE", "WORKER_LOST"))
                cluster.start_worker()
                back_s = cluster.wait_serving(60)
                print(f"worker {victim} killed: noticed after {took_s:.2f} s, serving again after {back_s:.2f} s")
                self.assertEqual(answer_bytes(cluster.stub, REQUESTS[:1]), alone)
            survivors = cluster.workers[1:3]
            self.assertTrue(all(worker.alive() for worker in survivors))
            for worker in survivors:
                self.assertEqual(worker.log().count('"weights loaded"'), 1)

    def test_a_rank_that_stands_still_in_a_step_ends_the_epoch_only(self):
        with Cluster(**{**GROUP, "start_workers": False}) as cluster:
            self.start(cluster, 1, FAKE_NCCL_HANG_AFTER="2000")
            self.start(cluster, 3)
            cluster.wait_serving(60)
            alone = answer_bytes(cluster.stub, REQUESTS[:1])
            stream = OpenStream(cluster.stub, text="First Citizen:", seed=1, max_tokens=200, ignore_eos=True)
            stream.join(60)
            self.assertEqual((stream.code, stream.reason), ("UNAVAILABLE", "WORKER_LOST"))
            self.assertIn("a step took longer than", cluster.coordinator.log())
            cluster.wait_serving(30)
            self.assertEqual(answer_bytes(cluster.stub, REQUESTS[:1]), alone)
            self.assertTrue(all(worker.alive() for worker in cluster.workers))

    def test_a_rank_that_cannot_end_an_epoch_exits(self):
        with Cluster(**{**GROUP, "start_workers": False}) as cluster:
            self.start(cluster, 1, FAKE_NCCL_ABORT_HANGS="1")
            self.start(cluster, 3)
            cluster.wait_serving(60)
            alone = answer_bytes(cluster.stub, REQUESTS[:1])
            cluster.workers[2].kill()
            self.assertEqual(cluster.workers[0].wait(10), HUNG)
            self.assertIn("has hung", cluster.workers[0].log())
            self.start(cluster, 2)
            cluster.wait_serving(60)
            self.assertEqual(answer_bytes(cluster.stub, REQUESTS[:1]), alone)

    def test_what_does_not_fit_together_is_refused_by_name(self):
        with Cluster(**{**GROUP, "start_workers": False}) as cluster:
            self.start(cluster, 1)
            wait_until(lambda: "worker attached" in cluster.coordinator.log(), 30, "a first worker")
            for version, message in (("22703", "exchanges data by NCCL 2.27.3, worker 1 on "),
                                     ("20000", "has no NCCL, and this model is divided over 4 ranks")):
                with self.subTest(version=version):
                    worker, = self.start(cluster, 1, FAKE_NCCL_VERSION=version)
                    self.assertEqual(worker.wait(20), REFUSED)
                    self.assertIn(message, worker.log())
            cluster.worker_binary, cluster.worker_flags = "bora-worker", ["--device=cpu"]
            worker = cluster.start_worker()
            self.assertEqual(worker.wait(20), REFUSED)
            self.assertIn("exchanges data by host", worker.log())


if __name__ == "__main__":
    unittest.main(verbosity=2)
