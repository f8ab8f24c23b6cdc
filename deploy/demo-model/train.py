#!/usr/bin/env python3
"""Trains the demo model from a text file and exports it as a Hugging Face folder.

    apt-get install python3-torch python3-sentencepiece libopenblas0-pthread     (torch 1.13)
    /usr/bin/python3 train.py --text tinyshakespeare.txt --out DIR [--quick] [--work DIR]

A Mistral-architecture decoder: 32 layers, dim 128, 8 query and 2 KV heads of 16, SwiGLU 256,
vocabulary 1024, 4.72 M parameters. What shapes the script:

  * Two cores: two processes share every step (half of the batch each, gradients summed in shared
    memory, AdamW on one half of the parameters each).
  * bf16 matrix products, fp32 residual stream and master weights, and a hand-written backward
    pass: 1.5 times as fast as autograd at these sizes. `check_gradients` compares the two.
  * 1 MB of text is the limit, not time. Hence BPE dropout, weight decay, skipped layers, and the
    running average of the weights is what is exported.
  * Eight layers learn the spelling four times as fast as 32. So the first phase trains 8 layers;
    then three copies with zero output projections, which change nothing, follow each of them.
  * Short crops first: with heads of 16, attention scores are the largest tensors. The end trains
    on 256 and 1024 tokens, without which the loss collapses beyond the trained length.
"""
import argparse, hashlib, io, math, os, time
from collections import namedtuple

# Keeps freed activation buffers mapped: glibc would return and fault them in again at every step.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 30))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # OpenBLAS reads it too
import sentencepiece as spm
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F

import export
import verify

DIM, N_HEADS, N_KV_HEADS, HEAD_DIM, HIDDEN_DIM, VOCAB = 128, 8, 2, 16, 256, 1024
GROUP, N_QK = N_HEADS // N_KV_HEADS, N_HEADS + N_KV_HEADS
THETA, EPS, BOS = 10000.0, 1e-5, 1
CONFIG = {"hidden_size": DIM, "num_attention_heads": N_HEADS, "num_key_value_heads": N_KV_HEADS,
          "head_dim": HEAD_DIM, "intermediate_size": HIDDEN_DIM, "vocab_size": VOCAB, "rope_theta": THETA,
          "rms_norm_eps": EPS, "max_position_embeddings": 2048}
N_RANKS, TOKENS_PER_RANK = 2, 1024
SEED, N_SAMPLED, BPE_DROPOUT = 20, 7, 0.05
BETA1, BETA2, WEIGHT_DECAY, CLIP, EMA = 0.9, 0.98, 0.3, 1.0, 0.998

# seqs: crop lengths, one per step in turn. lr falls from lr_from to lr_to along a cosine.
# skip: probability of leaving the last layer out of a step; layer 0 has 0, linear in between.
# plain: share of crops from the plain encoding, the rest from those with BPE dropout.
Phase = namedtuple("Phase", "layers steps seqs lr_from lr_to skip plain")
PHASES = [
    Phase(8, 2000, (64,), 3e-3, 3e-3, 0.0, 1 / 8),
    Phase(32, 1400, (64,), 2.5e-3, 2.05e-3, 0.3, 1 / 8),
    Phase(32, 240, (256,), 2e-3, 4e-4, 0.0, 1 / 2),
    Phase(32, 60, (256, 1024), 4e-4, 4e-5, 0.0, 1 / 2),
]
QUICK_PHASES = [
    Phase(8, 120, (64,), 3e-3, 3e-3, 0.0, 1 / 8),
    Phase(32, 20, (64,), 2.5e-3, 2e-3, 0.3, 1 / 8),
    Phase(32, 6, (256, 1024), 2e-3, 4e-5, 0.0, 1 / 2),
]
WARMUP_STEPS = 50


# ---------------------------------------------------------------- parameters


def shapes(n_layers):
    """Name and shape of every tensor; layer tensors are [out, in] like nn.Linear's."""
    layer = [("qkv", (N_QK + N_KV_HEADS) * HEAD_DIM, DIM), ("o", DIM, N_HEADS * HEAD_DIM),
             ("gate_up", 2 * HIDDEN_DIM, DIM), ("down", DIM, HIDDEN_DIM)]
    return ([("embed", VOCAB, DIM)] + [(f"{i}.{n}", r, c) for i in range(n_layers) for n, r, c in layer]
            + [("head", VOCAB, DIM)])


