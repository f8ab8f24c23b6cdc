"""Hosts that have only TCP between them: network namespaces joined by a bridge, with links that can be cut.

    test process --- bridge --- h0: coordinator
                          | --- h1: workers
                          | --- h2: workers

Skips (exit code 77) where the kernel does not let us make namespaces.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from bora_e2e import SKIP, Cluster, binary
from parallel_util import answer_bytes, open_streams, small_checkpoint

DETECTION_S = 2
END_OF_CALLS_S = 3
# A worker's attempt to connect takes at most 2 s and the pause after it 2 s; joining and slow machines take the rest.
REJOIN_S = 15
N_STREAMS = 4


def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def nft(prefix, rules):
    subprocess.run([*prefix, "nft", rules], check=True, capture_output=True, text=True)


class Hosts:
    """n namespaces as hosts; a name prefix and a subnet of their own for each process that runs this."""

    def __init__(self, n_hosts):
        self.n_hosts = n_hosts
        self.tag = f"bt{os.getpid() % 1000000}"
        self.bridge = f"{self.tag}br"
        self.subnet = f"10.{128 + os.getpid() // 250 % 100}.{os.getpid() % 250}"

    def __enter__(self):
        try:
            ip("link", "add", self.bridge, "type", "bridge")
            ip("address", "add", f"{self.subnet}.254/24", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
            for i in range(self.n_hosts):
                name = self.name(i)
                ip("netns", "add", name)
                ip("link", "add", self.link(i), "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("link", "set", self.link(i), "master", self.bridge, "up")
                ip("-n", name, "address", "add", f"{self.address(i)}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", "eth0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused):
        for i in range(self.n_hosts):
            subprocess.run(["nft", f"delete table netdev {self.link(i)}"], capture_output=True, check=False)
            # The namespace goes away with its last process, the link at once.
            subprocess.run(["ip", "link", "del", self.link(i)], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", self.name(i)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)

    def name(self, i):
        return f"{self.tag}h{i}"

    def link(self, i):
        return f"{self.tag}v{i}"

    def address(self, i):
        return f"{self.subnet}.{i + 1}"

    def in_namespace(self, i):
        return ["ip", "netns", "exec", self.name(i)]

    def prefix(self, i):
        """Before a command: runs it on host i, which has a name of its own. The process id stays the same."""
        return self.in_namespace(i) + [
            "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', f"h{i}"
        ]

    def cut(self, i):
        ip("link", "set", self.link(i), "down")

    def mend(self, i):
        ip("link", "set", self.link(i), "up")

    def silence(self, i):
        """Packets to and from the host vanish, and nothing tells a sender.

        What the host sends is dropped at the other end of its link: dropped on the host it would be an error of send().
        Addresses still resolve, as they do when it is a router behind which packets vanish.
        """
        nft([], f"add table netdev {self.link(i)}; add chain netdev {self.link(i)} out "
            f'{{ type filter hook ingress device "{self.link(i)}" priority 0; }}; '
            f"add rule netdev {self.link(i)} out meta protocol ip drop")
        self.deafen(i)

    def end_silence(self, i):
        nft([], f"delete table netdev {self.link(i)}")
        self.undeafen(i)

    def deafen(self, i):
        """Packets to the host vanish; what it says is still heard."""
        nft(self.in_namespace(i), 'add table inet cut; add chain inet cut in { type filter hook input priority 0; }; '
            'add rule inet cut in iifname "eth0" drop')

    def undeafen(self, i):
        nft(self.in_namespace(i), "delete table inet cut")

    def kill(self, i):
        """SIGKILL of everything on the host, by process id."""
        for pid in ip("netns", "pids", self.name(i)).split():
            os.kill(int(pid), signal.SIGKILL)


class NetnsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix="bora-netns-")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.model = small_checkpoint(os.path.join(cls.directory, "model"))
        cls.hosts = Hosts(3).__enter__()
        cls.addClassCleanup(cls.hosts.__exit__)
        cls.loopback = {}
        for tp, pp in [(2, 1), (2, 2)]:
            with Cluster(model=cls.model, tp=tp, pp=pp, worker_flags=["--threads=1"]) as cluster:
                cls.loopback[tp, pp] = answer_bytes(cluster.stub)

    def cluster(self, tp, pp):
        """Coordinator on h0; workers on h1, h2, h1, h2, ..."""
        return Cluster(model=self.model, tp=tp, pp=pp, worker_flags=["--threads=1"], host=self.hosts.address(0),
                       coordinator_flags=["--insecure-listen"], prefix=self.hosts.prefix(0),
                       worker_prefix=lambda index: self.hosts.prefix(1 + index % 2))

    def places(self, cluster):
        return [(w.host, w.stage, w.tensor_rank) for w in cluster.stub.info().workers]

    def check_lost(self, cluster, streams, fault_time, what):
        cluster.wait_not_serving(10)
        detected_s = time.monotonic() - fault_time
        for stream in streams:
            stream.join(30)
        ended_s = max(stream.end_time for stream in streams) - fault_time
        print(f"{what}: NOT_SERVING after {detected_s:.2f} s, {len(streams)} calls ended after {ended_s:.2f} s")
        self.assertLess(detected_s, DETECTION_S, what)
        self.assertLess(ended_s, detected_s + END_OF_CALLS_S, what)
        for stream in streams:
            self.assertEqual((stream.code, stream.reason), ("UNAVAILABLE", "WORKER_LOST"), stream.message)

    def check_link_cut(self, tp, pp, cut_s, cut, mend):
        with self.cluster(tp, pp) as cluster:
            self.assertEqual(answer_bytes(cluster.stub), self.loopback[tp, pp])
            epoch = cluster.stub.info().epoch
            streams = open_streams(cluster.stub, N_STREAMS)
            fault_time = time.monotonic()
            try:
                cut(2)
            except (OSError, subprocess.CalledProcessError) as error:
                self.skipTest(f"this cut cannot be made here: {getattr(error, 'stderr', '') or error}")
            try:
                what = f"{tp}x{pp}, {cut.__name__} for {cut_s} s"
                self.check_lost(cluster, streams, fault_time, what)
                # How long the link stays down decides how far TCP and the workers have backed off.
                time.sleep(max(0.0, fault_time + cut_s - time.monotonic()))
                self.assertFalse(cluster.serving())
                # An attempt to dial has 2 s and the pause before the next is at most 2 s.
                n_attempts = cluster.workers[1].log().count('"message":"no coordinator"')
                self.assertGreaterEqual(n_attempts, cut_s // 5, "the cut off worker does not try again")
            finally:
                mend(2)
            healed_s = cluster.wait_serving(120)
            print(f"{what}: serves {healed_s:.2f} s after the link is back")
            self.assertLess(healed_s, REJOIN_S)
            self.assertGreater(cluster.stub.info().epoch, epoch)
            self.assertEqual(answer_bytes(cluster.stub), self.loopback[tp, pp])
            for worker in cluster.workers:
                self.assertTrue(worker.alive(), worker.name)
                self.assertEqual(worker.log().count('"message":"weights loaded"'), 1, f"{worker.name} loaded again")

    def test_stages_across_hosts_give_the_bytes_of_loopback(self):
        with self.cluster(2, 2) as cluster:
            # Workers came in turns; the ranks of a stage are nevertheless on one host.
            stages = {stage: {h for h, s, _ in self.places(cluster) if s == stage} for stage in (0, 1)}
            self.assertEqual(sorted(map(sorted, stages.values())), [["h1"], ["h2"]])
            self.assertEqual(answer_bytes(cluster.stub), self.loopback[2, 2])

    def test_tensor_ranks_across_hosts_give_the_bytes_of_loopback(self):
        with self.cluster(2, 1) as cluster:
            self.assertEqual(sorted(host for host, _, _ in self.places(cluster)), ["h1", "h2"])
            self.assertIn("tensor parallel ranks of one stage are on different hosts", cluster.coordinator.log())
            self.assertEqual(answer_bytes(cluster.stub), self.loopback[2, 1])

    def test_listening_beyond_loopback_must_be_asked_for(self):
        refused = subprocess.run(
            self.hosts.prefix(0) + [binary("bora-coordinator"), f"--model={self.model}",
                                    f"--listen={self.hosts.address(0)}:0", "--worker-listen=127.0.0.1:0"],
            capture_output=True, text=True, timeout=30)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("insecure", refused.stderr.splitlines()[-1])
        refused = subprocess.run(
            self.hosts.prefix(0) + [binary("bora-coordinator"), f"--model={self.model}", "--insecure-listen",
                                    "--listen=127.0.0.1:0", f"--worker-listen={self.hosts.address(0)}:0"],
            capture_output=True, text=True, timeout=30)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("--worker-credential-file is required", refused.stderr.splitlines()[-1])

    def test_stages_survive_a_link_that_is_cut(self):
        self.check_link_cut(2, 2, 3, self.hosts.cut, self.hosts.mend)

    def test_stages_survive_silence(self):
        self.check_link_cut(2, 2, 3, self.hosts.silence, self.hosts.end_silence)

    def test_tensor_ranks_survive_a_long_silence(self):
        self.check_link_cut(2, 1, 12, self.hosts.silence, self.hosts.end_silence)

    def test_stages_survive_a_host_that_hears_nothing(self):
        self.check_link_cut(2, 2, 4, self.hosts.deafen, self.hosts.undeafen)

    def test_tensor_ranks_survive_a_link_that_is_cut(self):
        self.check_link_cut(2, 1, 3, self.hosts.cut, self.hosts.mend)

    def test_killed_host_is_replaced(self):
        with self.cluster(2, 2) as cluster:
            epoch = cluster.stub.info().epoch
            streams = open_streams(cluster.stub, N_STREAMS)
            fault_time = time.monotonic()
            self.hosts.kill(2)
            self.check_lost(cluster, streams, fault_time, "SIGKILL of a host")
            survivors, killed = cluster.workers[0::2], cluster.workers[1::2]
            for worker in killed:
                self.assertEqual(worker.wait(10), -signal.SIGKILL)
            # The next two come to h1 and h2 again: a stage may be spread when there is no other way.
            cluster.start_worker()
            cluster.start_worker()
            healed_s = cluster.wait_serving(60)
            print(f"SIGKILL of a host: serves {healed_s:.2f} s after its workers are started again")
            self.assertGreater(cluster.stub.info().epoch, epoch)
            self.assertEqual(answer_bytes(cluster.stub), self.loopback[2, 2])
            for worker in survivors:
                self.assertTrue(worker.alive(), worker.name)
                self.assertEqual(worker.log().count('"message":"weights loaded"'), 1)


def main():
    if os.geteuid() != 0 and "BORA_NETNS_INSIDE" not in os.environ:
        # Without root: a user namespace in which we are, with a /run/netns of its own.
        inside = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c",
                  'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"', "sh"]
        if subprocess.run(inside + ["true"], capture_output=True, check=False).returncode == 0:
            os.environ["BORA_NETNS_INSIDE"] = "1"
            os.execvp(inside[0], inside + [sys.executable, *sys.argv])
    try:
        with Hosts(1) as hosts:
            subprocess.run(hosts.prefix(0) + ["true"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"skipped: network namespaces cannot be made here: {getattr(error, 'stderr', '') or error}")
        return SKIP
    return 0 if unittest.main(verbosity=2, exit=False).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
