"""A worker inside a memory control group of the kernel: it takes no more than the limit, and where weights and one request do
not fit it says so with the numbers instead of being killed. Needs root and a writable memory controller; skipped otherwise.
"""

import os
import sys
import unittest

from bora_e2e import Cluster, collect, stream_request, wait_until

MIB = 1 << 20


class MemoryGroup:
    """A control group of version 1 or 2 with a limit; a command prefix starts a process in it."""

    V1, V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"

    def __init__(self, limit_bytes):
        v1 = os.path.isdir(self.V1)
        self.path = os.path.join(self.V1 if v1 else self.V2, f"bora-e2e-{os.getpid()}")
        os.mkdir(self.path)
        try:
            for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if v1 else ("memory.max", "memory.swap.max"):
                if os.path.exists(os.path.join(self.path, name)):
                    value = 0 if name == "memory.swap.max" else limit_bytes
                    with open(os.path.join(self.path, name), "w") as file:
                        file.write(str(value))
            self.usage_name = "memory.max_usage_in_bytes" if v1 else "memory.peak"
            assert os.path.exists(os.path.join(self.path, "memory.limit_in_bytes" if v1 else "memory.max"))
        except BaseException:
            os.rmdir(self.path)
            raise

    def prefix(self):
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "in-group"]

    def peak_bytes(self):
        with open(os.path.join(self.path, self.usage_name)) as file:
            return int(file.read())

    def remove(self):
        def gone():
            try:
                os.rmdir(self.path)
            except OSError:
                return False
            return True

        wait_until(gone, 10, "an empty control group")


class MemoryLimitTest(unittest.TestCase):

    def in_group(self, limit_bytes):
        group = MemoryGroup(limit_bytes)
        self.addCleanup(group.remove)
        return group

    def test_a_worker_stays_within_its_group(self):
        group = self.in_group(96 * MIB)
        with Cluster(worker_prefix=lambda _: group.prefix(), worker_flags=["--threads=1"]) as cluster:
            self.assertIn("control group", cluster.workers[0].log_field("configuration", "memory_bound"),
                             cluster.workers[0].log())
            streams = [cluster.stub.generate_stream(stream_request(text="A" * 700, max_tokens=300, seed=i, ignore_eos=True))
                       for i in range(16)]
            for stream in streams:
                self.assertEqual(len(collect(stream)[1]), 300)
            self.assertTrue(cluster.workers[0].alive())
            self.assertLessEqual(group.peak_bytes(), 96 * MIB)

    def test_a_worker_that_does_not_fit_says_so(self):
        group = self.in_group(24 * MIB)
        with Cluster(worker_prefix=lambda _: group.prefix(), worker_flags=["--threads=1"], start_workers=False) as cluster:
            worker = cluster.start_worker()
            wait_until(lambda: "cannot load" in cluster.coordinator.log() or not worker.alive(), 30, "a refusal")
            self.assertNotEqual(worker.popen.poll(), -9, "killed by the kernel")
            text = cluster.coordinator.log_field("worker cannot load", "reason")
            self.assertRegex(text or cluster.coordinator.log(), r"\d+ bytes")
            self.assertFalse(cluster.serving())


if __name__ == "__main__":
    try:
        MemoryGroup(MIB).remove()
    except (OSError, AssertionError) as error:
        print(f"skipped: no memory control group can be made: {error}")
        sys.exit(77)
    unittest.main(verbosity=2)
