"""Thousands of calls that end at every possible moment leave nothing behind, and those that go on never notice."""

import asyncio
import gc
import os
import random
import threading
import time
import unittest

from bora_e2e import Cluster, Stub, collect, error_details, error_reason, grpc, inference, stream_request
from bora_e2e import wait_until
import grpc.aio

SEED = 20
N_REQUESTS = 5000
N_WARM_UP = 500  # after them gRPC has its threads and the allocator its arenas
N_CONCURRENT = 64
# Twice the 64 KiB that the server buffers for a reader: 21 log-probabilities of about 25 bytes for each of 250 tokens.
SLOW_TOKENS = 250
# Neither window of a channel with these grows, so that an unread stream stops its writer after 64 KiB.
NARROW_CHANNEL = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65535),
                  ("grpc.use_local_subchannel_pool", 1)]
STREAM_METHOD = "/bora.inference.v1.InferenceService/GenerateStream"


def descriptors(process):
    """What each open descriptor is, such as socket:[123]."""
    folder = f"/proc/{process.pid}/fd"
    return sorted(os.readlink(os.path.join(folder, name)) for name in os.listdir(folder))


def n_threads(process):
    return len(os.listdir(f"/proc/{process.pid}/task"))


def narrow_stream(address):
    """(channel, GenerateStream) with flow-control windows that do not grow."""
    channel = grpc.insecure_channel(address, NARROW_CHANNEL)
    method = channel.unary_stream(STREAM_METHOD, request_serializer=lambda m: m.SerializeToString(),
                                  response_deserializer=inference.GenerateStreamResponse.FromString)
    return channel, method


class Storm:
    """N_REQUESTS calls over a few connections, each with a fate drawn from a seeded generator."""

    FATES = (["complete"] * 159 + ["cancel at once"] * 40 + ["cancel later"] * 100 + ["cancel while reading"] * 60 +
             ["deadline"] * 40 + ["slow"])

    def __init__(self, stub):
        rng = random.Random(SEED)
        self.rng = rng
        texts = ["ROMEO:", "O", "First Citizen:\nWe are", "Now is the winter of our discontent " * 6]
        self.requests = [
            stream_request(text=rng.choice(texts), max_tokens=rng.randint(1, 6), seed=rng.getrandbits(60),
                           temperature=rng.choice([0.0, 1.0]), logprobs=rng.choice([None, 0, 3]))
            for _ in range(40)
        ]
        self.slow_request = stream_request(text="JULIET:", max_tokens=SLOW_TOKENS, seed=5, logprobs=20,
                                           ignore_eos=True)
        self.expected = [collect(stub.generate_stream(r))[:3] for r in self.requests]
        self.slow_expected = collect(stub.generate_stream(self.slow_request))[:3]
        self.counts = {}
        self.wrong = []

    def check(self, what, messages, expected):
        if collect(messages)[:3] != expected:
            self.wrong.append(what)

    async def slow_reader(self, method, rng):
        """Stops reading after a message, then reads to the end or leaves."""
        call = method(self.slow_request, timeout=60)
        messages = [await call.read()]
        await asyncio.sleep(rng.uniform(0.1, 1))
        if rng.random() < 0.5:
            call.cancel()
            return
        while True:
            message = await call.read()
            if message is grpc.aio.EOF:
                break
            messages.append(message)
        self.check("slow reader", messages, self.slow_expected)

    async def one(self, i, method):
        rng = random.Random(SEED * N_REQUESTS + i)
        fate = rng.choice(self.FATES)
        if fate == "slow":
            await self.slow_reader(method, rng)
            return fate
        which = rng.randrange(len(self.requests))
        timeout = rng.uniform(0.0005, 0.15) if fate == "deadline" else 60
        call = method(self.requests[which], timeout=timeout)
        if fate == "cancel at once":
            call.cancel()
            return fate
        if fate == "cancel later":
            await asyncio.sleep(rng.uniform(0, 0.3))
            call.cancel()
            return fate
        messages = []
        try:
            async for message in call:
                messages.append(message)
                if fate == "cancel while reading" and rng.random() < 0.5:
                    call.cancel()
                    return fate
            self.check(f"request {which}", messages, self.expected[which])
            return fate
        except grpc.aio.AioRpcError as error:
            if fate != "deadline" or error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                self.wrong.append(f"{fate}: {error.code()} {error.details()}")
            return fate

    async def run(self, address, begin, end):
        channels = [grpc.aio.insecure_channel(address, NARROW_CHANNEL) for _ in range(4)]
        methods = [
            channel.unary_stream(STREAM_METHOD, request_serializer=lambda m: m.SerializeToString(),
                                 response_deserializer=inference.GenerateStreamResponse.FromString)
            for channel in channels
        ]
        places = asyncio.Semaphore(N_CONCURRENT)

        async def bounded(i):
            async with places:
                fate = await self.one(i, methods[i % len(methods)])
                self.counts[fate] = self.counts.get(fate, 0) + 1

        await asyncio.gather(*(bounded(i) for i in range(begin, end)))
        for channel in channels:
            await channel.close()


