"""The `bora` command against real servers: output, exit codes, error texts, signals."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import time
import unittest

from bora_e2e import Cluster, binary, collect, inference, stream_request

OK, FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 130
NOBODY = "127.0.0.1:1"  # tcpmux: nobody listens there


def environment(server=None):
    env = {name: value for name, value in os.environ.items() if name != "BORA_SERVER"}
    if server is not None:
        env["BORA_SERVER"] = server
    return env


def bora(*args, server=None, stdin="", timeout_s=60):
    """Runs the command to its end; `server` goes into BORA_SERVER."""
    return subprocess.run([binary("bora"), *args], env=environment(server), input=stdin, capture_output=True, text=True,
                          timeout=timeout_s)


class CliTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster(pp=2))
        cls.server = f"127.0.0.1:{cls.cluster.port}"

    def run_ok(self, *args, **kwargs):
        result = bora(*args, server=self.server, **kwargs)
        self.assertEqual(result.returncode, OK, result.stderr)
        return result

    def start(self, *args):
        return subprocess.Popen([binary("bora"), *args], env=environment(self.server), stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def expected(self, **fields):
        return collect(self.cluster.stub.generate_stream(stream_request(**fields)))

    def test_generate_prints_the_completion_alone(self):
        text, ids, _, _ = self.expected(text="ROMEO:", max_tokens=30, seed=3, temperature=0.8)
        args = ["generate", "ROMEO:", "--max-tokens", "30", "--seed", "3", "--temperature", "0.8"]
        result = self.run_ok(*args)
        self.assertEqual(result.stdout, text + "\n")
        for part in (f"+ {len(ids)} output tokens", "TTFT", "tokens/s", "queue", "prefill", "max tokens", "seed 3"):
            self.assertIn(part, result.stderr)
        self.assertEqual(self.run_ok(*args, "--quiet").stderr, "")
        self.assertEqual(self.run_ok(*args, "--echo").stdout, "ROMEO:" + text + "\n")
        # --server wins over BORA_SERVER.
        result = bora(*args, "--server", self.server, server=NOBODY)
        self.assertEqual((result.returncode, result.stdout), (OK, text + "\n"))

    def test_generate_json_is_one_object_for_each_message(self):
        text = self.expected(text="ROMEO:", max_tokens=12, seed=3)[0]
        result = self.run_ok("generate", "ROMEO:", "--max-tokens=12", "--seed=3", "--json")
        messages = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual("".join(message.get("text_delta", "") for message in messages), text)
        self.assertEqual(messages[-1]["finish"]["reason"], "FINISH_REASON_MAX_TOKENS")
        self.assertEqual(messages[-1]["usage"]["output_token_count"], 12)

    def test_generate_options_reach_the_server(self):
        base = ["generate", "ROMEO:", "--max-tokens=20", "--seed=3", "-q"]
        text, ids, _, _ = self.expected(text="ROMEO:", max_tokens=20, seed=3)
        stop = text[8:11]
        escaped = stop.replace("\\", "\\\\").replace("\n", "\\n")
        self.assertEqual(self.run_ok(*base, "--stop", escaped).stdout, text[:text.find(stop)] + "\n")
        result = bora("generate", "--stop-token-ids", f"{ids[5]},{ids[5]}", "ROMEO:", "--max-tokens=20", "--seed=3",
                      server=self.server)
        self.assertIn(f"stop token {ids[5]}", result.stderr)
        prompt_ids = self.run_ok("tokenize", "--ids-only", "ROMEO:").stdout.strip().replace(" ", ",")
        by_ids = self.run_ok("generate", "--prompt-ids", prompt_ids, "--max-tokens=20", "--seed=3", "-q")
        self.assertEqual(by_ids.stdout, text + "\n")
        lines = self.run_ok(*base, "--logprobs", "2").stdout.splitlines()
        self.assertIn("rank", lines[0])
        greedy = self.expected(text="ROMEO:", max_tokens=20, temperature=0)[0]
        for flags in (["--temperature", "0"], ["--top-k", "1"], ["--top-p", "1e-6"], ["--min-p", "1"]):
            self.assertEqual(self.run_ok(*base, *flags).stdout, greedy + "\n", flags)
        self.assertEqual(self.run_ok(*base, "--min-tokens=20", "--ignore-eos", "--model=demo-model").stdout, text + "\n")

    def test_spellings_of_flags(self):
        text = self.expected(text="ROMEO:", max_tokens=10, seed=10)[0]
        result = self.run_ok("generate", "ROMEO:", "--max_tokens", "10", "--seed", "010", "--no-echo", "--quiet=true")
        self.assertEqual((result.stdout, result.stderr), (text + "\n", ""))
        self.assertEqual(self.run_ok("generate", "--max_tokens=10", "--seed=10", "-q", "--", "ROMEO:").stdout, text + "\n")

    def test_standard_input(self):
        text = self.expected(text="ROMEO:\nline two", max_tokens=5, seed=3)[0]
        result = self.run_ok("generate", "-", "--max-tokens=5", "--seed=3", stdin="ROMEO:\nline two")
        self.assertEqual(result.stdout, text + "\n")
        from_argument = self.run_ok("tokenize", "two words").stdout
        self.assertEqual(self.run_ok("tokenize", "-", stdin="two words").stdout, from_argument)

    def test_tokenize(self):
        request = inference.TokenizeRequest(texts=["ROMEO:", "O"])
        expected = [list(result.token_ids) for result in self.cluster.stub.tokenize(request).results]
        result = self.run_ok("tokenize", "ROMEO:", "O", "--ids-only")
        self.assertEqual([[int(i) for i in line.split()] for line in result.stdout.splitlines()], expected)
        line = self.run_ok("tokenize", "RO\n:").stdout
        ids, pieces = line.rstrip("\n").split("\t")
        self.assertEqual(line.count("\n"), 1)
        self.assertRegex(pieces, r'^""( "[^"]+")+$')  # the first token has no text
        self.assertIn("\\n", pieces)
        self.assertEqual(len(ids.split()), pieces.count('"') // 2)
        without = self.run_ok("tokenize", "ROMEO:", "--no-bos", "--json")
        self.assertEqual(json.loads(without.stdout)["results"][0]["token_ids"], expected[0][1:])

    def test_detokenize(self):
        ids = self.run_ok("tokenize", "--ids-only", "To be, or not").stdout.split()
        for args, stdin in ((ids, ""), ([",".join(ids)], ""), (["-"], "\n".join(ids))):
            self.assertEqual(self.run_ok("detokenize", *args, stdin=stdin).stdout, "To be, or not\n")
        self.assertEqual(json.loads(self.run_ok("detokenize", *ids, "--json").stdout)["texts"], ["To be, or not"])
        result = bora("detokenize", "1", "x", server=self.server)
        self.assertEqual(result.returncode, USAGE)
        self.assertIn('id=x: "x" is not a whole number', result.stderr)
        self.assertEqual(bora("detokenize", "1000000", server=self.server).returncode, FAILED)

    def test_requests_of_every_kind(self):
        base = ["--max-tokens=6", "--seed=3"]
        text = self.expected(text="ROMEO:", max_tokens=6, seed=3)[0]
        second = self.expected(text="ROMEO:", max_tokens=6, seed=4)[0]
        result = self.run_ok("generate", "ROMEO:", *base, "--n", "2", "--priority", "batch", "--tenant", "a")
        self.assertEqual(result.stdout, f"[0] {text}\n[1] {second}\n")
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("ROMEO:")
            file.flush()
            self.assertEqual(self.run_ok("generate", "--file", file.name, *base, "-q").stdout, text + "\n")
        for args, reason in ((["--file", "/nowhere"], "No such file"), (["--file", "/etc"], "not a regular file"),
                             (["x", "--prompt-ids=1"], "only one of")):
            result = bora("generate", *args, server=self.server)
            self.assertEqual(result.returncode, USAGE)
            self.assertIn(reason, result.stderr)
        first = json.loads(self.run_ok("generate", "ROMEO:", *base, "--json", "--request-id", "mine").stdout.splitlines()[0])
        self.assertEqual(first["request_id"], "mine")
        lines = self.run_ok("generate", "RO\nMEO:", *base, "--prompt-logprobs", "1", "--logprobs=0", "-q").stdout.splitlines()
        prompt = [line for line in lines if line.startswith("prompt ")]
        self.assertGreater(len(prompt), 2)
        self.assertEqual(len([line for line in lines if line]) - len(prompt), 6)
        self.assertTrue(all("rank" in line for line in lines if line))
        self.assertTrue(any('"\\n"' in line for line in prompt), prompt)
        usage = json.loads(self.run_ok("generate", "one two three four", *base, "--truncate-prompt-tokens=3", "--no-bos",
                                       "--json").stdout.splitlines()[-1])["usage"]
        self.assertEqual(usage["prompt_token_count"], 3)
        result = self.run_ok("generate", "x", "--max-tokens=2000", "--ignore-eos", "--time-limit", "300ms")
        self.assertIn("time limit", result.stderr)

    def test_status(self):
        text = self.run_ok("status").stdout
        for part in ("models/demo-model", "serving", "2 stages x 1 tensor ranks", "0-15", "16-31", "KV blocks", "pid"):
            self.assertIn(part, text)
        status = json.loads(self.run_ok("status", "--json").stdout)
        self.assertEqual(status["group_state"], "GROUP_STATE_SERVING")
        self.assertEqual(status["load"]["running_count"], 0)  # zeros are printed
        self.assertEqual([worker["stage"] for worker in status["workers"]], [0, 1])
        ready = self.run_ok("status", "--ready")
        self.assertEqual((ready.stdout, ready.stderr), ("", ""))

    def test_status_waits_for_the_server(self):
        ready = self.run_ok("status", "--wait", "30s", "--ready")
        self.assertEqual((ready.stdout, ready.stderr), ("", ""))
        self.assertIn("serving", self.run_ok("status", "--wait=30s").stdout)
        result = bora("status", "--wait", "300ms", server=NOBODY)
        self.assertEqual((result.returncode, result.stdout), (UNAVAILABLE, ""))
        self.assertIn(f"not serving after 300ms: is a server listening on {NOBODY}?", result.stderr)
        with Cluster(start_workers=False) as cluster:
            server = f"127.0.0.1:{cluster.port}"
            self.assertIn("0 of 1 workers", bora("status", "--wait=300ms", server=server).stderr)
            waiting = subprocess.Popen([binary("bora"), "status", "--wait", "60s", "--ready", "--server", server])
            cluster.start_worker()
            self.assertEqual(waiting.wait(timeout=60), OK)

    def test_status_watch_prints_until_interrupted(self):
        process = self.start("status", "--watch", "--interval", "0.1", "--json")
        for _ in range(3):
            self.assertIn("group_state", json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        self.assertEqual(process.returncode, INTERRUPTED)

    def test_status_watch_into_a_pipe_has_rates_and_no_escapes(self):
        process = self.start("status", "--watch", "--interval", "200ms")
        self.run_ok("generate", "ROMEO:", "--max-tokens=50", "--ignore-eos")
        lines = []
        while not any("first token p50" in line for line in lines):
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        text = "".join(lines) + process.communicate(timeout=10)[0]
        self.assertEqual(process.returncode, INTERRUPTED)
        self.assertNotIn("\033", text)
        self.assertRegex(text, r"first token p50 \S+.*, p99 \S+.* between tokens p50 ")

    def watch(self, server):
        """`bora status --watch` on a terminal of 80 x 24: (process, function that reads until a text has come)."""
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = subprocess.Popen([binary("bora"), "status", "--watch", "--interval", "200ms", "--server", server],
                                   stdin=slave, stdout=slave, stderr=slave, env=environment(), start_new_session=True)
        self.addCleanup(process.kill)
        seen = [b""]

        def read_until(text):
            while text not in seen[0]:
                ready, _, _ = select.select([master], [], [], 30)
                self.assertTrue(ready, f"{text} has not come: {seen[0][-2000:]}")
                seen[0] += os.read(master, 65536)
            before, _, seen[0] = seen[0].partition(text)
            return before

        keys = termios.tcgetattr(slave)
        self.addCleanup(os.close, slave)
        return process, read_until, master, lambda: self.assertEqual(termios.tcgetattr(slave), keys)

    def test_status_watch_on_a_terminal(self):
        enter, leave, home = b"\033[?1049h", b"\033[?1049l", b"\033[H"
        process, read_until, master, check_keys = self.watch(self.server)
        self.assertEqual(read_until(enter), b"")
        read_until(home)
        read_until(home)
        screen = re.sub(rb"\033\[[0-9;?]*[A-Za-z]", b"", read_until(home)).decode().split("\r\n")
        self.assertEqual(len(screen), 24)
        self.assertEqual([line for line in screen if len(line) > 80], [])
        self.assertIn("tokens/s", "\n".join(screen))
        self.assertEqual(screen[-1], "q quits")
        os.write(master, b"q")
        read_until(leave)
        self.assertEqual(process.wait(timeout=10), OK)
        check_keys()
        process, read_until, master, check_keys = self.watch(self.server)
        read_until(home)
        process.send_signal(signal.SIGINT)
        read_until(leave)
        self.assertEqual(process.wait(timeout=10), INTERRUPTED)
        check_keys()

    def test_status_watch_survives_a_restart_of_the_server(self):
        with Cluster() as cluster:
            server = f"127.0.0.1:{cluster.port}"
            process, read_until, _, _ = self.watch(server)
            read_until(b"q quits")
            cluster.coordinator.kill()
            absence = read_until(f"waiting for the server at {server}".encode())
            self.assertNotIn(b"CANCELLED", absence)
            cluster.start_coordinator(port=cluster.port, worker_port=cluster.worker_port)
            read_until(b"\nq quits")
            process.send_signal(signal.SIGTERM)
            read_until(b"\033[?1049l")
            self.assertEqual(process.wait(timeout=10), INTERRUPTED)

    def test_interrupt_in_a_stream(self):
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            process = self.start("generate", "ROMEO:", "--max-tokens", "2000", "--ignore-eos")
            self.assertNotEqual(process.stdout.read(1), "")
            begin = time.monotonic()
            process.send_signal(signal_number)
            process.communicate(timeout=10)
            self.assertLess(time.monotonic() - begin, 2)
            self.assertEqual(process.returncode, INTERRUPTED)
            self.cluster.wait_idle(2)

    def test_interrupt_while_standard_input_is_read(self):
        process = self.start("generate", "-")
        time.sleep(0.2)  # until it reads; an earlier signal ends it as well
        process.send_signal(signal.SIGINT)
        self.assertIn(process.wait(timeout=10), (-signal.SIGINT, INTERRUPTED))
        process.communicate()

    def test_refusals_name_code_reason_and_field(self):
        result = bora("generate", "x", "--top-p", "7", server=self.server)
        self.assertEqual((result.returncode, result.stdout), (FAILED, ""))
        for part in ("INVALID_ARGUMENT/INVALID_FIELD", "sampling.top_p", "7", "(0, 1]"):
            self.assertIn(part, result.stderr)
        result = bora("generate", "x", "--top-p", "7", "--json", server=self.server)
        error = json.loads(result.stdout)["error"]
        self.assertEqual((result.returncode, error["code"], error["reason"]),
                         (FAILED, "INVALID_ARGUMENT", "INVALID_FIELD"))
        self.assertIn("sampling.top_p", error["field_violations"][0])
        result = bora("generate", "x", "--model", "other", server=self.server)
        self.assertEqual(result.returncode, FAILED)
        self.assertIn("MODEL_NOT_FOUND", result.stderr)

    def test_timeout_is_a_failure(self):
        result = bora("generate", "x", "--max-tokens=2000", "--ignore-eos", "--timeout", "0.3", server=self.server)
        self.assertEqual(result.returncode, FAILED)
        self.assertIn("DEADLINE_EXCEEDED", result.stderr)

    def test_full_disk_is_a_failure(self):
        with open("/dev/full", "w") as full:
            result = subprocess.run([binary("bora"), "generate", "x", "--max-tokens=2"], env=environment(self.server),
                                    stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        self.assertEqual(result.returncode, FAILED)
        self.assertIn("standard output", result.stderr)

    def test_bad_usage(self):
        for args, text in (([], "command is required"), (["nothing"], "nothing"), (["generate"], "prompt"),
                           (["generate", ""], "prompt"), (["generate", "x", "--no-such"], "--no-such"),
                           (["generate", "x", "--max-tokens", "many"], "--max-tokens"),
                           (["generate", "--prompt-ids", "1,x"], "--prompt-ids"), (["tokenize"], "text"),
                           (["status", "--interval", "0"], "--interval=0: must be in [100ms, 24h]"),
                           (["status", "--timeout", "-1"], "--timeout"), (["generat", "x"], "did you mean generate?"),
                           (["generate", "--max-token", "5", "x"], "unknown flag --max-token; did you mean --max-tokens?"),
                           (["generate", "x", "y"], "unexpected word 'y'"),
                           (["generate", "x", "--seed", "1", "--seed", "2"], "--seed is given more than once"),
                           (["generate", "x", "--seed", "9223372036854775808"], "--seed=9223372036854775808: must be in")):
            with self.subTest(args=args):
                result = bora(*args, server=self.server)
                self.assertEqual(result.returncode, USAGE, result.stderr)
                self.assertIn(text, result.stderr)
                self.assertEqual(result.stdout, "")
                # One thing is wrong in each: one line, and one that points to the help.
                self.assertEqual(len(result.stderr.splitlines()), 2, result.stderr)

    def test_help_mentions_every_option(self):
        common = ["--server", "--json", "--timeout"]
        options = {
            "generate": ["prompt", "--prompt-ids", "--model", "--max-tokens", "--min-tokens", "--temperature",
                         "--top-p", "--top-k", "--min-p", "--seed", "--stop", "--stop-token-ids", "--ignore-eos",
                         "--logprobs", "--echo", "--quiet", "--n", "--priority", "--tenant", "--prompt-logprobs",
                         "--time-limit", "--file", "--no-bos", "--truncate-prompt-tokens", "--request-id"],
            "tokenize": ["text", "--no-bos", "--ids-only"],
            "detokenize": ["id"],
            "status": ["--watch", "--interval", "--ready", "--wait"],
            "plan": ["--model", "--gpus", "--gpu-memory", "--gpus-per-host", "--network", "--interconnect",
                     "--gpu-bandwidth", "--gpu-tflops", "--gpu-memory-utilization", "--context", "--batch",
                     "--objective"],
        }
        result = bora("--help")
        self.assertEqual(result.returncode, OK)
        for word in common + list(options) + ["BORA_SERVER", "130"]:
            self.assertIn(word, result.stdout)
        for command, words in options.items():
            result = bora(command, "--help")
            self.assertEqual(result.returncode, OK)
            for word in words + common:
                self.assertIn(word, result.stdout, command)

    def test_addresses_that_cannot_be_right(self):
        for server, text in (("http://127.0.0.1:5", "write HOST:PORT, without http://"), ("127.0.0.1", "is not HOST:PORT"),
                             ("127.0.0.1:70000", "[1, 65535]")):
            result = bora("status", "--server", server)
            self.assertEqual(result.returncode, USAGE)
            self.assertIn(text, result.stderr)
        result = bora("status", "--server", "nohost.invalid:5")
        self.assertEqual(result.returncode, UNAVAILABLE)
        self.assertIn("the name nohost.invalid does not resolve", result.stderr)

    def test_no_server(self):
        for args in (["status"], ["generate", "x"], ["tokenize", "x"]):
            result = bora(*args, server=NOBODY)
            self.assertEqual(result.returncode, UNAVAILABLE, args)
            self.assertIn(NOBODY, result.stderr)
            self.assertIn("BORA_SERVER", result.stderr)
        result = bora("status", "--ready", server=NOBODY)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (UNAVAILABLE, "", ""))
        result = bora("status", "--json", "--server", NOBODY)
        self.assertEqual((result.returncode, json.loads(result.stdout)["error"]["code"]), (UNAVAILABLE, "UNAVAILABLE"))

    def test_not_ready(self):
        with Cluster(start_workers=False) as cluster:
            server = f"127.0.0.1:{cluster.port}"
            result = bora("generate", "x", server=server)
            self.assertEqual(result.returncode, UNAVAILABLE)
            self.assertIn("UNAVAILABLE/NOT_READY", result.stderr)
            self.assertIn("worth a retry in", result.stderr)
            self.assertEqual(bora("status", "--ready", server=server).returncode, UNAVAILABLE)
            result = bora("status", server=server)
            self.assertEqual(result.returncode, OK)
            self.assertIn("waiting for workers", result.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
