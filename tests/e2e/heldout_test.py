"""The demo model's held-out loss, measured through the service's prompt log-probabilities: the whole path from text to
logits is right, or this number is worse.
"""

import json
import math
import os
import unittest

from bora_e2e import DEMO_MODEL, Cluster, inference, model_service, stream_request

BOS = 1
MAX_NATS_PER_BYTE = 1.5
# Weights in bfloat16 and arithmetic in fp32 on both sides: what differs is rounding.
TOLERANCE = 0.01
# What 8-bit weights may cost.
MAX_INT8_PERPLEXITY_RATIO = 1.01
# Calls in flight; the server queues the rest.
N_CONCURRENT = 32


class HeldoutTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster(pp=2, coordinator_flags=["--max-num-batched-tokens=1024"]))
        with open(os.path.join(DEMO_MODEL, "heldout.txt"), "rb") as file:
            cls.text = file.read()
        request = inference.TokenizeRequest(texts=[cls.text.decode()], add_bos_token=False, token_bytes=True)
        cls.tokens = cls.cluster.stub.tokenize(request).results[0]

    def nats(self, ids, context, cluster=None):
        """Sum of -ln p over all of `ids`, in windows of context - 1 behind <s>, each scored alone."""
        stub = (cluster or self.cluster).stub
        windows = [ids[i:i + context - 1] for i in range(0, len(ids), context - 1)]
        total, n_scored, calls = 0.0, 0, []

        def finish(call):
            nonlocal total, n_scored
            entries = [entry for message in call for entry in message.prompt_logprobs]
            self.assertFalse(entries[0].HasField("logprob"))  # <s>: nothing predicts it
            total -= sum(entry.logprob for entry in entries[1:])
            n_scored += len(entries) - 1

        for window in windows:
            request = stream_request(token_ids=[BOS] + window, max_tokens=1, prompt_logprobs=0)
            calls.append(stub.generate_stream(request, timeout=120))
            if len(calls) >= N_CONCURRENT:
                finish(calls.pop(0))
        for call in calls:
            finish(call)
        self.assertEqual(n_scored, len(ids))
        return total

    def test_tokens_are_the_whole_text(self):
        self.assertEqual(b"".join(self.tokens.token_bytes), self.text)

    def test_loss_at_256(self):
        ids = list(self.tokens.token_ids)
        nats_per_byte = self.nats(ids, 256) / len(self.text)
        print(f"context 256: {nats_per_byte:.4f} nats/byte over {len(self.text)} bytes in {len(ids)} tokens")
        self.assertLessEqual(nats_per_byte, MAX_NATS_PER_BYTE)
        # Far better than 1 MB of training text allows would mean that the model has seen this text in training.
        self.assertGreater(nats_per_byte, 1.2)
        with open(os.path.join(DEMO_MODEL, "heldout.json")) as file:
            recorded = json.load(file)
        self.assertEqual((recorded["context"], recorded["n_tokens"], recorded["n_bytes"]),
                         (256, len(ids), len(self.text)))
        self.assertAlmostEqual(nats_per_byte, recorded["nats_per_byte"], delta=TOLERANCE)

    def test_no_collapse_at_1024(self):
        n_tokens = 12 * 1023
        ids = list(self.tokens.token_ids[:n_tokens])
        n_bytes = sum(len(piece) for piece in self.tokens.token_bytes[:n_tokens])
        at_256 = self.nats(ids, 256) / n_bytes
        at_1024 = self.nats(ids, 1024) / n_bytes
        print(f"first {n_tokens} tokens: {at_256:.4f} nats/byte at context 256, {at_1024:.4f} at 1024")
        self.assertLess(abs(at_1024 - at_256), 0.1)

    def test_int8_costs_little(self):
        ids = list(self.tokens.token_ids)
        with Cluster(coordinator_flags=["--quantization=int8"]) as int8:
            self.assertEqual(int8.stub.list_models(model_service.ListModelsRequest()).models[0].quantization, "int8")
            at_int8 = self.nats(ids, 256, int8)
        at_bf16 = self.nats(ids, 256)
        ratio = math.exp((at_int8 - at_bf16) / len(ids))
        print(f"perplexity with int8 weights / with bfloat16: {ratio:.5f} over {len(ids)} tokens")
        self.assertNotEqual(at_int8, at_bf16)
        self.assertLessEqual(ratio, MAX_INT8_PERPLEXITY_RATIO)


if __name__ == "__main__":
    unittest.main(verbosity=2)
