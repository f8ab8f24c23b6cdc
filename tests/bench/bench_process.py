"""Runs programs to be measured: waits for a quiet machine before, and says how quiet it was meanwhile.

A program that shares the cores with a compiler is not worth a number, least of all one that spins while it waits.
"""

import collections
import os
import resource
import socket
import subprocess
import sys
import time

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def machine_busy_s():
    """CPU seconds that the machine has spent on anything, the host's theft included, since it started."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def own_busy_s():
    """CPU seconds of this process and of the children that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


class Quiet:
    """Counts what others took of the cores while programs were measured."""

    def __init__(self, wait_s, foreign_cores_max=0.15):
        self.wait_s = wait_s
        self.foreign_cores_max = foreign_cores_max
        self.worst_foreign_cores = 0.0

    def wait(self):
        """Until half a second passes in which others hardly run, or wait_s are over."""
        deadline = time.monotonic() + self.wait_s
        while time.monotonic() < deadline:
            begin_s, busy_s = time.monotonic(), machine_busy_s()
            time.sleep(0.5)
            if (machine_busy_s() - busy_s) / (time.monotonic() - begin_s) < self.foreign_cores_max:
                return

    def take_worst(self):
        """The largest number of cores that others had during a run since the last call."""
        worst, self.worst_foreign_cores = self.worst_foreign_cores, 0.0
        return worst

    def __enter__(self):
        self.begin = time.monotonic(), machine_busy_s() - own_busy_s()
        return self

    def __exit__(self, *exc):
        wall_s = time.monotonic() - self.begin[0]
        # Over a shorter time, ticks of 10 ms say nothing.
        if wall_s > 1:
            foreign = (machine_busy_s() - own_busy_s() - self.begin[1]) / wall_s
            self.worst_foreign_cores = max(self.worst_foreign_cores, foreign)


class RunFailed(Exception):
    """A measured program that did not end well; the message has its last words."""


Done = collections.namedtuple("Done", "stdout wall_s")


def run(command, quiet, timeout_s=3600, count_foreign=True):
    """Runs the program to its end: its standard output, and its seconds. RunFailed when it ends with an error."""
    quiet.wait()
    foreign = quiet if count_foreign else Quiet(0)
    begin = time.monotonic()
    with foreign:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout_s)
    wall_s = time.monotonic() - begin
    if done.returncode != 0:
        last_words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise RunFailed(f"{os.path.basename(str(command[0]))} ended with {done.returncode}: {last_words}")
    return Done(done.stdout, wall_s)


def drop_caches(paths):
    """Takes the files out of the page cache, and everything else too where this process may."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        return
    except OSError:
        pass
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def read_bytes_per_s(path, n_bytes_max=4 << 30):
    """Speed of a plain sequential read of the file's beginning."""
    buffer, n_bytes, begin = bytearray(8 << 20), 0, time.monotonic()
    with open(path, "rb", buffering=0) as file:
        while n_bytes < n_bytes_max and (n := file.readinto(buffer)):
            n_bytes += n
    return n_bytes / (time.monotonic() - begin)


def free_port():
    """A loopback port that was free just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class BusyProcess:
    """A foreign process that wants a whole core: a context manager."""

    def __enter__(self):
        self.popen = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        return self

    def __exit__(self, *exc):
        self.popen.kill()
        self.popen.wait()
