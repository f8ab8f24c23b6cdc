"""The benchmark's own tools: a wrong model, statistic or row would make every figure wrong."""

import contextlib
import http.server
import io
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import bench_process
import bench_service
import cpu_vs_peer
import peer_model
import sse_client

# Two layers, odd enough that a swapped dimension shows.
SMALL = peer_model.Shape(dim=64, hidden_dim=96, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, vocab_size=300)

# A program that answers as the peer's do; $0 is its name.
FAKE_PEER = """#!/bin/sh
case "$0 $*" in
  *llama-bench*"-p 0 "*) echo '[{"avg_ts": 200.0}]' ;;
  *llama-bench*) echo '[{"avg_ts": 1000.0}, {"avg_ts": 200.0}]' ;;
  *batched*) echo 'main: a line of its log'; echo '{"pl": 32, "speed_pp": 1000.0, "speed_tg": 400.0}' ;;
esac
"""


class GgufReader:
    """Reads the header of a file back, independently of the writer."""

    def __init__(self, data):
        self.data, self.at = data, 4
        version, n_tensors, n_entries = self.take("<IQQ")
        assert data[:4] == b"GGUF" and version == 3
        self.metadata = {}
        for _ in range(n_entries):
            key = self.string()
            self.metadata[key] = self.value(*self.take("<I"))
        self.tensors = {}
        for _ in range(n_tensors):
            name = self.string()
            n_dims, = self.take("<I")
            dims = self.take(f"<{n_dims}Q")
            self.tensors[name] = (dims, *self.take("<IQ"))
        self.begin = (self.at + 31) // 32 * 32

    def take(self, layout):
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def string(self):
        n, = self.take("<Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            item, n = self.take("<IQ")
            return [self.value(item) for _ in range(n)]
        return self.take({4: "<I", 5: "<i", 6: "<f"}[kind])[0]


class PeerModelTest(unittest.TestCase):

    def write(self, dtype):
        with tempfile.NamedTemporaryFile() as file:
            n_bytes = peer_model.write_model(file.name, SMALL, dtype)
            data = file.read()
        self.assertEqual(n_bytes, len(data))
        return data, GgufReader(data)

    def test_tensors_fill_the_file_without_gap_or_overlap(self):
        for dtype, kind, bytes_of in (("bf16", 30, lambda n: 2 * n), ("q8_0", 8, lambda n: n // 32 * 34)):
            data, file = self.write(dtype)
            at = 0
            for name, (dims, type_, offset) in file.tensors.items():
                self.assertEqual(offset, at, name)
                self.assertEqual(type_, 0 if len(dims) == 1 else kind, name)
                n_bytes = 4 * dims[0] if len(dims) == 1 else bytes_of(dims[0] * dims[1])
                at += (n_bytes + 31) // 32 * 32
            self.assertEqual(file.begin + at, len(data))

    def test_shapes_have_the_inner_dimension_first(self):
        _, file = self.write("bf16")
        self.assertEqual(len(file.tensors), 3 + 9 * SMALL.n_layers)
        self.assertEqual(file.tensors["blk.1.attn_k.weight"][0], (64, 32))
        self.assertEqual(file.tensors["blk.0.ffn_down.weight"][0], (96, 64))
        self.assertEqual(file.tensors["output.weight"][0], (64, 300))

    def test_a_vocabulary_entry_for_each_row_of_the_head(self):
        _, file = self.write("bf16")
        for key in ("tokens", "scores", "token_type"):
            self.assertEqual(len(file.metadata[f"tokenizer.ggml.{key}"]), SMALL.vocab_size)
        self.assertEqual(len(set(file.metadata["tokenizer.ggml.tokens"])), SMALL.vocab_size)

    def test_weights_are_finite_and_of_the_deviation_that_keeps_activations_of_order_one(self):
        data, file = self.write("bf16")
        dims, _, offset = file.tensors["blk.0.ffn_down.weight"]
        words = struct.unpack_from(f"<{dims[0] * dims[1]}H", data, file.begin + offset)
        values = [struct.unpack("<f", struct.pack("<I", word << 16))[0] for word in words]
        variance = sum(v * v for v in values) / len(values)
        # 6144 values: the estimate of a variance has a relative deviation of sqrt(0.8 / n) = 1.2 %.
        self.assertAlmostEqual(variance * dims[0], 1.7**2 / 3, delta=0.07)


class SseClientTest(unittest.TestCase):

    def test_percentiles_are_those_of_the_load_generator(self):
        self.assertEqual(sse_client.percentile([4, 1, 3, 2], 0.5), 3)
        self.assertEqual(sse_client.percentile([4, 1, 3, 2], 0.99), 4)
        self.assertEqual(sse_client.percentile([], 0.5), 0)

    def test_closed_loop_counts_every_token_of_every_request(self):

        class Handler(http.server.BaseHTTPRequestHandler):

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()
                for i in range(request["n_predict"]):
                    self.wfile.write(b'data: {"content": "t", "stop": false}\n\n')
                self.wfile.write(b'data: {"content": "", "stop": true}\n\n')

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            report = sse_client.Load("127.0.0.1", server.server_port, 4, 10, 16, 5, 512).run()
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
        self.assertEqual((report["requests"], report["failed"], report["error"]), (10, 0, ""))
        self.assertAlmostEqual(report["output_tokens_per_s"] / report["requests_per_s"], 5)

    def test_a_server_that_is_not_there_is_an_error(self):
        load = sse_client.Load("127.0.0.1", bench_process.free_port(), 2, 4, 16, 5, 512)
        self.assertGreater(load.run()["failed"], 0)


class QuietTest(unittest.TestCase):

    def test_its_own_programs_are_not_foreign_and_others_are(self):
        burn = [sys.executable, "-c", "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"]
        quiet = bench_process.Quiet(0)
        foreign = subprocess.Popen(burn)
        with quiet.watch():
            bench_process.run(burn, bench_process.Quiet(0))
        with_foreign = quiet.take()
        # At least its share of two cores, whatever else runs.
        self.assertGreater(with_foreign, 0.2)
        foreign.wait()

    def test_neighbours_are_those_that_this_process_has_not_started(self):
        burn = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"
        neighbours = bench_process.Neighbours()
        # A child, alive and waited for, and a grandchild are no neighbours; over all, no more time is theirs than there is.
        parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])"
        child = subprocess.Popen([sys.executable, "-c", parent])
        self.assertIn(child.pid, bench_process.descendants())
        busy_s, begin_s = bench_process.machine_busy_s(), neighbours.begin_s
        child.wait()
        # The child's 1.5 s of a core, or its share of it, are in the machine's time and not in the neighbours'.
        cores = neighbours.take()
        machine_cores = (bench_process.machine_busy_s() - busy_s) / (neighbours.begin_s - begin_s)
        self.assertLess(cores, machine_cores)
        self.assertEqual(neighbours.take(), cores, "rows that come together")

    def test_a_row_is_marked_when_others_had_cores(self):
        self.assertEqual(bench_process.remark_on(0.1), "")
        self.assertEqual(bench_process.remark_on(0.85), " disturbed 0.85")

    def test_the_least_disturbed_attempt_counts(self):

        class FakeQuiet(bench_process.Quiet):
            foreign = iter([0, 0.9, 0, 0.4, 0, 0.7])

            def take(self):
                return next(self.foreign)

        values = iter([1, 2, 3])
        self.assertEqual(bench_process.least_disturbed(lambda: next(values), FakeQuiet(0), 2), (0.4, 2))

    def test_a_failed_program_is_named_with_its_last_words(self):
        with self.assertRaisesRegex(bench_process.RunFailed, "sh ended with 3: no such model"):
            bench_process.run(["sh", "-c", "echo no such model >&2; exit 3"], bench_process.Quiet(0))


class CpuVsPeerTest(unittest.TestCase):

    def run_main(self, *arguments):
        argv, sys.argv = sys.argv, ["cpu_vs_peer.py", *arguments]
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                code = cpu_vs_peer.main()
        finally:
            sys.argv = argv
        return code, out.getvalue()

    def test_rows_without_and_with_a_peer(self):
        options = ["--figures", "tiny64_decode_1,tiny64_decode_32", "--alternations", "1", "--wait-quiet", "0",
                   "--retries", "0"]
        code, out = self.run_main(*options)
        self.assertEqual(code, 0, out)
        self.assertRegex(out, r"figure tiny64_decode_1 [0-9.e+]+ tokens/s( disturbed [0-9.]+)?\n")
        self.assertRegex(out, r"figure limit_read_bandwidth [0-9.]+ GB/s\n")
        with tempfile.TemporaryDirectory() as directory:
            for name in ("llama-bench", "llama-batched-bench"):
                path = os.path.join(directory, name)
                with open(path, "w") as file:
                    file.write(FAKE_PEER)
                os.chmod(path, 0o755)
            code, out = self.run_main("--peer-bin", directory, *options)
        self.assertEqual(code, 0, out)
        row = re.search(r"figure tiny64_decode_1 ([0-9.e+]+) tokens/s peer 200 ratio ([0-9.]+)( disturbed [0-9.]+)?\n", out)
        self.assertAlmostEqual(float(row[1]) / 200 / float(row[2]), 1, delta=0.01)
        self.assertRegex(out, r"figure tiny64_decode_32 [0-9.e+]+ tokens/s peer 400 ratio [0-9.]+( disturbed [0-9.]+)?\n")

    def test_a_side_that_fails_is_reported_and_the_exit_code_says_so(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "llama-bench")
            with open(path, "w") as file:
                file.write("#!/bin/sh\necho cannot >&2; exit 1\n")
            os.chmod(path, 0o755)
            code, out = self.run_main("--peer-bin", directory, "--figures", "tiny64_decode_1", "--alternations", "1",
                                      "--wait-quiet", "0")
        self.assertEqual(code, 1)
        self.assertIn("# tiny64_decode_1 failed: llama-bench ended with 1: cannot", out)

    def test_a_doubtful_row_says_so_itself(self):
        quiet_side = [(10.0, 0.01), (11.0, 0.12)]
        self.assertEqual(cpu_vs_peer.remarks_on([quiet_side, [(5.0, 0.0)]]), "")
        # Others had most of a core even in the quietest attempt.
        self.assertEqual(cpu_vs_peer.remarks_on([quiet_side, [(5.0, 0.85)]]), " disturbed 0.85")
        # Nobody was seen, but one sample is twice the other.
        self.assertEqual(cpu_vs_peer.remarks_on([[(10.0, 0.0), (21.0, 0.0)], quiet_side]), " jumps 2.1")
        self.assertEqual(cpu_vs_peer.remarks_on([[(10.0, 0.2), (21.0, 0.0)]]), " disturbed 0.20 jumps 2.1")
        row = cpu_vs_peer.Figure("x", "tokens/s").row(20, 40, 10, " disturbed 0.85")
        self.assertEqual(row, "figure x 20 tokens/s limit 40 peer 10 ratio 2 disturbed 0.85")

    def test_the_limit_of_bf16_is_that_of_the_better_unit(self):
        command = [os.path.join(os.environ["BORA_BINARY_DIR"], "bin", "bora-bench-limits"), "--threads=1", "--rounds=1",
                   "--buffer_mib=1"]
        rows = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
        best = {name: float(value) for _, name, value, _ in (row.split() for row in rows) if name.endswith("_best")}
        if "limit_fp32_best" in best:
            self.assertIn("limit_bf16_best", best)
        if "limit_vdpbf16ps_best" in best:
            self.assertIn("limit_fp32_best", best)

    def test_ratios_say_more_is_better(self):
        speed = cpu_vs_peer.Figure("x", "tokens/s")
        self.assertEqual(speed.row(20, 40, 10), "figure x 20 tokens/s limit 40 peer 10 ratio 2")
        self.assertEqual(speed.row(20, 40, None), "figure x 20 tokens/s limit 40 ratio 0.5")
        self.assertEqual(speed.row(20, None, None), "figure x 20 tokens/s")
        delay = cpu_vs_peer.Figure("y", "ms", less_is_better=True)
        self.assertEqual(delay.row(5, None, 50), "figure y 5 ms peer 50 ratio 10")


class BenchServiceTest(unittest.TestCase):

    def test_the_tokenizer_has_a_piece_for_each_token(self):
        model = bench_service.tokenizer_model(300)
        self.assertEqual(model.count(b"<0x"), 256)
        self.assertIn(b"t299", model)
        self.assertNotIn(b"t300", model)


if __name__ == "__main__":
    unittest.main(verbosity=2)
