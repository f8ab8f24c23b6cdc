"""Models and flags that cannot work: a process ends with exit code 2, or a worker's refusal shows in GetServerInfo, and the
message names thing, value and limit. Nothing crashes.
"""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import unittest

from bora_e2e import (DEMO_MODEL, Cluster, binary, collect, make_checkpoint, stream_request, wait_until,
                      write_credential)

USAGE = 2
CANNOT_START = 1
REFUSED = 3  # of a worker, by its coordinator
TOKENIZER = os.path.join(DEMO_MODEL, "tokenizer.model")
DIMENSIONS = dict(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=128, max_position=256)
NORM = "model.norm.weight"
Q = "model.layers.1.self_attn.q_proj.weight"


class Weights:
    """A safetensors file taken apart, to be put together wrongly."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            raw = file.read()
        n = struct.unpack("<Q", raw[:8])[0]
        self.header, self.data = json.loads(raw[8:8 + n]), bytearray(raw[8 + n:])

    def remove(self, name):
        """Takes a tensor out, leaving no hole."""
        begin, end = self.header.pop(name)["data_offsets"]
        del self.data[begin:end]
        for tensor in self.header.values():
            offsets = tensor.get("data_offsets")
            if offsets is not None and offsets[0] >= end:
                offsets[:] = [offset - (end - begin) for offset in offsets]

    def write(self, header_bytes=None):
        header = json.dumps(self.header).encode()
        with open(self.path, "wb") as file:
            file.write(struct.pack("<Q", len(header) if header_bytes is None else header_bytes) + header + self.data)


class BadModelTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="bora-bad-model-"))
        cls.good = make_checkpoint(cls.folder + "/good", tokenizer=TOKENIZER, vocab_size=1024, **DIMENSIONS)

    def setUp(self):
        self.model = tempfile.mkdtemp(dir=self.folder)
        shutil.copytree(self.good, self.model, dirs_exist_ok=True)

    def path(self, name):
        return os.path.join(self.model, name)

    def weights(self):
        return Weights(self.path("model.safetensors"))

    def edit_config(self, **changes):
        with open(self.path("config.json")) as file:
            config = json.load(file)
        for name, value in changes.items():
            if value is None:
                config.pop(name, None)
            else:
                config[name] = value
        with open(self.path("config.json"), "w") as file:
            json.dump(config, file)

    def coordinator(self, *flags, model=True):
        command = [binary("bora-coordinator")]
        for flag in ("--listen", "--worker-listen"):
            if not any(given.startswith(flag + "=") for given in flags):
                command.append(f"{flag}=127.0.0.1:0")
        command += [f"--model={self.model}"] if model else []
        return subprocess.run(command + list(flags), capture_output=True, text=True, errors="replace", timeout=30)

    def check_refused(self, *parts, flags=(), model=True, exit_code=USAGE):
        """The coordinator does not start, and its message has all `parts`."""
        result = self.coordinator(*flags, model=model)
        self.assertEqual(result.returncode, exit_code, result.stderr)
        for part in parts:
            self.assertIn(str(part), result.stderr)

    def check_worker_refuses(self, *parts, flags=()):
        """The coordinator starts, the group does not form, and group_detail has all `parts`."""
        with Cluster(model=self.model, start_workers=False, coordinator_flags=list(flags)) as cluster:
            worker = cluster.start_worker()
            details = []

            def told():
                details.append(cluster.stub.info().group_detail)
                return all(part in details[-1] for part in parts)

            try:
                wait_until(told, 15, f"group_detail with {parts}")
            except AssertionError:
                self.fail(f"{parts} not in any of {sorted(set(details))}")
            self.assertFalse(cluster.serving())
            self.assertTrue(cluster.coordinator.alive())
            # It waits for another coordinator or model, or has ended by itself; it has not crashed.
            self.assertIn(worker.popen.poll(), (None, 1, 2, 3))

    def test_the_model_that_the_others_spoil_works(self):
        with Cluster(model=self.model) as cluster:
            request = stream_request(text="ROMEO:", max_tokens=3, seed=1)
            self.assertEqual(len(collect(cluster.stub.generate_stream(request))[1]), 3)

    # The weights.

    def test_truncated_weights(self):
        n = os.path.getsize(self.path("model.safetensors"))
        for n_left in (n - 1, n // 2, 100, 8, 3, 0):
            with self.subTest(n_left=n_left):
                os.truncate(self.path("model.safetensors"), n_left)
                self.check_refused("model.safetensors")

    def test_header_longer_than_the_file(self):
        for n in (1 << 20, 1 << 40, (1 << 64) - 1):
            weights = Weights(os.path.join(self.good, "model.safetensors"))
            weights.path = self.path("model.safetensors")
            weights.write(header_bytes=n)
            self.check_refused("model.safetensors", n)

    def test_header_that_is_not_json(self):
        with open(self.path("model.safetensors"), "r+b") as file:
            file.seek(8)
            file.write(b"[[[[")
        self.check_refused("model.safetensors")

    def test_tensor_outside_the_file(self):
        weights = self.weights()
        begin, end = weights.header[NORM]["data_offsets"]
        weights.header[NORM]["data_offsets"] = [begin + (1 << 40), end + (1 << 40)]
        weights.write()
        self.check_refused("model.safetensors", NORM, end + (1 << 40))

    def test_tensor_whose_bytes_are_not_its_shape(self):
        weights = self.weights()
        weights.header[NORM]["data_offsets"][1] -= 2
        weights.write()
        self.check_refused("model.safetensors", NORM)

    def test_negative_and_huge_shapes(self):
        for shape in ([-64], [1 << 62, 1 << 62], [64.5], "64"):
            weights = Weights(os.path.join(self.good, "model.safetensors"))
            weights.path = self.path("model.safetensors")
            weights.header[NORM]["shape"] = shape
            weights.write()
            self.check_refused("model.safetensors", NORM)

    def test_missing_tensor(self):
        weights = self.weights()
        weights.remove(Q)
        weights.write()
        self.check_refused(Q)

    def test_tensor_that_the_model_does_not_have(self):
        weights = self.weights()
        end = len(weights.data)
        weights.header["model.layers.1.extra"] = dict(dtype="BF16", shape=[1], data_offsets=[end, end + 2])
        weights.data += b"\0\0"
        weights.write()
        self.check_refused("model.layers.1.extra")

    def test_hole_between_tensors(self):
        weights = self.weights()
        del weights.header[Q]
        weights.write()
        self.check_refused("model.safetensors", "hole")

    def test_tensor_of_another_shape(self):
        weights = self.weights()
        weights.header[Q]["shape"] = [32, 128]
        weights.write()
        self.check_refused(Q, "32", "128", "64")

    def test_tensor_of_an_unsupported_type(self):
        weights = self.weights()
        weights.header[Q]["dtype"] = "I16"
        weights.write()
        self.check_refused(Q, "I16")

    def test_weight_that_is_not_a_number(self):
        # Messages call a tensor what the Mistral layout calls it; its rows have 64 elements.
        for name, called, element, place in ((Q, "layers.1.wq", 1003, "[15, 43]"), (NORM, "norm", 63, "[0, 63]")):
            weights = Weights(os.path.join(self.good, "model.safetensors"))
            weights.path = self.path("model.safetensors")
            self.assertEqual(weights.header[name]["dtype"], "BF16")
            at = weights.header[name]["data_offsets"][0] + 2 * element
            weights.data[at:at + 2] = struct.pack("<H", 0x7FC0)
            weights.write()
            with self.subTest(tensor=name):
                self.check_worker_refuses("cannot load", f"tensor {called}", f"element {place} is nan")

    # Tokenizer and config.

    def test_missing_tokenizer(self):
        os.remove(self.path("tokenizer.model"))
        self.check_refused(self.path("tokenizer.model"))
        self.check_refused("/nowhere/tokenizer.model", flags=["--tokenizer=/nowhere/tokenizer.model"])

    def test_tokenizer_that_is_none(self):
        for content in (b"", b"hello", b"\x0a\xff\xff\xff\xff\x7f", os.urandom(5000)):
            with open(self.path("tokenizer.model"), "wb") as file:
                file.write(content)
            self.check_refused("tokenizer.model")

    def test_tokenizer_of_another_size(self):
        model = make_checkpoint(self.folder + "/vocabulary", tokenizer=TOKENIZER, vocab_size=1000, **DIMENSIONS)
        self.model = model
        self.check_refused("tokenizer.model", "1024", "1000")

    def test_config_that_is_unsupported(self):
        for changes, parts in ((dict(architectures=["GPT2LMHeadModel"]), ["GPT2LMHeadModel"]),
                               (dict(hidden_act="gelu"), ["hidden_act", "gelu"]),
                               (dict(rope_scaling={"type": "yarn", "factor": 4.0}), ["rope_scaling"]),
                               (dict(quantization_config={"quant_method": "gptq"}), ["quantization_config"]),
                               (dict(attention_bias=True), ["attention_bias"]),
                               (dict(num_local_experts=8), ["num_local_experts"])):
            with self.subTest(changes=changes):
                shutil.copy(self.good + "/config.json", self.model)
                self.edit_config(**changes)
                self.check_refused("config.json", *parts)

    def test_config_that_is_wrong(self):
        for changes, parts in ((dict(hidden_size=None), ["hidden_size"]), (dict(hidden_size="64"), ["hidden_size"]),
                               (dict(num_hidden_layers=0), ["n_layers is 0", "1024"]),
                               (dict(num_hidden_layers=1 << 40), ["n_layers", 1 << 40, "1024"]),
                               (dict(num_key_value_heads=3), ["3", "4"]), (dict(rms_norm_eps=None), ["rms_norm_eps"]),
                               (dict(rms_norm_eps=-1.0), ["-1"]), (dict(vocab_size=1025), ["1025", "1024"]),
                               (dict(num_hidden_layers=3), ["model.layers.2"])):
            with self.subTest(changes=changes):
                shutil.copy(self.good + "/config.json", self.model)
                self.edit_config(**changes)
                self.check_refused(*parts)

    def test_config_that_is_no_json(self):
        for content in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100000):
            with open(self.path("config.json"), "wb") as file:
                file.write(content)
            self.check_refused("config.json")

    def test_folder_without_a_model(self):
        for name in ("config.json", "model.safetensors", "tokenizer.model"):
            os.remove(self.path(name))
        self.check_refused(self.model)
        self.model = "/nowhere"
        self.check_refused("/nowhere")

    def test_both_layouts_in_one_folder(self):
        mistral = make_checkpoint(tempfile.mkdtemp(dir=self.folder) + "/m", layout="mistral", vocab_size=1024,
                                  **DIMENSIONS)
        for name in ("params.json", "consolidated.safetensors"):
            shutil.copy(os.path.join(mistral, name), self.model)
        with Cluster(model=self.model) as cluster:
            request = stream_request(text="ROMEO:", max_tokens=3, seed=1)
            self.assertEqual(len(collect(cluster.stub.generate_stream(request))[1]), 3)
            for process in (cluster.coordinator, cluster.workers[0]):
                self.assertEqual(process.log_field("model config", "layout"), "hugging-face")

    def test_generation_config_that_is_wrong(self):
        for content, parts in (('{"temperature": -1}', ["temperature is -1", "[0, 100]"]),
                               ('{"top_p": 0}', ["top_p is 0", "(0, 1]"]), ('{"top_k": 1.5}', ["top_k is 1.5"]),
                               ('{"eos_token_id": 1024}', ["eos_token_id is 1024", "vocab_size 1024"]),
                               ('{"max_new_tokens": 0}', ["max_new_tokens is 0"]), ("[]", ["must be a JSON object"]),
                               ("{", ["not valid JSON"])):
            with self.subTest(content=content):
                with open(self.path("generation_config.json"), "w") as file:
                    file.write(content)
                self.check_refused("generation_config.json", *parts)
        self.check_refused("--generation-config=/nowhere", flags=["--generation-config=/nowhere"])

    def test_files_that_are_not_what_their_names_say(self):
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        for name in ("model.safetensors", "tokenizer.model", "config.json"):
            with self.subTest(name=name):
                with open(self.path(name), "wb") as file:
                    file.write(pointer)
                self.check_refused(name, "Git LFS pointer", "git lfs pull")

    def test_tokenizers_that_are_not_read(self):
        os.rename(self.path("tokenizer.model"), self.path("tokenizer.json"))
        self.check_refused("tokenizer.model", "tokenizer.json", "--tokenizer FILE")
        os.rename(self.path("tokenizer.json"), self.path("tokenizer.model.v3"))
        self.check_refused("tokenizer.model", "--tokenizer " + self.path("tokenizer.model.v3"))

    def test_a_name_on_a_hub(self):
        self.model = "mistralai/Mistral-7B-v0.1"
        self.check_refused("mistralai/Mistral-7B-v0.1: no such folder", "downloaded")

    def test_a_tied_head_with_values_of_its_own(self):
        self.edit_config(tie_word_embeddings=True)
        self.check_refused("lm_head.weight", "model.embed_tokens.weight", "tie_word_embeddings")

    # Flags.

    def test_limits_that_the_model_does_not_have(self):
        for flag, parts in (("--max-model-len=257", ["max-model-len", "257", "256"]),
                            ("--max-model-len=-5", ["max-model-len", "-5"]),
                            ("--tensor-parallel-size=3", ["3", "4"]),
                            ("--pipeline-parallel-size=3", ["3", "2"]),
                            ("--pipeline-parallel-size=0", ["0"]),
                            ("--layers-per-stage=2,2", ["2,2"]),
                            ("--layers-per-stage=x", ["layers-per-stage", "'x'"])):
            with self.subTest(flag=flag):
                self.check_refused(*parts, flags=[flag])

    def test_flags_out_of_range(self):
        for flag, parts in (("--max-num-seqs=0", ["--max-num-seqs=0", "[1, 4096]"]),
                            ("--max-num-batched-tokens=-1", ["--max-num-batched-tokens=-1", "65536"]),
                            ("--max-num-queued-reqs=0", ["--max-num-queued-reqs=0"]),
                            ("--kv-cache-memory-bytes=-1", ["--kv-cache-memory-bytes=-1"]),
                            ("--tenant-weights=a=2,b", ["--tenant-weights", "'b'", "TENANT=WEIGHT"]),
                            ("--tenant-weights=a=0", ["--tenant-weights", "'a=0'", "[0.001, 1000]"]),
                            ("--tenant-weights=a=1,a=2", ["--tenant-weights", "'a' is named twice"]),
                            ("--dtype=int8", ["--dtype=int8", "bfloat16"]),
                            ("--load-format=pickle", ["--load-format=pickle", "dummy"]),
                            ("--worker-credential-file=/nowhere", ["--worker-credential-file", "/nowhere"])):
            with self.subTest(flag=flag):
                self.check_refused(*parts, flags=[flag])
        self.check_refused("--model", model=False)

    def test_addresses(self):
        for flag, parts in (("--listen=0.0.0.0:0", ["0.0.0.0", "--insecure-listen"]),
                            ("--worker-listen=0.0.0.0:0", ["--worker-listen", "0.0.0.0"]),
                            ("--listen=127.0.0.1:70000", ["70000", "65535"]),
                            ("--listen=127.0.0.1", ["127.0.0.1"]),
                            ("--worker-listen=127.0.0.1:x", ["--worker-listen", "127.0.0.1:x"])):
            with self.subTest(flag=flag):
                self.check_refused(*parts, flags=[flag])

    def test_flags_that_do_not_parse(self):
        for flag in ("--no-such-flag=1", "--max-num-seqs=many", "--shutdown-timeout=5 parsecs"):
            self.check_refused(flag.split("=")[0], "Try bora-coordinator --help.", flags=[flag])

    def test_all_that_is_wrong_is_said_at_once(self):
        unreadable = self.path("credential")
        with open(unreadable, "w"), open(self.path("config.json"), "w") as config:
            config.write("{")
        self.check_refused("--max-num-seqs=0: must be in [1, 4096]", "unknown flag --tp; did you mean -tp",
                           "unexpected word 'stray'", "--listen: ", "is not HOST:PORT", "--worker-credential-file ",
                           "config.json: ", "--dtype=int4: must be auto, ",
                           flags=["--max-num-seqs=0", "--tp", "2", "stray", "--listen=127.0.0.1:x", "--dtype=int4",
                                  f"--worker-credential-file={unreadable}"])

    def test_why_it_cannot_listen(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            for flag in ("--listen", "--worker-listen"):
                self.check_refused(f"{flag}: cannot listen on 127.0.0.1:{port}", "in use by another process",
                                   flags=[f"{flag}=127.0.0.1:{port}"], exit_code=CANNOT_START)
        for address, reason in (("nohost.invalid:0", "the name nohost.invalid does not resolve"),
                                ("192.0.2.1:0", "no interface of this host has that address"),
                                ("unix:/nowhere/socket", "/nowhere/: No such file or directory")):
            self.check_refused(f"--listen: cannot listen on {address}", reason,
                               flags=[f"--listen={address}", "--insecure-listen"], exit_code=CANNOT_START)

    def test_help_and_version(self):
        version = re.compile(r"^[a-z-]+ \d+\.\d+\.\d+ \(commit \S+\)\n\w+ build for .*\ninstruction sets .*portable")
        for program in ("bora-coordinator", "bora-worker", "bora", "bora-make-checkpoint"):
            for flag in ("--help", "-h"):
                result = subprocess.run([binary(program), flag], capture_output=True, text=True, timeout=30)
                self.assertEqual((result.returncode, result.stderr), (0, ""))
                self.assertIn(f"Usage: {program}", result.stdout)
                self.assertIn("Exit codes: 0", result.stdout)
                self.assertEqual([line for line in result.stdout.splitlines() if len(line) > 79], [])
            result = subprocess.run([binary(program), "--version"], capture_output=True, text=True, timeout=30)
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            self.assertRegex(result.stdout, version)
        text = subprocess.run([binary("bora-coordinator"), "--help"], capture_output=True, text=True).stdout
        for flag in ("--model DIR", "--tensor-parallel-size, -tp N", "--[no-]enable-prefix-caching", "default 25s"):
            self.assertIn(flag, text)

    def test_kv_cache_too_small_for_a_sequence(self):
        self.check_refused("--kv-cache-memory-bytes=20000", "--max-model-len=", flags=["--kv-cache-memory-bytes=20000"])

    def worker(self, *flags):
        return subprocess.run([binary("bora-worker"), *flags], capture_output=True, text=True, timeout=30)

    def test_worker_flags(self):
        for flags, parts in ((["--device=gpu"], ["--device=gpu", "cpu", "cuda:N"]),
                             (["--device=cuda:x"], ["--device=cuda:x", "cuda:N"]),
                             (["--credential-file=/nowhere"], ["/nowhere"]),
                             (["--coordinator=nonsense"], ["nonsense"]),
                             (["--coordinator=127.0.0.1:70000"], ["70000"]),
                             (["--threads=-1"], ["--threads=-1", "1024"])):
            with self.subTest(flags=flags):
                result = self.worker(*flags)
                self.assertEqual(result.returncode, USAGE, result.stderr)
                for part in parts:
                    self.assertIn(part, result.stderr)
        # A device that this host or build does not have; an address that is not known to be wrong before a name server has
        # said so.
        for flag in ("--device=cuda:9", "--bind=300.1.1.1"):
            with self.subTest(flag=flag):
                result = self.worker(flag)
                self.assertEqual(result.returncode, CANNOT_START, result.stderr)
                self.assertIn(flag.split("=")[1], result.stderr)

    def test_worker_with_another_credential_is_refused(self):
        with Cluster(model=self.model, start_workers=False) as cluster:
            other = self.path("credential")
            write_credential(other, "something else than the credential")
            worker = cluster.start_worker(credential=other)
            self.assertEqual(worker.wait(15), REFUSED)
            self.assertIn("credential", worker.log())
            self.assertNotIn("something else", worker.log() + cluster.coordinator.log())


if __name__ == "__main__":
    unittest.main(verbosity=2)
