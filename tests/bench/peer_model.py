#!/usr/bin/python3
"""Writes models of random weights as GGUF files, the format of the CPU peer, from the public format description:

  header    "GGUF", version 3, numbers of tensors and of metadata entries
  metadata  key, type, value; here what a decoder of the family "llama" needs, and a vocabulary
  tensors   name, dimensions (innermost first), type, offset; then the data, each tensor at a multiple of 32 bytes

Matrices are bf16 or q8_0 (blocks of 32: a half-precision scale, then 32 signed bytes), vectors are floats. What the weights
are does not matter to speed, as long as they are finite and not denormal: rows are stretches of one random pool per width.

  peer_model.py --shape 1b --dtype bf16 --output FILE
"""

import argparse
import dataclasses
import math
import struct

import numpy


@dataclasses.dataclass(frozen=True)
class Shape:
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int = 65536
    rope_theta: float = 1e6
    norm_eps: float = 1e-5

    def n_matrix_parameters(self):
        """Of the layers: what every token is multiplied with."""
        attention = 2 * self.dim * self.head_dim * (self.n_heads + self.n_kv_heads)
        return self.n_layers * (attention + 3 * self.dim * self.hidden_dim)

    def n_decode_parameters(self):
        """Read once in a decode step, whatever the batch: layers and head."""
        return self.n_matrix_parameters() + self.dim * self.vocab_size

    def kv_elements_per_token(self):
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim


# The same as in engine_bench.cc.
SHAPES = {
    "1b": Shape(2048, 5632, 22, 32, 8, 64, 32000),
    "7b": Shape(4096, 14336, 32, 32, 8, 128, 32000),
    "tiny64": Shape(128, 384, 32, 2, 1, 64, 512),
    "tiny": Shape(128, 384, 32, 8, 2, 16, 512),
    "demo": Shape(128, 256, 32, 8, 2, 16, 1024),
}

ALIGNMENT = 32
UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9  # types of metadata values
INT32 = 5
TENSOR_TYPES = {"f32": 0, "q8_0": 8, "bf16": 30}
Q8_BLOCK = 32
Q8_BLOCK_BYTES = 2 + Q8_BLOCK
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # types of tokens
POOL_ELEMENTS = 1 << 22


def tensor_bytes(n_elements, dtype):
    if dtype == "q8_0":
        return n_elements // Q8_BLOCK * Q8_BLOCK_BYTES
    return n_elements * (4 if dtype == "f32" else 2)


