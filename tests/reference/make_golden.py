"""Prints the numbers in reference_test.cc: logits of the public implementation in float64.

Needs torch and transformers; run by hand, not by the tests. Weights follow a formula, so that the
C++ side can make the same ones: element i of the n-th matrix is sin(0.7 i + n) / sqrt(columns),
of the n-th gain 1 + 0.1 sin(0.7 i + n), n counting in the order of NAMES.
"""
import math

import torch
from transformers import MistralConfig, MistralForCausalLM

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 12, 20, 2, 4, 2, 6, 9
TOKENS = [3, 1, 4, 1, 5, 8, 2, 6]
LAYER_NAMES = [("input_layernorm", 1), ("self_attn.q_proj", 2), ("self_attn.k_proj", 2),
               ("self_attn.v_proj", 2), ("self_attn.o_proj", 2), ("post_attention_layernorm", 1),
               ("mlp.gate_proj", 2), ("mlp.down_proj", 2), ("mlp.up_proj", 2)]
NAMES = ["model.embed_tokens"]
for layer in range(LAYERS):
    NAMES += [f"model.layers.{layer}.{name}" for name, _ in LAYER_NAMES]
NAMES += ["model.norm", "lm_head"]

config = MistralConfig(
    hidden_size=DIM, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM,
    vocab_size=VOCAB, rms_norm_eps=1e-5, sliding_window=None, tie_word_embeddings=False,
    max_position_embeddings=64, attn_implementation="eager")
for key in ("rope_parameters", "rope_theta"):
    if hasattr(config, key):
        setattr(config, key, {"rope_type": "default", "rope_theta": 1e4}
                if key == "rope_parameters" else 1e4)
model = MistralForCausalLM(config).double().eval()
state = model.state_dict()
for n, name in enumerate(NAMES):
    tensor = state[name + ".weight"]
    wave = torch.sin(0.7 * torch.arange(tensor.numel(), dtype=torch.float64) + n)
    scaled = 1 + 0.1 * wave if tensor.dim() == 1 else wave / math.sqrt(tensor.shape[1])
    tensor.copy_(scaled.reshape(tensor.shape))
# The library computes norms, rotations and the softmax in float32 whatever the model's type: here
# what it calls float32 is float64.
torch.float32 = torch.float64
torch.Tensor.float = torch.Tensor.double
for module in model.modules():
    if hasattr(module, "inv_freq"):
        exponents = torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM
        module.inv_freq = 1e4 ** -exponents
with torch.no_grad():
    logits = model(torch.tensor([TOKENS])).logits[0]
for position in (0, 3, 7):
    print(f"// position {position}")
    print(", ".join(f"{value:.12f}" for value in logits[position].tolist()))
