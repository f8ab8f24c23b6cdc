"""The system clock is set forward and back under a running service, and nothing happens: spans are measured by the steady
clock. A library in front of libc (stepped_clock.cc) shows the servers a clock that this test sets."""

import mmap
import os
import signal
import struct
import tempfile
import time
import unittest

import grpc

from bora_e2e import BINARY_DIR, Cluster, error_reason, inference, stream_request, wait_until
from parallel_util import OpenStream
from worker_peer import WorkerPeer, read_credential

HOUR_S = 3600
LIBRARY = os.path.join(BINARY_DIR, "test", "libstepped_clock.so")
# What a stream may pause for on a busy machine; the faults that this test is about last an hour or end the stream.
PATIENCE_S = 20


class SteppedClock:
    """The offset of the servers' system clock, in a file that they map."""

    def __init__(self):
        self.file = tempfile.NamedTemporaryFile(prefix="bora-clock-")
        self.file.write(bytes(8))
        self.file.flush()
        self.memory = mmap.mmap(self.file.fileno(), 8)
        self.prefix = ["env", f"LD_PRELOAD={LIBRARY}", f"BORA_CLOCK_OFFSET_FILE={self.file.name}"]

    def step(self, seconds):
        offset_ns, = struct.unpack("q", self.memory[:8])
        self.memory[:8] = struct.pack("q", offset_ns + int(seconds * 1e9))


class ClockTest(unittest.TestCase):

    def expect_progress(self, cluster, stream, what):
        """The stream goes on, the service serves, and a whole call works."""
        n_before = stream.n_tokens
        wait_until(lambda: stream.n_tokens > n_before + 20 or stream.code is not None, PATIENCE_S, f"{what}: tokens")
        self.assertIsNone(stream.code, f"{what}: {stream.code} {stream.message}")
        self.assertTrue(cluster.serving(), what)
        answer = cluster.stub.generate(
            stream_request(text="a", max_tokens=2, ignore_eos=True, cls=inference.GenerateRequest), timeout=PATIENCE_S)
        self.assertEqual(len(answer.token_ids), 2, what)

    def expect_deadlines(self, cluster, what):
        """What should take a second takes about that, and not an hour."""
        begin = time.monotonic()
        call = stream_request(text="a", max_tokens=1900, ignore_eos=True, cls=inference.GenerateRequest)
        call.stopping.time_limit.FromSeconds(1)
        cluster.stub.generate(call, timeout=PATIENCE_S)
        self.assertGreater(time.monotonic() - begin, 0.9, what)
        with self.assertRaises(grpc.RpcError) as raised:
            cluster.stub.generate(
                stream_request(text="a", max_tokens=1900, ignore_eos=True, cls=inference.GenerateRequest), timeout=2)
        self.assertEqual(error_reason(raised.exception)[0], "DEADLINE_EXCEEDED", what)
        wait_until(lambda: cluster.stub.info().load.running_count == 1, PATIENCE_S, f"{what}: the call is gone")

    def expect_strangers_to_be_sent_away(self, cluster, what):
        """A timer of gRPC's own: a stream that shows the credential and then says nothing is ended after 5 s."""
        with WorkerPeer(cluster.worker_port, read_credential(cluster), timeout=5 + PATIENCE_S) as peer:
            self.assertEqual(peer.end().details(), "no hello within 5 s", what)

    def test_the_clock_is_set_under_a_running_service(self):
        clock = SteppedClock()
        with Cluster(pp=2, prefix=clock.prefix, worker_flags=["--device=sim:base_us=20000"]) as cluster:
            epoch = cluster.stub.info().epoch
            stream = OpenStream(cluster.stub, text="Once", max_tokens=2000, ignore_eos=True, seed=1)
            wait_until(lambda: stream.n_tokens > 0, PATIENCE_S, "first token")
            for hours in (1, -1, -1):
                clock.step(hours * HOUR_S)
                what = f"the clock was set by {hours} h"
                self.expect_progress(cluster, stream, what)
                # Longer than the heartbeat timeout.
                time.sleep(6 if hours < 0 else 0)
                self.expect_progress(cluster, stream, what)
            self.expect_deadlines(cluster, "an hour behind")
            self.expect_strangers_to_be_sent_away(cluster, "an hour behind")
            info = cluster.stub.info()
            self.assertEqual(info.epoch, epoch)
            self.assertTrue(all(w.last_heartbeat_age.ToSeconds() < PATIENCE_S for w in info.workers), info.workers)
            self.check_losses(cluster, clock, stream, epoch)

    def check_losses(self, cluster, clock, stream, epoch):
        """Losses are noticed and healed, and so by a coordinator whose clock is behind that of the one before it."""
        cluster.workers[1].kill()
        stream.join(PATIENCE_S)
        self.assertEqual(stream.reason, "WORKER_LOST")
        cluster.start_worker()
        cluster.wait_serving(60)
        self.assertGreater(cluster.stub.info().epoch, epoch)
        epoch = cluster.stub.info().epoch
        cluster.coordinator.kill()
        clock.step(-24 * HOUR_S)
        cluster.start_coordinator(port=cluster.port, worker_port=cluster.worker_port)
        cluster.wait_serving(60)
        self.assertGreater(cluster.stub.info().epoch, epoch)
        for process in cluster.workers + [cluster.coordinator]:
            if process.alive():
                process.signal(signal.SIGTERM)
                self.assertEqual(process.wait(PATIENCE_S), 0, process.name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
