"""`bora plan`: output, recommendation and errors. Needs no server."""

import json
import os
import re
import subprocess
import tempfile
import unittest

from bora_e2e import binary

OK, FAILED, USAGE = 0, 1, 2
MISTRAL_7B = {
    "model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
    "rope_theta": 1e6, "rms_norm_eps": 1e-5, "max_position_embeddings": 32768, "sliding_window": None,
    "torch_dtype": "bfloat16", "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2
}
H200S = ["--gpus=8", "--gpu-memory=141GB"]


class PlanTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        # The config is all there is.
        cls.model = cls.enterClassContext(tempfile.TemporaryDirectory())
        with open(os.path.join(cls.model, "config.json"), "w") as file:
            json.dump(MISTRAL_7B, file)

    def plan(self, *args, model=None):
        return subprocess.run([binary("bora"), "plan", "--model", model or self.model, *args], capture_output=True,
                              text=True, timeout=60)

    def plan_json(self, *args):
        result = self.plan(*args, "--json")
        self.assertEqual(result.returncode, OK, result.stderr)
        return json.loads(result.stdout)

    def test_compares_layouts_and_recommends_one_as_flags(self):
        result = self.plan(*H200S, "--network=400Gb")
        self.assertEqual((result.returncode, result.stderr), (OK, ""))
        for part in ("7.24 billion parameters", "14.48 GB", "849,856", "3.56 ms", "50 GB/s", "Predicted",
                     "nothing was measured", "Recommended for throughput: TP ", "--max-model-len=8192"):
            self.assertIn(part, result.stdout)
        layouts = re.findall(r"^ +(\d+) +(\d+) +(\d+) ", result.stdout, re.M)
        self.assertEqual(len(layouts), 2 * 10)
        self.assertTrue(all(int(tp) * int(pp) * int(replicas) == 8 for tp, pp, replicas in layouts))

    def test_json_has_the_same(self):
        plan = self.plan_json(*H200S)
        self.assertEqual((plan["context"], plan["batch"], len(plan["layouts"])), (8192, 128, 10))
        first = plan["layouts"][0]  # gains of norms are float
        self.assertEqual((first["rank_weight_bytes"], first["replica_kv_tokens"]), (2 * 7241732096 + 65 * 4096 * 2, 849856))
        self.assertAlmostEqual(first["predicted_step_alone_ms"], 3.307 + 8192 * 31.14e-6, delta=0.002)
        self.assertIn(plan["recommended"], plan["layouts"])
        self.assertEqual(plan["recommended"]["flags"][0],
                         f"--tensor-parallel-size={plan['recommended']['tensor_parallel_size']}")

    def test_the_objective_decides(self):
        load = ["--context=1024", "--batch=1024"]
        latency = self.plan_json(*H200S, *load, "--objective=latency")["recommended"]
        throughput = self.plan_json(*H200S, *load, "--objective=throughput")["recommended"]
        self.assertGreaterEqual(latency["tensor_parallel_size"], 4)
        self.assertEqual(throughput["replicas"], 8)

    def test_hosts_bound_tensor_groups(self):
        plan = self.plan_json("--gpus=16", "--gpu-memory=80GiB", "--gpus-per-host=4", "--network=100Gb")
        self.assertEqual(max(layout["tensor_parallel_size"] for layout in plan["layouts"]), 4)

    def test_what_does_not_fit_is_listed_with_numbers(self):
        result = self.plan("--gpus=4", "--gpu-memory=16GB")
        self.assertEqual(result.returncode, OK)
        self.assertRegex(result.stdout, r"TP 1 x PP 1 x 4 replicas: .*weights 14\.48 GB.* takes 14\.4 GB of 16 GB")
        result = self.plan("--gpus=2", "--gpu-memory=1GB")
        self.assertEqual(result.returncode, FAILED)
        self.assertIn("No layout fits", result.stdout)
        result = self.plan("--gpus=3", "--gpu-memory=141GB")
        self.assertIn("tensor parallel size 3 does not divide n_heads 32", result.stdout)

    def test_reads_params_json_too(self):
        with tempfile.TemporaryDirectory() as model:
            with open(os.path.join(model, "params.json"), "w") as file:
                json.dump({"dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32,
                           "n_kv_heads": 8, "norm_eps": 1e-5, "vocab_size": 32000, "rope_theta": 1e6}, file)
            self.assertEqual(self.plan(*H200S, model=model).returncode, OK)

    def test_errors_name_flag_value_and_limit(self):
        for args, parts in (
            (["--gpus=0", "--gpu-memory=1GB"], ("--gpus", "0", "[1, 1024]")),
            (["--gpus=8", "--gpu-memory=141"], ("--gpu-memory", '"141"', "141GB")),
            (["--gpus=8", "--gpu-memory=141Gb"], ("--gpu-memory", '"141Gb"')),
            ([*H200S, "--gpus-per-host=3"], ("--gpus-per-host", "3 does not divide --gpus 8")),
            ([*H200S, "--gpus-per-host=16"], ("--gpus-per-host", "16", "[1, 8]")),
            ([*H200S, "--network=400"], ("--network", '"400"', "400Gb")),
            ([*H200S, "--interconnect=fast"], ("--interconnect", '"fast"')),
            ([*H200S, "--gpu-bandwidth=-1GB"], ("--gpu-bandwidth", '"-1GB"')),
            ([*H200S, "--gpu-tflops=nan"], ("--gpu-tflops", "nan", "(0, 1000000]")),
            ([*H200S, "--gpu-memory-utilization=0"], ("--gpu-memory-utilization", "0", "(0, 1]")),
            ([*H200S, "--context=32769"], ("--context", "32769", "[1, 32768]")),
            ([*H200S, "--batch=0"], ("--batch", "0", "[1, 1000000]")),
            ([*H200S, "--objective=cheap"], ("--objective", '"cheap"', "latency or throughput")),
            (["--gpus=many", "--gpu-memory=1GB"], ("--gpus", "many")),
            (["--gpus=8"], ("--gpu-memory",)),
        ):
            with self.subTest(args=args):
                result = self.plan(*args)
                self.assertEqual((result.returncode, result.stdout), (USAGE, ""))
                for part in parts:
                    self.assertIn(part, result.stderr)
        result = self.plan(*H200S, model="/nonexistent")
        self.assertEqual(result.returncode, USAGE)
        self.assertIn("--model: /nonexistent", result.stderr)
        result = self.plan("--gpus=0", "--gpu-memory=1GB", "--json")
        self.assertEqual((result.returncode, json.loads(result.stdout)["error"]["code"]), (USAGE, "INVALID_ARGUMENT"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
