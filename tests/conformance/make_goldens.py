#!/usr/bin/python3
"""Makes the golden files of the conformance test with the public reference implementation.

The reference is MistralForCausalLM of Hugging Face transformers, run in float32 (and once in
bfloat16) on the CPU with its plain ("eager") attention. Weights are a published formula of a seed,
so that nothing here depends on the random generator of a library.

  make_goldens.py            rewrites goldens/
  make_goldens.py --check    makes them again elsewhere and compares with the committed ones

Needs Debian's python3-torch and python3-venv. A virtual environment is made outside the source
tree (--venv, by default under the user's cache directory), pinned packages come from PyPI.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# torch is Debian's; what else these packages pull in does not touch the numbers.
REQUIREMENTS = ["transformers==4.46.3", "tokenizers==0.20.3", "safetensors==0.4.5",
                "huggingface_hub==0.36.2"]
GOLDENS = pathlib.Path(__file__).resolve().parent / "goldens"

# What the product is held to: |logit - golden| <= LOGIT_TOLERANCE * max |golden| of the row.
LOGIT_TOLERANCE = 1e-4
# Greedy paths are chosen by seed so that the best logit leads the second best by this much: ten
# times what the tolerance allows at a row maximum of 10: identical tokens are a fair demand.
MIN_GREEDY_MARGIN = 1e-2
# A golden must see each known trap (MUTATIONS) at this many times the tolerance.
MIN_SENSITIVITY = 10
N_GREEDY = 16
N_LONG_PROMPT = 4300


def default_venv():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache) / "bora" / "make-goldens-venv"


def enter_venv(venv):
    """Re-executes this script inside the virtual environment, making it first if need be."""
    venv = pathlib.Path(venv).resolve()
    if pathlib.Path(sys.prefix).resolve() == venv:
        return
    stamp = venv / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS)
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", "--system-site-packages",
                        str(venv)], check=True)
        subprocess.run([str(venv / "bin/pip"), "install", "--quiet", "--no-cache-dir",
                        *REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    python = str(venv / "bin/python")
    # One thread: the order of the reference's sums must not depend on the machine's cores.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                   "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    os.execve(python, [python, __file__, *sys.argv[1:]], environment)


@dataclasses.dataclass(frozen=True)
class Shape:
    """The numbers of a params.json, under the names they have there."""
    dim: int
    n_layers: int
    head_dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    norm_eps: float
    rope_theta: float = 1e6
    max_position_embeddings: int = 8192


SHAPES = {
    # Every head shares the one KV head.
    "gqa4": Shape(dim=32, n_layers=2, head_dim=8, hidden_dim=48, n_heads=4, n_kv_heads=1,
                  vocab_size=64, norm_eps=1e-5),
    # head_dim is not dim / n_heads, and the KV heads can be divided over two ranks.
    "wide": Shape(dim=48, n_layers=3, head_dim=8, hidden_dim=80, n_heads=8, n_kv_heads=2,
                  vocab_size=96, norm_eps=1e-6),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden file: a shape, the precision of its weights, a prompt."""
    name: str
    shape: str
    bf16: bool
    n_prompt: int


CASES = [
    Case("gqa4", "gqa4", False, 70),
    Case("gqa4_long", "gqa4", False, N_LONG_PROMPT),
    Case("wide", "wide", False, 83),
    Case("wide_long", "wide", False, N_LONG_PROMPT),
    Case("wide_bf16", "wide", True, 83),
]


def positions_of(case):
    """Positions whose logits are kept: all of a short prompt, a few of a long one."""
    if case.n_prompt < 1000:
        return list(range(case.n_prompt + N_GREEDY - 1))
    # Around the ends of KV blocks (16), attention splits (512), and 4,096.
    kept = [0, 1, 15, 16, 17, 100, 511, 512, 513, 1023, 1024, 2047, 2048, 4000, 4094, 4095, 4096,
            4097, 4098]
    return kept + list(range(case.n_prompt - 1, case.n_prompt + N_GREEDY - 1))


# --- Weights and prompts: SplitMix64 of (seed, name, index), uniform on 24 bits. -----------------

def splitmix64(x):
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def bits24(seed, name, n):
    """n integers in [0, 2^24), a function of the seed and the name alone."""
    key = splitmix64(np.array([fnv1a(f"{seed}/{name}")], dtype=np.uint64))
    with np.errstate(over="ignore"):
        return splitmix64(key + np.arange(n, dtype=np.uint64)) >> np.uint64(40)


def uniform(seed, name, shape, std):
    """float32, uniform with mean 0 and this standard deviation."""
    unit = bits24(seed, name, int(np.prod(shape))).astype(np.float64) / 2**24
    return ((2 * unit - 1) * np.sqrt(3.0) * std).astype(np.float32).reshape(shape)


