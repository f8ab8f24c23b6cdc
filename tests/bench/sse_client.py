"""Closed-loop load on an HTTP server that streams completions as server-sent events: the same streams, prompts and statistics
as load_generator.cc, for the CPU peer's server.

One thread a stream: 32 of them cost about 1 % of a core at the rates of a model that is worth measuring.
"""

import http.client
import json
import threading
import time

FIRST_PROMPT_TOKEN = 259  # below are special tokens and bytes


def prompt_tokens(index, n_tokens, vocab_size):
    """Another prompt for each request, the same in every run: load_generator.cc has the same generator."""
    mask = (1 << 64) - 1
    state, tokens = 0x9E3779B97F4A7C15 * (index + 1) & mask, []
    for _ in range(n_tokens):
        state = (state * 6364136223846793005 + 1442695040888963407) & mask
        tokens.append(FIRST_PROMPT_TOKEN + (state >> 33) % (vocab_size - FIRST_PROMPT_TOKEN))
    return tokens


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Load:
    """One run; thread-safe where threads meet."""

    def __init__(self, host, port, concurrency, n_requests, n_prompt, n_output, vocab_size):
        self.host, self.port, self.concurrency, self.n_requests = host, port, concurrency, n_requests
        self.n_prompt, self.n_output, self.vocab_size = n_prompt, n_output, vocab_size
        self.lock = threading.Lock()
        self.n_started = self.n_tokens = 0
        self.first_token_ms, self.gap_ms, self.errors = [], [], []

    def run(self):
        """The report, with the names of load_generator.cc."""
        threads = [threading.Thread(target=self.work) for _ in range(self.concurrency)]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - begin
        return {
            "seconds": seconds,
            "requests": len(self.first_token_ms),
            "failed": len(self.errors),
            "error": self.errors[-1] if self.errors else "",
            "requests_per_s": len(self.first_token_ms) / seconds,
            "output_tokens_per_s": self.n_tokens / seconds,
            "ttft_p50_ms": percentile(self.first_token_ms, 0.5),
            "ttft_p99_ms": percentile(self.first_token_ms, 0.99),
            "gap_p50_ms": percentile(self.gap_ms, 0.5),
            "gap_p99_ms": percentile(self.gap_ms, 0.99),
            "gap_max_ms": percentile(self.gap_ms, 1.0),
        }

    def work(self):
        while True:
            with self.lock:
                if self.n_started == self.n_requests or self.errors:
                    return
                index, self.n_started = self.n_started, self.n_started + 1
            try:
                begin, times = self.request(index)
            except (OSError, ValueError, http.client.HTTPException) as error:
                with self.lock:
                    self.errors.append(f"request {index}: {error}")
                return
            with self.lock:
                self.n_tokens += len(times)
                self.first_token_ms.append((times[0] - begin) * 1e3)
                self.gap_ms += [(b - a) * 1e3 for a, b in zip(times, times[1:])]

    def request(self, index):
        """When it was sent, and when each token came."""
        body = json.dumps({
            "prompt": prompt_tokens(index, self.n_prompt, self.vocab_size),
            "n_predict": self.n_output,
            "stream": True,
            "ignore_eos": True,
            "cache_prompt": False,
            "temperature": 0,
            "return_tokens": True,  # special tokens have no text
        })
        connection = http.client.HTTPConnection(self.host, self.port, timeout=600)
        try:
            begin, times = time.monotonic(), []
            connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise ValueError(f"status {response.status}: {response.read(300)!r}")
            for line in response:
                if not line.startswith(b"data: "):
                    continue
                event = json.loads(line[6:])
                if event.get("content") or event.get("tokens"):
                    times.append(time.monotonic())
                if event.get("stop"):
                    break
        finally:
            connection.close()
        if len(times) != self.n_output:
            raise ValueError(f"{len(times)} tokens came, {self.n_output} were asked for")
        return begin, times
