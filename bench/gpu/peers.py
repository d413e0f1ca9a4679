"""The peer of Koala's GPU benches: transformers and PyTorch at the same shapes, element type, batch and context, on the same
device, with random weights that are not zero. Rows are JSON lines on stdout, as bench_device.ts has them.

usage: python3 bench/gpu/peers.py inference [--shape llama-7b] [--batch 1,32] [--context 1024] [--prefill 2048] [--compile]
       python3 bench/gpu/peers.py training [--shape llama-7b] [--layers 8] [--rows 4] [--tokens 2048] [--compile]
       python3 bench/gpu/peers.py reference --out FOLDER [--shape llama-7b] [--layers 4] [--context 64]

Decoding takes a static cache and, with --compile, CUDA graphs (mode reduce-overhead); training takes flash attention through
scaled_dot_product_attention and fused AdamW. `reference` writes a model, what it answers and how it trains, for parity.ts and
training_parity.ts."""

import argparse
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

# hidden, intermediate, layers, heads, key/value heads, vocabulary, rope theta: as bench_device.ts
SHAPES = {
    "tiny": (64, 192, 2, 4, 2, 512, 1e4),
    "llama-7b": (4096, 11008, 32, 32, 32, 32000, 1e4),
    "llama-13b": (5120, 13824, 40, 40, 40, 32000, 1e4),
    "llama-3-8b": (4096, 14336, 32, 32, 8, 128256, 5e5),
}

device = "cuda" if torch.cuda.is_available() else "cpu"
peer = f"transformers {transformers.__version__}, torch {torch.__version__}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["inference", "training", "reference"])
    parser.add_argument("--shape", choices=SHAPES, default="llama-7b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--batch", default="1,32")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--prefill", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out")
    args = parser.parse_args()
    {"inference": inference, "training": training, "reference": reference}[args.mode](args)


def inference(args):
    model = build(args, torch.bfloat16).eval()
    vocabulary = model.config.vocab_size
    with torch.no_grad():
        ids = torch.randint(0, vocabulary, (1, args.prefill), device=device)
        seconds = timed(lambda: model(ids, logits_to_keep=1), repeat=7)
        put("inference", f"{args.shape} prefill {args.prefill}", args.prefill, seconds, compiled=False)
        for batch in map(int, args.batch.split(",")):
            seconds = decode(model, batch, args)
            put("inference", f"{args.shape} decode x{batch}", batch, seconds, args.compile)


def decode(model, batch, args):
    """Seconds of one step of `batch` sequences after `context` tokens each; the position moves on with every step."""
    repeat, warm = 15, 5
    cache = StaticCache(config=model.config, max_cache_len=args.context + repeat + warm + 1)
    prompt = torch.randint(0, model.config.vocab_size, (batch, args.context), device=device)
    # Filled row by row of the batch would take another cache; the whole batch at once takes the memory that it takes.
    model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
    # Otherwise a second batch size is compiled for all sizes at once, which is slower.
    torch.compiler.reset()
    step = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True) if args.compile else model.forward
    token = prompt[:, -1:].clone()
    position = torch.full((batch, 1), args.context, device=device)

    def one():
        logits = step(input_ids=token, position_ids=position, past_key_values=cache, use_cache=True).logits
        token.copy_(logits[:, -1:].argmax(-1))
        position.add_(1)
        token.cpu()  # a server has the token on the host

    return timed(one, repeat=repeat, warm=warm)


def training(args):
    model = build(args, torch.bfloat16).train()
    forward = torch.compile(model) if args.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device == "cuda")
    ids = torch.randint(0, model.config.vocab_size, (args.rows, args.tokens), device=device)

    def step():
        logits = forward(input_ids=ids, use_cache=False).logits[:, :-1].float()
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    seconds = timed(step, repeat=5)
    layers = model.config.num_hidden_layers
    what = f"{args.shape} x{layers} layers, {args.rows} x {args.tokens} tokens, step"
    put("training", what, args.rows * args.tokens, seconds, args.compile)