def align(n):
    return (n + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def packed_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def packed_value(value):
    """Type and value: bool is not used, int is uint32, list is of one type."""
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + packed_string(value)
    head = struct.pack("<I", ARRAY)
    if isinstance(value[0], str):
        return head + struct.pack("<IQ", STRING, len(value)) + b"".join(packed_string(v) for v in value)
    code, item = ("f", FLOAT32) if isinstance(value[0], float) else ("i", INT32)
    return head + struct.pack("<IQ", item, len(value)) + struct.pack(f"<{len(value)}{code}", *value)


def vocabulary(vocab_size):
    """Tokens, scores and types. Bytes are normal text, so that every token prints at once and no stream waits for the rest of
    a character."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += [f"t{i}" for i in range(len(tokens), vocab_size)]
    types = [UNKNOWN, CONTROL, CONTROL] + [NORMAL] * (vocab_size - 3)
    return tokens, [-float(i) for i in range(vocab_size)], types


def metadata(name, shape):
    tokens, scores, types = vocabulary(shape.vocab_size)
    return {
        "general.architecture": "llama",
        "general.name": name,
        "llama.context_length": shape.max_position,
        "llama.embedding_length": shape.dim,
        "llama.block_count": shape.n_layers,
        "llama.feed_forward_length": shape.hidden_dim,
        "llama.attention.head_count": shape.n_heads,
        "llama.attention.head_count_kv": shape.n_kv_heads,
        "llama.attention.key_length": shape.head_dim,
        "llama.attention.value_length": shape.head_dim,
        "llama.attention.layer_norm_rms_epsilon": shape.norm_eps,
        "llama.rope.dimension_count": shape.head_dim,
        "llama.rope.freq_base": shape.rope_theta,
        "llama.vocab_size": shape.vocab_size,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def tensors(shape):
    """(name, rows, columns) in the order of the forward pass; rows = 0 is a vector."""
    query, kv = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    yield "token_embd.weight", shape.vocab_size, shape.dim
    for layer in range(shape.n_layers):
        prefix = f"blk.{layer}."
        yield prefix + "attn_norm.weight", 0, shape.dim
        yield prefix + "attn_q.weight", query, shape.dim
        yield prefix + "attn_k.weight", kv, shape.dim
        yield prefix + "attn_v.weight", kv, shape.dim
        yield prefix + "attn_output.weight", shape.dim, query
        yield prefix + "ffn_norm.weight", 0, shape.dim
        yield prefix + "ffn_gate.weight", shape.hidden_dim, shape.dim
        yield prefix + "ffn_up.weight", shape.hidden_dim, shape.dim
        yield prefix + "ffn_down.weight", shape.dim, shape.hidden_dim
    yield "output_norm.weight", 0, shape.dim
    yield "output.weight", shape.vocab_size, shape.dim


class Pools:
    """Random elements of standard deviation 1 / sqrt(columns) in a tensor's encoding, made once per width."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.random = numpy.random.default_rng(1)
        self.by_width = {}

    def stretch(self, n_columns, n_bytes):
        """The next n_bytes of a tensor of this width: at most a pool's, from a random place in it."""
        if n_columns not in self.by_width:
            self.by_width[n_columns] = self.make(n_columns)
        pool = self.by_width[n_columns]
        unit = Q8_BLOCK_BYTES if self.dtype == "q8_0" else 2
        n_bytes = min(n_bytes, len(pool) // 2)
        begin = int(self.random.integers((len(pool) - n_bytes) // unit + 1)) * unit
        return pool[begin:begin + n_bytes]

    def make(self, n_columns):
        scale = 1 / math.sqrt(n_columns)
        if self.dtype == "bf16":
            values = self.random.uniform(-1.7, 1.7, POOL_ELEMENTS).astype(numpy.float32) * numpy.float32(scale)
            return memoryview((values.view(numpy.uint32) >> 16).astype("<u2").tobytes())
        blocks = numpy.empty(POOL_ELEMENTS // Q8_BLOCK, dtype=[("scale", "<f2"), ("values", "i1", Q8_BLOCK)])
        blocks["scale"] = scale * 1.7 / 127
        blocks["values"] = self.random.integers(-127, 128, (len(blocks), Q8_BLOCK))
        return memoryview(blocks.tobytes())


def write_model(path, shape, dtype, name="random"):
    """Writes the whole file; dtype (of matrices) is bf16 or q8_0. Returns its size in bytes."""
    entries, infos, offset = metadata(name, shape), [], 0
    for tensor, n_rows, n_columns in tensors(shape):
        kind = dtype if n_rows > 0 else "f32"
        dims = [n_columns, n_rows] if n_rows > 0 else [n_columns]
        n_bytes = tensor_bytes(max(n_rows, 1) * n_columns, kind)
        infos.append((tensor, dims, kind, n_bytes, offset))
        offset += align(n_bytes)
    pools = Pools(dtype)
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(entries)))
        for key, value in entries.items():
            file.write(packed_string(key) + packed_value(value))
        for tensor, dims, kind, _, begin in infos:
            file.write(packed_string(tensor) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
            file.write(struct.pack("<IQ", TENSOR_TYPES[kind], begin))
        file.write(bytes(align(file.tell()) - file.tell()))
        for _, dims, kind, n_bytes, _ in infos:
            if kind == "f32":
                file.write(numpy.ones(dims[0], "<f4").tobytes())
            left = 0 if kind == "f32" else n_bytes
            while left > 0:
                left -= file.write(pools.stretch(dims[0], left))
            file.write(bytes(align(n_bytes) - n_bytes))
        return file.tell()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--dtype", choices=["bf16", "q8_0"], default="bf16")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    n_bytes = write_model(args.output, SHAPES[args.shape], args.dtype, f"random-{args.shape}")
    print(f"{args.output}: {n_bytes / 1e9:.3f} GB")


if __name__ == "__main__":
    main()