def make_weights(shape, seed):
    """Tensors of a Mistral-layout checkpoint: wq and wk rotate adjacent pairs of rows.

    The embedding is small, so that norm_eps shows in the first norm; queries and keys are large
    enough for attention to be sharp (scores with a standard deviation of about 2.6, of which
    softmax keeps a handful of 4,300 positions); logits have a standard deviation of about 3.
    """
    q_dim, kv_dim = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    weights = {}

    def matrix(name, n_out, n_in, gain):
        weights[name] = uniform(seed, name, (n_out, n_in), gain / np.sqrt(n_in))

    def norm(name):
        weights[name] = 1 + uniform(seed, name, (shape.dim,), 0.2)

    weights["tok_embeddings.weight"] = uniform(seed, "tok_embeddings.weight",
                                               (shape.vocab_size, shape.dim), 0.03)
    for i in range(shape.n_layers):
        norm(f"layers.{i}.attention_norm.weight")
        matrix(f"layers.{i}.attention.wq.weight", q_dim, shape.dim, 1.6)
        matrix(f"layers.{i}.attention.wk.weight", kv_dim, shape.dim, 1.6)
        matrix(f"layers.{i}.attention.wv.weight", kv_dim, shape.dim, 1.0)
        matrix(f"layers.{i}.attention.wo.weight", shape.dim, q_dim, 0.7)
        norm(f"layers.{i}.ffn_norm.weight")
        matrix(f"layers.{i}.feed_forward.w1.weight", shape.hidden_dim, shape.dim, 1.5)
        matrix(f"layers.{i}.feed_forward.w2.weight", shape.dim, shape.hidden_dim, 0.7)
        matrix(f"layers.{i}.feed_forward.w3.weight", shape.hidden_dim, shape.dim, 1.0)
    norm("norm.weight")
    matrix("output.weight", shape.vocab_size, shape.dim, 3.0)
    return weights


# --- The reference and its checkpoints. ---------------------------------------------------------

HF_NAMES = {
    "tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head",
    "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}


def to_hf_state(shape, weights):
    """Renames, and permutes wq and wk as transformers' convert_mistral_weights_to_hf.py does."""
    state = {}
    for name, value in weights.items():
        stem = name.removesuffix(".weight")
        prefix = ""
        if stem.startswith("layers."):
            _, layer, stem = stem.split(".", 2)
            prefix = f"model.layers.{layer}."
        if stem in ("attention.wq", "attention.wk"):
            value = (value.view(-1, shape.head_dim // 2, 2, shape.dim).transpose(1, 2)
                     .reshape(-1, shape.dim))
        state[f"{prefix}{HF_NAMES[stem]}.weight"] = value.contiguous()
    return state


def make_reference(shape, weights, dtype):
    config = transformers.MistralConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.dim, intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.n_layers, num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads, head_dim=shape.head_dim, rms_norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta, max_position_embeddings=shape.max_position_embeddings,
        sliding_window=None, attn_implementation="eager", torch_dtype=dtype)
    model = transformers.MistralForCausalLM(config).to(dtype).eval()
    state = {name: value.to(dtype) for name, value in to_hf_state(shape, weights).items()}
    model.load_state_dict(state, strict=True)
    return model


def write_hf(model, folder, max_shard_size="5GB"):
    model.save_pretrained(folder, safe_serialization=True, max_shard_size=max_shard_size)
    (folder / "generation_config.json").unlink()


def write_mistral(shape, weights, folder):
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(dataclasses.asdict(shape), indent=2) + "\n")
    safetensors.torch.save_file(weights, folder / "consolidated.safetensors")


def write_checkpoints(shape_name, weights, out):
    """Every layout of the same weights; bf16 ones hold the rounded weights."""
    shape = SHAPES[shape_name]
    full = make_reference(shape, weights, torch.float32)
    rounded = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    if shape_name == "gqa4":
        write_hf(full, out / "gqa4_hf")
        write_mistral(shape, weights, out / "gqa4_mistral")
        return
    write_hf(full, out / "wide_hf_sharded", max_shard_size="150KB")
    write_hf(make_reference(shape, rounded, torch.bfloat16), out / "wide_hf_bf16")
    write_mistral(shape, rounded, out / "wide_mistral_bf16")


@dataclasses.dataclass
class Golden:
    prompt: list
    greedy: list
    logits: "torch.Tensor"  # [n_positions, vocab_size] of prompt and continuation
    margin: float           # smallest lead of a greedy token


