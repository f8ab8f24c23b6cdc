"""The log of the servers: it never holds a server up, ends it or grows without bound, and every line of it is JSON."""

import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import time
import unittest

import grpc

from bora_e2e import Cluster, binary, inference, stream_request, wait_until

F_SETPIPE_SZ = 1031


class PipedProcess:
    """A process whose standard error is a small pipe that is read only when the test wants it."""

    def __init__(self, command, full=False):
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
        if full:
            os.write(writer, b"x" * 4095 + b"\n")
        self.popen = subprocess.Popen(command, stderr=writer, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        os.close(writer)
        self.text = b""

    def read_until(self, message):
        """Reads until a line with this message; returns it."""
        while True:
            *lines, rest = self.text.split(b"\n")
            for line in lines:
                entry = json.loads(line)
                if entry["message"] == message:
                    return entry
            chunk = os.read(self.reader, 4096)
            assert chunk, f"ended without {message!r}: {self.text!r}"
            self.text += chunk

    def read_to_end(self):
        while chunk := os.read(self.reader, 65536):
            self.text += chunk
        return self.text.decode().splitlines()

    def stop(self):
        self.popen.kill()
        self.popen.wait()
        os.close(self.reader)


def entries(lines):
    """Every line as JSON; fails on one that is not."""
    result = []
    for line in lines:
        try:
            result.append(json.loads(line))
        except ValueError as error:
            raise AssertionError(f"not JSON: {line!r}") from error
    return result


def tokenize(stub, n, in_flight=64):
    """n calls of Tokenize; each is a line of the access log."""
    request = inference.TokenizeRequest(texts=["a"])
    calls = []
    for _ in range(n):
        calls.append(stub.tokenize.future(request, timeout=60))
        if len(calls) == in_flight:
            for call in calls:
                call.result()
            calls.clear()
    for call in calls:
        call.result()


class FullPipeTest(unittest.TestCase):

    def test_a_full_pipe_holds_nobody_up(self):
        # The flags and the connection of a cluster, whose processes are others here.
        cluster = Cluster(start_workers=False)
        with cluster:
            command = cluster.coordinator.popen.args
            cluster.coordinator.kill()
            coordinator = PipedProcess(command)
            self.addCleanup(coordinator.stop)
            listening = coordinator.read_until("listening")
            worker = PipedProcess([binary("bora-worker"), f"--coordinator=127.0.0.1:{listening['worker_port']}",
                                   f"--credential-file={cluster.credential}", "--device=sim:base_us=0"], full=True)
            self.addCleanup(worker.stop)
            # From here on nobody reads either pipe.
            cluster.stub.close()
            cluster.stub = type(cluster.stub)(f"127.0.0.1:{listening['port']}")
            cluster.wait_serving(60)
            # More lines than the pipe and the buffer of 1 MiB hold.
            tokenize(cluster.stub, 6000)
            for _ in range(20):
                answer = cluster.stub.generate(
                    stream_request(text="a", max_tokens=2, ignore_eos=True, cls=inference.GenerateRequest), timeout=30)
                self.assertEqual(len(answer.token_ids), 2)
            self.assertTrue(cluster.stub.health("liveness"))
            for process in (worker, coordinator):
                process.popen.send_signal(signal.SIGTERM)
                self.assertEqual(process.popen.wait(30), 0)
            # What the pipe and the writer held is there, each line whole but the one that the end has cut.
            entries(coordinator.read_to_end()[:-1])

    def test_what_was_dropped_is_said(self):
        cluster = Cluster(start_workers=False)
        with cluster:
            command = cluster.coordinator.popen.args
            cluster.coordinator.kill()
            coordinator = PipedProcess(command)
            self.addCleanup(coordinator.stop)
            cluster.stub.close()
            cluster.stub = type(cluster.stub)(f"127.0.0.1:{coordinator.read_until('listening')['port']}")
            tokenize(cluster.stub, 6000)
            coordinator.popen.send_signal(signal.SIGTERM)
            lines = entries(coordinator.read_to_end())
            self.assertEqual(coordinator.popen.wait(30), 0)
            dropped = [line for line in lines if line["message"].endswith("log lines dropped")]
            self.assertTrue(dropped)
            n_calls = sum(line["message"] == "rpc" for line in lines)
            n_dropped = sum(line["lines"] for line in dropped)
            print(f"{n_calls} of 6000 calls logged, {n_dropped} lines dropped")
            self.assertGreater(n_calls, 100)
            # A drop may also have been another line than a call's.
            self.assertLess(abs(n_calls + n_dropped - 6000), 20)
            self.assertEqual(lines[-1]["message"], "stopped")

    def test_a_reader_that_goes_away_ends_nothing(self):
        cluster = Cluster(start_workers=False)
        with cluster:
            command = cluster.coordinator.popen.args
            cluster.coordinator.kill()
            coordinator = PipedProcess(command)
            listening = coordinator.read_until("listening")
            self.addCleanup(coordinator.popen.kill)
            os.close(coordinator.reader)
            cluster.stub.close()
            cluster.stub = type(cluster.stub)(f"127.0.0.1:{listening['port']}")
            tokenize(cluster.stub, 200)
            coordinator.popen.send_signal(signal.SIGTERM)
            self.assertEqual(coordinator.popen.wait(30), 0)

    def test_a_file_that_may_not_grow_ends_nothing(self):
        with Cluster(start_workers=False) as cluster:
            _, hard = resource.prlimit(cluster.coordinator.pid, resource.RLIMIT_FSIZE)
            size = os.path.getsize(cluster.coordinator.log_path)
            resource.prlimit(cluster.coordinator.pid, resource.RLIMIT_FSIZE, (size + 1000, hard))
            tokenize(cluster.stub, 500)
            wait_until(lambda: os.path.getsize(cluster.coordinator.log_path) == size + 1000, 10, "the file is full")
            resource.prlimit(cluster.coordinator.pid, resource.RLIMIT_FSIZE, (hard, hard))
            tokenize(cluster.stub, 1)
            cluster.coordinator.signal(signal.SIGTERM)
            self.assertEqual(cluster.coordinator.wait(30), 0)
            self.assertIn("log lines dropped", cluster.coordinator.log())

    def test_closed_standard_error(self):
        with Cluster(start_workers=False) as cluster:
            command = cluster.coordinator.popen.args
            cluster.coordinator.kill()
            port = cluster.port
            command = [f"--listen=127.0.0.1:{port}" if a.startswith("--listen=") else a for a in command]
            process = subprocess.Popen(["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh"] + command)
            self.addCleanup(process.kill)

            def answers():
                assert process.poll() is None, process.returncode
                try:
                    tokenize(cluster.stub, 1)
                    return True
                except grpc.RpcError:
                    return False

            wait_until(answers, 30, "answers")
            self.assertEqual(os.readlink(f"/proc/{process.pid}/fd/2"), "/dev/null")
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(30), 0)


