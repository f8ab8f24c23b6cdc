"""Prompts that begin alike are computed once, requests that run out of KV blocks take turns, and nobody sees it in the bytes."""

import threading
import unittest

from bora_e2e import Cluster, collect, error_details, grpc, inference, stream_request, wait_until

BLOCK = 16
PLAY = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n"


def request(text, salt="", bypass=False, **options):
    message = stream_request(text=text, seed=11, temperature=0.9, logprobs=2, ignore_eos=True, **options)
    message.prefix_cache.salt = salt
    message.prefix_cache.bypass = bypass
    return message


def answer(stub, message):
    """(what must always be the same, prompt tokens, cached prompt tokens)."""
    text, ids, logprobs, messages = collect(stub.generate_stream(message, timeout=120))
    usage = messages[-1].usage
    return (text, ids, logprobs), usage.prompt_token_count, usage.cached_prompt_token_count


class PrefixCacheTest(unittest.TestCase):

    def test_same_bytes_and_counts(self):
        for tp, pp in ((1, 1), (2, 2)):
            with self.subTest(tp=tp, pp=pp), Cluster(tp=tp, pp=pp) as cluster:
                self.check_counts(cluster.stub)
                cluster.wait_idle()

    def check_counts(self, stub):
        prompt = PLAY * 8
        cold, n_prompt, n_cached = answer(stub, request(prompt, max_tokens=20))
        self.assertEqual(n_cached, 0)
        self.assertGreater(n_prompt, 10 * BLOCK)
        warm, _, n_cached = answer(stub, request(prompt, max_tokens=20))
        self.assertEqual(warm, cold)
        # Whole blocks, and at least the last token is computed.
        self.assertEqual(n_cached, (n_prompt - 1) // BLOCK * BLOCK)
        # Another ending shares the beginning.
        other, n_other, n_cached = answer(stub, request(PLAY * 8 + "ROMEO:", max_tokens=5))
        self.assertGreaterEqual(n_cached, (n_prompt - 8) // BLOCK * BLOCK)
        self.assertLess(n_cached, n_other)
        # Neither shares: both give the same bytes.
        for message in (request(PLAY * 8 + "ROMEO:", max_tokens=5, bypass=True),
                        request(PLAY * 8 + "ROMEO:", max_tokens=5, salt="tenant-7")):
            alone, _, n_cached = answer(stub, message)
            self.assertEqual((alone, n_cached), (other, 0))
        self.assertEqual(answer(stub, request(PLAY * 8 + "ROMEO:", max_tokens=5, salt="tenant-7"))[2],
                         (n_other - 1) // BLOCK * BLOCK)
        # Log-probabilities of the prompt are computed.
        self.assertEqual(answer(stub, request(prompt, max_tokens=2, prompt_logprobs=0))[2], 0)
        # A conversation goes on: prompt and answer are known.
        continued = stream_request(token_ids=stub_tokens(stub, prompt) + list(cold[1]), max_tokens=3, seed=1)
        text, ids, _, messages = collect(stub.generate_stream(continued, timeout=60))
        self.assertGreaterEqual(messages[-1].usage.cached_prompt_token_count, n_prompt // BLOCK * BLOCK)
        # The server looks at its counters eight times a second.
        wait_until(lambda: stub.info().load.kv_block_cached_count > 0, 10, "blocks are counted as cached")
        load = stub.info().load
        self.assertGreater(load.cached_prompt_token_total, n_prompt)

    def test_without(self):
        with Cluster(coordinator_flags=["--enable-prefix-caching=false"]) as cluster:
            for _ in range(2):
                self.assertEqual(answer(cluster.stub, request(PLAY * 4, max_tokens=3))[2], 0)
            self.assertEqual(cluster.stub.info().load.kv_block_cached_count, 0)

    def test_salt_too_long(self):
        with Cluster() as cluster:
            with self.assertRaises(grpc.RpcError) as caught:
                answer(cluster.stub, request("ROMEO:", salt="x" * 65, max_tokens=1))
            details = error_details(caught.exception)
            self.assertEqual(details["ErrorInfo"].reason, "LIMIT_EXCEEDED")
            self.assertEqual(details["BadRequest"].field_violations[0].field, "prefix_cache.salt")


class PreemptionTest(unittest.TestCase):

    def test_more_streams_than_blocks(self):
        """16 streams in KV memory for three of them: each pauses and goes on, with the bytes it has alone."""
        # 32 layers, keys and values, 2 heads of 16, 2 bytes: 64 KiB a block.
        flags = [f"--kv-cache-memory-bytes={64 * 1024 * 64}", "--max-model-len=512", "--max-num-seqs=16"]
        messages = [request(f"{i}: {PLAY}", max_tokens=200 + 8 * i, bypass=i % 4 == 0) for i in range(16)]
        with Cluster(coordinator_flags=flags) as cluster:
            self.assertEqual(cluster.stub.info().load.kv_block_count, 64)
            alone = [answer(cluster.stub, message)[0] for message in messages]
            self.assertEqual(cluster.stub.info().load.preemption_total, 0)
            together = [None] * len(messages)

            def run(i):
                together[i] = answer(cluster.stub, messages[i])[0]

            threads = [threading.Thread(target=run, args=(i,)) for i in range(len(messages))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for i in range(len(messages)):
                self.assertEqual(together[i], alone[i], f"stream {i}")
            cluster.wait_idle()
            n_preemptions = cluster.stub.info().load.preemption_total
            print(f"{n_preemptions} preemptions")
            self.assertGreater(n_preemptions, 0)


def stub_tokens(stub, text):
    response = stub.tokenize(inference.TokenizeRequest(texts=[text]), timeout=10)
    return list(response.results[0].token_ids)


if __name__ == "__main__":
    unittest.main(verbosity=2)
