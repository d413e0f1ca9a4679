"""Writes the files beside it with PyTorch, msgpack and numpy: one small model as Hugging Face, Meta, EasyLM and PyTorch
lay it out, deltas of 2023 with the sums that their programs compute, and a pickle that would run a command.
Run: python3 make_release.py (PyTorch 1.13, msgpack 1.0)."""
import json, os, pickle, struct
import msgpack, numpy as np, torch

here = os.path.dirname(os.path.abspath(__file__))
D, H, G, F, V, L = 16, 4, 2, 24, 20, 2
E = D // H
gen = torch.Generator().manual_seed(3)
rand = lambda *shape: (torch.randn(*shape, generator=gen) * 0.05).half()

hf = {"model.embed_tokens.weight": rand(V, D), "model.norm.weight": rand(D) + 1, "lm_head.weight": rand(V, D)}
for i in range(L):
    p = f"model.layers.{i}."
    hf |= {p + "self_attn.q_proj.weight": rand(D, D), p + "self_attn.k_proj.weight": rand(G * E, D),
           p + "self_attn.v_proj.weight": rand(G * E, D), p + "self_attn.o_proj.weight": rand(D, D),
           p + "mlp.gate_proj.weight": rand(F, D), p + "mlp.up_proj.weight": rand(F, D), p + "mlp.down_proj.weight": rand(D, F),
           p + "input_layernorm.weight": rand(D) + 1, p + "post_attention_layernorm.weight": rand(D) + 1}
config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": D, "intermediate_size": F,
          "num_attention_heads": H, "num_key_value_heads": G, "num_hidden_layers": L, "vocab_size": V, "rms_norm_eps": 1e-5,
          "rope_theta": 10000, "max_position_embeddings": 2048, "hidden_act": "silu", "tie_word_embeddings": False,
          "bos_token_id": 1, "eos_token_id": 2}


def safetensors(path, tensors):
    header, blob = {}, b""
    for name, t in tensors.items():
        kind = {torch.float16: "F16", torch.float32: "F32", torch.bfloat16: "BF16"}[t.dtype]
        data = (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes()
        header[name] = {"dtype": kind, "shape": list(t.shape), "data_offsets": [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + blob)


def folder(name):
    os.makedirs(os.path.join(here, name), exist_ok=True)
    return os.path.join(here, name)


def with_config(path, tensors=None):
    json.dump(config, open(os.path.join(path, "config.json"), "w"))
    if tensors is not None:
        safetensors(os.path.join(path, "model.safetensors"), tensors)
    return path


def unpermute(w, heads):  # the inverse of transformers' convert_llama_weights_to_hf.permute
    rows, columns = w.shape
    return w.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


with_config(folder("hf"), hf)
meta = {"tok_embeddings.weight": hf["model.embed_tokens.weight"], "norm.weight": hf["model.norm.weight"],
        "output.weight": hf["lm_head.weight"], "rope.freqs": torch.arange(2).float()}
axis = {"tok_embeddings.weight": 1, "output.weight": 0}
for i in range(L):
    p, q = f"model.layers.{i}.", f"layers.{i}."
    for a, b, cut in [("self_attn.q_proj", "attention.wq", 0), ("self_attn.k_proj", "attention.wk", 0),
                      ("self_attn.v_proj", "attention.wv", 0), ("self_attn.o_proj", "attention.wo", 1),
                      ("mlp.gate_proj", "feed_forward.w1", 0), ("mlp.down_proj", "feed_forward.w2", 1),
                      ("mlp.up_proj", "feed_forward.w3", 0), ("input_layernorm", "attention_norm", None),
                      ("post_attention_layernorm", "ffn_norm", None)]:
        w = hf[p + a + ".weight"]
        w = unpermute(w, H) if b.endswith("wq") else unpermute(w, G) if b.endswith("wk") else w
        meta[q + b + ".weight"] = w
        axis[q + b + ".weight"] = cut
path = folder("meta")
for rank in range(2):
    part = {k: v if axis.get(k) is None else v.chunk(2, axis[k])[rank].clone() for k, v in meta.items()}
    torch.save(part, os.path.join(path, f"consolidated.{rank:02d}.pth"))
json.dump({"dim": D, "n_heads": H, "n_kv_heads": G, "n_layers": L, "norm_eps": 1e-5, "vocab_size": -1},
          open(os.path.join(path, "params.json"), "w"))


def easylm(path, tensors):
    names = {"tok_embeddings.weight": ("transformer", "wte", "embedding"), "norm.weight": ("transformer", "ln_f", "kernel"),
             "output.weight": ("lm_head", "kernel")}
    with open(path, "wb") as f:
        packer = msgpack.Packer()
        for k, w in tensors.items():
            if k == "rope.freqs":
                continue
            key = names.get(k) or ("transformer", "h", k.split(".")[1], *k.split(".")[2:-1], "kernel")
            w = w if "norm" in k or "embed" in k else w.T.contiguous()
            kind = "bfloat16" if w.dtype == torch.bfloat16 else str(w.dtype).split(".")[1]
            data = (w.view(torch.int16) if kind == "bfloat16" else w).numpy().tobytes()
            array = msgpack.ExtType(1, msgpack.packb((tuple(w.shape), kind, data), use_bin_type=True))
            f.write(packer.pack((("params", *key), msgpack.packb(array))))


path = with_config(folder("easylm"), {k: v.bfloat16() for k, v in hf.items()})
easylm(os.path.join(path, "params.stream"), {k: v.bfloat16() for k, v in meta.items()})

path = with_config(folder("torch"))
pool = torch.cat([hf["model.norm.weight"], hf["model.layers.0.input_layernorm.weight"]])
views = dict(hf) | {"model.norm.weight": pool[:D], "model.layers.0.input_layernorm.weight": pool[D:],
                    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.arange(2).float(),
                    "lm_head.weight": torch.nn.Parameter(hf["lm_head.weight"])}
torch.save(views, os.path.join(path, "pytorch_model.bin"))
torch.save({"w": hf["model.layers.0.mlp.up_proj.weight"].T}, os.path.join(path, "transposed.pt"))


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


torch.save({"w": hf["model.norm.weight"], "x": Evil()}, os.path.join(path, "evil.pt"))

# Deltas: tuned minus base and what the programs give back.
tuned = {k: (v.float() + 1e-3 * torch.randn(v.shape, generator=gen)).half() for k, v in hf.items()}
delta = {k: tuned[k] - hf[k] for k in hf}  # float16, as FastChat's make_delta
path = with_config(folder("fastchat"))
torch.save(delta, os.path.join(path, "pytorch_model.bin"))
with_config(folder("fastchat-tuned"), {k: delta[k] + hf[k] for k in hf})

config["vocab_size"] = V + 1
grown = lambda t: torch.cat([t.float(), t.float().mean(dim=0, keepdim=True)])  # smart_tokenizer_and_embedding_resize
raw = {k: grown(v) if v.shape[0] == V else v.float() for k, v in hf.items()}
new = {k: v + 1e-3 * torch.randn(v.shape, generator=gen) for k, v in raw.items()}
path = with_config(folder("alpaca"))
torch.save({k: new[k] - raw[k] for k in raw}, os.path.join(path, "pytorch_model.bin"))
with_config(folder("alpaca-tuned"), {k: (new[k] - raw[k]) + raw[k] for k in raw})
