"""A call that is too large, malformed, refused or abandoned harms nobody else: for each kind there is a stream on the same
HTTP/2 connection, which must come whole, and the connection must serve the next call.

On the simulated device: a step takes 10 ms, whatever else the machine does.
"""

import gzip
import struct
import unittest

import raw_http2
from bora_e2e import Cluster, error_details, grpc, inference, stream_request

SERVICE = "/bora.inference.v1.InferenceService/"
N_TOKENS = 40


def setUpModule():
    global cluster
    cluster = Cluster(worker_flags=["--device=sim:base_us=10000,token_us=0,context_us=0"])
    cluster.__enter__()


def tearDownModule():
    cluster.__exit__(None, None, None)


def neighbour_request(max_tokens=N_TOKENS):
    return stream_request(token_ids=[300, 301, 302], max_tokens=max_tokens, seed=1, ignore_eos=True)


class GrpcioTest(unittest.TestCase):
    """What a user's client can send."""

    def setUp(self):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(cluster.stub.address, options)
        self.addCleanup(self.channel.close)

    def method(self, name, kind="unary_unary"):
        return getattr(self.channel, kind)(SERVICE + name, request_serializer=None, response_deserializer=None)

    def beside_a_stream(self, act):
        """Has act() done while a stream is open on the channel; the error of act, or None."""
        call = self.method("GenerateStream", "unary_stream")(neighbour_request().SerializeToString(), timeout=120)
        messages = [inference.GenerateStreamResponse.FromString(next(call))]
        error = None
        try:
            act()
        except grpc.RpcError as caught:
            error = caught
        messages += [inference.GenerateStreamResponse.FromString(data) for data in call]
        self.assertEqual(sum(message.token_count for message in messages), N_TOKENS)
        self.assertTrue(messages[-1].HasField("finish"))
        answer = self.method("Generate")(neighbour_request(1).SerializeToString(), timeout=60)
        self.assertEqual(len(inference.GenerateResponse.FromString(answer).token_ids), 1)
        return error

    def check_too_large(self, error, field, limit):
        self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, error)
        details = error_details(error)
        self.assertEqual(details["ErrorInfo"].reason, "LIMIT_EXCEEDED")
        self.assertEqual(details["ErrorInfo"].metadata["field"], field)
        self.assertIn(str(limit), details["ErrorInfo"].metadata["limit"])
        self.assertEqual([violation.field for violation in details["BadRequest"].field_violations], [field])

    def test_metadata_too_large(self):
        one = [("cookie", "x" * 8200)]
        answer = self.method("Generate")(neighbour_request(1).SerializeToString(), metadata=one, timeout=60)
        self.assertTrue(answer)
        for metadata in ([("cookie", "x" * 16400)], [("cookie", "x" * 900_000)],
                         [(f"k{i}", "v" * 40) for i in range(300)], [("k", "v" * 1000)] * 500):
            for name in ("Generate", "Tokenize"):
                with self.subTest(n=len(metadata), size=len(metadata[0][1]), method=name):
                    error = self.beside_a_stream(lambda: self.method(name)(b"", metadata=metadata, timeout=60))
                    self.check_too_large(error, "(metadata)", 16384)
        error = self.beside_a_stream(lambda: list(
            self.method("GenerateStream", "unary_stream")(b"", metadata=[("k", "v" * 20000)], timeout=60)))
        self.check_too_large(error, "(metadata)", 16384)

    def test_message_too_large(self):
        large = inference.GenerateRequest(prompt=inference.Prompt(text="x" * 5_000_000)).SerializeToString()
        for name in ("Generate", "Tokenize", "Detokenize"):
            error = self.beside_a_stream(lambda: self.method(name)(large, timeout=60))
            self.check_too_large(error, "(message)", 4 << 20)
        error = self.beside_a_stream(lambda: self.method("Generate")(large * 3, timeout=60))
        self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, error)

    def test_compressed_messages(self):
        compressed = dict(compression=grpc.Compression.Gzip, timeout=60)
        text = "To be, or not to be. " * 2000
        request = inference.TokenizeRequest(texts=[text])
        plain = self.method("Tokenize")(request.SerializeToString(), timeout=60)
        self.assertEqual(self.method("Tokenize")(request.SerializeToString(), **compressed), plain)
        rss = cluster.coordinator.rss_bytes()
        error = self.beside_a_stream(lambda: self.method("Generate")(b"\0" * (200 << 20), **compressed))
        self.check_too_large(error, "(message)", 4 << 20)
        self.assertLess(cluster.coordinator.rss_bytes() - rss, 64 << 20)
        error = self.beside_a_stream(lambda: self.method("Tokenize")(b"x" * 1000, compression=grpc.Compression.Deflate,
                                                                     timeout=60))
        self.assertEqual(error.code(), grpc.StatusCode.UNIMPLEMENTED, error)

    def test_calls_that_do_not_exist_or_do_not_parse(self):
        error = self.beside_a_stream(lambda: self.method("Nothing")(b"", timeout=60))
        self.assertEqual(error.code(), grpc.StatusCode.UNIMPLEMENTED)
        for garbage in (b"\xff" * 50, gzip.compress(b"x" * 50)[:-9], gzip.compress(b"x") + b"y"):
            error = self.beside_a_stream(lambda: self.method("Generate")(garbage, timeout=60))
            self.assertEqual(error_details(error)["ErrorInfo"].reason, "INVALID_FIELD")

    def test_calls_that_are_given_up(self):
        def cancel():
            call = self.method("GenerateStream", "unary_stream")(neighbour_request(400).SerializeToString(), timeout=60)
            next(call)
            call.cancel()
            list(call)

        self.assertEqual(self.beside_a_stream(cancel).code(), grpc.StatusCode.CANCELLED)
        late = self.beside_a_stream(lambda: self.method("Generate")(neighbour_request(400).SerializeToString(),
                                                                    timeout=0.2))
        self.assertEqual(late.code(), grpc.StatusCode.DEADLINE_EXCEEDED)


    def test_more_calls_than_a_connection_has_streams(self):
        """Those beyond 256 wait in the client until one ends."""
        neighbour = self.method("GenerateStream", "unary_stream")(neighbour_request(200).SerializeToString(), timeout=120)
        next(neighbour)
        calls = [self.method("Generate").future(neighbour_request(2).SerializeToString(), timeout=120)
                 for _ in range(400)]
        self.assertEqual({len(inference.GenerateResponse.FromString(call.result()).token_ids) for call in calls}, {2})
        self.assertEqual(sum(inference.GenerateStreamResponse.FromString(data).token_count for data in neighbour), 199)

    def test_tokenizing_forty_megabytes(self):
        texts = inference.TokenizeRequest(texts=["To be, or not to be: " * 49_000]).SerializeToString()
        prompt = neighbour_request(1)
        prompt.prompt.text = "To be, or not to be: " * 10_000
        prompt.prompt.truncate_prompt_tokens = 8
        ends = []

        def act():
            calls = [self.method("Tokenize").future(texts, timeout=120) for _ in range(40)]
            answer = self.method("Generate")(prompt.SerializeToString(), timeout=60)
            # A prompt waits for none of them.
            self.assertFalse(all(call.done() for call in calls))
            self.assertEqual(len(inference.GenerateResponse.FromString(answer).token_ids), 1)
            for call in calls:
                error = call.exception()
                if error is None:
                    ends.append("OK")
                    continue
                info = error_details(error)["ErrorInfo"]
                self.assertEqual((info.reason, info.metadata["queue"], info.metadata["queueDepth"]),
                                 ("QUEUE_FULL", "tokenizer", "16"))
                ends.append("QUEUE_FULL")

        self.assertIsNone(self.beside_a_stream(act))
        # One under way and sixteen that wait, at least.
        self.assertGreaterEqual(ends.count("OK"), 17)
        self.assertIn("QUEUE_FULL", ends)

    def test_slow_readers(self):
        """A stream that nobody reads is held; the other one goes on."""
        slow = self.method("GenerateStream", "unary_stream")(neighbour_request(1500).SerializeToString(), timeout=120)
        next(slow)
        self.assertIsNone(self.beside_a_stream(lambda: None))
        slow.cancel()


