"""The end of a process that was asked to end: nothing new begins, what runs is finished, and the wait is bounded."""

import os
import shutil
import signal
import tempfile
import time
import unittest

import grpc

from bora_e2e import Cluster, error_reason, inference, stream_request, wait_until
from parallel_util import answer_bytes, open_streams, small_checkpoint


class DrainTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix="bora-drain-")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.model = small_checkpoint(os.path.join(cls.directory, "model"))

    def cluster(self, *coordinator_flags):
        return Cluster(model=self.model, tp=2, pp=2, worker_flags=["--threads=1"], coordinator_flags=coordinator_flags)

    def terminate(self, process):
        process.signal(signal.SIGTERM)
        return time.monotonic()

    def test_running_streams_finish_and_new_calls_are_refused(self):
        with self.cluster("--shutdown-timeout=60s") as cluster:
            streams = open_streams(cluster.stub, 4, max_tokens=250)
            # Its channel was connected before; the refusal must come from the server, not from a closed port.
            begin = self.terminate(cluster.coordinator)
            not_serving_s = cluster.wait_not_serving(2)
            with self.assertRaises(grpc.RpcError) as raised:
                cluster.stub.generate(stream_request(text="a", max_tokens=1, cls=inference.GenerateRequest), timeout=10)
            self.assertEqual(error_reason(raised.exception), ("UNAVAILABLE", "DRAINING"), raised.exception.details())
            self.assertTrue(any(stream.code is None for stream in streams), "the streams ended too early to tell")
            for stream in streams:
                stream.join(60)
                self.assertEqual((stream.code, stream.n_tokens), ("OK", 250), stream.message)
                self.assertIsNotNone(stream.finish)
            last_end = max(stream.end_time for stream in streams)
            self.assertEqual(cluster.coordinator.wait(30), 0)
            exit_time = time.monotonic()
            print(f"drain: NOT_SERVING after {not_serving_s:.2f} s, last stream after {last_end - begin:.2f} s, "
                  f"exit {exit_time - last_end:.2f} s later")
            # 2 s for last messages, 1 s for the worker port, and slack.
            self.assertLess(exit_time - last_end, 5)

    def test_streams_longer_than_the_timeout_are_cut_off(self):
        with self.cluster("--shutdown-timeout=1s") as cluster:
            streams = open_streams(cluster.stub, 20)
            begin = self.terminate(cluster.coordinator)
            for stream in streams:
                stream.join(30)
            self.assertEqual(cluster.coordinator.wait(30), 0)
            exit_s = time.monotonic() - begin
            cut = [stream for stream in streams if stream.code != "OK"]
            print(f"timeout of 1 s: {len(cut)} of {len(streams)} streams cut off, exit after {exit_s:.2f} s")
            self.assertTrue(cut, "every stream was shorter than the timeout")
            for stream in cut:
                self.assertEqual((stream.code, stream.reason), ("UNAVAILABLE", "DRAINING"), stream.message)
                self.assertGreaterEqual(stream.end_time - begin, 0.9)
            self.assertLess(exit_s, 1 + 5)

    def test_idle_coordinator_exits_promptly(self):
        with self.cluster() as cluster:
            begin = self.terminate(cluster.coordinator)
            self.assertEqual(cluster.coordinator.wait(30), 0)
            print(f"idle coordinator: exit after {time.monotonic() - begin:.2f} s")
            self.assertLess(time.monotonic() - begin, 5)

    def test_coordinator_without_workers_exits_promptly(self):
        with Cluster(model=self.model, tp=2, pp=2, start_workers=False) as cluster:
            begin = self.terminate(cluster.coordinator)
            self.assertEqual(cluster.coordinator.wait(30), 0)
            self.assertLess(time.monotonic() - begin, 5)

    def test_second_signal_exits_at_once(self):
        with self.cluster("--shutdown-timeout=300s") as cluster:
            streams = open_streams(cluster.stub, 20)
            self.terminate(cluster.coordinator)
            wait_until(lambda: "draining" in cluster.coordinator.log(), 5, "draining")
            begin = self.terminate(cluster.coordinator)
            self.assertEqual(cluster.coordinator.wait(10), 128 + signal.SIGTERM)
            exit_s = time.monotonic() - begin
            print(f"second SIGTERM: exit after {exit_s:.2f} s")
            self.assertLess(exit_s, 1)
            for stream in streams:
                stream.join(10)

    def test_workers_wait_for_the_next_coordinator(self):
        with self.cluster() as cluster:
            answers = answer_bytes(cluster.stub)
            self.terminate(cluster.coordinator)
            self.assertEqual(cluster.coordinator.wait(30), 0)
            for worker in cluster.workers:
                wait_until(lambda: "no coordinator" in worker.log(), 10, "the worker dials again")
            cluster.start_coordinator(port=cluster.port, worker_port=cluster.worker_port)
            healed_s = cluster.wait_serving(30)
            print(f"next coordinator: serves after {healed_s:.2f} s")
            self.assertEqual(answer_bytes(cluster.stub), answers)
            for worker in cluster.workers:
                self.assertTrue(worker.alive())
                self.assertEqual(worker.log().count('"message":"weights loaded"'), 1, "weights were loaded again")

    def test_worker_exits_promptly_in_every_state(self):
        with self.cluster() as cluster:
            stream, = open_streams(cluster.stub, 1)
            begin = self.terminate(cluster.workers[0])
            self.assertEqual(cluster.workers[0].wait(10), 0)
            self.assertLess(time.monotonic() - begin, 3, "a worker in the middle of steps")
            print(f"worker SIGTERM in the middle of steps: exit after {time.monotonic() - begin:.2f} s")
            stream.join(10)
            self.assertEqual((stream.code, stream.reason), ("UNAVAILABLE", "WORKER_LOST"))
            begin = self.terminate(cluster.workers[1])
            self.assertEqual(cluster.workers[1].wait(10), 0)
            self.assertLess(time.monotonic() - begin, 3, "a worker without a group")
            cluster.coordinator.kill()
            wait_until(lambda: "no coordinator" in cluster.workers[2].log(), 10, "the worker dials again")
            begin = self.terminate(cluster.workers[2])
            self.assertEqual(cluster.workers[2].wait(10), 0)
            self.assertLess(time.monotonic() - begin, 3, "a worker without a coordinator")


if __name__ == "__main__":
    unittest.main(verbosity=2)
