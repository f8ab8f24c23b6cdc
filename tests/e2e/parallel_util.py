"""What the tests of layouts, failures, draining and hosts share: requests with bytes to compare, and streams kept open."""

import json
import os
import threading
import time

import grpc

from bora_e2e import DEMO_MODEL, error_reason, inference, make_checkpoint, stream_request

TOKENIZER = os.path.join(DEMO_MODEL, "tokenizer.model")


def small_checkpoint(directory, **flags):
    """A random model that every layout in {1,2,4,8} x {1,2,4} divides, with the demo model's vocabulary."""
    with open(os.path.join(DEMO_MODEL, "config.json")) as file:
        vocab_size = json.load(file)["vocab_size"]
    dimensions = dict(dim=64, n_layers=6, n_heads=8, n_kv_heads=4, head_dim=8, hidden_dim=96, vocab_size=vocab_size,
                      max_position=4096, dtype="f32", seed=1, tokenizer=TOKENIZER)
    return make_checkpoint(directory, **{**dimensions, **flags})


REQUESTS = [
    # Greedy, with every kind of log-probability; the seed is part of the answer.
    dict(text="First Citizen:", max_tokens=8, temperature=0, seed=3, logprobs=3, prompt_logprobs=2, ignore_eos=True),
    # Drawn, from token ids; the prompt does not fill a KV block and the answer crosses into the next.
    dict(token_ids=[1, 300, 301, 302, 5, 9, 17, 33, 65, 129, 257, 513], max_tokens=8, temperature=0.9, seed=11,
         logprobs=0, ignore_eos=True),
]


def answer_bytes(stub, requests=REQUESTS, timeout=120):
    """The answers as serialized messages, so that equal means equal bit for bit; sent all at once."""
    calls = [
        stub.generate.future(stream_request(**request, cls=inference.GenerateRequest), timeout=timeout)
        for request in requests
    ]
    answers = []
    for call, request in zip(calls, requests):
        answer = call.result()
        assert len(answer.token_ids) == request["max_tokens"], answer
        if "logprobs" in request:
            assert all(l.logprob < 0 for l in answer.logprobs), answer
        # The only fields that may differ between runs.
        answer.ClearField("request_id")
        answer.ClearField("model")
        answers.append(answer.SerializeToString(deterministic=True))
    return answers


class OpenStream:
    """A stream that a thread reads; says when and how it ended."""

    def __init__(self, stub, **request):
        self.n_tokens = 0
        self.finish = None  # the Finish message of a stream that ended well
        self.code = self.reason = self.message = None
        self.end_time = None  # of time.monotonic()
        self.call = stub.generate_stream(stream_request(**request))
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for message in self.call:
                self.n_tokens += message.token_count
                if message.HasField("finish"):
                    self.finish = message.finish
            self.code, self.reason = "OK", ""
        except grpc.RpcError as error:
            self.code, self.reason = error_reason(error)
            self.message = error.details()
        self.end_time = time.monotonic()

    def join(self, timeout_s):
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), f"a stream still hangs after {timeout_s} s, {self.n_tokens} tokens"


def open_streams(stub, count, **request):
    """`count` endless streams, each of which has delivered tokens."""
    defaults = dict(text="Once upon a time", max_tokens=3900, temperature=1.0, ignore_eos=True)
    streams = [OpenStream(stub, **{**defaults, "seed": i, **request}) for i in range(count)]
    deadline = time.monotonic() + 60
    while any(stream.n_tokens == 0 for stream in streams):
        assert all(stream.code is None for stream in streams), [(s.code, s.reason, s.message) for s in streams]
        assert time.monotonic() < deadline, "no first token within 60 s"
        time.sleep(0.005)
    return streams
