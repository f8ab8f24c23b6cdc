"""The smallest whole: four processes serve the demo model, streamed equals whole, and the answer is the same twice."""

import unittest

from bora_e2e import Cluster, collect, inference, stream_request


class SmokeTest(unittest.TestCase):

    def test_stream_equals_whole_and_repeats(self):
        with Cluster(tp=2, pp=2) as cluster:
            request = dict(text="ROMEO:", max_tokens=60, seed=7, temperature=0.8, logprobs=0)
            text, ids, logprobs, messages = collect(cluster.stub.generate_stream(stream_request(**request)))
            again = collect(cluster.stub.generate_stream(stream_request(**request)))
            whole = cluster.stub.generate(stream_request(**request, cls=inference.GenerateRequest))
            self.assertEqual(whole.text, text)
            self.assertEqual(list(whole.token_ids), ids)
            self.assertEqual(again[:2], (text, ids))
            self.assertEqual([l.logprob for l in whole.logprobs], [l.logprob for l in logprobs])
            self.assertEqual(len(ids), messages[-1].usage.output_token_count)
            self.assertGreater(messages[0].token_count, 0)
            cluster.wait_idle()


if __name__ == "__main__":
    unittest.main(verbosity=2)
