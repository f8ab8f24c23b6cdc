"""Writes trained weights as a Hugging Face folder: config.json, model.safetensors (bf16) and
generation_config.json. Needs torch and nothing else."""
import json, struct

import torch


def to_hugging_face(w, n_layers):
    """w: {name: fp32 tensor} as in train.py -> {Hugging Face name: bf16 tensor}.

    Rotary pairs already are (i, i + head_dim / 2), Hugging Face's order: nothing is permuted.
    Training has no norm gains. Here each norm takes over the column scale of the matrix behind it:
    the same function, with the uneven gains that trained checkpoints usually have.
    """
    out = {"model.embed_tokens.weight": w["embed"]}

    def fold(norm, matrix):
        gain = matrix.square().mean(0).sqrt()
        out[norm] = (gain / gain.mean()).bfloat16()
        return matrix / out[norm].float()

    for i in range(n_layers):
        p, n_q = f"model.layers.{i}.", w[f"{i}.o"].shape[1]
        qkv = fold(p + "input_layernorm.weight", w[f"{i}.qkv"])
        n_kv = (qkv.shape[0] - n_q) // 2
        for name, part in zip("qkv", qkv.split([n_q, n_kv, n_kv])):
            out[f"{p}self_attn.{name}_proj.weight"] = part
        out[p + "self_attn.o_proj.weight"] = w[f"{i}.o"]
        gate_up = fold(p + "post_attention_layernorm.weight", w[f"{i}.gate_up"])
        out[p + "mlp.gate_proj.weight"], out[p + "mlp.up_proj.weight"] = gate_up.chunk(2)
        out[p + "mlp.down_proj.weight"] = w[f"{i}.down"]
    out["lm_head.weight"] = fold("model.norm.weight", w["head"])
    return {name: tensor.bfloat16().contiguous() for name, tensor in out.items()}


def write_safetensors(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        size = 2 * tensors[name].numel()
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            f.write(tensors[name].view(torch.int16).numpy().tobytes())


def write_json(path, value):
    with open(path, "w") as f:
        f.write(json.dumps(value, indent=2) + "\n")


def export(out, w, n_layers, config):
    """config: the model's own keys of config.json; those common to the family are added."""
    write_safetensors(out + "/model.safetensors", to_hugging_face(w, n_layers))
    write_json(out + "/config.json", dict(sorted({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "initializer_range": 0.02,
        "num_hidden_layers": n_layers, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_cache": True, **config}.items())))
    write_json(out + "/generation_config.json",
               {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.8})
