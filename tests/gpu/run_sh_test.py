"""tests/gpu/run.sh with programs that stand in for those of a GPU: a step that ends badly or hangs hides no other."""

import os
import pathlib
import subprocess
import tempfile
import unittest

SOURCE_DIR = os.environ["BORA_SOURCE_DIR"]

PROGRAMS = {
    # Three suites: one passes, one fails a test, in one the program ends in the middle of a test.
    "test/gpu_ops_test": r"""
if [ "$1" = --gtest_list_tests ]; then
  printf 'CudaLinksTest.\n  Abort\n/CudaMatMulTest.\n  A/Gpu  # GetParam() = "Gpu"\n  B/Gpu\n/CudaSampleTest.\n  S/Gpu\n'
  printf '/CudaPtxTest.\n  P/Gpu\n'
  exit
fi
case $1 in
  *MatMul*) printf '[ RUN      ] /CudaMatMulTest.A/Gpu\n[       OK ] /CudaMatMulTest.A/Gpu (3 ms)\n[ RUN      ] /CudaMatMulTest.B/Gpu\n'
            echo "CHECK failed: illegal address"; kill -ABRT $$ ;;
  *Sample*) printf '[ RUN      ] /CudaSampleTest.S/Gpu\nx.cc:3: Failure\n[  FAILED  ] /CudaSampleTest.S/Gpu, where GetParam() = "Gpu" (1 ms)\n'
            exit 1 ;;
  *) printf '[ RUN      ] %s\n[       OK ] %s (1 ms)\n' "$1" "$1" ;;
esac""",
    "test/gpu_processes_test": r"""
if [ "$1" = --gtest_list_tests ]; then printf 'RankProcessesTest.\n  TheOthersOutliveAKilledRank\n  TwoRanks\n'; exit; fi
case $1 in *Killed*) exec sleep 100 ;; esac
echo "[       OK ] $1" """,
    "test/gpu_same_bytes_test": 'printf "[  SKIPPED ] 2 tests, listed below:\n"',
    "test/nccl_library_test": "exit 0",
    "test/cublas_lt_test": "exit 0",
    "test/cublas_lt_fake_test": "exit 0",
    "bin/bora-bench-gpu": r"""
for part in "$@"; do for i in $(seq 60); do echo "figure gpu_${part}_$i 12.5 us p10 1 p90 3"; done; done
echo "figure gpu_wgmma_n8_other_bits 0 elements" """,
    "bin/bora-bench-gpu-model": 'echo "figure gpu_decode_1x1024 3 ms"',
    "path/nvidia-smi": 'case "$*" in -L) echo "GPU 0: H200" ;; *) echo "9.0, 1, 2, 3" ;; esac',
    "path/nvcc": 'echo "release 13.0"',
    "path/ncu": 'echo "ncu $*"',
    "path/compute-sanitizer": 'echo "memcheck $*"; echo "==== Invalid read"; exit 9',
    "path/python3": "exit 1",
}


class RunShTest(unittest.TestCase):

    def test_every_step_runs_and_the_summary_says_what_failed(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, body in PROGRAMS.items():
                path = pathlib.Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                path.write_text("#!/usr/bin/env bash\n" + body + "\n")
                path.chmod(0o755)
            out = pathlib.Path(folder, "out")
            environment = {**os.environ, "OUT": str(out), "BORA_BINARY_DIR": folder, "BORA_GPU_DEADLINE_S": "15",
                           "PATH": f"{folder}/path:{os.environ['PATH']}"}
            script = os.path.join(SOURCE_DIR, "tests", "gpu", "run.sh")
            # Without sanitizers and models, which would come behind the step that hangs until the deadline.
            result = subprocess.run(["bash", script, "tests", "bench", "profile"], env=environment, capture_output=True,
                                    text=True, timeout=100)
            self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
            lines = (out / "log").read_text().splitlines()
            self.assertEqual(lines, result.stdout.splitlines())
            summary = lines[next(i for i, line in enumerate(lines) if line.startswith("== summary")):]
            self.assertLessEqual(len(summary), 60)
            text = "\n".join(summary)
            for failed in ("gpu_ops_test.CudaMatMulTest: status 134", "memcheck.CudaMatMulTest: status 9",
                           "gpu_ops_test.CudaSampleTest: status 1", "x.cc:3: Failure", "illegal address",
                           "gpu_processes_test.RankProcessesTest.TheOthersOutliveAKilledRank: status 124"):
                self.assertIn(failed, text)
            self.assertIn("figure gpu_wgmma_n8_other_bits 0", text)
            self.assertIn("figure gpu_skinny_1 ", text)
            # The test that was running when the program ended, and the one that failed.
            self.assertIn("--gtest_filter=/CudaMatMulTest.B/Gpu\n", (out / "memcheck.CudaMatMulTest").read_text())
            self.assertIn("--gtest_filter=/CudaSampleTest.S/Gpu\n", (out / "memcheck.CudaSampleTest").read_text())
            # What questions need little time for comes before what takes long.
            steps = [line.split()[1] for line in lines if line.startswith("== ")]
            self.assertEqual(steps[:6], ["machine", "limits", "operations", "bench", "profile", "groups"])
            # All were run, the one that hangs last.
            for name in ("gpu_ops_test.CudaPtxTest", "gpu_ops_test.CudaLinksTest", "gpu_same_bytes_test",
                         "gpu_processes_test.RankProcessesTest.TwoRanks", "bora-bench-gpu", "profile"):
                self.assertTrue((out / name).exists(), name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