def views(flat, n_layers):
    """Cuts the flat buffer into its tensors: {name: view}."""
    out, at = {}, 0
    for name, rows, cols in shapes(n_layers):
        out[name] = flat[at:at + rows * cols].view(rows, cols)
        at += rows * cols
    return out


def n_parameters(n_layers):
    return sum(r * c for _, r, c in shapes(n_layers))


def init(n_layers, final_layers):
    generator = torch.Generator().manual_seed(SEED)
    flat = torch.randn(n_parameters(n_layers), generator=generator)
    for name, tensor in views(flat, n_layers).items():
        std = 0.7 / math.sqrt(tensor.shape[1])
        if name == "embed":
            std = 0.3
        elif name == "head":
            std = 0.5 / math.sqrt(DIM)
        elif name.endswith((".o", ".down")):
            std /= math.sqrt(2 * final_layers)
        tensor.mul_(std)
    return flat


def grow(old_flat, old_layers, new_layers):
    """Puts identity layers behind each old one: copies whose two output projections are zero."""
    ratio = new_layers // old_layers
    flat = torch.empty(n_parameters(new_layers))
    old = views(old_flat, old_layers)
    for name, tensor in views(flat, new_layers).items():
        layer, _, part = name.rpartition(".")
        if not layer:
            tensor.copy_(old[name])
        elif int(layer) % ratio and part in ("o", "down"):
            tensor.zero_()
        else:
            tensor.copy_(old[f"{int(layer) // ratio}.{part}"])
    return flat


# ---------------------------------------------------------------- forward and backward


