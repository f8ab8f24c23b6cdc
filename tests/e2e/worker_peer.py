"""Workers and coordinators played by hand: the worker protocol from Python, so that a peer can say whatever it likes."""

import hashlib
import hmac
import os
import queue
import threading
from concurrent import futures

import grpc

from bora.worker.v1alpha1 import worker_service_pb2 as worker_pb

ATTACH = "/bora.worker.v1alpha1.WorkerService/Attach"


def proof(credential, role, coordinator_nonce, worker_nonce):
    text = b"bora worker stream v1" + role + coordinator_nonce + worker_nonce
    return hmac.new(credential.encode(), text, hashlib.sha256).digest()


def gate(credential):
    """The header that shows a coordinator that a worker has the credential."""
    nonce = os.urandom(32)
    return [("bora-gate-bin", nonce + proof(credential, b"G", b"", nonce))]


def read_credential(cluster):
    with open(cluster.credential) as file:
        return file.read().strip()


class WorkerPeer:
    """One stream to a coordinator's worker port. Messages are said one by one; the stream ends with `error`."""

    def __init__(self, port, credential=None, timeout=60):
        """With the credential's header, if there is one."""
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
        self.outgoing = queue.Queue()
        self.error = None
        self.call = self.channel.stream_stream(
            ATTACH,
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=worker_pb.CoordinatorMessage.FromString)(
                iter(self.outgoing.get, None), timeout=timeout, metadata=gate(credential) if credential else None)

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc, traceback):
        self.close()

    def close(self):
        self.call.cancel()
        self.outgoing.put(None)
        self.channel.close()

    def say(self, message=None, **fields):
        """A whole message or bytes, or the one field of a WorkerMessage."""
        self.outgoing.put(message if message is not None else worker_pb.WorkerMessage(**fields))

    def hear(self, field=None):
        """The next message, or the next with this field; None when the stream has ended."""
        try:
            for message in self.call:
                if field is None or message.HasField(field):
                    return message
        except grpc.RpcError as error:
            self.error = error
        return None

    def end(self):
        """Waits for the end of the stream and returns its error."""
        while self.hear() is not None:
            pass
        return self.error

    def challenge(self):
        message = self.hear("auth_challenge")
        return message and message.auth_challenge

    def authenticate(self, credential):
        """As a worker does; True when the coordinator has proved the credential too."""
        challenge = self.challenge()
        if challenge is None:
            return False
        nonce = os.urandom(32)
        self.say(auth_response=worker_pb.AuthResponse(
            nonce=nonce, has_credential=True, proof=proof(credential, b"W", challenge.nonce, nonce)))
        answer = self.hear("auth_confirmation")
        return answer is not None and answer.auth_confirmation.proof == proof(credential, b"C", challenge.nonce, nonce)


def make_hello(build_id, **fields):
    hello = worker_pb.Hello(**{**dict(build_id=build_id, host="peer", pid=1, device="cpu", collectives="host"), **fields})
    hello.endpoint.host_id, hello.endpoint.tcp_address = "peer", "127.0.0.1:1"
    return hello


def coordinator_build_id(cluster):
    """The coordinator's build, as it names it to a worker of another."""
    credential = read_credential(cluster)
    with WorkerPeer(cluster.worker_port, credential) as peer:
        assert peer.authenticate(credential)
        peer.say(hello=make_hello("another", host="other"))
        return peer.end().details().rsplit("coordinator is build ", 1)[1]


class FakeCoordinator:
    """Listens where a worker dials; the test takes the streams and says what it wants on them."""

    def __init__(self, credential):
        self.credential = credential
        self.streams = queue.Queue()

        def attach(messages, context):
            stream = CoordinatorStream(messages, context)
            self.streams.put(stream)
            yield from iter(stream.outgoing.get, None)

        handler = grpc.method_handlers_generic_handler("bora.worker.v1alpha1.WorkerService", {
            "Attach": grpc.stream_stream_rpc_method_handler(
                attach, request_deserializer=worker_pb.WorkerMessage.FromString,
                response_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString())})
        self.server = grpc.server(futures.ThreadPoolExecutor(16))
        self.server.add_generic_rpc_handlers((handler,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def stop(self):
        self.server.stop(None)

    def next_stream(self, timeout=30):
        return self.streams.get(timeout=timeout)

    def welcome(self, timeout=30):
        """The next stream after both sides have proved themselves and the worker was welcomed; with its hello."""
        stream = self.next_stream(timeout)
        response, nonce = stream.challenge()
        assert response.proof == proof(self.credential, b"W", nonce, response.nonce)
        stream.say(auth_confirmation=worker_pb.AuthConfirmation(
            proof=proof(self.credential, b"C", nonce, response.nonce)))
        stream.hello = stream.hear("hello").hello
        stream.say(welcome=worker_pb.Welcome(worker_id=1, heartbeat_interval_ms=500, heartbeat_timeout_ms=60000))
        return stream


class CoordinatorStream:
    """The coordinator's end of one stream of FakeCoordinator."""

    def __init__(self, messages, context):
        self.messages, self.context = messages, context
        self.outgoing = queue.Queue()
        self.ended = threading.Event()
        context.add_callback(lambda: (self.ended.set(), self.outgoing.put(None)))

    def say(self, message=None, **fields):
        self.outgoing.put(message if message is not None else worker_pb.CoordinatorMessage(**fields))

    def hear(self, field):
        """The next message with this field; None when the stream has ended."""
        try:
            for message in self.messages:
                if message.HasField(field):
                    return message
        except Exception:  # grpcio says that a stream was cancelled by one of several types
            pass
        return None

    def challenge(self, has_credential=True):
        """Challenges the worker; its response and the nonce."""
        nonce = os.urandom(32)
        self.say(auth_challenge=worker_pb.AuthChallenge(nonce=nonce, has_credential=has_credential))
        return self.hear("auth_response").auth_response, nonce
