"""deploy/local.sh with the programs of this build: a completion, and nothing left behind however it ends."""

import glob
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from bora_e2e import BINARY_DIR, SOURCE_DIR, wait_until

SCRIPT = os.path.join(SOURCE_DIR, "deploy", "local.sh")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_in_session(session):
    """{pid: command line} of the processes of a session, zombies excepted."""
    found = {}
    for stat in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(stat) as file:
                fields = file.read().rsplit(")", 1)[1].split()
            with open(stat[:-len("stat")] + "cmdline", "rb") as file:
                command = file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # gone meanwhile
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found[int(stat.split("/")[2])] = command
    return found


class LocalShTest(unittest.TestCase):

    def setUp(self):
        folder = self.enterContext(tempfile.TemporaryDirectory(prefix="bora-local-"))
        self.tmp = folder + "/tmp"
        os.mkdir(self.tmp)
        self.output = folder + "/output"
        self.port = free_port()
        self.env = dict(os.environ, BORA_BUILD_DIR=BINARY_DIR, TMPDIR=self.tmp)
        self.shared_before = set(os.listdir("/dev/shm"))

    def start(self, *args):
        """Starts the script in a session of its own, as a terminal would."""
        with open(self.output, "w") as output:
            process = subprocess.Popen([SCRIPT, "--port", str(self.port), *args], env=self.env, stdout=output,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        self.addCleanup(self.end, process)
        return process

    @staticmethod
    def end(process):
        for pid in processes_in_session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()

    def text(self):
        with open(self.output) as output:
            return output.read()

    def start_and_wait(self):
        process = self.start()
        wait_until(lambda: process.poll() is not None or "Ctrl-C stops" in self.text(), 120, "serving")
        self.assertIsNone(process.poll(), self.text())
        self.assertTrue(listens(self.port))
        self.assertEqual(len(processes_in_session(process.pid)), 6)  # script, coordinator, four workers
        return process

    def assert_nothing_is_left(self, process, timeout_s=2.0):
        wait_until(lambda: not processes_in_session(process.pid), timeout_s, "all processes gone")
        self.assertFalse(listens(self.port))
        self.assertEqual(os.listdir(self.tmp), [])
        # Other programs may use /dev/shm at the same time; ours would carry its name.
        self.assertEqual([name for name in set(os.listdir("/dev/shm")) - self.shared_before if "bora" in name], [])

    def test_once_prints_a_completion_and_ends(self):
        process = self.start("--once", "--prompt", "JULIET:")
        self.assertEqual(process.wait(timeout=120), 0, self.text())
        text = self.text()
        self.assertIn("serving", text)
        self.assertEqual(len(re.findall(r"pid \d+", text)), 4)
        self.assertIn("\nJULIET:", text)
        self.assertRegex(text, r"\+ 120 output tokens \| TTFT [0-9.]+ ms \| [0-9.]+ tokens/s")
        self.assert_nothing_is_left(process)

    def test_interrupt_leaves_nothing_and_a_second_start_works(self):
        process = self.start_and_wait()
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
        self.assertEqual(process.wait(timeout=10), 130)
        self.assert_nothing_is_left(process)
        again = self.start("--once")  # the same port
        self.assertEqual(again.wait(timeout=120), 0, self.text())
        self.assert_nothing_is_left(again)

    def test_signals_to_the_script_alone(self):
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            process = self.start_and_wait()
            process.send_signal(signal_number)
            self.assertEqual(process.wait(timeout=10), 128 + signal_number)
            self.assert_nothing_is_left(process)

    def test_interrupt_while_it_starts(self):
        process = self.start()
        wait_until(lambda: "waiting for" in self.text(), 60, "workers started")
        os.killpg(process.pid, signal.SIGINT)
        self.assertEqual(process.wait(timeout=10), 130)
        self.assert_nothing_is_left(process)

    def test_killed_script_leaves_no_orphans(self):
        process = self.start_and_wait()
        process.kill()
        process.wait()
        # The coordinator has no request to wait for, the workers nothing to finish.
        wait_until(lambda: not processes_in_session(process.pid), 5, "all processes gone")
        self.assertFalse(listens(self.port))

    def test_a_worker_that_ends_ends_the_script_with_its_reason(self):
        begin = time.monotonic()
        process = self.start("--device", "gpu")
        self.assertEqual(process.wait(timeout=60), 1, self.text())
        self.assertLess(time.monotonic() - begin, 60)
        self.assertRegex(self.text(), r"worker \d has stopped with exit code 2; the last lines of its log:")
        self.assertIn("--device=gpu is none of auto, cpu", self.text())
        self.assertNotIn("can't read", self.text())
        self.assert_nothing_is_left(process)
        process = self.start_and_wait()
        worker = next(pid for pid, command in processes_in_session(process.pid).items() if "bora-worker" in command)
        os.kill(worker, signal.SIGKILL)
        self.assertEqual(process.wait(timeout=30), 1, self.text())
        self.assertRegex(self.text(), r"worker \d has stopped with exit code 137")
        self.assert_nothing_is_left(process)

    def test_it_says_where_things_are(self):
        process = self.start_and_wait()
        text = self.text()
        self.assertIn(f"127.0.0.1:{self.port}", text)
        logs = re.search(r"logs +(\S+)/coordinator.log, worker0.log ... worker3.log", text)[1]
        self.assertEqual(len(glob.glob(logs + "/*.log")), 5)
        pids = re.search(r"coordinator (\d+), workers (\d+) (\d+) (\d+) (\d+)", text).groups()
        self.assertEqual(set(map(int, pids)) | {process.pid}, set(processes_in_session(process.pid)))
        self.assertIn(f"kill {process.pid}\n", text)
        os.kill(process.pid, signal.SIGTERM)
        self.assertEqual(process.wait(timeout=10), 143)
        self.assertNotIn("can't read", text)

    def test_one_worker_and_flags_for_the_coordinator(self):
        process = self.start("--once", "--tp", "1", "--pp", "1", "--device", "cpu", "--", "--served-model-name=other")
        self.assertEqual(process.wait(timeout=120), 0, self.text())
        self.assertIn("models/other", self.text())
        self.assertIn("1 stages x 1 tensor ranks", self.text())

    def test_port_in_use_is_an_error_with_the_reason(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", self.port))
            taken.listen()
            process = self.start("--once")
            self.assertEqual(process.wait(timeout=60), 1)
        self.assertIn("is in use by another process", self.text())
        self.assert_nothing_is_left(process)

    def test_bad_options(self):
        for args, text in ((["--nothing"], "--nothing"), (["--tp"], "--tp needs a value"),
                           (["--tp", "two"], "--tp: 'two' is not a number"),
                           (["--pp", "0"], "--pp: '0' is not in [1, 1024]"),
                           (["--port", "70000"], "--port: '70000' is not in [1, 65535]"), (["--model", "/nowhere"], "/nowhere")):
            with self.subTest(args=args):
                process = self.start(*args)
                self.assertEqual(process.wait(timeout=30), 2, self.text())
                self.assertIn(text, self.text())
        self.env["BORA_BUILD_DIR"] = "/nowhere"
        self.assertEqual(self.start("--once").wait(timeout=30), 2)
        self.assertIn("/nowhere/bin/bora", self.text())

    def test_help_names_every_option(self):
        process = self.start("--help")
        self.assertEqual(process.wait(timeout=30), 0)
        for word in ("--once", "--model", "--tp", "--pp", "--port", "--prompt", "--device", "BORA_BUILD_DIR"):
            self.assertIn(word, self.text())


if __name__ == "__main__":
    unittest.main(verbosity=2)
