"""Runs programs to be measured: waits for a quiet machine before, and says how quiet it was meanwhile.

A program that shares the cores with a compiler is not worth a number, least of all one that spins while it waits.
"""

import collections
import contextlib
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


def process_busy_s(pid, with_children=False):
    """CPU seconds of a living process, and of the children that it has waited for."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15 if with_children else 13])) / TICKS_PER_S


class Quiet:
    """Waits for a quiet machine, and counts what others took of the cores while programs were measured."""

    # More than this many cores in other hands is not quiet.
    FOREIGN_CORES_MAX = 0.15

    def __init__(self, wait_s):
        self.wait_s = wait_s
        self.foreign_cores = 0.0  # the worst of the measured programs since the last take()

    def wait(self):
        """Until half a second passes in which others hardly run, or wait_s are over."""
        deadline = time.monotonic() + self.wait_s
        while time.monotonic() < deadline:
            begin_s, busy_s = time.monotonic(), machine_busy_s()
            time.sleep(0.5)
            if (machine_busy_s() - busy_s) / (time.monotonic() - begin_s) < self.FOREIGN_CORES_MAX:
                return

    def take(self):
        worst, self.foreign_cores = self.foreign_cores, 0.0
        return worst

    @contextlib.contextmanager
    def watch(self, pids=()):
        """Counts while the block runs. pids: living processes that are not foreign; those that end inside must be waited for."""

        def foreign_s():
            return machine_busy_s() - own_busy_s() - sum(process_busy_s(pid) for pid in pids)

        begin_s, begin_foreign_s = time.monotonic(), foreign_s()
        yield
        wall_s = time.monotonic() - begin_s
        # Over a shorter time, ticks of 10 ms say nothing.
        if wall_s > 1:
            self.foreign_cores = max(self.foreign_cores, (foreign_s() - begin_foreign_s) / wall_s)


def remark_on(foreign_cores):
    """The end of a row during which others had so many cores: empty when that is quiet."""
    return f" disturbed {foreign_cores:.2f}" if foreign_cores > Quiet.FOREIGN_CORES_MAX else ""


def descendants():
    """Ids of the living processes that this one has started, and those have."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            parent = int(file.read().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(name))
    found, wanted = [], [os.getpid()]
    while wanted:
        wanted = [child for parent in wanted for child in children.get(parent, [])]
        found += wanted
    return found


class Neighbours:
    """What others than this process and its descendants take of the cores, from one row of figures to the next."""

    def __init__(self):
        self.begin_s, self.begin_foreign_s = time.monotonic(), self.foreign_s()
        self.latest = 0.0

    @staticmethod
    def foreign_s():
        own_s = own_busy_s()
        for pid in descendants():
            with contextlib.suppress(OSError):
                own_s += process_busy_s(pid, with_children=True)
        return machine_busy_s() - own_s

    def take(self):
        """Cores in other hands since the last call. Within a second, over which ticks of 10 ms say nothing, what the last call
        said: rows that come together were measured together."""
        now_s = time.monotonic()
        if now_s - self.begin_s > 1:
            foreign_s = self.foreign_s()
            self.latest = (foreign_s - self.begin_foreign_s) / (now_s - self.begin_s)
            self.begin_s, self.begin_foreign_s = now_s, foreign_s
        return self.latest


def least_disturbed(measure, quiet, n_retries):
    """Calls measure() until nobody disturbed it, at most 1 + n_retries times: how many cores others had in the least disturbed
    attempt, and what it returned."""
    attempts = []
    while len(attempts) <= n_retries:
        quiet.take()
        result = measure()
        attempts.append((quiet.take(), result))
        if attempts[-1][0] < quiet.FOREIGN_CORES_MAX:
            break
    return min(attempts, key=lambda attempt: attempt[0])


class RunFailed(Exception):
    """A measured program that did not end well; the message has its last words."""


Done = collections.namedtuple("Done", "stdout wall_s")


def run(command, quiet, timeout_s=3600, pids=(), count_foreign=True):
    """Runs the program to its end: its standard output, and its seconds. RunFailed when it ends with an error.

    pids: processes that work for it. count_foreign=False when foreign work is part of the experiment.
    """
    quiet.wait()
    begin = time.monotonic()
    with quiet.watch(pids) if count_foreign else contextlib.nullcontext():
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
