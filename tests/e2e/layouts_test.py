"""How the model is split over processes changes nothing that a client sees, and what does not fit is refused by name.

Every number of stages gives the same bytes, since layers are computed the same way wherever they run, and so do 1, 2, 4
and 8 tensor ranks, since they add along one tree.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

import grpc

from bora_e2e import Cluster, binary, wait_until, write_credential
from bora.worker.v1alpha1 import worker_service_pb2 as worker_pb
from parallel_util import answer_bytes, small_checkpoint
from worker_peer import WorkerPeer, make_hello, read_credential

# One thread per rank: there are up to 16 on a small machine, and the thread count must not matter anyway.
ONE_THREAD = ["--threads=1"]


def serve(model, tp, pp, *coordinator_flags):
    return Cluster(model=model, tp=tp, pp=pp, coordinator_flags=coordinator_flags, worker_flags=ONE_THREAD,
                   start_timeout_s=120)


class LayoutTestCase(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix="bora-layouts-")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.f32 = small_checkpoint(os.path.join(cls.directory, "f32"))

    def path(self, name):
        return os.path.join(self.directory, name)

    def answers(self, model, tp, pp, *coordinator_flags):
        with serve(model, tp, pp, *coordinator_flags) as cluster:
            answers = answer_bytes(cluster.stub)
            self.assertEqual(answer_bytes(cluster.stub), answers, f"{tp}x{pp} does not repeat itself")
            return answers


class LayoutsTest(LayoutTestCase):

    def check_stages(self, model, tp, pps, *coordinator_flags):
        whole = self.answers(model, tp, 1, *coordinator_flags)
        for pp in pps:
            with self.subTest(tp=tp, pp=pp):
                self.assertEqual(self.answers(model, tp, pp, *coordinator_flags), whole)
        return whole

    def test_tp1_same_bytes_for_every_number_of_stages(self):
        whole = self.check_stages(self.f32, 1, [2, 4])
        self.assertEqual(self.answers(self.f32, 1, 2, "--layers-per-stage=1,5"), whole, "uneven stages")
        self.assertEqual(self.answers(self.f32, 1, 3, "--layers-per-stage=3,1,2"), whole, "uneven stages")

    def test_tensor_ranks_change_no_byte(self):
        whole = self.answers(self.f32, 1, 1)
        self.assertEqual(self.check_stages(self.f32, 2, [2, 4]), whole, "2 tensor ranks")
        self.assertEqual(self.answers(self.f32, 2, 2, "--layers-per-stage=4,2"), whole, "uneven stages")
        self.assertEqual(self.check_stages(self.f32, 4, [2, 4]), whole, "4 tensor ranks")
        self.assertEqual(self.answers(self.f32, 8, 1), whole, "8 tensor ranks, two for each of 4 KV heads")

    def test_tensor_ranks_change_no_byte_of_bf16_and_int8(self):
        bf16 = small_checkpoint(self.path("bf16"), dtype="bf16")
        for flags in [(), ("--quantization=int8",)]:
            with self.subTest(flags=flags):
                whole = self.check_stages(bf16, 1, [2], *flags)
                self.assertEqual(self.check_stages(bf16, 2, [2], *flags), whole)

    def test_float16_weights_give_the_bytes_of_the_same_weights_as_floats(self):
        f16 = small_checkpoint(self.path("f16"), dtype="f16")
        whole = self.answers(f16, 1, 1)
        self.assertEqual(self.answers(f16, 2, 2), whole, "2 tensor ranks, 2 stages")
        self.assertEqual(self.answers(f16, 4, 1), whole, "4 tensor ranks")
        self.assertEqual(self.answers(f16, 1, 1, "--dtype=float32"), whole, "float32")
        self.assertNotEqual(self.answers(f16, 1, 1, "--dtype=bfloat16"), whole, "bfloat16 rounds them")

    def test_dummy_weights_depend_on_the_seed_only(self):
        dummy = ["--load-format=dummy", "--dtype=float32"]
        whole = self.check_stages(self.f32, 1, [2, 3], *dummy, "--seed=5")
        self.assertNotEqual(self.answers(self.f32, 1, 2, *dummy, "--seed=6"), whole)

    def test_mistral_files_give_the_same_bytes_as_hugging_face_files(self):
        mistral = small_checkpoint(self.path("mistral"), layout="mistral")
        self.assertTrue(os.path.exists(os.path.join(mistral, "params.json")))
        self.assertEqual(self.answers(mistral, 2, 2), self.answers(self.f32, 2, 2))


class RefusedLayoutsTest(LayoutTestCase):

    def refusal(self, model, *flags):
        """The lines of a coordinator that must exit with code 2."""
        done = subprocess.run([binary("bora-coordinator"), f"--model={model}", "--listen=127.0.0.1:0",
                               "--worker-listen=127.0.0.1:0", *flags], capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 2, done.stderr)
        return done.stderr.splitlines()

    def check_refusal(self, flags, message, model=None):
        self.assertIn("bora-coordinator: " + message, self.refusal(model or self.f32, *flags))

    def test_tensor_ranks_must_divide_the_heads(self):
        self.check_refusal(["--tensor-parallel-size=3"], "tensor parallel size 3 does not divide n_heads 8")
        six = small_checkpoint(self.path("six"), n_heads=12, n_kv_heads=6)
        self.check_refusal(["--tensor-parallel-size=4"],
                           "tensor parallel size 4 and n_kv_heads 6: neither divides the other", model=six)

    def test_stages_must_have_layers(self):
        self.check_refusal(["--pipeline-parallel-size=7"],
                           "pipeline parallel size is 7, must be in [1, 6], the number of layers")

    def test_layers_per_stage_must_add_up(self):
        two = "--pipeline-parallel-size=2"
        self.check_refusal([two, "--layers-per-stage=3,4"], "layers per stage 3,4 add up to 7, the model has 6")
        self.check_refusal([two, "--layers-per-stage=6"], "layers per stage 6 names 1 stages, there are 2")
        self.check_refusal([two, "--layers-per-stage=6,0"], "--layers-per-stage=6,0: '0': must be in [1, 2147483647]")
        self.check_refusal([two, "--layers-per-stage=3,x"], "--layers-per-stage=3,x: 'x': \"x\" is not a whole number")


class RefusedWorkersTest(LayoutTestCase):
    """Strangers at the worker port, while the right workers serve."""

    def setUp(self):
        self.cluster = serve(self.f32, 1, 2)
        self.cluster.__enter__()
        self.addCleanup(self.cluster.__exit__, None, None, None)
        self.credential = read_credential(self.cluster)
        self.answers_before = answer_bytes(self.cluster.stub)
        self.epoch = self.cluster.stub.info().epoch

    def check_unharmed(self):
        self.assertTrue(self.cluster.serving())
        self.assertEqual(self.cluster.stub.info().epoch, self.epoch)
        self.assertEqual(answer_bytes(self.cluster.stub), self.answers_before)

    def attach(self, *messages, credential=None):
        """Authenticates, sends the messages as a worker would and returns the error that ends the stream."""
        credential = credential or self.credential
        with WorkerPeer(self.cluster.worker_port, credential, timeout=30) as peer:
            if peer.authenticate(credential):
                for message in messages:
                    peer.say(message)
            return peer.error or peer.end()

    def hello(self, **fields):
        return worker_pb.WorkerMessage(hello=make_hello("a build of another day", host="elsewhere", **fields))

    def test_worker_with_another_credential_exits_with_3(self):
        wrong = os.path.join(self.cluster.directory, "wrong")
        write_credential(wrong, "not the credential")
        worker = self.cluster.start_worker(credential=wrong)
        self.assertEqual(worker.wait(20), 3)
        self.assertIn("worker credential is wrong", worker.log_field("refused by the coordinator", "reason"))
        self.assertNotIn("not the credential", self.cluster.coordinator.log())
        self.check_unharmed()

    def test_strangers_are_refused_by_name(self):
        refused = self.attach(self.hello())
        self.assertEqual(refused.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertIn("worker on elsewhere is build a build of another day, coordinator is build ", refused.details())

        refused = self.attach(self.hello(), credential="guess")
        self.assertEqual(refused.code(), grpc.StatusCode.UNAUTHENTICATED)
        self.assertEqual(refused.details(), "worker credential is wrong")

        result = worker_pb.WorkerMessage(step_result=worker_pb.StepResult(epoch=self.epoch, step_id=1))
        refused = self.attach(result)
        self.assertEqual(refused.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertIn("must be hello", refused.details())

        refused = self.attach(worker_pb.WorkerMessage())
        self.assertEqual(refused.code(), grpc.StatusCode.INVALID_ARGUMENT)

        refused = self.attach(b"\xff\xff\xff\xff not a message")
        self.assertEqual(refused.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.check_unharmed()

    def test_silence_and_garbage_end_by_themselves(self):
        n_fds = self.cluster.coordinator.n_fds()
        garbage = socket.create_connection(("127.0.0.1", self.cluster.worker_port))
        garbage.sendall(os.urandom(4096))
        silent = socket.create_connection(("127.0.0.1", self.cluster.worker_port))
        self.addCleanup(garbage.close)
        self.addCleanup(silent.close)

        begin = time.monotonic()
        refused = self.attach()
        waited_s = time.monotonic() - begin
        self.assertEqual(refused.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertEqual(refused.details(), "no hello within 5 s")
        self.assertTrue(4.5 < waited_s < 10, waited_s)
        # Neither socket was closed from this side.
        wait_until(lambda: self.cluster.coordinator.n_fds() <= n_fds, 10, "the coordinator closed both connections")
        self.check_unharmed()

    def test_worker_with_another_checkpoint_is_refused_by_name(self):
        model = self.path("swapped")
        other = small_checkpoint(self.path("other"), seed=2)
        shutil.copytree(self.f32, model)
        with Cluster(model=model, tp=1, pp=2, worker_flags=ONE_THREAD, start_workers=False) as cluster:
            cluster.start_worker()
            wait_until(lambda: cluster.workers[0].log_field("weights loaded", "bytes"), 30, "the first worker loaded")
            os.rename(model, model + ".right")
            os.rename(other, model)
            refused = cluster.start_worker()
            self.assertEqual(refused.wait(20), 3)
            reason = refused.log_field("refused by the coordinator", "reason")
            self.assertRegex(reason, r"has checkpoint [0-9a-f]+, the group has [0-9a-f]+")
            self.assertIn(reason, cluster.coordinator.log())
            self.assertFalse(cluster.serving())
            os.rename(model, other)
            os.rename(model + ".right", model)
            cluster.start_worker()
            cluster.wait_serving()
            self.assertEqual(answer_bytes(cluster.stub), self.answers_before)


if __name__ == "__main__":
    unittest.main(verbosity=2)
