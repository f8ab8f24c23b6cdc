"""n > 1: several completions of one prompt, which is computed once; each is what a request of its own would get."""

import os
import sys
import time
import unittest

from bora_e2e import SOURCE_DIR, Cluster, collect, grpc, inference, stream_request

sys.path.insert(0, os.path.join(SOURCE_DIR, "tests", "kernels"))
import predict_draws  # noqa: E402

PROMPT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\nROMEO:"
N = 5
BLOCK = 16


def request(n=None, seed=40, bypass=False, cls=inference.GenerateStreamRequest, **options):
    message = stream_request(text=PROMPT, seed=seed, temperature=0.9, logprobs=2, max_tokens=30, cls=cls, **options)
    message.prefix_cache.bypass = bypass
    if n is not None:
        message.n = n
    return message


def candidates(messages, n):
    """The messages of each candidate."""
    return [[m for m in messages if m.candidate_index == i] for i in range(n)]


def prompt_tokens_computed(cluster):
    """Of all requests until now: GetServerInfo is up to 125 ms behind."""
    time.sleep(0.3)
    cluster.wait_idle()
    return cluster.stub.info().load.prompt_token_total


class CandidatesTest(unittest.TestCase):

    def check(self, stub, **options):
        messages = list(stub.generate_stream(request(N, **options), timeout=120))
        self.assertTrue(messages[0].request_id)
        self.assertFalse(any(m.request_id for m in messages[1:]))
        self.assertTrue(messages[-1].HasField("usage"))
        self.assertFalse(any(m.HasField("usage") for m in messages[:-1]))
        alone = [list(stub.generate_stream(request(seed=40 + i, bypass=True), timeout=120)) for i in range(N)]
        for i, (own, expected) in enumerate(zip(candidates(messages, N), alone)):
            self.assertEqual(collect(own)[:3], collect(expected)[:3], f"candidate {i}")
            self.assertEqual(own[-1].finish, expected[-1].finish)
            self.assertEqual([m.HasField("finish") for m in own[:-1]], [False] * (len(own) - 1))
        usage = messages[-1].usage
        self.assertEqual(usage.output_token_count, sum(m[-1].usage.output_token_count for m in alone))
        self.assertEqual(usage.prompt_token_count, alone[0][-1].usage.prompt_token_count)
        return usage

    def test_each_is_what_a_request_of_its_own_gets(self):
        for tp, pp in ((1, 1), (2, 2)):
            with self.subTest(tp=tp, pp=pp), Cluster(tp=tp, pp=pp) as cluster:
                computed = []
                for options in (dict(), dict(bypass=True)):
                    before = prompt_tokens_computed(cluster)
                    list(cluster.stub.generate_stream(request(N, seed=90, **options), timeout=60))
                    computed.append(prompt_tokens_computed(cluster) - before)
                    usage = self.check(cluster.stub, **options)
                # The prompt once; of the others, what is behind the last whole block.
                for n_tokens in computed:
                    self.assertLessEqual(n_tokens, usage.prompt_token_count + (N - 1) * BLOCK)
                cluster.wait_idle()

    def test_without_prefix_caching_and_with_few_slots(self):
        flags = ["--enable-prefix-caching=false", "--max-num-seqs=2"]
        with Cluster(coordinator_flags=flags) as cluster:
            self.check(cluster.stub)
            cluster.wait_idle()

    def test_whole_answers_have_them_all(self):
        with Cluster() as cluster:
            whole = cluster.stub.generate(request(N, cls=inference.GenerateRequest))
            streamed = list(cluster.stub.generate_stream(request(N), timeout=60))
            self.assertEqual(whole.usage.output_token_count, streamed[-1].usage.output_token_count)
            texts = [whole.text] + [c.text for c in whole.other_candidates]
            ids = [list(whole.token_ids)] + [list(c.token_ids) for c in whole.other_candidates]
            finishes = [whole.finish] + [c.finish for c in whole.other_candidates]
            for i, own in enumerate(candidates(streamed, N)):
                text, token_ids, _, _ = collect(own)
                self.assertEqual((texts[i], ids[i], finishes[i]), (text, list(token_ids), own[-1].finish))
            self.assertEqual([c.index for c in whole.other_candidates], list(range(1, N)))
            self.assertEqual([c.output_token_count for c in whole.other_candidates], [len(x) for x in ids[1:]])
            self.assertEqual(len(set(texts)), N)

    def test_anyone_can_predict_a_draw(self):
        """From the log-probabilities alone: they are the logits, but for a constant, of all tokens that top_k leaves."""
        with Cluster(tp=2) as cluster:
            message = request(3, seed=-2)  # the others have -1 and 0
            message.sampling.top_k = message.output.logprobs = 20
            messages = list(cluster.stub.generate_stream(message, timeout=60))
            n_draws = n_best = 0
            for i, own in enumerate(candidates(messages, 3)):
                for at, token in enumerate(collect(own)[2]):
                    logits = {other.token_id: other.logprob for other in token.top}
                    self.assertEqual(len(logits), 20)
                    position = messages[-1].usage.prompt_token_count + at
                    # float32, as the server has it
                    drawn = predict_draws.draw(logits, 0.8999999761581421, i - 2, position)
                    self.assertEqual(token.token_id, drawn, f"candidate {i} token {at}")
                    n_draws += 1
                    n_best += token.rank == 1
            self.assertGreater(n_draws, 60)
            self.assertGreater(n_draws - n_best, 10)

    def test_a_cancelled_call_frees_all(self):
        with Cluster() as cluster:
            message = request(N, ignore_eos=True)
            message.stopping.max_tokens = 400
            call = cluster.stub.generate_stream(message, timeout=60)
            while next(call).candidate_index != N - 1:
                pass
            call.cancel()
            cluster.wait_idle(5)

    def test_echo_belongs_to_each_and_prompt_logprobs_to_the_first(self):
        with Cluster() as cluster:
            message = request(2, prompt_logprobs=0)
            message.output.echo = True
            own = candidates(list(cluster.stub.generate_stream(message, timeout=60)), 2)
            message.output.echo = False
            bare = candidates(list(cluster.stub.generate_stream(message, timeout=60)), 2)
            for i in range(2):
                self.assertEqual(collect(own[i])[0], PROMPT + collect(bare[i])[0])
            message.output.echo = True
            whole = cluster.stub.generate(inference.GenerateRequest.FromString(message.SerializeToString()), timeout=60)
            self.assertEqual([whole.text, whole.other_candidates[0].text], [collect(own[i])[0] for i in range(2)])
            self.assertTrue(any(m.prompt_logprobs for m in own[0]))
            self.assertFalse(any(m.prompt_logprobs for m in own[1]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
