"""The public contract on the real service: the stream rules (a) to (f) of inference_service.proto, every way to finish,
the refusals a client can meet, tokenization, reflection and health.
"""

import random
import struct
import time
import unittest

import bora_e2e
from bora_e2e import Cluster, Stub, collect, error_details, error_reason, grpc, health_pb2, inference, model_service
from bora_e2e import stream_request
from google.protobuf import descriptor_pb2

SEED = 20
MAX_MESSAGE_BYTES = 64 << 10
CONTEXT = 2048  # of the demo model
VOCAB = 1024
BOS = 1
SERVICES = ["bora.inference.v1.InferenceService", "bora.inference.v1.ModelService"]


def as_whole(request):
    """The GenerateRequest with the same content: both messages have the same fields and numbers."""
    return inference.GenerateRequest.FromString(request.SerializeToString())


def bits(messages):
    """Serialized: log-probabilities compare bit for bit."""
    return [message.SerializeToString() for message in messages]


def heldout_text():
    with open(bora_e2e.DEMO_MODEL + "/heldout.txt", newline="") as file:
        return file.read()


def sampled(**fields):
    """A request whose answer varies: temperature 1 unless told."""
    fields.setdefault("temperature", 1.0)
    fields.setdefault("seed", SEED)
    return stream_request(**fields)


def refused(method, request):
    """The RpcError of a call that must not succeed."""
    try:
        result = method(request, timeout=30)
        if not isinstance(result, (inference.GenerateResponse, inference.TokenizeResponse,
                                   inference.DetokenizeResponse, model_service.Model)):
            list(result)
    except grpc.RpcError as error:
        return error
    raise AssertionError("accepted: " + str(request)[:500])