def run_reference(model, prompt, positions):
    """Greedy continuation by the reference's own generate(), logits by one pass over all of it."""
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        generated = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, eos_token_id=None,
            pad_token_id=0, max_new_tokens=N_GREEDY, synced_gpus=False)[0].tolist()
        logits = model(torch.tensor([generated[:-1]]), use_cache=False).logits[0].float()
    greedy = generated[len(prompt):]
    assert len(greedy) == N_GREEDY, greedy
    rows = logits[len(prompt) - 1:]
    assert rows.argmax(-1).tolist() == greedy, "generate() and the full pass disagree"
    top = rows.topk(2, dim=-1).values
    return Golden(prompt, greedy, logits[positions].contiguous(),
                  float((top[:, 0] - top[:, 1]).min()))


# --- A float64 model in Mistral's own form: how good is the reference, and would a golden notice? -

def exact_logits(shape, weights, tokens, positions, window=None, swap_kv=False):
    """The decoder in float64, rotating adjacent pairs as complex numbers: [n_positions, vocab]."""
    w = {name: value.double().numpy() for name, value in weights.items()}
    n = len(tokens)
    exponent = np.arange(0, shape.head_dim, 2) / shape.head_dim
    turn = np.exp(1j * np.outer(np.arange(n), shape.rope_theta ** -exponent))[:, None, :]
    age = np.arange(n)[:, None] - np.arange(n)[None, :]
    hidden = (age < 0) | (age >= (window or n))
    group = shape.n_heads // shape.n_kv_heads

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + shape.norm_eps) * w[name]

    def rotated(x, n_heads):
        pairs = x.reshape(n, n_heads, shape.head_dim // 2, 2)
        product = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        return np.stack([product.real, product.imag], -1).reshape(n, n_heads, shape.head_dim)

    x = w["tok_embeddings.weight"][tokens]
    for i in range(shape.n_layers):
        layer = f"layers.{i}."
        h = norm(x, layer + "attention_norm.weight")
        q = rotated(h @ w[layer + "attention.wq.weight"].T, shape.n_heads)
        k = rotated(h @ w[layer + "attention.wk.weight"].T, shape.n_kv_heads)
        v = (h @ w[layer + "attention.wv.weight"].T).reshape(n, shape.n_kv_heads, shape.head_dim)
        out = np.empty_like(q)
        for head in range(shape.n_heads):
            kv = head % shape.n_kv_heads if swap_kv else head // group
            score = q[:, head] @ k[:, kv].T / np.sqrt(shape.head_dim)
            score[hidden] = -np.inf
            weight = np.exp(score - score.max(-1, keepdims=True))
            out[:, head] = weight @ v[:, kv] / weight.sum(-1, keepdims=True)
        x = x + out.reshape(n, -1) @ w[layer + "attention.wo.weight"].T
        h = norm(x, layer + "ffn_norm.weight")
        gate = h @ w[layer + "feed_forward.w1.weight"].T
        up = h @ w[layer + "feed_forward.w3.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[layer + "feed_forward.w2.weight"].T
    return norm(x[positions], "norm.weight") @ w["output.weight"].T


def relative_error(logits, golden):
    """Largest over rows of max |difference| / max |golden|: the product's own criterion."""
    golden = np.asarray(golden, dtype=np.float64)
    difference = np.abs(np.asarray(logits, dtype=np.float64) - golden)
    return float((difference.max(-1) / np.abs(golden).max(-1)).max())


def check_case(case, weights, golden, positions):
    """The reference is close to exact arithmetic, and every known trap would be noticed."""
    shape = SHAPES[case.shape]
    tokens = np.array(golden.prompt + golden.greedy[:-1])
    error = relative_error(golden.logits, exact_logits(shape, weights, tokens, positions))
    assert error < LOGIT_TOLERANCE / 2, f"{case.name}: reference is {error:.2g} from exact"

    mutations = {
        "theta": dict(shape=dataclasses.replace(shape, rope_theta=1e4)),
        "eps": dict(shape=dataclasses.replace(shape, norm_eps=shape.norm_eps * 10)),
        "unpermuted": dict(weights={**weights, **half_rotation(shape, weights)}),
    }
    if shape.n_kv_heads > 1:
        mutations["kv heads"] = dict(swap_kv=True)
    if case.n_prompt > 4096:
        mutations["window 4096"] = dict(window=4096)
    seen = {}
    for name, change in mutations.items():
        arguments = {"shape": shape, "weights": weights, **change}
        logits = exact_logits(tokens=tokens, positions=positions, **arguments)
        seen[name] = relative_error(logits, golden.logits)
        assert seen[name] > MIN_SENSITIVITY * LOGIT_TOLERANCE, f"{case.name}: blind to {name}"
    report = ", ".join(f"{name} {value:.2g}" for name, value in seen.items())
    print(f"{case.name}: logits std {float(golden.logits.std()):.2f}, smallest greedy margin "
          f"{golden.margin:.3f}, reference error {error:.2g}; would notice: {report}")


def half_rotation(shape, weights):
    """wq and wk in Hugging Face's order: what a loader that forgets to permute would use."""
    state = to_hf_state(shape, weights)
    return {f"layers.{i}.attention.{w}.weight": state[f"model.layers.{i}.self_attn.{p}_proj.weight"]
            for i in range(shape.n_layers) for w, p in (("wq", "q"), ("wk", "k"))}


# --- Cases --------------------------------------------------------------------------------------

def make_case(case, weights, out):
    shape = SHAPES[case.shape]
    if case.bf16:
        weights = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    model = make_reference(shape, weights, torch.float32)
    positions = positions_of(case)
    for attempt in range(50):
        prompt = (bits24(attempt, f"prompt/{case.name}", case.n_prompt)
                  % np.uint64(shape.vocab_size)).astype(int).tolist()
        golden = run_reference(model, prompt, positions)
        if golden.margin > MIN_GREEDY_MARGIN:
            break
    else:
        raise SystemExit(f"{case.name}: no prompt of 50 has a margin above {MIN_GREEDY_MARGIN}")
    check_case(case, weights, golden, positions)
    tensors = {
        "prompt": torch.tensor(golden.prompt, dtype=torch.int32),
        "greedy": torch.tensor(golden.greedy, dtype=torch.int32),
        "positions": torch.tensor(positions, dtype=torch.int32),
        "logits": golden.logits,
    }
    if case.bf16:
        # The reference computing in bfloat16 throughout: the yardstick for a bf16 mode.
        tokens = torch.tensor([golden.prompt + golden.greedy[:-1]])
        with torch.no_grad():
            coarse = make_reference(shape, weights, torch.bfloat16)(tokens, use_cache=False)
        tensors["logits_bf16"] = coarse.logits[0].float()[positions].contiguous()
        difference = tensors["logits_bf16"] - golden.logits
        rms = float(difference.square().mean().sqrt())
        worst = relative_error(tensors["logits_bf16"], golden.logits)
        print(f"{case.name}: reference in bfloat16 is off by {rms:.3g} RMS, {worst:.3g} relative")
    safetensors.torch.save_file(tensors, out / f"{case.name}.safetensors")


def make_all(out):
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the reference initialises weights that are then overwritten
    for shape_name, shape in SHAPES.items():
        weights = {name: torch.from_numpy(value)
                   for name, value in make_weights(shape, seed=1).items()}
        write_checkpoints(shape_name, weights, out)
        for case in CASES:
            if case.shape == shape_name:
                make_case(case, weights, out)


def compare(made, committed):
    """Names what differs: weights, tokens and configs exactly, logits within rounding."""
    problems = []
    files = {p.relative_to(made) for p in made.rglob("*") if p.is_file()}
    old_files = {p.relative_to(committed) for p in committed.rglob("*") if p.is_file()}
    problems += [f"{p}: only in one of the two" for p in sorted(files ^ old_files)]
    # Another CPU sums in another order: float32 by rounding errors, bfloat16 by flipped roundings.
    tolerances = {"logits": LOGIT_TOLERANCE / 5, "logits_bf16": 0.05}
    for path in sorted(files & old_files):
        if path.suffix == ".json":
            if json.loads((made / path).read_text()) != json.loads((committed / path).read_text()):
                problems.append(f"{path}: differs")
            continue
        new = safetensors.torch.load_file(made / path)
        old = safetensors.torch.load_file(committed / path)
        if new.keys() != old.keys():
            problems.append(f"{path}: holds {sorted(old)}, should hold {sorted(new)}")
            continue
        for name, value in new.items():
            if value.shape != old[name].shape or value.dtype != old[name].dtype:
                problems.append(f"{path}: {name} has another shape or type")
            elif name in tolerances:
                error = relative_error(old[name], value)
                if not error <= tolerances[name]:
                    problems.append(f"{path}: {name} is off by {error:.2g}")
            elif not torch.equal(value, old[name]):
                problems.append(f"{path}: {name} differs")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true",
                        help="compare with the committed goldens and write nothing")
    parser.add_argument("--venv", default=default_venv(), help="virtual environment (%(default)s)")
    args = parser.parse_args()
    enter_venv(args.venv)

    global np, torch, safetensors, transformers
    import numpy as np
    import safetensors.torch
    import torch
    import transformers
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")

    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder) / "goldens"
        made.mkdir()
        make_all(made)
        if args.check:
            problems = compare(made, GOLDENS)
            print("\n".join(problems) or "the committed goldens are what the reference says")
            return 1 if problems else 0
        shutil.rmtree(GOLDENS, ignore_errors=True)
        shutil.copytree(made, GOLDENS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
