"""The shapes of bora-bench-gpu by PyTorch, on the same GPU: rows `figure torch_NAME VALUE UNIT p10 A p90 B`.

Products are torch.matmul with bf16 results (ours are float); attention is scaled_dot_product_attention with the flash and
the cuDNN backend over contiguous keys and values (ours are paged); sampling is a sort over the vocabulary. Each is timed
as bora-bench-gpu does it: launches recorded as a graph, weights and caches rotated so that no L2 cache holds them, the
median of 31 replays. Generation is a whole request by transformers, where that is installed. Meant for one machine and one
run beside bora-bench-gpu; tests/gpu/run.sh calls it.
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SAMPLES = 31
WARM_UP_S = 0.06
# As in bench_matmul.cc and bench_attention.cc.
COPIES = 8
LAYERS_BYTES = 512 << 20
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
SHAPES = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336), "lm_head": (32000, 4096)}
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def random_bf16(*shape):
    return torch.rand(shape, device="cuda", dtype=torch.bfloat16) * 2 - 1


def time_us(launch, n_launches):
    """Median, p10 and p90 of a launch in microseconds; launch(i) queues the i-th."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(n_launches):
            launch(i)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(n_launches):
            launch(i)
    warm_until = time.monotonic() + WARM_UP_S
    while time.monotonic() < warm_until:
        torch.cuda.synchronize()
        graph.replay()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(SAMPLES + 1)]
    marks[0].record()
    for mark in marks[1:]:
        graph.replay()
        mark.record()
    torch.cuda.synchronize()
    us = sorted(1e3 * a.elapsed_time(b) / n_launches for a, b in zip(marks, marks[1:]))
    last = SAMPLES - 1
    return us[last // 2], us[last // 10], us[last - last // 10]


def print_us(name, timing):
    median, p10, p90 = timing
    print(f"figure torch_{name}_us {median:.4g} us p10 {p10:.4g} p90 {p90:.4g}", flush=True)


def print_rate(name, timing, per_us, unit):
    median, p10, p90 = timing
    print(f"figure torch_{name} {per_us / median:.4g} {unit} p10 {per_us / p90:.4g} p90 {per_us / p10:.4g}", flush=True)


def bench_limits():
    source = torch.randint(-2**62, 2**62, (1 << 27,), device="cuda")
    target = torch.empty_like(source)
    n_bytes = 2 * source.numel() * source.element_size()
    print_rate("limit_copy", time_us(lambda i: target.copy_(source), 1), n_bytes * 1e-3, "GB/s")
    x, w = random_bf16(8192, 8192), random_bf16(8192, 8192)
    y = torch.empty(8192, 8192, device="cuda", dtype=torch.bfloat16)
    print_rate("limit_gemm", time_us(lambda i: torch.matmul(x, w.t(), out=y), 1), 2e-6 * 8192**3, "TFLOP/s")


def bench_matmul():
    for name, (n_rows, n_cols) in SHAPES.items():
        weights = [random_bf16(n_rows, n_cols).t() for _ in range(COPIES)]
        for m in (1, 8, 16, 32, 64, 128, 2048, 8192):
            if m > 64 and name == "lm_head":
                continue
            x = random_bf16(m, n_cols)
            y = torch.empty(m, n_rows, device="cuda", dtype=torch.bfloat16)
            n_launches = 4 * COPIES if m <= 64 else COPIES if m < 2048 else 1
            timing = time_us(lambda i: torch.matmul(x, weights[i % COPIES], out=y), n_launches)
            if m <= 64:
                n_bytes = 2 * (n_rows * n_cols + m * n_cols + m * n_rows)
                print_rate(f"matmul_{name}_m{m}", timing, n_bytes * 1e-3, "GB/s")
            else:
                print_rate(f"matmul_{name}_m{m}", timing, 2e-6 * m * n_rows * n_cols, "TFLOP/s")
            print_us(f"matmul_{name}_m{m}", timing)


def attention(backend, q, k, v, causal):
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def bench_prefill_attention():
    for name, n_tokens in (("2k", 2048), ("8k", 8192), ("32k", 32768)):
        q = random_bf16(1, HEADS, n_tokens, HEAD_DIM)
        k, v = (random_bf16(1, KV_HEADS, n_tokens, HEAD_DIM) for _ in range(2))
        flops = 4 * HEAD_DIM * HEADS * n_tokens * (n_tokens + 1) / 2
        for backend_name, backend in BACKENDS.items():
            def launch(_):
                attention(backend, q, k, v, causal=True)
            figure = f"prefill_attention_{backend_name}_{name}"
            attempt(figure, lambda: print_prefill(figure, time_us(launch, 4 if n_tokens == 2048 else 1), flops))


def print_prefill(figure, timing, flops):
    print_rate(figure, timing, flops * 1e-6, "TFLOP/s")
    print_us(figure, timing)


def bench_decode_attention():
    for name, n_rows, context, n_launches in (("1x1k", 1, 1024, 64), ("1x8k", 1, 8192, 32), ("1x32k", 1, 32768, 16),
                                              ("32x1k", 32, 1024, 16), ("32x8k", 32, 8192, 2), ("128x4k", 128, 4096, 1)):
        n_bytes = 2 * n_rows * KV_HEADS * context * HEAD_DIM * 2
        caches = [[random_bf16(n_rows, KV_HEADS, context, HEAD_DIM) for _ in range(2)]
                  for _ in range(-(-LAYERS_BYTES // n_bytes))]
        q = random_bf16(n_rows, HEADS, 1, HEAD_DIM)
        for backend_name, backend in BACKENDS.items():
            def launch(i):
                attention(backend, q, *caches[i % len(caches)], causal=False)
            figure = f"decode_attention_{backend_name}_{name}"
            attempt(figure, lambda: print_decode(figure, time_us(launch, n_launches), n_bytes))


def print_decode(figure, timing, n_bytes):
    print_rate(figure, timing, n_bytes * 1e-3, "GB/s")
    print_us(figure, timing)


def sample_top_p(logits, noise, top_p):
    """One token a row from the smallest set whose probability reaches top_p, by sorting. noise: exponential, [n, vocab]."""
    ordered, ids = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True)
    kept = ordered.cumsum(dim=-1) - ordered < top_p
    return ids.gather(-1, (ordered * kept / noise).argmax(dim=-1, keepdim=True))


def bench_sample():
    for n_rows in (1, 128):
        logits = (torch.rand(n_rows, 32000, device="cuda") * 2 - 1) * 12
        noise = torch.empty_like(logits).exponential_()
        print_us(f"sample_greedy_m{n_rows}", time_us(lambda i: logits.argmax(dim=-1), 32))
        print_us(f"sample_top_p_m{n_rows}", time_us(lambda i: sample_top_p(logits, noise, 0.9), 32))


def bench_generate(n_prompt=512, n_output=128, device="cuda", **sizes):
    """One request by transformers as it comes: eager, greedy, a model of random weights in bf16."""
    try:
        from transformers import MistralConfig, MistralForCausalLM
    except ImportError:
        print("skipped 1 torch_generate: no transformers")
        return
    shape = dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=HEADS,
                 num_key_value_heads=KV_HEADS, vocab_size=32000, max_position_embeddings=32768, sliding_window=None)
    config = MistralConfig(**{**shape, **sizes})
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = MistralForCausalLM(config).eval()
    torch.set_default_dtype(default_dtype)
    prompt = torch.randint(3, config.vocab_size, (1, n_prompt), device=device)
    rates = []
    for repetition in range(4):  # the first one warms up
        begin = time.monotonic()
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, min_new_tokens=n_output,
                             max_new_tokens=n_output, pad_token_id=0)
        n_generated = out.shape[1] - n_prompt
        out.cpu()  # waits for the device
        if n_generated != n_output:
            raise RuntimeError(f"transformers generated {n_generated} tokens, not {n_output}")
        if repetition > 0:
            rates.append(n_output / (time.monotonic() - begin))
    rates.sort()
    print(f"figure torch_generate_{n_prompt}_{n_output}_tokens_per_s {rates[1]:.4g} tokens/s p10 {rates[0]:.4g} "
          f"p90 {rates[2]:.4g}", flush=True)


def attempt(figure, bench):
    """A backend may refuse a shape: that is a row less, not the end."""
    try:
        bench()
    except RuntimeError as error:
        print(f"skipped 1 torch_{figure}: {str(error).splitlines()[0]}", flush=True)


def main():
    if not torch.cuda.is_available():
        print("skipped torch_peer.py: PyTorch sees no GPU")
        return 0
    torch.manual_seed(1)
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, "
          f"{torch.cuda.get_device_name()}")
    with torch.inference_mode():
        bench_limits()
        bench_matmul()
        bench_prefill_attention()
        bench_decode_attention()
        bench_sample()
        attempt("generate", bench_generate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
