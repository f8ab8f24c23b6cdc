"""The `bora` command against real servers: output, exit codes, error texts, signals."""

import json
import os
import signal
import subprocess
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
        prompt_ids = self.run_ok("tokenize", "ROMEO:").stdout.strip().replace(" ", ",")
        by_ids = self.run_ok("generate", "--prompt-ids", prompt_ids, "--max-tokens=20", "--seed=3", "-q")
        self.assertEqual(by_ids.stdout, text + "\n")
        lines = self.run_ok(*base, "--logprobs", "2").stdout.splitlines()
        self.assertIn("rank", lines[0])
        greedy = self.expected(text="ROMEO:", max_tokens=20, temperature=0)[0]
        for flags in (["--temperature", "0"], ["--top-k", "1"], ["--top-p", "1e-6"], ["--min-p", "1"]):
            self.assertEqual(self.run_ok(*base, *flags).stdout, greedy + "\n", flags)
        self.assertEqual(self.run_ok(*base, "--min-tokens=20", "--ignore-eos", "--model=demo-model").stdout, text + "\n")

    def test_standard_input(self):
        text = self.expected(text="ROMEO:\nline two", max_tokens=5, seed=3)[0]
        result = self.run_ok("generate", "-", "--max-tokens=5", "--seed=3", stdin="ROMEO:\nline two")
        self.assertEqual(result.stdout, text + "\n")
        from_argument = self.run_ok("tokenize", "two words").stdout
        self.assertEqual(self.run_ok("tokenize", "-", stdin="two words").stdout, from_argument)

    def test_tokenize(self):
        request = inference.TokenizeRequest(texts=["ROMEO:", "O"])
        expected = [list(result.token_ids) for result in self.cluster.stub.tokenize(request).results]
        result = self.run_ok("tokenize", "ROMEO:", "O")
        self.assertEqual([[int(i) for i in line.split()] for line in result.stdout.splitlines()], expected)
        without = self.run_ok("tokenize", "ROMEO:", "--no-bos", "--json")
        self.assertEqual(json.loads(without.stdout)["results"][0]["token_ids"], expected[0][1:])

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

    def test_status_watch_prints_until_interrupted(self):
        process = self.start("status", "--watch", "--interval", "0.1", "--json")
        for _ in range(3):
            self.assertIn("group_state", json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        self.assertEqual(process.returncode, OK)

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
        for args, text in (([], "subcommand"), (["nothing"], "nothing"), (["generate"], "prompt"),
                           (["generate", ""], "prompt"), (["generate", "x", "--no-such"], "--no-such"),
                           (["generate", "x", "--max-tokens", "many"], "--max-tokens"),
                           (["generate", "--prompt-ids", "1,x"], "--prompt-ids"), (["tokenize"], "text"),
                           (["status", "--interval", "0"], "--interval"), (["status", "--timeout", "-1"], "--timeout")):
            with self.subTest(args=args):
                result = bora(*args, server=self.server)
                self.assertEqual(result.returncode, USAGE, result.stderr)
                self.assertIn(text, result.stderr)
                self.assertEqual(result.stdout, "")

    def test_help_mentions_every_option(self):
        common = ["--server", "--json", "--timeout"]
        options = {
            "generate": ["prompt", "--prompt-ids", "--model", "--max-tokens", "--min-tokens", "--temperature",
                         "--top-p", "--top-k", "--min-p", "--seed", "--stop", "--stop-token-ids", "--ignore-eos",
                         "--logprobs", "--echo", "--quiet"],
            "tokenize": ["text", "--no-bos"],
            "status": ["--watch", "--interval", "--ready"],
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
