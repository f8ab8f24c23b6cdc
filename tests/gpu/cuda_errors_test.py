"""What a build with CUDA says on a host without a usable GPU. Needs no GPU; skipped where there is one."""

import os
import subprocess
import sys
import unittest

WORKER = os.path.join(os.environ["BORA_BINARY_DIR"], "bin", "bora-worker")


def run(*flags):
    return subprocess.run([WORKER, *flags], capture_output=True, text=True, timeout=60)


class CudaErrorsTest(unittest.TestCase):

    def test_devices_are_listed_with_the_reason_why_there_is_no_gpu(self):
        result = run("--list-devices")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stdout, r"(?m)^cpu: \d+ threads")
        self.assertRegex(result.stdout, r"(?m)^cuda: (no NVIDIA driver|the NVIDIA driver supports CUDA|no GPU)")

    def test_a_gpu_that_is_not_there_is_an_error_at_start(self):
        for device in ("cuda", "cuda:0", "cuda:7"):
            with self.subTest(device=device):
                result = run(f"--device={device}")
                self.assertEqual(result.returncode, 1, result.stderr)
                self.assertIn(f"bora-worker: --device={device}: ", result.stderr)

    def test_bad_flags_are_named(self):
        for flag, message in (
            ("--device=cuda:-1", "--device=cuda:-1: a GPU is cuda or cuda:N with N >= 0"),
            ("--gpu-memory-utilization=0", "--gpu-memory-utilization=0: must be in (0, 1]"),
            ("--gpu-memory-utilization=1.5", "--gpu-memory-utilization=1.5: must be in (0, 1]"),
        ):
            with self.subTest(flag=flag):
                result = run(flag)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertIn(message, result.stderr)


if __name__ == "__main__":
    if "cuda:0: " in run("--list-devices").stdout:
        print("skipped: this host has a GPU")
        sys.exit(77)
    unittest.main(verbosity=2)
