"""Who is served first, whose flood harms nobody, and what is refused at once because it would come too late.

On the simulated device: a step takes 50 ms, whatever else the machine does.
"""

import threading
import time
import unittest

from bora_e2e import Cluster, collect, error_details, grpc, inference, stream_request

DEVICE = "--device=sim:base_us=50000,token_us=0,context_us=0"
STEP_S = 0.05


def request(seed, max_tokens=20, tenant="", priority=inference.PRIORITY_UNSPECIFIED, n_prompt=20):
    message = stream_request(token_ids=[300 + (seed * 31 + i) % 97 for i in range(n_prompt)], max_tokens=max_tokens,
                             seed=seed, ignore_eos=True)
    message.tenant = tenant
    message.priority = priority
    return message


class Served:
    """Requests under way, in the order in which they got their first token."""

    def __init__(self, stub):
        self.stub, self.order, self.calls, self.threads = stub, [], [], []

    def send(self, name, message):
        call = self.stub.generate_stream(message, timeout=120)
        thread = threading.Thread(target=self.read, args=(name, call))
        self.calls.append(call)
        self.threads.append(thread)
        thread.start()
        time.sleep(0.02)  # so that they arrive in this order

    def read(self, name, call):
        try:
            next(call)
            self.order.append(name)
            for _ in call:
                pass
        except grpc.RpcError:
            pass

    def join(self):
        for thread in self.threads:
            thread.join()

    def cancel(self):
        for call in self.calls:
            call.cancel()
        self.join()


def cluster(*flags):
    if not any(flag.startswith("--max-num-seqs=") for flag in flags):
        flags = ("--max-num-seqs=1", *flags)
    return Cluster(worker_flags=[DEVICE], coordinator_flags=list(flags))


class QueuePolicyTest(unittest.TestCase):

    def test_classes_go_before_each_other(self):
        with cluster() as service:
            served = Served(service.stub)
            served.send("first", request(0, priority=inference.PRIORITY_INTERACTIVE))
            for name, priority in (("batch", inference.PRIORITY_BATCH), ("default", inference.PRIORITY_UNSPECIFIED),
                                   ("standard", inference.PRIORITY_STANDARD),
                                   ("interactive", inference.PRIORITY_INTERACTIVE)):
                served.send(name, request(len(served.calls), max_tokens=3, priority=priority))
            served.join()
            self.assertEqual(served.order, ["first", "interactive", "default", "standard", "batch"])

    def test_interactive_takes_the_slot_of_batch(self):
        with cluster("--max-num-seqs=2") as service:
            alone = [collect(service.stub.generate_stream(request(i, max_tokens=30)))[:2] for i in range(2)]
            answers = {}

            def batch(i):
                message = request(i, max_tokens=30, priority=inference.PRIORITY_BATCH)
                answers[i] = collect(service.stub.generate_stream(message, timeout=120))[:2]

            threads = [threading.Thread(target=batch, args=(i,)) for i in range(2)]
            for thread in threads:
                thread.start()
            time.sleep(8 * STEP_S)
            begin = time.monotonic()
            next(service.stub.generate_stream(request(9, max_tokens=2, priority=inference.PRIORITY_INTERACTIVE)))
            self.assertLess(time.monotonic() - begin, 10 * STEP_S)
            for thread in threads:
                thread.join()
            self.assertGreater(service.stub.info().load.preemption_total, 0)
            self.assertEqual([answers[0], answers[1]], alone)

    def test_tenants_take_turns(self):
        with cluster("--tenant-weights=heavy=2") as service:
            served = Served(service.stub)
            served.send("first", request(0))
            for tenant in ("flood", "light", "heavy"):
                for i in range(4):
                    served.send(tenant, request(len(served.calls), max_tokens=4, tenant=tenant))
            served.join()
            order = served.order[1:]
            self.assertEqual(sorted(order[:8]).count("heavy"), 4, order)
            self.assertEqual(order[:8].count("flood"), 2, order)
            self.assertEqual(order[:8].count("light"), 2, order)

    def test_tenants_that_come_and_go_pause_no_stream_for_long(self):
        with cluster("--max-num-seqs=4") as service:
            gaps = []

            def read(seed):
                last = None
                for _ in service.stub.generate_stream(request(seed, max_tokens=160, tenant="shop"), timeout=120):
                    now = time.monotonic()
                    gaps.append(now - (last or now))
                    last = now

            streams = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
            for stream in streams:
                stream.start()
            time.sleep(8 * STEP_S)
            served = Served(service.stub)
            begin = time.monotonic()
            while time.monotonic() - begin < 8:
                served.send("crowd", request(len(served.calls), max_tokens=20, tenant=f"crowd{len(served.calls)}"))
                time.sleep(2 * STEP_S)
            for stream in streams:
                stream.join()
            served.join()
            # Some gave way, for 2 s; without a limit one pauses for as long as the crowd comes.
            self.assertGreater(max(gaps), 0.5)
            self.assertLess(max(gaps), 5)

    def test_a_full_queue_has_room_for_another_tenant(self):
        with cluster("--max-num-queued-reqs=8") as service:
            # What is learnt from: completions have 20 tokens, a second each.
            for seed in range(3):
                collect(service.stub.generate_stream(request(seed)))
            served = Served(service.stub)
            for i in range(9):
                served.send("flood", request(i, max_tokens=100, tenant="flood"))
            time.sleep(0.3)
            with self.assertRaises(grpc.RpcError) as caught:
                next(service.stub.generate_stream(request(50, tenant="flood")))
            details = error_details(caught.exception)
            self.assertEqual(details["ErrorInfo"].reason, "QUEUE_FULL")
            # About as long as a completion takes.
            delay = details["RetryInfo"].retry_delay
            self.assertAlmostEqual(delay.seconds + delay.nanos / 1e9, 20 * STEP_S, delta=0.5)
            served.send("light", request(51, max_tokens=1, tenant="light"))
            time.sleep(0.2)
            self.assertEqual(service.stub.info().load.waiting_count, 9)
            served.cancel()

    def test_a_deadline_that_cannot_be_met_is_refused_at_once(self):
        with cluster() as service:
            for seed in range(3):
                collect(service.stub.generate_stream(request(seed)))
            served = Served(service.stub)
            for i in range(6):
                served.send("queued", request(i))
            begin = time.monotonic()
            with self.assertRaises(grpc.RpcError) as caught:
                next(service.stub.generate_stream(request(50), timeout=3))
            # Six completions of a second are before it.
            self.assertLess(time.monotonic() - begin, 1)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
            info = error_details(caught.exception)["ErrorInfo"]
            self.assertEqual(info.reason, "DEADLINE_IN_QUEUE")
            self.assertGreater(int(info.metadata["predictedWaitMs"]), 3000)
            self.assertLess(int(info.metadata["predictedWaitMs"]), 9000)
            # One that can be met is not.
            served.send("in time", request(51, max_tokens=1))
            served.join()
            self.assertIn("in time", served.order)

    def test_bad_values_are_named(self):
        with cluster() as service:
            for change, field in ((dict(tenant="a b"), "tenant"), (dict(tenant="x" * 65), "tenant"),
                                  (dict(priority=7), "priority"), (dict(n=0), "n"), (dict(n=17), "n")):
                message = request(1)
                for name, value in change.items():
                    setattr(message, name, value)
                with self.subTest(change=change), self.assertRaises(grpc.RpcError) as caught:
                    next(service.stub.generate_stream(message))
                violations = error_details(caught.exception)["BadRequest"].field_violations
                self.assertEqual([violation.field for violation in violations], [field])


if __name__ == "__main__":
    unittest.main(verbosity=2)