def rope_tables(seq, dtype):
    """cos and sin [seq, N_QK, HEAD_DIM / 2]; the query heads' carry the 1/sqrt(HEAD_DIM)."""
    freq = THETA ** (-torch.arange(HEAD_DIM // 2).double() / (HEAD_DIM // 2))
    angle = torch.arange(seq).double()[:, None, None] * freq
    scale = torch.tensor([HEAD_DIM ** -0.5] * N_HEADS + [1.0] * N_KV_HEADS).double()[None, :, None]
    return (angle.cos() * scale).to(dtype), (angle.sin() * scale).to(dtype)


def rms_norm(x, dtype):
    r = (x.square().mean(-1, keepdim=True) + EPS).rsqrt()
    return (x * r).to(dtype), r


def rms_norm_backward(dy, y, r):
    dy, y = dy.float(), y.float()
    return r * (dy - y * (dy * y).mean(-1, keepdim=True))


def attention(q, k, v, block=256):
    """q [B*KV, GROUP, T, D], k, v [B*KV, T, D] -> output like q, probabilities per query block."""
    n, group, seq, d = q.shape
    out, probs = torch.empty_like(q), []
    for s in range(0, seq, block):
        e = min(s + block, seq)
        scores = torch.bmm(q[:, :, s:e].reshape(n, -1, d), k[:, :e].transpose(1, 2))
        mask = torch.full((e - s, e - s), float("-inf"), dtype=q.dtype).triu_(1)
        scores.view(n, group, e - s, e)[..., s:].add_(mask)
        p = torch.softmax(scores, -1)
        out[:, :, s:e] = torch.bmm(p, v[:, :e]).view(n, group, e - s, d)
        probs.append((s, e, p))
    return out, probs


def attention_backward(dout, q, k, v, probs):
    n, group, seq, d = q.shape
    dq, dk, dv = torch.empty_like(q), torch.zeros(k.shape), torch.zeros(v.shape)
    for s, e, p in probs:
        do = dout[:, :, s:e].reshape(n, -1, d)
        dv[:, :e] += torch.bmm(p.transpose(1, 2), do)
        ds = torch._softmax_backward_data(torch.bmm(do, v[:, :e].transpose(1, 2)), p, -1, p.dtype)
        dq[:, :, s:e] = torch.bmm(ds, k[:, :e]).view(n, group, e - s, d)
        dk[:, :e] += torch.bmm(ds.transpose(1, 2), q[:, :, s:e].reshape(n, -1, d))
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def block_forward(w, x, batch, rope):
    """One layer; w: its four tensors, x [batch * T, DIM] fp32. Returns x and what backward needs."""
    (w_qkv, w_o, w_gate_up, w_down), (cos, sin) = w, rope
    dtype, seq, half = w_qkv.dtype, x.shape[0] // batch, HEAD_DIM // 2
    h, r = rms_norm(x, dtype)
    qkv = (h @ w_qkv.t()).view(batch, seq, N_QK + N_KV_HEADS, HEAD_DIM)
    a, b = qkv[:, :, :N_QK, :half], qkv[:, :, :N_QK, half:]
    qk = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    q = qk[:, :, :N_HEADS].reshape(batch, seq, N_KV_HEADS, GROUP, HEAD_DIM).permute(0, 2, 3, 1, 4)
    q = q.reshape(batch * N_KV_HEADS, GROUP, seq, HEAD_DIM)
    k = qk[:, :, N_HEADS:].transpose(1, 2).reshape(batch * N_KV_HEADS, seq, HEAD_DIM)
    v = qkv[:, :, N_QK:].transpose(1, 2).reshape(batch * N_KV_HEADS, seq, HEAD_DIM)
    o, probs = attention(q, k, v)
    o = o.view(batch, N_HEADS, seq, HEAD_DIM).transpose(1, 2).reshape(batch * seq, -1)
    x = x + o @ w_o.t()
    h2, r2 = rms_norm(x, dtype)
    gate, up = (h2 @ w_gate_up.t()).split(HIDDEN_DIM, 1)
    sigmoid = torch.sigmoid(gate)  # silu(x) = x sigmoid(x); silu and silu_backward are 2x slower
    act = gate * sigmoid
    x = x + (act * up) @ w_down.t()
    return x, (h, r, q, k, v, probs, o, h2, r2, sigmoid, up, act)


def block_backward(w, g, dx, saved, batch, rope):
    """dx: gradient of the layer's output. Writes the weights' into g, returns the input's."""
    (w_qkv, w_o, w_gate_up, w_down), (cos, sin) = w, rope
    h, r, q, k, v, probs, o, h2, r2, sigmoid, up, act = saved
    dtype, seq, half = w_qkv.dtype, dx.shape[0] // batch, HEAD_DIM // 2
    d = dx.to(dtype)
    g[3].copy_(d.t() @ (act * up))
    d_act = d @ w_down
    d_gate_up = torch.cat((d_act * up * (sigmoid + act - act * sigmoid), d_act * act), 1)
    g[2].copy_(d_gate_up.t() @ h2)
    dx = dx + rms_norm_backward(d_gate_up @ w_gate_up, h2, r2)
    d = dx.to(dtype)
    g[1].copy_(d.t() @ o)
    do = (d @ w_o).view(batch, seq, N_HEADS, HEAD_DIM).transpose(1, 2)
    dq, dk, dv = attention_backward(do.reshape(q.shape), q, k, v, probs)
    dqk = torch.cat((dq.view(batch, N_HEADS, seq, HEAD_DIM), dk.view(batch, N_KV_HEADS, seq, HEAD_DIM)), 1)
    dqk = dqk.transpose(1, 2)
    da, db = dqk[..., :half], dqk[..., half:]
    d_qkv = torch.empty(batch, seq, N_QK + N_KV_HEADS, HEAD_DIM, dtype=dtype)
    d_qkv[:, :, :N_QK, :half] = da * cos + db * sin
    d_qkv[:, :, :N_QK, half:] = db * cos - da * sin
    d_qkv[:, :, N_QK:] = dv.view(batch, N_KV_HEADS, seq, HEAD_DIM).transpose(1, 2)
    d_qkv = d_qkv.view(batch * seq, -1)
    g[0].copy_(d_qkv.t() @ h)
    return dx + rms_norm_backward(d_qkv @ w_qkv, h, r)


def layer_tensors(tensors, i):
    return [tensors[f"{i}.{part}"] for part in ("qkv", "o", "gate_up", "down")]


def model_forward(w, inputs, targets, layers, rope):
    """inputs, targets [batch, T]; layers: which ones to run. Returns loss per token and the rest."""
    batch, x, saved = inputs.shape[0], w["embed"][inputs.reshape(-1)].float(), []
    for i in layers:
        x, kept = block_forward(layer_tensors(w, i), x, batch, rope)
        saved.append(kept)
    h, r = rms_norm(x, w["head"].dtype)
    logp = F.log_softmax((h @ w["head"].t()).float(), -1)
    return -logp.gather(1, targets.reshape(-1, 1)).squeeze(1), (saved, h, r, logp)


def model_backward(w, g, inputs, targets, layers, rope, rest, scale):
    """Writes scale times the gradient of the summed loss into g; g of layers not run must be 0."""
    saved, h, r, logp = rest
    d = logp.exp()
    d[torch.arange(d.shape[0]), targets.reshape(-1)] -= 1
    d = d.mul_(scale).to(h.dtype)
    g["head"].copy_(d.t() @ h)
    dx = rms_norm_backward(d @ w["head"], h, r)
    for i in reversed(layers):
        dx = block_backward(layer_tensors(w, i), layer_tensors(g, i), dx, saved.pop(), inputs.shape[0], rope)
    g["embed"].zero_().index_add_(0, inputs.reshape(-1), dx)


@torch.no_grad()
def heldout_loss(flat, n_layers, tokens, context):
    """Summed nats of all tokens in windows of context - 1, each behind <s>, with bf16 weights."""
    w, total = views(flat.bfloat16(), n_layers), 0.0
    rope = rope_tables(context - 1, torch.bfloat16)
    for window in tokens.split(context - 1):
        targets = window.long()[None]
        inputs = torch.cat((torch.tensor([[BOS]]), targets[:, :-1]), 1)
        table = tuple(t[:len(window)] for t in rope)
        total += model_forward(w, inputs, targets, range(n_layers), table)[0].sum().item()
    return total


# ---------------------------------------------------------------- data


def split_text(path):
    """The first 90 % up to a line's end trains, the rest is held out."""
    text = open(path, "rb").read()
    cut = text.rfind(b"\n", 0, len(text) * 9 // 10) + 1
    return text[:cut].decode(), text[cut:].decode()


def train_tokenizer(text, path):
    model = io.BytesIO()  # through memory, or the file would record the paths it was made with
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(text.split("\n")), model_writer=model, vocab_size=VOCAB, model_type="bpe",
        byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=False, split_digits=True,
        num_threads=1, minloglevel=2)
    with open(path, "wb") as f:
        f.write(model.getvalue())


def encode(tokenizer, text):
    """One plain encoding of the whole text, then N_SAMPLED with BPE dropout. int16 tensors."""
    spm.set_random_generator_seed(SEED)
    out = [tokenizer.encode(text)]
    assert tokenizer.decode(out[0]) == text
    out += [tokenizer.encode(text, enable_sampling=True, alpha=BPE_DROPOUT, nbest_size=-1)
            for _ in range(N_SAMPLED)]
    return [torch.tensor(t, dtype=torch.int16).share_memory_() for t in out]


def paragraph_starts(tokens, newline):
    """Positions that follow a blank line: where a speech begins."""
    is_newline = tokens == newline
    return (is_newline[1:-1] & is_newline[:-2]).nonzero().squeeze(1) + 2


def crops(data, starts, seq, plain, generator):
    """A quarter starts a speech behind <s>; the rest starts anywhere, half of it behind <s>."""
    inputs, targets = [], []
    for _ in range(TOKENS_PER_RANK // seq):
        kind, which, where = torch.rand(3, generator=generator).tolist()
        e = 0 if which < plain else 1 + int((which - plain) / (1 - plain) * N_SAMPLED)
        tokens, last = data[e], len(data[e]) - seq - 1
        s = int(where * last)
        if kind < 0.25:
            s = min(int(starts[e][int(where * len(starts[e]))]), last)
        crop = tokens[s:s + seq + 1].long()
        if kind < 0.625:
            crop = torch.cat((torch.tensor([BOS]), crop[:-1]))
        inputs.append(crop[:-1])
        targets.append(crop[1:])
    return torch.stack(inputs), torch.stack(targets)


# ---------------------------------------------------------------- training


def worker(rank, phase_idx, phases, first_step, state, data, heldout, newline, barrier, work):
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    phase = phases[phase_idx]
    starts = [paragraph_starts(t, newline) for t in data]
    param, ema, m, v, grads, norms = (state[k] for k in ("param", "ema", "m", "v", "grads", "norms"))
    bf16 = param.bfloat16()
    w, g = views(bf16, phase.layers), views(grads[rank], phase.layers)
    rope = {seq: rope_tables(seq, torch.bfloat16) for seq in phase.seqs}
    half = param.numel() // N_RANKS
    mine = slice(rank * half, param.numel() if rank == N_RANKS - 1 else (rank + 1) * half)
    t0, tokens_seen, mean_loss = time.time(), 0, 0.0
    for step in range(first_step, phase.steps):
        generator = torch.Generator().manual_seed(((SEED * 16 + phase_idx) * 100000 + step) * 4)
        skip_rate = torch.arange(phase.layers) / (phase.layers - 1) * phase.skip
        keep = (torch.rand(phase.layers, generator=generator) >= skip_rate).nonzero().squeeze(1).tolist()
        generator.manual_seed(((SEED * 16 + phase_idx) * 100000 + step) * 4 + 1 + rank)
        seq = phase.seqs[step % len(phase.seqs)]
        inputs, targets = crops(data, starts, seq, phase.plain, generator)
        loss, rest = model_forward(w, inputs, targets, keep, rope[seq])
        if len(keep) < phase.layers:
            grads[rank].zero_()
        model_backward(w, g, inputs, targets, keep, rope[seq], rest, 1 / (N_RANKS * TOKENS_PER_RANK))
        del rest
        barrier.wait(900)

        grad = sum(grads[i][mine] for i in range(N_RANKS))
        norms[rank] = grad.square().sum()
        barrier.wait(900)
        grad.mul_(min(1.0, CLIP / (norms.sum().sqrt().item() + 1e-9)))
        progress = step / max(1, phase.steps - 1)
        lr = phase.lr_to + (phase.lr_from - phase.lr_to) * 0.5 * (1 + math.cos(math.pi * progress))
        state["t"][rank] += 1
        t = int(state["t"][rank])  # AdamW's step count; it restarts with a fresh optimizer
        lr *= min(1.0, t / WARMUP_STEPS)
        m[mine].mul_(BETA1).add_(grad, alpha=1 - BETA1)
        v[mine].mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
        denominator = (v[mine] / (1 - BETA2 ** t)).sqrt_().add_(1e-8)
        param[mine].mul_(1 - lr * WEIGHT_DECAY).addcdiv_(m[mine], denominator, value=-lr / (1 - BETA1 ** t))
        ema[mine].lerp_(param[mine], 1 - min(EMA, (1 + step) / (10 + step)))
        barrier.wait(900)
        bf16.copy_(param)

        tokens_seen += N_RANKS * TOKENS_PER_RANK
        mean_loss += (loss.mean().item() - mean_loss) * max(0.01, 1 / (step - first_step + 1))
        if rank == 0 and (step % 60 == 59 or step + 1 == phase.steps):
            torch.save({"phase": phase_idx, "step": step + 1, "param": param, "ema": ema, "m": m, "v": v,
                        "t": state["t"]}, work + "/checkpoint.tmp")
            os.replace(work + "/checkpoint.tmp", work + "/checkpoint.pt")
            heldout_mean = heldout_loss(ema, phase.layers, heldout[:8192], max(phase.seqs)) / 8192
            seconds = time.time() - t0
            print(f"phase {phase_idx} step {step + 1}/{phase.steps} lr {lr:.2e} nats/token: train "
                  f"{mean_loss:.3f} held-out (average) {heldout_mean:.3f}; "
                  f"{tokens_seen / seconds:.0f} tok/s, {seconds:.0f} s", flush=True)


def train(phases, data, heldout, newline, work, stop_after=None):
    """Runs all phases, resuming from the checkpoint in `work`. Returns the averaged weights."""
    resume = None
    if os.path.exists(work + "/checkpoint.pt"):
        resume = torch.load(work + "/checkpoint.pt")
        print(f"resuming phase {resume['phase']} at step {resume['step']}")
    context = mp.get_context("spawn")
    state = None
    for i, phase in enumerate(phases):
        if resume and i < resume["phase"]:
            continue
        first_step = 0
        if resume and i == resume["phase"]:
            state, first_step = {k: resume[k] for k in ("param", "ema", "m", "v", "t")}, resume["step"]
        elif i == 0 or phases[i - 1].layers != phase.layers:
            # Growing starts from the average (better by 0.05 nats/byte) with a fresh optimizer.
            param = init(phase.layers, phases[-1].layers) if i == 0 else grow(
                state["ema"], phases[i - 1].layers, phase.layers)
            state = {"param": param, "ema": param.clone(), "m": torch.zeros_like(param),
                     "v": torch.zeros_like(param), "t": torch.zeros(N_RANKS)}
        state["grads"] = torch.zeros(N_RANKS, state["param"].numel())
        state["norms"] = torch.zeros(N_RANKS)
        for tensor in state.values():
            tensor.share_memory_()
        barrier = context.Barrier(N_RANKS)
        shared = (state, data, heldout, newline, barrier, work)
        mp.spawn(worker, (i, phases, first_step) + shared, nprocs=N_RANKS)
    return state["ema"]


def check_gradients():
    """The hand-written backward against autograd, fp32, 2 layers, two query blocks."""
    torch.manual_seed(SEED)
    flat = init(2, 2) * 2
    inputs, targets = torch.randint(VOCAB, (2, 2, 300))
    rope, by_hand = rope_tables(300, torch.float32), torch.zeros_like(flat)
    with torch.no_grad():
        _, rest = model_forward(views(flat, 2), inputs, targets, range(2), rope)
        model_backward(views(flat, 2), views(by_hand, 2), inputs, targets, range(2), rope, rest, 1.0)
    leaves = {n: t.clone().requires_grad_() for n, t in views(flat, 2).items()}
    model_forward(leaves, inputs, targets, range(2), rope)[0].sum().backward()
    error = max(((views(by_hand, 2)[n] - t.grad).norm() / t.grad.norm()).item() for n, t in leaves.items())
    print(f"gradient check: largest relative difference {error:.1e}")
    assert error < 1e-4


def main():
    parser = argparse.ArgumentParser(description="Trains and exports the demo model.")
    parser.add_argument("--text", required=True, help="UTF-8 text; its last tenth is held out")
    parser.add_argument("--out", required=True, help="folder for the exported model")
    parser.add_argument("--work", help="folder for checkpoints, resumed from if present (OUT.work)")
    parser.add_argument("--quick", action="store_true", help="a smoke test of two minutes")
    args = parser.parse_args()
    work, phases = args.work or args.out.rstrip("/") + ".work", QUICK_PHASES if args.quick else PHASES
    os.makedirs(args.out, exist_ok=True)
    os.makedirs(work, exist_ok=True)
    check_gradients()

    train_text, heldout_text = split_text(args.text)
    with open(args.out + "/heldout.txt", "w", newline="") as f:
        f.write(heldout_text)
    train_tokenizer(train_text, args.out + "/tokenizer.model")
    tokenizer = spm.SentencePieceProcessor(model_file=args.out + "/tokenizer.model")
    data = encode(tokenizer, train_text)
    heldout = torch.tensor(tokenizer.encode(heldout_text))
    t0 = time.time()
    averaged = train(phases, data, heldout, tokenizer.piece_to_id("<0x0A>"), work)
    print(f"trained {averaged.numel()} parameters in {time.time() - t0:.0f} s")

    export.export(args.out, views(averaged, phases[-1].layers), phases[-1].layers, CONFIG)
    expected = heldout_loss(averaged, phases[-1].layers, heldout, 256) / len(heldout_text.encode())
    print(f"context 256: {expected:.4f} nats/byte by training's bf16 forward pass")
    measured = verify.measure(args.out)
    assert abs(measured["nats_per_byte"] - expected) < 0.005, "the exported files do not reproduce the loss"
    assert args.quick or max(measured["nats_per_byte"], measured["nats_per_byte_1024"]) <= 1.5
    export.write_json(args.out + "/heldout.json", measured)
    for prompt in ("ROMEO:\n", "First Citizen:\n"):
        print("----\n" + verify.sample(args.out, prompt, 120))
    names = ["config.json", "generation_config.json", "heldout.json", "heldout.txt", "model.safetensors",
             "tokenizer.model"]
    with open(args.out + "/SHA256SUMS", "w") as f:
        for name in names:
            f.write(hashlib.sha256(open(f"{args.out}/{name}", "rb").read()).hexdigest() + f"  {name}\n")


if __name__ == "__main__":
    main()
