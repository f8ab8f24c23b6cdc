#!/usr/bin/env python3
"""Measures an exported model folder: loss on its heldout.txt by context length, and samples.

    /usr/bin/python3 verify.py [FOLDER] [--prompt TEXT]

Runs the files as the Mistral paper describes the model and shares no code with train.py, so a wrong
name, shape, rotary order or rounding shows up as a worse loss. Compares with heldout.json if present.
"""
import argparse, json, os, struct

# Two threads that wait for each other on two busy cores took 25 times the CPU time of one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
import sentencepiece as spm
import torch
import torch.nn.functional as F

BOS = 1
CONTEXTS = (64, 256, 512, 1024, 2048)
PROTOCOL = (
    "heldout.txt is encoded as one string (no dummy prefix, no BOS) and cut into consecutive windows of "
    "context - 1 tokens, the last one shorter; each window is scored alone behind <s> (id 1): every token "
    "of it, the first one from <s>. nats are the sum of -ln p over all tokens; per byte is divided by the "
    "bytes of heldout.txt. Weights bf16, arithmetic fp32.")


class Reference:
    """The exported weights, widened to fp32."""

    def __init__(self, folder):
        self.c = json.load(open(folder + "/config.json"))
        raw, self.w = open(folder + "/model.safetensors", "rb").read(), {}
        start = 8 + struct.unpack("<Q", raw[:8])[0]
        for name, t in json.loads(raw[8:start]).items():
            if name != "__metadata__":
                a, b = t["data_offsets"]
                bits = torch.frombuffer(bytearray(raw[start + a:start + b]), dtype=torch.bfloat16)
                self.w[name] = bits.view(t["shape"]).float()

    def norm(self, x, name):
        return x / (x.pow(2).mean(-1, keepdim=True) + self.c["rms_norm_eps"]).sqrt() * self.w[name]

    def logits(self, ids):
        """ids [T] -> [T, vocab_size], fp32."""
        c, w, seq, d = self.c, self.w, len(ids), self.c["head_dim"]
        position = torch.arange(seq, dtype=torch.float32)[:, None]
        angle = position / c["rope_theta"] ** (torch.arange(0, d, 2) / d)
        cos, sin = torch.cat((angle, angle), 1).cos(), torch.cat((angle, angle), 1).sin()

        def rotate(t):  # [heads, T, d]
            return t * cos + torch.cat((-t[..., d // 2:], t[..., :d // 2]), -1) * sin

        x, future = w["model.embed_tokens.weight"][ids], torch.ones(seq, seq).triu(1).bool()
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            h = self.norm(x, p + "input_layernorm.weight")
            q, k, v = ((h @ w[f"{p}self_attn.{n}_proj.weight"].t()).view(seq, -1, d).transpose(0, 1)
                       for n in "qkv")
            repeat = c["num_attention_heads"] // c["num_key_value_heads"]
            k, v = rotate(k).repeat_interleave(repeat, 0), v.repeat_interleave(repeat, 0)
            q, heads = rotate(q) / d ** 0.5, []
            for s in range(0, seq, 128):  # in blocks of queries, which stay in the cache
                e = min(s + 128, seq)
                scores = q[:, s:e] @ k[:, :e].transpose(1, 2)
                scores = scores.masked_fill_(future[s:e, :e], float("-inf")).softmax(-1)
                heads.append(scores @ v[:, :e])
            h = torch.cat(heads, 1).transpose(0, 1).reshape(seq, -1)
            x = x + h @ w[p + "self_attn.o_proj.weight"].t()
            h = self.norm(x, p + "post_attention_layernorm.weight")
            h = F.silu(h @ w[p + "mlp.gate_proj.weight"].t()) * (h @ w[p + "mlp.up_proj.weight"].t())
            x = x + h @ w[p + "mlp.down_proj.weight"].t()
        return self.norm(x, "model.norm.weight") @ w["lm_head.weight"].t()

    def nats(self, tokens, context):
        """Summed -log probability of all tokens, in windows of context - 1 behind <s>."""
        total = 0.0
        for window in tokens.split(context - 1):
            inputs = torch.cat((torch.tensor([BOS]), window[:-1]))
            total += F.cross_entropy(self.logits(inputs), window, reduction="sum").item()
        return total


def tokenizer_of(folder):
    return spm.SentencePieceProcessor(model_file=folder + "/tokenizer.model")


@torch.no_grad()
def measure(folder):
    """The contents of heldout.json."""
    text = open(folder + "/heldout.txt", newline="").read()
    tokens, n_bytes = torch.tensor(tokenizer_of(folder).encode(text)), len(text.encode())
    reference, nats = Reference(folder), {}
    for context in CONTEXTS:
        nats[context] = reference.nats(tokens, context)
        print(f"context {context}: {nats[context] / n_bytes:.4f} nats/byte, "
              f"{nats[context] / len(tokens):.4f} nats/token", flush=True)
    return {"nats_per_byte": round(nats[256] / n_bytes, 5),
            "nats_per_token": round(nats[256] / len(tokens), 5),
            "context": 256, "n_tokens": len(tokens), "n_bytes": n_bytes,
            "nats_per_byte_1024": round(nats[1024] / n_bytes, 5),
            "nats_per_byte_by_context": {str(c): round(t / n_bytes, 5) for c, t in nats.items()},
            "protocol": PROTOCOL}


@torch.no_grad()
def sample(folder, prompt, n_tokens, temperature=0.8, seed=20):
    """Prompt and continuation. Runs the whole sequence for every token: slow, but plain."""
    reference, tokenizer = Reference(folder), tokenizer_of(folder)
    ids, generator = [BOS] + tokenizer.encode(prompt), torch.Generator().manual_seed(seed)
    for _ in range(n_tokens):
        # Not torch.multinomial: torch 1.13 draws one unlikely token now and then.
        cumulative = (reference.logits(torch.tensor(ids))[-1] / temperature).softmax(-1).double().cumsum(0)
        drawn = torch.rand(1, generator=generator).double() * cumulative[-1]
        ids.append(int(torch.searchsorted(cumulative, drawn)))
    return tokenizer.decode(ids[1:])


def main():
    parser = argparse.ArgumentParser(description="Measures an exported model folder.")
    parser.add_argument("folder", nargs="?", default=os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--prompt", help="print a continuation of 120 tokens instead")
    args = parser.parse_args()
    if args.prompt is not None:
        print(sample(args.folder, args.prompt, 120))
        return
    measured = measure(args.folder)
    if os.path.exists(args.folder + "/heldout.json"):
        recorded = json.load(open(args.folder + "/heldout.json"))["nats_per_byte"]
        print(f"heldout.json says {recorded}, measured {measured['nats_per_byte']}")
        assert abs(recorded - measured["nats_per_byte"]) < 1e-3


if __name__ == "__main__":
    main()
