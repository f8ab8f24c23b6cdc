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


def reflect(stub, *, symbol=None):
    """Names of the services of a server, or the names in the files that describe a symbol."""
    call = stub.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                      request_serializer=bytes, response_deserializer=bytes)
    # ServerReflectionRequest{file_containing_symbol = 4} or {list_services = 7}.
    field, value = (0x3a, b"*") if symbol is None else (0x22, symbol.encode())
    return next(call(iter([bytes([field, len(value)]) + value]), timeout=10))


class ReflectionTest(unittest.TestCase):

    def test_every_service_that_is_listed_is_described(self):
        with Cluster(start_workers=False) as cluster:
            listed = reflect(cluster.stub)
            for name in ("grpc.health.v1.Health", "bora.inference.v1.InferenceService", "bora.inference.v1.ModelService",
                         "grpc.reflection.v1alpha.ServerReflection"):
                self.assertIn(name.encode(), listed)
                described = reflect(cluster.stub, symbol=name)
                # file_descriptor_response = 4 has the proto's file with the service's own name; error_response = 7 has not.
                package, _, service = name.rpartition(".")
                self.assertIn(package.encode(), described)
                self.assertIn(service.encode(), described)
                self.assertIn(b".proto", described, name)


if __name__ == "__main__":
    unittest.main(verbosity=2)