class RawTest(unittest.TestCase):
    """What no well-made client sends."""

    def setUp(self):
        self.connection = raw_http2.Connection(cluster.port)
        self.addCleanup(self.connection.close)

    def begin(self, max_tokens=N_TOKENS):
        stream_id = self.connection.call(SERVICE + "GenerateStream", neighbour_request(max_tokens).SerializeToString())
        stream = self.connection.streams[stream_id]
        self.assertTrue(self.connection.wait(stream.messages))
        return stream_id

    def check_whole(self, stream_id, max_tokens=N_TOKENS):
        connection, stream = self.connection, self.connection.streams[stream_id]
        self.assertTrue(connection.wait_end(stream_id), connection.goaway)
        self.assertTrue(stream.ended and stream.reset in (None, 0), (stream.reset, connection.goaway))
        messages = [inference.GenerateStreamResponse.FromString(data) for data in stream.messages()]
        self.assertEqual(sum(message.token_count for message in messages), max_tokens)
        self.assertTrue(messages[-1].HasField("finish"))
        after = connection.call(SERVICE + "Generate", neighbour_request(1).SerializeToString())
        self.assertTrue(connection.wait_end(after), connection.goaway)
        self.assertEqual(len(connection.streams[after].messages()), 1)

    def test_headers_that_are_wrong(self):
        path = SERVICE + "Generate"
        cases = {
            "content type": raw_http2.call_headers(path, content_type=b"text/plain"),
            "no content type": raw_http2.call_headers(path, content_type=None),
            "method": raw_http2.call_headers(path, method=b"PUT"),
            "scheme": raw_http2.call_headers(path, scheme=b"gopher"),
            "no path": raw_http2.call_headers(path, path=None),
            "empty path": raw_http2.call_headers(path, path=b""),
            "te": raw_http2.call_headers(path, te=b"x"),
            "timeout": raw_http2.call_headers(path, grpc_timeout=b"soon"),
            "encoding": raw_http2.call_headers(path, grpc_encoding=b"brotli"),
            "name in capitals": raw_http2.call_headers(path) + [(b"Cookie", b"x")],
            "control characters": raw_http2.call_headers(path) + [(b"cookie", b"a\0b\r\n\x7f\xff")],
            "name of controls": raw_http2.call_headers(path) + [(b"a\0b\n", b"x")],
            "empty name": raw_http2.call_headers(path) + [(b"", b"x")],
            "path twice": raw_http2.call_headers(path) + [(b":path", path.encode())],
        }
        for name, headers in cases.items():
            with self.subTest(name):
                self.setUp()
                neighbour = self.begin()
                bad = self.connection.open(headers)
                self.connection.send(raw_http2.DATA, raw_http2.END_STREAM, bad,
                                     raw_http2.grpc_frame(neighbour_request(1).SerializeToString()))
                self.check_whole(neighbour)

    def test_frames_that_are_wrong(self):
        message = neighbour_request(1).SerializeToString()
        cases = {
            "shorter than it says": struct.pack(">BI", 0, 1000) + message,
            "longer than it says": raw_http2.grpc_frame(message) + b"\0\0",
            "flag": raw_http2.grpc_frame(message, compressed=7),
            "said to be compressed": raw_http2.grpc_frame(message, compressed=1),
            "4 GiB": struct.pack(">BI", 0, (1 << 32) - 1) + message,
            "two messages": raw_http2.grpc_frame(message) * 2,
            "no message": b"",
        }
        for name, data in cases.items():
            with self.subTest(name):
                self.setUp()
                neighbour = self.begin()
                bad = self.connection.open(raw_http2.call_headers(SERVICE + "Generate"))
                self.connection.send(raw_http2.DATA, raw_http2.END_STREAM, bad, data)
                self.check_whole(neighbour)

    def test_a_bomb_behind_a_gzip_header(self):
        # 12 MiB, of which four are inflated.
        neighbour = self.begin()
        bomb = gzip.compress(b"\0" * (12 << 20))
        self.assertLess(len(bomb), 16000)
        bad = self.connection.call(SERVICE + "Tokenize", bomb, compressed=1, grpc_encoding=b"gzip")
        self.assertTrue(self.connection.wait_end(bad))
        self.check_whole(neighbour)

    def test_floods(self):
        neighbour = self.begin(200)
        for _ in range(500):
            self.connection.reset(self.connection.open(raw_http2.call_headers(SERVICE + "GenerateStream")))
        self.check_whole(neighbour, 200)

    def test_what_ends_a_connection_ends_no_other(self):
        """As docs/api.md says: gRPC ends a connection for these, so a proxy in front must not let them pass."""
        path = SERVICE + "Generate"
        cases = {
            "not base64": lambda bad: bad.open(raw_http2.call_headers(path) + [(b"trace-bin", b"!!!")]),
            "metadata": lambda bad: bad.open(raw_http2.call_headers(path) + [(b"cookie", b"x" * (2 << 20))]),
            "streams": lambda bad: [bad.open(raw_http2.call_headers(path)) for _ in range(300)],
            "compression state": lambda bad: bad.open(b"\xff\xff\xff\x0f"),
        }
        for name, act in cases.items():
            with self.subTest(name):
                self.setUp()
                neighbour = self.begin()
                with raw_http2.Connection(cluster.port) as bad:
                    bad.wait_end(bad.call(path, neighbour_request(1).SerializeToString()))
                    act(bad)
                    self.assertTrue(bad.wait(lambda: bad.closed or bad.goaway is not None))
                self.check_whole(neighbour)


if __name__ == "__main__":
    unittest.main(verbosity=2)