class DescriptorsTest(unittest.TestCase):

    def test_listeners_survive_a_flood_of_connections(self):
        with Cluster(start_workers=False) as cluster:
            tokenize(cluster.stub, 1)
            limit = cluster.coordinator.n_fds() + 10
            resource.prlimit(cluster.coordinator.pid, resource.RLIMIT_NOFILE, (limit, limit))
            for port in (cluster.port, cluster.worker_port):
                sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
                wait_until(lambda: "no descriptor for a connection" in cluster.coordinator.log(), 10, "a line says so")
                # Calls over connections that are there go on.
                tokenize(cluster.stub, 10)
                begin = cluster.coordinator.cpu_s()
                time.sleep(1)
                self.assertLess(cluster.coordinator.cpu_s() - begin, 0.5, "it spins")
                for connection in sockets:
                    connection.close()
                wait_until(lambda: cluster.coordinator.n_fds() < limit - 5, 20, "descriptors are free again")
            # New connections at both ports.
            stub = type(cluster.stub)(f"127.0.0.1:{cluster.port}")
            tokenize(stub, 1)
            stub.close()
            cluster.start_worker(["--device=sim"])
            cluster.wait_serving(60)

    def test_few_descriptors_are_said_at_the_start(self):
        with Cluster(start_workers=False) as cluster:
            command = cluster.coordinator.popen.args

            def start(limit):
                return subprocess.run(["prlimit", f"--nofile={limit}:{limit}", *command], capture_output=True, text=True,
                                      timeout=60)

            result = start(40)
            self.assertEqual(result.returncode, 1)
            self.assertRegex(result.stderr, "may have 40 open descriptors .* needs 81 to start, 1233 at full load")


