"""Every server ends on SIGTERM and on SIGINT, whatever it is doing or waiting for."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from bora_e2e import DEMO_MODEL, Cluster, Process, binary, wait_until
from bora.inference.v1 import model_service_pb2 as model_service
from parallel_util import open_streams, small_checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A process has 10 s until it gives itself up; what ends in an orderly way takes far less.
END_S = 8


class SignalsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix="bora-signals-")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)

    def expect_end(self, process, signal_number, what):
        begin = time.monotonic()
        process.signal(signal_number)
        self.assertEqual(process.wait(END_S), 0, what)
        print(f"{what}: ended {time.monotonic() - begin:.2f} s after signal {signal_number}")

    def start(self, *command):
        process = Process("process", command, os.path.join(self.directory, f"{time.monotonic_ns()}.log"))
        self.addCleanup(process.kill)
        return process

    def test_worker_without_a_coordinator(self):
        # .invalid never resolves; port 1 has no listener.
        for address, line in [("coordinator.invalid:1", None), ("127.0.0.1:1", "no coordinator")]:
            for signal_number in SIGNALS:
                worker = self.start(binary("bora-worker"), f"--coordinator={address}")
                # Asking a name server may take longer than a test should: the signal must not wait for it.
                if line is None:
                    wait_until(lambda: self.blocks_signals(worker), 10, "the worker has begun")
                    time.sleep(0.5)
                else:
                    wait_until(lambda: line in worker.log(), 10, line)
                self.expect_end(worker, signal_number, f"a worker of {address}")

    def blocks_signals(self, process):
        """Past the first lines of main, where signals still have their default."""
        with open(f"/proc/{process.pid}/status") as file:
            mask = next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk"))
        return mask >> (signal.SIGTERM - 1) & 1 == 1

    def test_worker_with_a_wrong_credential_file_says_so_before_it_looks_for_the_coordinator(self):
        worker = subprocess.run([binary("bora-worker"), "--coordinator=coordinator.invalid:1",
                                 f"--credential-file={self.directory}/none"], capture_output=True, text=True, timeout=30)
        self.assertEqual(worker.returncode, 2, worker.stderr)
        self.assertIn("--credential", worker.stderr)

    def test_worker_that_loads(self):
        model = os.path.join(self.directory, "large")
        shutil.copytree(small_checkpoint(os.path.join(self.directory, "small")), model)
        path = os.path.join(model, "config.json")
        with open(path) as file:
            config = json.load(file)
        config.update(hidden_size=512, intermediate_size=98304)
        with open(path, "w") as file:
            json.dump(config, file)
        with Cluster(model=model, start_workers=False, coordinator_flags=["--load-format=dummy"],
                     worker_flags=["--threads=1"]) as cluster:
            for signal_number in SIGNALS:
                worker = cluster.start_worker()
                wait_until(lambda: [w.state for w in cluster.stub.info().workers] ==
                           [model_service.WORKER_STATE_LOADING], 30, "loading")
                self.expect_end(worker, signal_number, "a worker that loads")
                self.assertNotIn("weights loaded", worker.log())
                wait_until(lambda: not cluster.stub.info().workers, 10, "the coordinator has noticed")
            self.expect_end(cluster.coordinator, signal.SIGTERM, "a coordinator without workers")

    def test_worker_that_serves_or_whose_coordinator_is_stopped(self):
        with Cluster(pp=2, worker_flags=["--device=sim"]) as cluster:
            for signal_number in SIGNALS:
                open_streams(cluster.stub, 2, max_tokens=1900)
                self.expect_end(cluster.workers[-1], signal_number, "a worker in steps")
                cluster.start_worker()
                cluster.wait_serving(60)
            cluster.coordinator.signal(signal.SIGSTOP)
            for worker, signal_number in zip([w for w in cluster.workers if w.alive()], SIGNALS):
                self.expect_end(worker, signal_number, "a worker of a stopped coordinator")
            cluster.coordinator.signal(signal.SIGCONT)
            self.expect_end(cluster.coordinator, signal.SIGINT, "a coordinator that lost its workers")

    def test_orphans_end(self):
        # The shell is the parent; the process that it leaves behind must go with it.
        for command in (f"{binary('bora-worker')} --coordinator=127.0.0.1:1",
                        f"{binary('bora-coordinator')} --model={DEMO_MODEL} --listen=127.0.0.1:0 "
                        "--worker-listen=127.0.0.1:0"):
            log = os.path.join(self.directory, f"{time.monotonic_ns()}.log")
            shell = subprocess.Popen(["bash", "-c", f"{command} --exit-with-parent 2>{log} & echo $!; sleep 60"],
                                     stdout=subprocess.PIPE, text=True)
            pid = int(shell.stdout.readline())
            wait_until(lambda: os.path.exists(log) and os.path.getsize(log) > 0, 20, "it runs")
            shell.kill()
            shell.wait()
            shell.stdout.close()
            wait_until(lambda: not os.path.exists(f"/proc/{pid}") or self.is_zombie(pid), END_S, "the orphan has ended")

    def is_zombie(self, pid):
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"


if __name__ == "__main__":
    unittest.main(verbosity=2)