def reference(args):
    """A model at real width in bfloat16, prompts, and for both element types the logits after every token, greedy answers,
    gradients and the losses of some steps."""
    model = build(args, torch.bfloat16).eval()
    model.save_pretrained(args.out)
    ids = torch.randint(0, model.config.vocab_size, (4, args.context), generator=torch.Generator().manual_seed(2))
    new = 64 if args.shape != "tiny" else 16
    answers = {"prompts": ids.tolist(), "new": new, "optimizer": OPTIMIZER, "gradients": sampled_gradients(model)}
    for dtype in (torch.float32, torch.bfloat16):
        model = LlamaForCausalLM.from_pretrained(args.out, dtype=dtype).to(device).eval()
        name = str(dtype).removeprefix("torch.")
        with torch.no_grad():
            logits = model(ids.to(device)).logits.float().cpu()
            logits.numpy().tofile(os.path.join(args.out, f"logits.{name}.f32"))
            options = dict(max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=None)
            out = model.generate(ids.to(device), **options, output_scores=True, return_dict_in_generate=True)
        answers[name] = out.sequences[:, args.context :].tolist()
        # The best token's logit, and how far it is above the next: where rounding may choose the other.
        best = [scores.float().topk(2).values for scores in out.scores]
        answers[f"{name}_tops"] = torch.stack([two[:, 0] for two in best], dim=1).tolist()
        answers[f"{name}_leads"] = torch.stack([two[:, 0] - two[:, 1] for two in best], dim=1).tolist()
        del out, best
        answers[f"{name}_training"] = train_reference(model, ids.to(device), answers["gradients"], args.out)
    with open(os.path.join(args.out, "answers.json"), "w") as file:
        json.dump(answers, file)


OPTIMIZER = {"lr": 1e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0, "steps": 20}


def sampled_gradients(model):
    """Tensors of every kind, and the distance of the elements that are kept of each."""
    first, last = "model.layers.0.", f"model.layers.{model.config.num_hidden_layers - 1}."
    kinds = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"]
    late = ["self_attn.o_proj", "mlp.gate_proj", "input_layernorm"]
    names = [first + kind for kind in kinds] + [last + kind for kind in late] + ["model.embed_tokens", "lm_head"]
    size = {name: parameter.numel() for name, parameter in model.named_parameters()}
    # Odd, so that all columns have their turn.
    return [{"name": f"{name}.weight", "stride": size[f"{name}.weight"] // 2**18 | 1} for name in names]


def train_reference(model, ids, sampled, folder):
    """Losses before each of some AdamW steps on all of `ids`, and the first step's gradients: norms of all, some in a file."""
    o = OPTIMIZER
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    groups = [{"params": matrices, "weight_decay": o["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=o["lr"], betas=tuple(o["betas"]), eps=o["eps"])
    losses, norms = [], {}
    for step in range(o["steps"]):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
            norms = {name: gradient.float().norm().item() for name, gradient in gradients.items()}
            parts = [gradients[one["name"]].reshape(-1)[:: one["stride"]].float().cpu() for one in sampled]
            dtype = str(model.dtype).removeprefix("torch.")
            torch.cat(parts).numpy().tofile(os.path.join(folder, f"gradients.{dtype}.f32"))
        torch.nn.utils.clip_grad_norm_(model.parameters(), o["clip"])
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "norms": norms}


def build(args, dtype):
    """Random weights, wider than transformers' own, so that greedy choices are far apart."""
    hidden, intermediate, layers, heads, groups, vocabulary, theta = SHAPES[args.shape]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=args.layers or layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=vocabulary,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1, 0.1)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model


def timed(call, repeat, warm=3):
    """Sorted seconds of `repeat` calls after `warm` (in which compilers compile)."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(warm):
        call()
    seconds = []
    for _ in range(repeat):
        wait()
        begin = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds)


def put(step, what, tokens, seconds, compiled):
    row = {
        "step": step,
        "what": what,
        "value": tokens / statistics.median(seconds),
        "unit": "tokens/s",
        "range": [tokens / seconds[-1], tokens / seconds[0]],
        "peer": f"{peer}, {'compiled' if compiled else 'eager'}",
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