class LinesTest(unittest.TestCase):

    def test_lines_of_the_libraries_are_json_too(self):
        with Cluster(start_workers=False) as cluster:
            command = cluster.coordinator.popen.args
            # The port is taken: the last line says so, and the others are entries.
            taken = [f"--listen=127.0.0.1:{cluster.port}" if a.startswith("--listen=") else a for a in command]
            result = subprocess.run(taken, capture_output=True, text=True, timeout=60)
            self.assertEqual(result.returncode, 1)
            *log, error = result.stderr.splitlines()
            self.assertTrue(error.startswith("bora-coordinator: --listen"), error)
            entries(log)
            # A client that sends no UTF-8: libprotobuf would print a line for each.
            with self.assertRaises(grpc.RpcError):
                cluster.stub.channel.unary_unary("/bora.inference.v1.InferenceService/Tokenize")(
                    b"\x0a\x02\xff\xfe", timeout=10)
            entries(cluster.coordinator.log().splitlines())
            # The command says what it has to say in its own words.
            result = subprocess.run([binary("bora"), "--server", f"127.0.0.1:{cluster.port}", "tokenize", b"\xff"],
                                    capture_output=True, text=True, timeout=60)
            self.assertNotEqual(result.returncode, 0)
            self.assertNotIn("libprotobuf", result.stderr)
            # Who asks for gRPC's lines gets them, whatever the level.
            env = dict(os.environ, GRPC_VERBOSITY="debug")
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
                log = []
                while not log or entries(log[-1:])[0]["message"] != "listening":
                    log.append(process.stderr.readline())
                    self.assertTrue(log[-1], log)
                process.terminate()
                log += process.stderr.readlines()
            levels = {entry["level"] for entry in entries(log) if entry["component"] == "grpc"}
            self.assertIn("debug", levels)


class ReportsTest(unittest.TestCase):

    def messages(self, process):
        return entries(process.log().splitlines())

    def lines(self, process, message):
        return [line for line in self.messages(process) if line["message"] == message]

    def test_a_coordinator_says_whom_it_waits_for_and_counts_refusals(self):
        with Cluster(tp=2, pp=2, start_workers=False) as cluster:
            wait_until(lambda: self.lines(cluster.coordinator, "waiting for 4 of 4 workers"), 5, "a line at once")
            self.assertEqual(len(self.lines(cluster.coordinator, "model config")), 1)
            request = stream_request(text="a", max_tokens=1, cls=inference.GenerateRequest)
            for _ in range(10):
                calls = [cluster.stub.generate.future(request, timeout=30) for _ in range(50)]
                for call in calls:
                    self.assertEqual(call.code(), grpc.StatusCode.UNAVAILABLE)

            def counted():
                return sum(line["NOT_READY"] for line in self.lines(cluster.coordinator, "more calls refused"))

            def logged():
                return len(self.lines(cluster.coordinator, "rpc"))

            wait_until(lambda: counted() + logged() == 500, 10, "every refusal is counted")
            self.assertGreater(counted(), logged())

    def test_lines_of_a_service(self):
        with Cluster(worker_flags=["--device=sim:base_us=20000"]) as cluster:
            request = stream_request(text="a b c", max_tokens=3, seed=-5, ignore_eos=True, cls=inference.GenerateRequest)
            request.tenant = "shop"
            request.n = 2
            cluster.stub.generate(request, timeout=30, metadata=(("x-request-id", "my-call"),))

            def access_lines():
                return [line for line in self.lines(cluster.coordinator, "rpc") if line["request_id"] == "my-call"]

            wait_until(access_lines, 10, "the call's line")
            line, = access_lines()
            expected = {"method": "Generate", "code": "OK", "reason": "", "tenant": "shop", "priority": "standard",
                        "candidates": 2, "output_tokens": 6, "finish": "MAX_TOKENS x2", "seed": -5,
                        "cached_tokens": 0, "level": "info", "component": "coordinator"}
            self.assertEqual({name: line[name] for name in expected}, expected)
            self.assertGreater(line["prompt_tokens"], 1)
            self.assertGreater(line["decode_ms"], 20)
            self.assertGreaterEqual(line["duration_ms"], line["first_token_ms"] + line["decode_ms"])
            self.assertNotIn("a b c", cluster.coordinator.log())
            # Displays that ask every second do not fill the log.
            cluster.stub.info()
            self.assertFalse([e for e in self.lines(cluster.coordinator, "rpc") if e["method"] == "GetServerInfo"])
            # The way to service, in its order.
            way = [line["message"] for line in self.messages(cluster.coordinator)]
            steps = ["worker attached", "worker placed", "joining", "group formed", "calibrating", "calibrated", "serving"]
            self.assertEqual([m for m in way if m in steps], steps)
            # Busy for more than ten seconds.
            call = cluster.stub.generate_stream(stream_request(text="a", max_tokens=1500, ignore_eos=True), timeout=120)
            wait_until(lambda: self.lines(cluster.coordinator, "throughput"), 40, "a line of throughput")
            line = self.lines(cluster.coordinator, "throughput")[0]
            self.assertGreater(line["output_tokens_per_s"], 0)
            self.assertGreaterEqual(line["calls"], 1)
            call.cancel()
            cluster.wait_idle()
            # Idle: nothing is said, next to nothing is done.
            begin, log = cluster.coordinator.cpu_s(), len(self.lines(cluster.coordinator, "throughput"))
            time.sleep(12)
            self.assertLess(cluster.coordinator.cpu_s() - begin, 0.5)
            self.assertLessEqual(len(self.lines(cluster.coordinator, "throughput")), log + 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
