"""Registers and spills of every kernel, as ptxas reports them. Needs nvcc, no GPU."""

import glob
import os
import re
import shutil
import subprocess
import sys
import unittest

SOURCE_DIR = os.environ["BORA_SOURCE_DIR"]
ARCHITECTURES = ("sm_80", "sm_90a")
# As cmake/bora.cmake has them.
FLAGS = ["-std=c++20", "--expt-relaxed-constexpr", "-Werror", "all-warnings", "-Xcompiler=-Wall,-Wextra"]
FILE_FLAGS = {"sample.cu": ["--fmad=false"]}
# Most registers of a thread on either architecture. A multiprocessor has 65,536 and holds 2,048 threads: with up to 32 all
# of them fit.
MAX_REGISTERS = {
    "AddKernel<1>": 32,
    "AddKernel<4>": 32,
    "AddRmsNormKernel<1>": 32,
    # A token's row stays in registers; three blocks of 512 threads.
    "AddRmsNormKernel<4>": 40,
    # Shared memory holds one block of head_dim 128 on a multiprocessor and two of the others, of 256 threads.
    "DecodeAttentionKernel<16>": 128,
    "DecodeAttentionKernel<32>": 128,
    "DecodeAttentionKernel<64>": 255,
    "DecodeAttentionKernel<128>": 255,
    "EmbedKernel": 32,
    "JoinColumnsKernel": 32,
    # 128 threads, but 256 for the last, and as many blocks as kernels/cuda/matmul_plan.h says.
    "MatMulKernel<0>": 255,
    "MatMulKernel<1>": 255,
    "MatMulKernel<2>": 255,
    "MatMulKernel<3>": 255,
    "MatMulKernel<4>": 255,
    "MatMulKernel<5>": 255,
    # Eight blocks of 128 threads; the sums of four splits are loaded together.
    "MergeAttentionKernel<16>": 40,
    "MergeAttentionKernel<32>": 40,
    "MergeAttentionKernel<64>": 40,
    "MergeAttentionKernel<128>": 48,
    "OpenSlotsKernel": 64,
    "PrefillAttentionKernel<16>": 128,
    "PrefillAttentionKernel<32>": 128,
    "PrefillAttentionKernel<64>": 255,
    "PrefillAttentionKernel<128>": 255,
    "ResolveTokensKernel": 32,
    "RopeAndStoreKvKernel<1>": 32,
    "RopeAndStoreKvKernel<8>": 48,
    # One block of 512 threads; rows are seldom more than multiprocessors.
    "SampleKernel": 128,
    "SiluMulKernel": 32,
    # By the number of parts, all of which are loaded before the first sum.
    **{f"SumPartsKernel<{n_parts}>": 40 for n_parts in range(1, 9)},
    "TableKernel": 32,
    "TreeSumKernel<1>": 32,
    "TreeSumKernel<4>": 32,
}

# Most bytes of stack frame, spill stores and spill loads together; 0 of all others.
MAX_SPILLED = {("DecodeAttentionKernel<128>", "sm_80"): 56}

ENTRY = re.compile(r"Compiling entry function '_Z\w*?\d([A-Z][A-Za-z]*Kernel)(?:ILi(\d+)E)?\w*' for '(\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def report(path):
    """What ptxas says of each kernel of a file: (name, architecture, stack and spill bytes, registers)."""
    targets = [f"-gencode=arch={a.replace('sm', 'compute')},code={a}" for a in ARCHITECTURES]
    flags = FLAGS + FILE_FLAGS.get(os.path.basename(path), [])
    result = subprocess.run(["nvcc", "-I", SOURCE_DIR, *flags, *targets, "-Xptxas", "-v", "-c", path, "-o", "/dev/null"],
                            capture_output=True, text=True)
    if result.returncode != 0:
        raise AssertionError(result.stdout + result.stderr)
    kernels = []
    name = spilled = None
    for line in (result.stdout + result.stderr).splitlines():
        if entry := ENTRY.search(line):
            name = entry.group(1) + (f"<{entry.group(2)}>" if entry.group(2) else "")
            architecture = entry.group(3)
        elif spill := SPILL.search(line):
            spilled = sum(map(int, spill.groups()))
        elif used := USED.search(line):
            kernels.append((name, architecture, spilled, int(used.group(1))))
    return kernels


class RegistersTest(unittest.TestCase):

    def test_kernels_keep_within_their_registers(self):
        seen = set()
        for path in sorted(glob.glob(os.path.join(SOURCE_DIR, "kernels", "cuda", "*.cu"))):
            for name, architecture, spilled, registers in report(path):
                print(f"{name} {architecture}: {registers} registers, {spilled} bytes of stack and spills")
                with self.subTest(kernel=name, architecture=architecture):
                    self.assertLessEqual(spilled, MAX_SPILLED.get((name, architecture), 0))
                    self.assertLessEqual(registers, MAX_REGISTERS.get(name, 0))
                seen.add((name, architecture))
        self.assertEqual(seen, {(n, a) for n in MAX_REGISTERS for a in ARCHITECTURES})

    def test_the_instructions_of_ptx_h_assemble(self):
        names = {name for name, _, _, _ in report(os.path.join(SOURCE_DIR, "tests", "cuda_host", "ptx_kernels.cu"))}
        self.assertIn("PipelineKernel", names)


if __name__ == "__main__":
    if shutil.which("nvcc") is None:
        print("skipped: no nvcc")
        sys.exit(77)
    unittest.main(verbosity=2)
