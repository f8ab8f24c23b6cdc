"""bora-bench-gpu-model on the CPU form of the kernels: what it prints and counts. Its times mean nothing here."""

import os
import re
import subprocess
import unittest

BINARY = os.path.join(os.environ["BORA_BINARY_DIR"], "bin", "bora-bench-gpu-model-host")
READ_GB_PER_S, TFLOP_PER_S = 10, 0.1
# --shape=tiny: 32 layers, dim 128, FFN 384, 8 heads and 2 KV heads of 16, vocabulary 512.
LAYER_ELEMENTS = 32 * 128 * (2 * 8 * 16 + 2 * 2 * 16 + 3 * 384)
HEAD_ELEMENTS = 512 * 128
KV_BYTES = 2 * 32 * 2 * 16 * 2  # of a token
PAIR_FLOP = 4 * 32 * 8 * 16


def product_s(n_elements, n_rows):
    return max(2 * n_elements / (READ_GB_PER_S * 1e9), 2 * n_elements * n_rows / (TFLOP_PER_S * 1e12))


def step_s(rows):
    """Floor of a step. rows: (position, n_tokens); each samples one token."""
    n_tokens = sum(n for _, n in rows)
    kv_s = KV_BYTES * sum(position + n for position, n in rows) / (READ_GB_PER_S * 1e9)
    pairs = sum(n * (position + (n + 1) // 2) for position, n in rows)
    return (product_s(LAYER_ELEMENTS, n_tokens) + product_s(HEAD_ELEMENTS, len(rows)) + kv_s +
            PAIR_FLOP * pairs / (TFLOP_PER_S * 1e12))


class BenchGpuModelTest(unittest.TestCase):

    def run_bench(self, *flags):
        return subprocess.run([BINARY, "--shape=tiny", *flags], capture_output=True, text=True, timeout=250)

    def test_rows_and_their_floors(self):
        result = self.run_bench("--cases=prefill:24,generate:6+3,offline:9+3,decode:90000x40", "--fast=decode:2x8", "--chunk=32",
                                f"--read-gb-per-s={READ_GB_PER_S}", f"--tflop-per-s={TFLOP_PER_S}", "--max-num-seqs=3")
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = {}
        for line in result.stdout.splitlines():
            words = line.split()
            if words[0] == "figure":
                rows[words[1]] = {"value": float(words[2]), **{k: float(v) for k, v in zip(words[4::2], words[5::2])}}
        prefill = rows["gpu_prefill_24_ms"]
        self.assertAlmostEqual(prefill["limit"] / (1e3 * step_s([(0, 24)])), 1, places=3)
        self.assertAlmostEqual(prefill["ratio"], prefill["limit"] / prefill["value"], places=3)
        self.assertLessEqual(prefill["p10"], prefill["value"])
        self.assertLessEqual(prefill["value"], prefill["p90"])
        # A prompt of 6, then two steps at contexts of 7 and 8: three tokens.
        floor_s = step_s([(0, 6)]) + step_s([(6, 1)]) + step_s([(7, 1)])
        self.assertAlmostEqual(rows["gpu_generate_6_3_tokens_per_s"]["limit"] / (3 / floor_s), 1, places=3)
        # Three requests: their prompts of 9 in one step of 27 tokens, then two steps of all three.
        floor_s = step_s([(0, 9)] * 3) + step_s([(9, 1)] * 3) + step_s([(10, 1)] * 3)
        offline = rows["gpu_offline_9_3_tokens_per_s"]
        self.assertAlmostEqual(offline["limit"] / (9 / floor_s), 1, places=3)
        self.assertLessEqual(offline["ratio"], 1)
        self.assertLess(rows["gpu_offline_9_3_idle"]["value"], 0.5)
        self.assertGreater(rows["gpu_kv_tokens"]["value"], 1000)
        self.assertRegex(result.stdout, r"(?m)^skipped 1 gpu_decode_90000x40: .* take 450000 KV blocks, \d+ have room$")
        self.assertRegex(result.stdout, r"(?m)^skipped 1 comparisons with cuBLASLt: .*matrix library")

    def test_decode_steps_have_no_limit_where_none_is_known(self):
        result = self.run_bench("--cases=decode:1x2", "--fast=")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"(?m)^figure gpu_decode_1x2_ms [\d.]+ ms p10 [\d.]+ p90 [\d.]+$")
        idle = re.search(r"(?m)^figure gpu_decode_1x2_idle ([\d.]+) ratio$", result.stdout)
        self.assertLess(float(idle.group(1)), 0.5)

    def test_cases_that_do_not_exist(self):
        for case in ("decode:3", "decode:0x5", "prefill:x", "generate:5+1", "train:1"):
            result = self.run_bench(f"--cases={case}")
            self.assertEqual(result.returncode, 2, result.stdout)
            self.assertIn(f"case '{case}' is not decode:BxC", result.stderr)


if __name__ == "__main__":
    unittest.main()
