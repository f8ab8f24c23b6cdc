"""Peers that lie, flood or keep silent: on the coordinator's worker port while a client's stream goes on, and in the
coordinator's place towards a worker. Whoever lies is closed with the reason; nobody else notices."""

import json
import os
import shutil
import tempfile
import time
import unittest

import grpc

from bora_e2e import Cluster, Process, binary, wait_until, write_credential
from bora.inference.v1 import model_service_pb2 as model_service
from bora.worker.v1alpha1 import worker_service_pb2 as worker_pb
from parallel_util import OpenStream, answer_bytes, small_checkpoint
from worker_peer import FakeCoordinator, WorkerPeer, coordinator_build_id, make_hello, proof, read_credential

ONE_THREAD = ["--threads=1"]


class HostileWorkersTest(unittest.TestCase):
    """One group, one open stream; every test is one kind of stranger or liar, and the stream goes on."""

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix="bora-hostile-")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.cluster = Cluster(model=small_checkpoint(os.path.join(cls.directory, "model")), tp=1, pp=2,
                              worker_flags=ONE_THREAD)
        cls.cluster.__enter__()
        cls.addClassCleanup(cls.cluster.__exit__, None, None, None)
        cls.credential = read_credential(cls.cluster)
        cls.build_id = coordinator_build_id(cls.cluster)
        cls.answers = answer_bytes(cls.cluster.stub)
        cls.epoch = cls.cluster.stub.info().epoch

    def setUp(self):
        self.stream = OpenStream(self.cluster.stub, text="Once", max_tokens=400, ignore_eos=True, seed=1)
        wait_until(lambda: self.stream.n_tokens > 0, 30, "first token")

    def tearDown(self):
        self.stream.join(60)
        self.assertEqual((self.stream.code, self.stream.n_tokens), ("OK", 400), self.stream.message)
        self.assertTrue(self.cluster.coordinator.alive())
        self.assertTrue(self.cluster.serving())
        self.assertEqual(self.cluster.stub.info().epoch, self.epoch)
        self.assertEqual(answer_bytes(self.cluster.stub), self.answers)
        wait_until(lambda: len(self.cluster.stub.info().workers) == 2, 10, "the strangers are gone")

    def peer(self, stranger=False):
        peer = WorkerPeer(self.cluster.worker_port, None if stranger else self.credential)
        self.addCleanup(peer.close)
        return peer

    def spare(self, **fields):
        """A worker of this build that has the credential."""
        peer = self.peer()
        self.assertTrue(peer.authenticate(self.credential))
        peer.say(hello=make_hello(self.build_id, **fields))
        self.assertIsNotNone(peer.hear("welcome"))
        return peer

    def check_end(self, peer, code, text):
        error = peer.end()
        self.assertEqual(error.code(), code, error.details())
        self.assertIn(text, error.details())

    def test_silent_streams_keep_no_worker_out(self):
        silent = [self.peer() for _ in range(64)]
        for peer in silent:
            self.assertIsNotNone(peer.challenge())
        begin = time.monotonic()
        spare = self.spare(host="late")
        took_s = time.monotonic() - begin
        print(f"64 silent streams: a worker is in after {took_s:.2f} s")
        self.assertLess(took_s, 3)  # silence alone lasts 5 s
        self.check_end(silent[0], grpc.StatusCode.RESOURCE_EXHAUSTED, "have not authenticated")
        spare.close()

    def test_replayed_and_reflected_proofs(self):
        nonce = os.urandom(32)
        first = self.peer()
        challenge = first.challenge()
        replay = worker_pb.AuthResponse(nonce=nonce, has_credential=True,
                                        proof=proof(self.credential, b"W", challenge.nonce, nonce))
        first.say(auth_response=replay)
        confirmation = first.hear("auth_confirmation").auth_confirmation
        second = self.peer()
        second.challenge()
        second.say(auth_response=replay)
        self.check_end(second, grpc.StatusCode.UNAUTHENTICATED, "worker credential is wrong")
        third = self.peer()
        third.challenge()
        third.say(auth_response=worker_pb.AuthResponse(nonce=nonce, has_credential=True, proof=confirmation.proof))
        self.check_end(third, grpc.StatusCode.UNAUTHENTICATED, "worker credential is wrong")
        absent = self.peer()
        absent.challenge()
        absent.say(auth_response=worker_pb.AuthResponse(nonce=nonce))
        self.check_end(absent, grpc.StatusCode.UNAUTHENTICATED, "worker credential is absent")
        self.check_end(self.peer(stranger=True), grpc.StatusCode.UNAUTHENTICATED, "worker credential is absent")
        self.assertNotIn(self.credential, self.cluster.coordinator.log())

    def test_large_first_messages(self):
        rss = self.cluster.coordinator.rss_bytes()
        large = self.peer()
        large.say(hello=make_hello("x" * (70 << 10)))
        self.check_end(large, grpc.StatusCode.INVALID_ARGUMENT, "at most 65536 bytes")
        # Whoever does not have the credential is not read at all, and gRPC does not gather what it sends.
        peak = self.cluster.coordinator.rss_bytes()
        for _ in range(16):
            huge = WorkerPeer(self.cluster.worker_port)
            huge.say(b"x" * (60 << 20))
            self.check_end(huge, grpc.StatusCode.UNAUTHENTICATED, "worker credential is absent")
            peak = max(peak, self.cluster.coordinator.rss_bytes())
            huge.close()
        print(f"16 messages of 60 MiB: the coordinator grew by {(peak - rss) >> 20} MiB")
        self.assertLess(peak - rss, 32 << 20)
        self.assertLess(len(self.cluster.coordinator.log()), 1 << 20)

    def test_flood(self):
        spare = self.spare(host="flood")
        for _ in range(20000):
            spare.say(heartbeat=worker_pb.Heartbeat())
        # Heard or closed, others do not notice.
        time.sleep(0.5)
        spare.close()

    def test_texts_of_ten_megabytes(self):
        log_bytes = len(self.cluster.coordinator.log())
        spare = self.spare(host="h" * 60000, device="\x1b[2J\n")
        wait_until(lambda: len(self.cluster.stub.info().workers) == 3, 10, "the spare is seen")
        worker = next(w for w in self.cluster.stub.info().workers if w.host.startswith("hhh"))
        self.assertLessEqual(len(worker.host.encode()), 128)
        self.assertEqual(worker.device, "\\x1b[2J\\x0a")
        spare.say(step_failed=worker_pb.StepFailed(epoch=self.epoch, status_code=13, error="e" * 100_000))
        spare.say(step_failed=worker_pb.StepFailed(epoch=self.epoch, status_code=13, error="e" * (10 << 20)))
        self.assertEqual(spare.end().code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertLess(len(self.cluster.coordinator.log()) - log_bytes, 20000)

    def test_lying_numbers(self):
        load = worker_pb.LoadedModel(fingerprint="f", weight_bytes=1, kv_block_bytes=1024, max_blocks=100)
        for field, value in (("max_blocks", -(2**59 + 1)), ("max_blocks", 2**62), ("weight_bytes", -1),
                             ("kv_block_bytes", 0), ("kv_block_bytes", 2**62)):
            with self.subTest(field=field, value=value):
                spare = self.spare(host="liar")
                lie = worker_pb.LoadedModel()
                lie.CopyFrom(load)
                setattr(lie, field, value)
                spare.say(load_result=worker_pb.LoadResult(loaded=lie))
                self.check_end(spare, grpc.StatusCode.INVALID_ARGUMENT, field)

    def test_result_of_a_spare(self):
        spare = self.spare(host="spare")
        spare.say(step_result=worker_pb.StepResult(epoch=self.epoch, step_id=0))
        self.check_end(spare, grpc.StatusCode.INVALID_ARGUMENT, "a step result that this worker does not owe")

    def test_seven_million_alternatives(self):
        sampled = worker_pb.SampledTokens(slot=[0], position=[1], token_id_plus_1=[1], logprob=[0], rank=[1],
                                          non_finite=[False], top_count=[7_000_000], top_token_id=[1] * 7_000_000,
                                          top_logprob=[0] * 7_000_000)
        result = worker_pb.WorkerMessage(step_result=worker_pb.StepResult(epoch=self.epoch, sampled=sampled))
        result = result.SerializeToString()
        spare = self.spare(host="spare")
        spare.say(result)
        self.assertIn(spare.end().code(), (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED))

    def test_wrong_ports(self):
        worker = self.cluster.start_worker(port=self.cluster.port)
        wait_until(lambda: worker.log_field("no coordinator", "reason"), 20, "the worker was told")
        self.assertIn("workers dial its worker port", worker.log_field("no coordinator", "reason"))
        self.assertIn("client port", self.cluster.coordinator.log())
        worker.kill()
        with grpc.insecure_channel(f"127.0.0.1:{self.cluster.worker_port}") as channel:
            call = channel.unary_unary("/bora.inference.v1.ModelService/ListModels",
                                       request_serializer=lambda m: m.SerializeToString())
            with self.assertRaises(grpc.RpcError) as raised:
                call(model_service.ListModelsRequest(), timeout=10)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
        self.assertIn("clients dial its client port", raised.exception.details())


class HostileCoordinatorTest(unittest.TestCase):
    """A worker lives through whatever a coordinator says, and answers with the reason."""

    CREDENTIAL = "the credential of a hostile test"

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.mkdtemp(prefix="bora-hostile-")
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.model = small_checkpoint(os.path.join(cls.directory, "model"))
        with open(os.path.join(cls.model, "config.json")) as file:
            cls.config = json.load(file)
        cls.credential_file = os.path.join(cls.directory, "credential")
        write_credential(cls.credential_file, cls.CREDENTIAL)

    def setUp(self):
        self.coordinator = FakeCoordinator(self.CREDENTIAL)
        self.addCleanup(self.coordinator.stop)

    def start_worker(self, device="cpu"):
        log = os.path.join(self.directory, f"{self._testMethodName}.log")
        worker = Process("worker", [binary("bora-worker"), f"--coordinator=127.0.0.1:{self.coordinator.port}",
                                    f"--credential-file={self.credential_file}", f"--device={device}", *ONE_THREAD], log)
        self.addCleanup(worker.kill)
        return worker

    def load_model(self, **fields):
        return worker_pb.LoadModel(**{**dict(
            model_path=self.model, dtype="float32", tensor_parallel_size=1, layers_per_stage=[self.config["num_hidden_layers"]],
            max_model_len=64, max_num_seqs=4, max_num_batched_tokens=32), **fields})

    def test_worker_tells_nothing_to_who_does_not_have_the_credential(self):
        worker = self.start_worker()
        stream = self.coordinator.next_stream()
        response, nonce = stream.challenge()
        self.assertEqual(response.proof, proof(self.CREDENTIAL, b"W", nonce, response.nonce))
        stream.say(auth_confirmation=worker_pb.AuthConfirmation(proof=response.proof))
        self.assertIsNone(stream.hear("hello"))
        self.assertEqual(worker.wait(20), 3)
        self.assertIn("did not prove", worker.log_field("refused by the coordinator", "reason"))

    def test_worker_proves_nothing_to_who_says_to_have_none(self):
        worker = self.start_worker()
        stream = self.coordinator.next_stream()
        response, _ = stream.challenge(has_credential=False)
        self.assertEqual(response.proof, b"")
        stream.say(auth_confirmation=worker_pb.AuthConfirmation())
        self.assertIsNone(stream.hear("hello"))
        self.assertEqual(worker.wait(20), 3)

    def test_loads_and_groups_that_cannot_be(self):
        for device in ("cpu", "sim"):
            worker = self.start_worker(device)
            stream = self.coordinator.welcome()
            # Before anything is loaded.
            stream.say(step_plan=worker_pb.StepPlan(epoch=0))
            stream.say(join_group=worker_pb.JoinGroup(epoch=1, timeout_ms=1000))
            self.assertIn("no weights", stream.hear("join_result").join_result.error)
            for fields, text in ((dict(model_path="/etc"), "/etc"),
                                 (dict(model_path=""), ""),
                                 (dict(model_path="/dev/zero"), "/dev/zero"),
                                 (dict(model_path=self.model + "\n\x1b"), "\\x0a"),
                                 (dict(stage=-1), "stage -1"),
                                 (dict(stage=1), "stage 1"),
                                 (dict(tensor_rank=2**31 - 1), "tensor rank 2147483647"),
                                 (dict(tensor_parallel_size=0), "tensor parallel size is 0"),
                                 (dict(tensor_parallel_size=-2**31), "tensor parallel size is -2147483648"),
                                 (dict(layers_per_stage=[]), ""),
                                 (dict(layers_per_stage=[2**31 - 1, 2**31 - 1]), "layers per stage"),
                                 (dict(dtype="float1"), "float1"),
                                 (dict(max_model_len=-1), "max_model_len"),
                                 (dict(max_num_batched_tokens=2**31 - 1), "max_num_batched_tokens"),
                                 (dict(max_num_seqs=2**31 - 1), "max_num_seqs")):
                with self.subTest(device=device, fields=fields):
                    stream.say(load_model=self.load_model(**fields))
                    result = stream.hear("load_result").load_result
                    self.assertNotEqual(result.status_code, 0)
                    self.assertIn(text, result.error)
                    self.assertLessEqual(len(result.error.encode()), 1024)
            stream.say(load_model=self.load_model())
            result = stream.hear("load_result").load_result
            self.assertEqual(result.status_code, 0, result.error)
            limits = dict(max_num_seqs=4, max_num_batched_tokens=32, max_model_len=64, block_size=16, n_blocks=16,
                          vocab_size=self.config["vocab_size"])
            epoch = 1
            for fields in (dict(n_blocks=2**31 - 1), dict(n_blocks=-1), dict(max_num_seqs=65536),
                           dict(max_num_batched_tokens=1 << 20), dict(max_model_len=1 << 24), dict(block_size=0),
                           dict(block_size=-16), dict(vocab_size=0), dict(vocab_size=self.config["vocab_size"] + 1), dict(timeout_ms=0), dict(timeout_ms=-2**31),
                           dict(n_ranks=0), dict(n_ranks=2), dict(n_ranks=65536)):
                with self.subTest(device=device, fields=fields):
                    epoch += 1
                    group = {**limits, **fields}
                    timeout_ms, n_ranks = group.pop("timeout_ms", 1000), group.pop("n_ranks", 1)
                    join = worker_pb.JoinGroup(epoch=epoch, secret=b"s" * 32, timeout_ms=timeout_ms,
                                               ranks=[worker_pb.RankEndpoint(host_id="h", tcp_address="no:address")] * n_ranks,
                                               limits=worker_pb.GroupLimits(**group))
                    stream.say(join_group=join)
                    result = stream.hear("join_result").join_result
                    self.assertEqual(result.epoch, epoch)
                    self.assertNotEqual(result.status_code, 0)
                    self.assertNotEqual(result.error, "")
            # It lives, and does what makes sense.
            epoch += 1
            stream.say(join_group=worker_pb.JoinGroup(epoch=epoch, secret=b"s" * 32, timeout_ms=1000,
                                                      ranks=[worker_pb.RankEndpoint()],
                                                      limits=worker_pb.GroupLimits(**limits)))
            result = stream.hear("join_result").join_result
            self.assertEqual((result.epoch, result.status_code), (epoch, 0), result.error)
            stream.say(step_plan=worker_pb.StepPlan(epoch=epoch, rows=[3, -5, 2**31 - 1, 2], tokens=[1]))
            stream.say(leave_group=worker_pb.LeaveGroup(epoch=2**63 - 1))
            stream.ended.wait(10)
            self.assertTrue(worker.alive())
            # What cannot be read ends the stream, not the worker.
            self.coordinator.welcome()
            worker.kill()


if __name__ == "__main__":
    unittest.main(verbosity=2)
