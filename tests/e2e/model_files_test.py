"""What the files beside the weights say of a model, and what the coordinator makes of it: generation_config.json,
added_tokens.json, a vocabulary smaller than the model's matrices; and what it makes of weights that have changed.
"""

import json
import os
import shutil
import struct
import tempfile
import unittest

import grpc

from bora_e2e import (DEMO_MODEL, Cluster, collect, error_reason, inference, make_checkpoint, model_service,
                      stream_request, wait_until)

TOKENIZER = os.path.join(DEMO_MODEL, "tokenizer.model")
N_ROWS = 1088  # of the padded model's matrices
ADDED = {"<s>": 1, "<|im_start|>": 1024, "<|im_end|>": 1025}
DIMENSIONS = dict(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, hidden_dim=128, max_position=256)


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file)


class ModelFilesTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = cls.enterClassContext(tempfile.TemporaryDirectory(prefix="bora-model-files-"))

    def served(self, cluster):
        return cluster.stub.list_models(model_service.ListModelsRequest()).models[0]

    def check_refused(self, call, field, *parts):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        self.assertEqual(error_reason(caught.exception), ("INVALID_ARGUMENT", "INVALID_FIELD"))
        for part in (field, *parts):
            self.assertIn(part, caught.exception.details())

    def test_rows_that_only_pad_the_matrices(self):
        # The weights are random: its rows for ids from 1026 on are as probable as all others.
        model = make_checkpoint(self.folder + "/padded", tokenizer=TOKENIZER, vocab_size=N_ROWS, **DIMENSIONS)
        write_json(model + "/added_tokens.json", ADDED)
        write_json(model + "/generation_config.json", {"eos_token_id": [2, 1025], "top_k": 7})
        with Cluster(model=model, tp=2) as cluster:
            served = self.served(cluster)
            n_ids = 1026
            self.assertEqual(served.vocab_size, n_ids)
            self.assertEqual(list(served.eos_token_ids), [2, 1025])
            ids, top_ids = set(), set()
            for seed in range(3):
                request = stream_request(text="ROMEO:", max_tokens=240, seed=seed, temperature=100, logprobs=20,
                                         prompt_logprobs=20, ignore_eos=True)
                request.sampling.top_k = 0
                request.sampling.repetition_penalty = 1.1
                _, drawn, logprobs, _ = collect(cluster.stub.generate_stream(request))
                ids.update(drawn)
                top_ids.update(top.token_id for token in logprobs for top in token.top)
            self.assertGreater(len(ids), 200)
            self.assertLess(max(ids | top_ids), n_ids)

            def generate(**fields):
                return cluster.stub.generate(stream_request(cls=inference.GenerateRequest, max_tokens=1, **fields))

            # An added token may be given and has no text; one that pads may not.
            generate(token_ids=[1, 1024, 1025])
            detokenized = cluster.stub.detokenize(
                inference.DetokenizeRequest(inputs=[inference.TokenIds(ids=[1024, 260, 1025])]))
            self.assertNotIn("<|im", detokenized.texts[0])
            tokenized = cluster.stub.tokenize(inference.TokenizeRequest(texts=["<|im_start|>"]))
            self.assertNotIn(1024, tokenized.results[0].token_ids)
            self.check_refused(lambda: generate(token_ids=[1, n_ids]), "prompt.token_ids.ids[1]", "1026", "[0, 1025]")
            request = stream_request(text="A", max_tokens=1, cls=inference.GenerateRequest)
            request.stopping.stop_token_ids.append(n_ids)
            self.check_refused(lambda: cluster.stub.generate(request), "stopping.stop_token_ids[0]", "[0, 1025]")
            self.assertEqual(cluster.coordinator.log_field("the model has more token ids than tokenizer.model", "never_drawn"),
                             N_ROWS - n_ids)

    def flip_bit(self, model):
        """Of a weight that only tensor rank 1 of 2 reads, and that is in no sample of the fingerprint."""
        path = model + "/model.safetensors"
        with open(path, "rb") as file:
            raw = bytearray(file.read())
        n_header = struct.unpack("<Q", raw[:8])[0]
        begin, end = json.loads(raw[8:8 + n_header])["lm_head.weight"]["data_offsets"]
        raw[8 + n_header + begin + (end - begin) * 3 // 4] ^= 1
        with open(path + ".new", "wb") as file:
            file.write(raw)
        os.replace(path + ".new", path)

    def test_weights_that_differ_by_a_bit(self):
        model = f"{self.folder}/digest"
        shutil.copytree(DEMO_MODEL, model)
        with Cluster(model=model, tp=2) as cluster:
            digest = self.served(cluster).weights_digest
            self.assertEqual(len(digest), 32)
            self.flip_bit(model)
            cluster.worker_at(stage=0, tensor_rank=1).kill()
            changed = cluster.start_worker()
            self.assertEqual(changed.wait(30), 3, changed.log())
            self.assertIn("has read other weights than rank 1 had before (head: digest", changed.log())
            self.assertFalse(cluster.serving())
            self.flip_bit(model)
            cluster.start_worker()
            cluster.wait_serving()
            self.assertEqual(self.served(cluster).weights_digest, digest)
            # All workers anew: the new weights are served, and said to be others.
            self.flip_bit(model)
            for worker in cluster.workers:
                worker.kill()
            cluster.wait_not_serving(10)
            wait_until(lambda: not cluster.stub.info().workers, 10, "no workers")
            cluster.start_worker()
            cluster.start_worker()
            cluster.wait_serving()
            other = self.served(cluster).weights_digest
            self.assertNotEqual(other, digest)
            self.assertEqual(cluster.coordinator.log_field("the group has other weights than the one before", "now"), other)
        # Another division of the same files has the same digest.
        with Cluster(model=model, pp=2) as cluster:
            self.assertEqual(self.served(cluster).weights_digest, other)

    def demo(self, name, generation):
        model = f"{self.folder}/{name}"
        shutil.copytree(DEMO_MODEL, model)
        write_json(model + "/generation_config.json", generation)
        return model

    def test_generation_config(self):
        newline = 13  # which the demo model says first
        generation = dict(bos_token_id=1, eos_token_id=[2, newline], do_sample=True, temperature=0.5, top_k=40, top_p=0.9,
                          min_p=0.01, repetition_penalty=1.2, max_new_tokens=11, transformers_version="4.40.0")
        model = self.demo("generation", generation)

        def ids(cluster, **fields):
            request = stream_request(text="ROMEO:", cls=inference.GenerateRequest, ignore_eos=True, seed=5)
            for field, value in fields.items():
                part = request.stopping if field == "max_tokens" else request.sampling
                setattr(part, field, value)
            return list(cluster.stub.generate(request).token_ids)

        with Cluster(model=model) as cluster:
            served = self.served(cluster)
            self.assertEqual(list(served.eos_token_ids), [2, newline])
            defaults = served.sampling_defaults
            for field in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
                self.assertAlmostEqual(getattr(defaults, field), generation[field], places=6)
            self.assertEqual(defaults.max_tokens, 11)
            self.assertEqual(cluster.stub.info().generation_config, "auto")
            of_model = ids(cluster)
            self.assertEqual(len(of_model), 11)
            own = dict(temperature=0.5, top_k=40, top_p=0.9, min_p=0.01, repetition_penalty=1.2, max_tokens=11)
            self.assertEqual(ids(cluster, **own), of_model)
            # A request's own values count, zero included.
            self.assertEqual(ids(cluster, temperature=0, repetition_penalty=1, max_tokens=5),
                             ids(cluster, top_k=1, repetition_penalty=1, max_tokens=5))
            request = stream_request(text="ROMEO:", temperature=0, max_tokens=20, cls=inference.GenerateRequest)
            request.sampling.repetition_penalty = 1
            answer = cluster.stub.generate(request)
            self.assertEqual(answer.finish.reason, inference.FINISH_REASON_STOP_TOKEN)
            self.assertEqual(list(answer.token_ids), [newline])

        # Without its defaults the ids still end a completion.
        with Cluster(model=model, coordinator_flags=["--generation-config=none"]) as cluster:
            served = self.served(cluster)
            self.assertEqual(list(served.eos_token_ids), [2, newline])
            defaults = served.sampling_defaults
            self.assertEqual((defaults.temperature, defaults.top_k, defaults.max_tokens), (1, 0, 256))
            self.assertEqual(cluster.stub.info().generation_config, "none")
            self.assertEqual(ids(cluster, **own), of_model)


if __name__ == "__main__":
    unittest.main(verbosity=2)