class ConformanceTest(unittest.TestCase):
    """Tests against one service that all of them share."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster())
        cls.stub = cls.cluster.stub

    def tearDown(self):
        self.assertTrue(self.cluster.coordinator.alive())
        self.assertTrue(self.cluster.workers[0].alive())

    def stream(self, request):
        return list(self.stub.generate_stream(request, timeout=60))

    def whole(self, request):
        return self.stub.generate(as_whole(request), timeout=60)

    def check_rules(self, request, messages, whole):
        """Rules (a), (b), (c), (e) of GenerateStream, against the answer of Generate."""
        self.assertGreaterEqual(messages[0].token_count, 1)
        self.assertNotEqual(messages[0].request_id, "")
        for message in messages[1:]:
            self.assertEqual((message.request_id, message.model), ("", ""))
        for message in messages[:-1]:
            self.assertFalse(message.HasField("finish") or message.HasField("usage"))
        for message in messages:
            self.assertLessEqual(message.ByteSize(), MAX_MESSAGE_BYTES)
        text, ids, logprobs, _ = collect(messages)
        self.assertEqual(text, whole.text)
        self.assertEqual(ids, list(whole.token_ids))
        self.assertEqual(bits(logprobs), bits(whole.logprobs))
        prompt_logprobs = [entry for message in messages for entry in message.prompt_logprobs]
        self.assertEqual(bits(prompt_logprobs), bits(whole.prompt_logprobs))
        self.assertEqual(messages[-1].finish, whole.finish)
        # How much of the prompt was found depends on what was asked before.
        counts = lambda usage: (usage.prompt_token_count, usage.output_token_count)
        self.assertEqual(counts(messages[-1].usage), counts(whole.usage))
        n_tokens = sum(message.token_count for message in messages)
        self.assertEqual(n_tokens, whole.usage.output_token_count)
        self.assertEqual(len(logprobs), n_tokens if request.output.HasField("logprobs") else 0)


class StreamTest(ConformanceTest):

    def random_request(self, rng):
        text = heldout_text()
        begin = rng.randrange(len(text) - 800)
        prompt = rng.choice([text[begin:begin + rng.randint(1, 800)], "Grüße, 你好 🎭 — ROMEO:", "\n", "a\0b"])
        request = sampled(text=prompt, max_tokens=rng.randint(1, 60), seed=rng.getrandbits(62),
                          temperature=rng.choice([0.0, 0.7, 1.0, 3.0]))
        if rng.random() < 0.5:
            request.output.logprobs = rng.choice([0, 1, 20])
        if rng.random() < 0.5:
            request.output.prompt_logprobs = rng.choice([0, 5])
        if rng.random() < 0.3:
            request.sampling.top_p = rng.uniform(0.1, 1)
        if rng.random() < 0.3:
            request.sampling.top_k = rng.randint(1, 50)
        if rng.random() < 0.3:
            request.sampling.min_p = rng.uniform(0, 0.2)
        request.output.echo = rng.random() < 0.3
        request.output.token_ids = rng.random() < 0.8
        return request

    def test_stream_equals_whole_byte_for_byte(self):
        rng = random.Random(SEED)
        requests = [self.random_request(rng) for _ in range(40)]
        streams = [self.stub.generate_stream(request, timeout=60) for request in requests]
        streamed = [list(stream) for stream in streams]
        for i, (request, messages) in enumerate(zip(requests, streamed)):
            with self.subTest(request=i):
                whole = self.whole(request)
                self.check_rules(request, messages, whole)
                if request.output.echo:
                    self.assertTrue(whole.text.startswith(request.prompt.text))

    def test_byte_tokens_make_whole_characters(self):
        # At this temperature a quarter of the tokens are single bytes, most of them no UTF-8 by themselves.
        request = sampled(text="ROMEO:", max_tokens=400, temperature=100.0, ignore_eos=True)
        messages = self.stream(request)  # parsing refuses a text_delta that is not UTF-8
        whole = self.whole(request)
        self.check_rules(request, messages, whole)
        n_byte_tokens = sum(3 <= i < 259 for i in whole.token_ids)
        self.assertGreater(n_byte_tokens, 40)
        self.assertIn("\ufffd", whole.text)
        self.assertIn("", [message.text_delta for message in messages])  # a character that was not whole yet
        detokenize = inference.DetokenizeRequest()
        detokenize.inputs.add().ids.extend(whole.token_ids)
        self.assertEqual(self.stub.detokenize(detokenize).texts[0], whole.text)

    def test_large_logprobs_stay_within_the_message_size(self):
        ids = self.tokenize(heldout_text()[:6000])[:1500]
        request = sampled(token_ids=ids, max_tokens=120, logprobs=20, prompt_logprobs=20)
        messages = self.stream(request)
        prompt_logprobs = [entry for message in messages for entry in message.prompt_logprobs]
        self.assertEqual([entry.token_id for entry in prompt_logprobs], ids)
        self.assertFalse(prompt_logprobs[0].HasField("logprob"))
        self.assertEqual([len(entry.top) for entry in prompt_logprobs[1:]], [20] * (len(ids) - 1))
        self.assertGreater(sum(message.ByteSize() for message in messages), 8 * MAX_MESSAGE_BYTES)
        last_with_prompt = max(i for i, message in enumerate(messages) if message.prompt_logprobs)
        for message in messages[1:last_with_prompt]:
            self.assertEqual(message.token_count, 0)
        self.check_rules(request, messages, self.whole(request))

    def test_logprobs_are_consistent(self):
        request = sampled(text="First Citizen:", max_tokens=30, logprobs=20, prompt_logprobs=20)
        messages = self.stream(request)
        entries = [e for m in messages for e in m.logprobs]
        entries += [e for m in messages for e in m.prompt_logprobs if e.HasField("logprob")]
        for entry in entries:
            top = [alternative.logprob for alternative in entry.top]
            self.assertEqual(top, sorted(top, reverse=True))
            self.assertLessEqual(entry.logprob, 0)
            n_better = sum(logprob > entry.logprob for logprob in top)
            if entry.rank <= 20:
                self.assertEqual(entry.rank, n_better + 1)
            else:
                self.assertEqual(n_better, 20)

    def test_alone_equals_among_31_others(self):
        rng = random.Random(SEED + 1)
        request = sampled(text="JULIET:\n", max_tokens=48, logprobs=5, prompt_logprobs=1)
        alone = collect(self.stream(request))
        others = [self.random_request(rng) for _ in range(31)]
        calls = [self.stub.generate_stream(other, timeout=60) for other in others]
        among = collect(self.stream(request))
        for call in calls:
            list(call)
        self.assertEqual(among[:2], alone[:2])
        self.assertEqual(bits(among[2]), bits(alone[2]))
        prompt = [[e for m in messages for e in m.prompt_logprobs] for messages in (alone[3], among[3])]
        self.assertEqual(bits(prompt[0]), bits(prompt[1]))

    def tokenize(self, text):
        return list(self.stub.tokenize(inference.TokenizeRequest(texts=[text])).results[0].token_ids)


class FinishTest(ConformanceTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.reference_request = dict(text="First Citizen:\n", max_tokens=120)
        cls.reference = cls.stub.generate(as_whole(sampled(**cls.reference_request)))

    def finish(self, request):
        """The whole answer; the stream's is held to it."""
        whole = self.whole(request)
        self.check_rules(request, self.stream(request), whole)
        return whole

    @staticmethod
    def cut(text, stops):
        """(text before the match, match) as CompletionText defines: the first to be complete, the longest of those."""
        ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
        if not ends:
            return text, None
        end, minus_length, stop = min(ends)
        return text[:end + minus_length], stop

    def test_stop_sequences_never_leak(self):
        rng = random.Random(SEED + 2)
        text = self.reference.text
        cases = []
        for _ in range(60):
            stops = set()
            for _ in range(rng.choice([1, 1, 2, 4, 16])):
                begin = rng.randrange(len(text))
                stops.add(text[begin:begin + rng.choice([1, 2, 3, 5, 9, 20])])
            if rng.random() < 0.3:  # shares all but its end with the text: held back and then released
                begin = rng.randrange(len(text) - 10)
                stops = {text[begin:begin + 8] + "\u2603"}
            cases.append(sorted(stops))
        calls = [self.stub.generate_stream(sampled(**self.reference_request, stop=stops), timeout=60)
                 for stops in cases]
        for stops, call in zip(cases, calls):
            with self.subTest(stops=stops):
                streamed, ids, _, messages = collect(call)
                expected, match = self.cut(text, stops)
                self.assertEqual(streamed, expected)
                self.assertEqual(ids, list(self.reference.token_ids)[:len(ids)])
                finish = messages[-1].finish
                if match is None:
                    self.assertEqual(finish.reason, inference.FINISH_REASON_MAX_TOKENS)
                else:
                    self.assertEqual(finish.reason, inference.FINISH_REASON_STOP_SEQUENCE)
                    self.assertEqual(finish.stop_sequence, match)

    def test_stop_sequence_may_be_included(self):
        stop = self.reference.text[30:36]
        request = sampled(**self.reference_request, stop=[stop])
        request.stopping.include_stop_str_in_output = True
        answer = self.finish(request)
        before, _ = self.cut(self.reference.text, [stop])
        self.assertEqual(answer.text, before + stop)

    def test_stop_token(self):
        ids = list(self.reference.token_ids)
        stop_id = ids[40]
        n = ids.index(stop_id)
        request = sampled(**self.reference_request)
        request.stopping.stop_token_ids.extend([stop_id, VOCAB - 1])
        answer = self.finish(request)
        self.assertEqual(answer.finish.reason, inference.FINISH_REASON_STOP_TOKEN)
        self.assertEqual(answer.finish.stop_token_id, stop_id)
        self.assertEqual(list(answer.token_ids), ids[:n + 1])
        self.assertTrue(self.reference.text.startswith(answer.text))

    def test_min_tokens_hold_back_stop_tokens(self):
        first = self.reference.token_ids[0]
        request = sampled(**self.reference_request)
        request.stopping.stop_token_ids.append(first)
        self.assertEqual(self.finish(request).usage.output_token_count, 1)
        request.stopping.min_tokens = 10
        answer = self.finish(request)
        self.assertNotIn(first, list(answer.token_ids)[:10])
        self.assertGreater(answer.usage.output_token_count, 10)

    def test_min_tokens_hold_back_stop_sequences(self):
        text = self.reference.text
        request = sampled(**self.reference_request, stop=[text[:2]])
        self.assertEqual(self.finish(request).text, "")
        request.stopping.min_tokens = 20
        answer = self.finish(request)
        self.assertEqual(list(answer.token_ids)[:20], list(self.reference.token_ids)[:20])
        self.assertTrue(text.startswith(answer.text))
        self.assertGreaterEqual(answer.usage.output_token_count, 20)

    def test_max_tokens(self):
        answer = self.finish(sampled(text="A", max_tokens=3))
        self.assertEqual(answer.finish.reason, inference.FINISH_REASON_MAX_TOKENS)
        self.assertEqual(answer.usage.output_token_count, 3)
        self.assertEqual(self.finish(sampled(text="A")).usage.output_token_count, 256)

    def test_context_length(self):
        answer = self.finish(sampled(token_ids=[BOS] + [300] * (CONTEXT - 9)))
        self.assertEqual(answer.finish.reason, inference.FINISH_REASON_CONTEXT_LENGTH)
        self.assertEqual(answer.usage.output_token_count, 8)

    def test_time_limit(self):
        request = sampled(text="A", max_tokens=2000)
        request.stopping.time_limit.nanos = 300_000_000
        begin = time.monotonic()
        messages = self.stream(request)
        elapsed = time.monotonic() - begin
        self.assertEqual(messages[-1].finish.reason, inference.FINISH_REASON_TIME_LIMIT)
        self.assertLess(messages[-1].usage.output_token_count, 2000)
        self.assertGreaterEqual(elapsed, 0.29)
        self.assertLess(elapsed, 1.3)

    def test_end_of_sequence_and_ignore_eos(self):
        # The demo model never means </s>; at this temperature it is one of 1024 nearly equal tokens.
        def start(seed, ignore_eos):
            return self.stub.generate_stream(
                sampled(text="A", max_tokens=400, temperature=100.0, seed=seed, ignore_eos=ignore_eos))

        ended = []
        for first_seed in range(0, 48, 8):  # 19200 tokens at most
            calls = [(seed, start(seed, False)) for seed in range(first_seed, first_seed + 8)]
            answers = [(seed, collect(call)) for seed, call in calls]
            ended = [(seed, answer) for seed, answer in answers
                     if answer[3][-1].finish.reason == inference.FINISH_REASON_STOP_TOKEN]
            if ended:
                break
        self.assertNotEqual(ended, [], "no </s>")
        seed, (text, ids, _, messages) = ended[0]
        self.assertEqual((messages[-1].finish.stop_token_id, ids[-1]), (2, 2))
        _, ignoring_ids, _, ignoring_messages = collect(start(seed, True))
        self.assertEqual(ignoring_messages[-1].finish.reason, inference.FINISH_REASON_MAX_TOKENS)
        self.assertEqual(ignoring_ids[:len(ids)], ids)

    def test_seed_chosen_by_the_server_repeats_the_answer(self):
        request = stream_request(text="ROMEO:", max_tokens=20)
        first = self.whole(request)
        request.sampling.seed = first.finish.seed
        self.assertEqual(self.whole(request).text, first.text)


