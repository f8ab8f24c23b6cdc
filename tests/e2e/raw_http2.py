"""An HTTP/2 client that sends what it is told, also what no well-made client sends.

Headers are literals that nothing indexes, so that a stream's headers never depend on another's. What the server's headers
say is not decoded; data, ends and resets of streams, and GOAWAY, are.
"""

import socket
import struct
import threading
import time

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def hpack_length(n):
    """An integer of 7 bits and what does not fit them (RFC 7541, 5.1)."""
    if n < 127:
        return bytes([n])
    out, n = [127], n - 127
    while n >= 128:
        out.append(n % 128 + 128)
        n //= 128
    return bytes(out + [n])


def hpack(headers):
    return b"".join(b"\0" + hpack_length(len(name)) + name + hpack_length(len(value)) + value
                    for name, value in headers)


def call_headers(call_path, **changes):
    """The headers of a gRPC call; `changes` by name with _ for - replaces, adds, or with None leaves out."""
    headers = {b":method": b"POST", b":scheme": b"http", b":path": call_path.encode(), b":authority": b"test",
               b"te": b"trailers", b"content-type": b"application/grpc"}
    for name, value in changes.items():
        name = name.encode().replace(b"_", b"-")
        name = b":" + name if name in (b"method", b"scheme", b"path", b"authority") else name
        headers[name] = value
    return [(name, value) for name, value in headers.items() if value is not None]


def grpc_frame(message, compressed=0):
    return struct.pack(">BI", compressed, len(message)) + message


class Stream:

    def __init__(self):
        self.data, self.ended, self.reset = b"", False, None

    def messages(self):
        """The whole messages that have come, as bytes."""
        out, at = [], 0
        while at + 5 <= len(self.data):
            n = struct.unpack(">I", self.data[at + 1:at + 5])[0]
            if at + 5 + n > len(self.data):
                break
            out.append(self.data[at + 5:at + 5 + n])
            at += 5 + n
        return out


class Connection:

    def __init__(self, port, window=(1 << 31) - 1):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.streams, self.goaway, self.closed, self.next_id = {}, None, False, 1
        self.changed = threading.Condition()
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, 0, 0, struct.pack(">HI", 4, window))
        self.send(WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 1 - 65535))
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the server was quicker
        self.reader.join()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def send(self, kind, flags, stream_id, payload=b""):
        try:
            self.socket.sendall(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) +
                                struct.pack(">I", stream_id) + payload)
        except OSError:
            pass  # the reader notices

    def open(self, headers, end_stream=False, frame_bytes=16384):
        """A new stream with these headers, in as many frames as they need; its id."""
        stream_id, self.next_id = self.next_id, self.next_id + 2
        self.streams[stream_id] = Stream()
        block = hpack(headers) if isinstance(headers, list) else headers
        pieces = [block[i:i + frame_bytes] for i in range(0, len(block), frame_bytes)]
        for i, piece in enumerate(pieces):
            flags = (END_HEADERS if i + 1 == len(pieces) else 0) | (END_STREAM if end_stream and i == 0 else 0)
            self.send(HEADERS if i == 0 else CONTINUATION, flags, stream_id, piece)
        return stream_id

    def call(self, call_path, message, compressed=0, **changes):
        """A call with one message of less than a frame; its stream's id."""
        stream_id = self.open(call_headers(call_path, **changes))
        self.send(DATA, END_STREAM, stream_id, grpc_frame(message, compressed))
        return stream_id

    def reset(self, stream_id, code=8):
        self.send(RST_STREAM, 0, stream_id, struct.pack(">I", code))

    def wait(self, condition, timeout_s=60):
        """Until condition() holds or the connection is gone; says whether it holds."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while not condition():
                if self.closed or time.monotonic() > deadline:
                    return condition()
                self.changed.wait(0.5)
        return True

    def wait_end(self, stream_id, timeout_s=60):
        stream = self.streams[stream_id]
        return self.wait(lambda: stream.ended or stream.reset is not None, timeout_s)

    def read_exactly(self, n):
        out = b""
        while len(out) < n:
            piece = self.socket.recv(n - len(out))
            if not piece:
                raise OSError("closed")
            out += piece
        return out

    def read(self):
        try:
            while True:
                head = self.read_exactly(9)
                n = struct.unpack(">I", b"\0" + head[:3])[0]
                kind, flags, stream_id = head[3], head[4], struct.unpack(">I", head[5:])[0]
                payload = self.read_exactly(n)
                if kind in (SETTINGS, PING) and not flags & ACK:
                    self.send(kind, ACK, 0, payload if kind == PING else b"")
                with self.changed:
                    self.take(kind, flags, stream_id, payload)
                    self.changed.notify_all()
        except OSError:
            with self.changed:
                self.closed = True
                self.changed.notify_all()

    def take(self, kind, flags, stream_id, payload):
        stream = self.streams.get(stream_id, Stream())
        if kind == DATA:
            stream.data += payload
        if kind == RST_STREAM:
            stream.reset = struct.unpack(">I", payload)[0]
        if kind == GOAWAY:
            self.goaway = (struct.unpack(">I", payload[4:8])[0], payload[8:])
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            stream.ended = True
