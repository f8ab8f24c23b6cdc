"""Predicts draws from logits, seed and position by the formula of docs/api.md, in plain Python.

predict_draws.py FILE compares what it predicts with the file, which draw_test.cc compares with the product's draws; with --write it
writes the file. Nothing here is the product's: Philox by its paper, logarithms by libm.
"""

import math
import pathlib
import sys

MASK = (1 << 32) - 1
STREAM = int.from_bytes(b"gumbel", "big")


def philox4x32(key, counter):
    """Ten rounds of Philox4x32: four words of 32 bits for a key of 64 bits and a counter of 128."""
    k0, k1 = key & MASK, key >> 32 & MASK
    c = [counter >> 32 * i & MASK for i in range(4)]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & MASK, p0 >> 32 ^ c[3] ^ k1, p0 & MASK]
        k0, k1 = k0 + 0x9E3779B9 & MASK, k1 + 0xBB67AE85 & MASK
    return c


def gumbel(seed, position, token_id):
    words = philox4x32(seed % (1 << 64), token_id // 4 | position << 32 | STREAM << 64)
    return -math.log(-math.log((words[token_id % 4] + 0.5) / 2**32))


def draw(logits, temperature, seed, position):
    """The token of the greatest logit / temperature + g among {token id: logit}; the lowest id of equals."""
    return min(logits, key=lambda i: (-(logits[i] / temperature + gumbel(seed, position, i)), i))


def logit(case, token_id):
    """In [-12, 12), a multiple of 24 / 2^16: the same in single precision."""
    return ((token_id * 40503 + case * 7919) % 65536) * (24 / 65536) - 12


# (number of tokens, temperature, top_k, seed, position)
CASES = [(5, 1.0, 0, 1, 0), (7, 0.5, 0, 2, 3), (100, 1.0, 0, 0, 17), (100, 2.0, 0, -1, 17), (1000, 1.0, 0, 42, 1000),
         (1003, 1.5, 40, 42, 1001), (4099, 0.75, 0, 2**63 - 1, 2**31 - 1), (4099, 8.0, 0, -2**63, 5), (4099, 1.0, 20, 7, 6),
         (9999, 64.0, 0, 123456789, 4096)]
DRAWS = 8  # of each case: at neighbouring positions, downwards


def predict():
    lines = []
    for case, (n, temperature, top_k, seed, position) in enumerate(CASES):
        logits = {i: logit(case, i) for i in range(n)}
        if top_k:
            logits = {i: logits[i] for i in sorted(logits, key=lambda i: (-logits[i], i))[:top_k]}
        for at in range(max(0, position - DRAWS + 1), position + 1):
            token = draw(logits, temperature, seed, at)
            lines.append(f"{n} {temperature} {top_k} {seed} {at} {token} {gumbel(seed, at, token):.12f}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    path = pathlib.Path(sys.argv[1])
    predicted = predict()
    if "--write" in sys.argv:
        path.write_text(predicted)
    if path.read_text() != predicted:
        sys.exit(f"{path} is not what the formula predicts")
    print(f"{predicted.count(chr(10))} draws as predicted")