class RefusalTest(ConformanceTest):

    def check(self, error, code, reason, fields=()):
        self.assertEqual(error_reason(error), (code, reason), error.details())
        details = error_details(error)
        self.assertEqual(details["ErrorInfo"].domain, "bora.dev")
        self.assertNotEqual(details["RequestInfo"].request_id, "")
        violations = details["BadRequest"].field_violations if "BadRequest" in details else []
        self.assertEqual([violation.field for violation in violations], list(fields))

    def test_every_violation_is_listed(self):
        request = stream_request(max_tokens=0, temperature=-1, logprobs=-1, prompt_logprobs=-2, stop=["ok", ""],
                                 token_ids=[5, VOCAB, -1])
        request.sampling.top_p = 0
        request.sampling.top_k = -1
        request.sampling.min_p = 1.5
        request.stopping.min_tokens = -1
        request.stopping.stop_token_ids.append(VOCAB)
        request.stopping.time_limit.seconds = -1
        request.prompt.truncate_prompt_tokens = -1
        request.request_id = "no spaces"
        fields = ["prompt.token_ids.ids[1]", "prompt.token_ids.ids[2]", "prompt.truncate_prompt_tokens",
                  "sampling.temperature", "sampling.top_p", "sampling.top_k", "sampling.min_p",
                  "stopping.max_tokens", "stopping.min_tokens", "stopping.stop[1]", "stopping.stop_token_ids[0]",
                  "stopping.time_limit", "output.logprobs", "output.prompt_logprobs", "request_id"]
        self.check(refused(self.stub.generate_stream, request), "INVALID_ARGUMENT", "INVALID_FIELD", fields)
        self.check(refused(self.stub.generate, as_whole(request)), "INVALID_ARGUMENT", "INVALID_FIELD", fields)

    def test_one_field_at_fault(self):
        cases = [
            (dict(), "INVALID_FIELD", "prompt"),
            (dict(text=""), "INVALID_FIELD", "prompt.text"),
            (dict(token_ids=[]), "INVALID_FIELD", "prompt.token_ids.ids"),
            (dict(text="x" * ((1 << 20) + 1)), "LIMIT_EXCEEDED", "prompt.text"),
            (dict(text="x", logprobs=21), "LIMIT_EXCEEDED", "output.logprobs"),
            (dict(text="x", prompt_logprobs=21), "LIMIT_EXCEEDED", "output.prompt_logprobs"),
            (dict(text="x", stop=["a"] * 17), "LIMIT_EXCEEDED", "stopping.stop"),
            (dict(text="x", stop=["a" * 257]), "LIMIT_EXCEEDED", "stopping.stop[0]"),
            (dict(text="x", max_tokens=CONTEXT), "CONTEXT_LENGTH_EXCEEDED", "stopping.max_tokens"),
            (dict(text="x", max_tokens=(1 << 31) - 1), "CONTEXT_LENGTH_EXCEEDED", "stopping.max_tokens"),
            (dict(token_ids=[300] * CONTEXT), "CONTEXT_LENGTH_EXCEEDED", "prompt"),
            (dict(text="x " * 500000), "CONTEXT_LENGTH_EXCEEDED", "prompt"),
        ]
        for fields, reason, field in cases:
            with self.subTest(reason=reason, field=field):
                request = stream_request(**fields)
                if fields == dict(token_ids=[]):
                    request.prompt.token_ids.SetInParent()
                for method, message in ((self.stub.generate_stream, request),
                                        (self.stub.generate, as_whole(request))):
                    self.check(refused(method, message), "INVALID_ARGUMENT", reason, [field])

    def test_floats_that_are_not_numbers(self):
        for field in ("temperature", "top_p", "min_p"):
            for value in (float("nan"), float("inf"), float("-inf"), -1e-30 if field != "top_p" else 1.0001):
                with self.subTest(field=field, value=value):
                    request = stream_request(text="x", max_tokens=1)
                    setattr(request.sampling, field, value)
                    self.check(refused(self.stub.generate_stream, request), "INVALID_ARGUMENT", "INVALID_FIELD",
                               ["sampling." + field])

    def test_unknown_models(self):
        for name in ("nobody", "models/nobody", "models/", "x" * 100000):
            request = stream_request(text="x")
            request.model = name
            self.check(refused(self.stub.generate_stream, request), "NOT_FOUND", "MODEL_NOT_FOUND")
        tokenize = inference.TokenizeRequest(model="nobody", texts=["x"])
        self.check(refused(self.stub.tokenize, tokenize), "NOT_FOUND", "MODEL_NOT_FOUND")
        detokenize = inference.DetokenizeRequest(model="nobody")
        self.check(refused(self.stub.detokenize, detokenize), "NOT_FOUND", "MODEL_NOT_FOUND")
        get = model_service.GetModelRequest(name="models/nobody")
        self.check(refused(self.stub.get_model, get), "NOT_FOUND", "MODEL_NOT_FOUND")
        for name in ("demo-model", "models/demo-model"):
            request = stream_request(text="x", max_tokens=1)
            request.model = name
            self.assertEqual(self.whole(request).model, "models/demo-model")

    def test_ten_megabytes(self):
        request = stream_request(text="x" * (10 << 20))
        self.assertEqual(refused(self.stub.generate_stream, request).code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(self.whole(stream_request(text="x", max_tokens=1)).usage.output_token_count, 1)

    def raw(self, method):
        """The unary or streaming method for bytes."""
        call = self.stub.channel.unary_stream(f"/bora.inference.v1.InferenceService/{method}",
                                              request_serializer=None, response_deserializer=None)
        return lambda data, timeout: call(data, timeout=timeout)

    def test_invalid_utf8_names_the_field(self):
        request = stream_request(text="QQQQ", stop=["RRRR"]).SerializeToString()
        text = request.replace(b"QQQQ", b"Q\xffQQ")
        for method in ("Generate", "GenerateStream"):
            self.check(refused(self.raw(method), text), "INVALID_ARGUMENT", "INVALID_FIELD", ["prompt.text"])
        both = text.replace(b"RRRR", b"R\xc3RR")
        self.check(refused(self.raw("GenerateStream"), both), "INVALID_ARGUMENT", "INVALID_FIELD",
                   ["prompt.text", "stopping.stop[0]"])
        tokenize = inference.TokenizeRequest(texts=["QQQQ"]).SerializeToString().replace(b"QQQQ", b"\xed\xa0\x80Q")
        self.check(refused(self.raw("Tokenize"), tokenize), "INVALID_ARGUMENT", "INVALID_FIELD", ["texts[0]"])

    def test_garbage_bytes_are_refused_or_answered(self):
        rng = random.Random(SEED + 3)
        valid = stream_request(text="ROMEO:", max_tokens=2, seed=1, stop=["x"], logprobs=1).SerializeToString()
        for i in range(300):
            data = bytearray(valid if i % 3 else rng.randbytes(rng.randrange(200)))
            for _ in range(rng.randrange(4)):
                if data:
                    data[rng.randrange(len(data))] = rng.randrange(256)
            data = bytes(data[:rng.randint(0, len(data))])
            method = rng.choice(["Generate", "GenerateStream", "Tokenize", "Detokenize"])
            try:
                list(self.raw(method)(data, timeout=20))
            except grpc.RpcError as error:
                self.assertIn(error.code().name, ("INVALID_ARGUMENT", "NOT_FOUND"), data)
                self.assertNotEqual(error_reason(error)[1], "", data)
        self.cluster.wait_idle()

    def test_refusals_are_fast(self):
        request = stream_request(text="x", max_tokens=-1)
        seconds = []
        for _ in range(300):
            begin = time.monotonic()
            refused(self.stub.generate_stream, request)
            seconds.append(time.monotonic() - begin)
        p50_ms = sorted(seconds)[150] * 1e3
        print(f"refusal latency p50 {p50_ms:.2f} ms")
        self.assertLess(p50_ms, 5)


class TokenizationTest(ConformanceTest):

    def texts(self):
        rng = random.Random(SEED + 4)
        heldout = heldout_text()
        texts = [heldout[i:i + 997] for i in range(0, 60000, 997)]
        texts += ["", " ", "  \n\t ", "a\0b", "0123456789", "Grüße 你好 🎭👩\u200d👩\u200d👧", "\ufeff", "<s></s><0x41>"]
        texts += ["".join(chr(rng.choice([rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000)]))
                          for _ in range(rng.randrange(50))) for _ in range(40)]
        # SentencePiece writes a space as U+2581, so that character itself comes back as a space.
        return [text.replace("\u2581", "") for text in texts]

    def test_round_trip(self):
        texts = self.texts()
        for bos in (False, True):
            request = inference.TokenizeRequest(texts=texts, add_bos_token=bos, token_bytes=True)
            results = self.stub.tokenize(request).results
            self.assertEqual(len(results), len(texts))
            detokenize = inference.DetokenizeRequest()
            for text, result in zip(texts, results):
                self.assertEqual(b"".join(result.token_bytes), text.encode())
                self.assertEqual(list(result.token_ids[:1]) == [BOS], bos)
                detokenize.inputs.add().ids.extend(result.token_ids)
            self.assertEqual(list(self.stub.detokenize(detokenize).texts), texts)

    def test_generate_tokenizes_alike(self):
        for text in self.texts()[-30:]:
            if text:
                ids = self.stub.tokenize(inference.TokenizeRequest(texts=[text])).results[0].token_ids
                answer = self.whole(sampled(text=text, max_tokens=1, prompt_logprobs=0))
                self.assertEqual([entry.token_id for entry in answer.prompt_logprobs], list(ids))

    def test_limits(self):
        self.assertEqual(error_reason(refused(self.stub.tokenize, inference.TokenizeRequest(texts=["x"] * 129))),
                         ("INVALID_ARGUMENT", "LIMIT_EXCEEDED"))
        self.assertEqual(error_reason(refused(self.stub.tokenize, inference.TokenizeRequest())),
                         ("INVALID_ARGUMENT", "INVALID_FIELD"))
        unknown = inference.DetokenizeRequest()
        unknown.inputs.add().ids.extend([5, VOCAB])
        error = refused(self.stub.detokenize, unknown)
        self.assertEqual(error_reason(error), ("INVALID_ARGUMENT", "INVALID_FIELD"))
        self.assertIn("inputs[0].ids[1]", error.details())