class StormTest(unittest.TestCase):

    def test_nothing_is_left_and_survivors_never_notice(self):
        # 64 blocks of 16 tokens at 2 KiB for the layers of a stage: 32 are the stuck reader's, a slow one takes 16, the
        # others 1 to 7, so that slots and blocks both run out.
        flags = ["--max-num-seqs=24", "--max-num-queued-reqs=2000", "--max-model-len=512",
                 f"--kv-cache-memory-bytes={64 * 16 * 2048}"]
        with Cluster(pp=2, coordinator_flags=flags) as cluster:
            processes = [cluster.coordinator] + cluster.workers
            stuck = self.start_stuck_reader(cluster)
            storm = Storm(cluster.stub)
            address = f"127.0.0.1:{cluster.port}"
            self.run_storm(storm, address, 0, N_WARM_UP)
            before = [(descriptors(process), n_threads(process), process.rss_bytes()) for process in processes]
            begin = time.monotonic()
            self.run_storm(storm, address, N_WARM_UP, N_REQUESTS)
            seconds = time.monotonic() - begin
            print(f"{N_REQUESTS - N_WARM_UP} requests in {seconds:.1f} s; all: {storm.counts}")
            self.assertEqual(storm.wrong, [])
            self.check_stuck_reader(cluster, stuck)
            idle_s = cluster.wait_idle(5)
            print(f"idle after {idle_s:.2f} s")
            for process, (fds, n_threads_before, rss) in zip(processes, before):
                # At most as many: the connections of the storm and of the stuck reader are gone.
                self.wait_at_most(lambda p=process: len(descriptors(p)), len(fds), f"{process.name}: {fds}")
                # gRPC's own pools grow by one or two threads under load; a leak would be one for each of thousands.
                self.wait_at_most(lambda p=process: n_threads(p), n_threads_before + 4, f"threads of {process.name}")
                grown = process.rss_bytes() - rss
                print(f"{process.name}: RSS {rss >> 20} MiB before, {grown >> 20:+d} MiB")
                # 64 KiB for each call at a time, twice for fragmentation, and what the allocator keeps.
                self.assertLess(grown, 2 * N_CONCURRENT * (64 << 10) + (8 << 20), process.name)
            after = collect(cluster.stub.generate_stream(storm.requests[0]))[:3]
            self.assertEqual(after, storm.expected[0])

    @staticmethod
    def run_storm(storm, address, begin, end):
        asyncio.run(storm.run(address, begin, end))
        gc.collect()  # calls and channels refer to each other; a channel's connection goes with it

    def wait_at_most(self, measure, limit, what):
        deadline = time.monotonic() + 30
        while measure() > limit and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertLessEqual(measure(), limit, what)

    def start_stuck_reader(self, cluster):
        """Reads one message of a long stream and no more."""
        channel, method = narrow_stream(f"127.0.0.1:{cluster.port}")
        call = method(stream_request(text="x", max_tokens=500, logprobs=20, ignore_eos=True))
        next(call)
        return channel, call, time.monotonic()

    def check_stuck_reader(self, cluster, stuck):
        """The server cuts it off when a message has waited for 30 s."""
        channel, call, begin = stuck

        # It may have given its blocks to others: then it waits.
        def gone():
            load = cluster.stub.info().load
            return load.running_count + load.waiting_count == 0

        wait_until(gone, 60, "the stuck reader has been cut off")
        print(f"stuck reader cut off after {time.monotonic() - begin:.1f} s")
        self.assertGreaterEqual(time.monotonic() - begin, 30)
        with self.assertRaises(grpc.RpcError) as context:
            list(call)
        self.assertEqual(context.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertIn("SLOW_CONSUMER", context.exception.details())
        channel.close()


class QueueTest(unittest.TestCase):
    """One slot and two places in the queue."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(
            Cluster(coordinator_flags=["--max-num-seqs=1", "--max-num-queued-reqs=2"]))
        cls.stub = cls.cluster.stub

    def tearDown(self):
        self.cluster.wait_idle(2)

    def start(self, timeout=None, max_tokens=2000):
        request = stream_request(text="x", max_tokens=max_tokens, ignore_eos=True)
        return self.stub.generate_stream(request, timeout=timeout)

    def wait_load(self, running, waiting, timeout_s=5):
        """Seconds until so many run and wait."""
        begin = time.monotonic()
        load = self.stub.info().load
        while (load.running_count, load.waiting_count) != (running, waiting):
            self.assertLess(time.monotonic() - begin, timeout_s, f"running and waiting: {load}")
            load = self.stub.info().load
        return time.monotonic() - begin

    def test_more_are_refused_with_a_retry_delay(self):
        running = self.start()
        next(running)
        queued = [self.start(), self.start()]
        self.wait_load(1, 2)
        for _ in range(10):
            begin = time.monotonic()
            with self.assertRaises(grpc.RpcError) as context:
                list(self.start())
            self.assertLess(time.monotonic() - begin, 1)
            self.assertEqual(error_reason(context.exception), ("UNAVAILABLE", "QUEUE_FULL"))
            self.assertGreater(error_details(context.exception)["RetryInfo"].retry_delay.ToNanoseconds(), 0)
        with self.assertRaises(grpc.RpcError) as context:
            self.stub.generate(stream_request(text="x", cls=inference.GenerateRequest))
        self.assertEqual(error_reason(context.exception), ("UNAVAILABLE", "QUEUE_FULL"))
        queued[0].cancel()
        self.wait_load(1, 1)
        running.cancel()  # the last of the queue gets the slot
        next(queued[1])
        queued[1].cancel()

    def test_deadline_in_queue(self):
        running = self.start()
        next(running)
        waiting = self.start(timeout=0.3)
        self.wait_load(1, 1)
        with self.assertRaises(grpc.RpcError) as context:
            list(waiting)
        self.assertEqual(context.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertLess(self.wait_load(1, 0), 0.5)
        next(running)
        running.cancel()

    def test_deadline_in_decode(self):
        call = self.start(timeout=0.5)
        next(call)
        with self.assertRaises(grpc.RpcError) as context:
            list(call)
        self.assertEqual(context.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertLess(self.cluster.wait_idle(), 0.5)

    def test_cancelled_while_decoding_frees_at_once(self):
        call = self.start()
        next(call)
        call.cancel()
        self.assertLess(self.cluster.wait_idle(), 0.5)

    def test_cancelled_while_prefilling_frees_at_once(self):
        request = stream_request(token_ids=[300] * 2000, max_tokens=1, prompt_logprobs=20)
        call = self.stub.generate_stream(request)
        self.wait_load(1, 0)
        call.cancel()
        # A step that is under way ends first.
        self.assertLess(self.cluster.wait_idle(), 2)

    def test_a_connection_that_breaks_frees_at_once(self):
        stub = Stub(f"127.0.0.1:{self.cluster.port}")
        call = stub.generate_stream(stream_request(text="x", max_tokens=2000, ignore_eos=True))
        next(call)
        stub.close()
        self.assertLess(self.cluster.wait_idle(), 0.5)

    def test_slow_reader_is_held_back_and_gets_every_byte(self):
        request = stream_request(text="JULIET:", max_tokens=6 * SLOW_TOKENS, seed=5, logprobs=20, ignore_eos=True)
        expected = collect(self.stub.generate_stream(request))
        channel, method = narrow_stream(f"127.0.0.1:{self.cluster.port}")
        call = method(request)
        first = next(call)
        self.wait_held_back()
        text, ids, logprobs, messages = collect([first] + list(call))
        channel.close()
        self.assertEqual((text, ids, logprobs), expected[:3])
        self.assertGreater(max(message.token_count for message in messages), 10)  # those that had waited
        self.assertLessEqual(max(message.ByteSize() for message in messages), 64 << 10)

    def wait_held_back(self):
        """Until a request runs and has had no token for a second: hundreds of its steps."""
        self.wait_load(1, 0)
        total, since = -1, time.monotonic()

        def held_back():
            nonlocal total, since
            load = self.stub.info().load
            self.assertEqual(load.running_count, 1)
            if load.output_token_total != total:
                total, since = load.output_token_total, time.monotonic()
            return time.monotonic() - since > 1

        wait_until(held_back, 30, "held back")

    def test_eager_threads_share_one_slot(self):
        answers = []

        def ask():
            while True:
                try:
                    answers.append(self.stub.generate(
                        stream_request(text="x", max_tokens=2, seed=1, cls=inference.GenerateRequest)).text)
                    return
                except grpc.RpcError as error:
                    delay = error_details(error)["RetryInfo"].retry_delay.ToNanoseconds() * 1e-9
                    time.sleep(min(delay, 0.2))

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(len(answers), 20)
        self.assertEqual(len(set(answers)), 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