def wire_fields(data):
    """The length-delimited fields of a protobuf message: [(number, bytes)]."""

    def varint(at):
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 0x80:
                return value, at

    fields, at = [], 0
    while at < len(data):
        key, at = varint(at)
        if key & 7 == 0:
            _, at = varint(at)
            continue
        assert key & 7 == 2, key
        length, at = varint(at)
        fields.append((key >> 3, data[at:at + length]))
        at += length
    return fields


class DiscoveryTest(ConformanceTest):

    def reflect(self, field, value):
        """The payloads of field `answer` of one ServerReflectionResponse, by hand: no generated code is installed."""
        method = self.stub.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=None, response_deserializer=None)
        request = struct.pack("BB", field << 3 | 2, len(value)) + value.encode()
        return dict(wire_fields(next(method(iter([request]), timeout=5))))

    def test_reflection_lists_the_services(self):
        services = self.reflect(7, "*")[6]  # list_services -> list_services_response
        names = [dict(wire_fields(service))[1].decode() for _, service in wire_fields(services)]
        for name in SERVICES + ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"]:
            self.assertIn(name, names)

    def test_reflection_describes_a_service(self):
        files = self.reflect(4, SERVICES[0])[4]  # file_containing_symbol -> file_descriptor_response
        methods = []
        for _, file in wire_fields(files):
            for service in descriptor_pb2.FileDescriptorProto.FromString(file).service:
                methods += [method.name for method in service.method]
        self.assertEqual(sorted(methods), ["Detokenize", "Generate", "GenerateStream", "Tokenize"])

    def test_health_of_each_service(self):
        for name in ["", "readiness", "liveness"] + SERVICES:
            self.assertTrue(self.stub.health(name), name)
        error = refused(self.stub.health_check, health_pb2.HealthCheckRequest(service="nobody"))
        self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)

    def test_without_workers_alive_but_not_ready(self):
        with Cluster(start_workers=False) as cluster:
            self.assertTrue(cluster.stub.health("liveness"))
            for name in ["", "readiness"] + SERVICES:
                self.assertFalse(cluster.stub.health(name), name)
            error = refused(cluster.stub.generate_stream, stream_request(text="x"))
            self.assertEqual(error_reason(error), ("UNAVAILABLE", "NOT_READY"))
            self.assertGreater(error_details(error)["RetryInfo"].retry_delay.ToNanoseconds(), 0)
            self.assertEqual(len(cluster.stub.list_models(model_service.ListModelsRequest()).models), 1)
            stub = Stub(f"127.0.0.1:{cluster.port}")
            tokens = stub.tokenize(inference.TokenizeRequest(texts=["x"])).results[0].token_ids
            self.assertEqual(tokens[0], BOS)
            stub.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
