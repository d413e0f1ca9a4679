"""The framework that Koala was first trained in, as a peer of training.ts: one jitted LLaMA step in JAX with bfloat16 weights
and AdamW, attention by cuDNN on a GPU. Rows are JSON lines on stdout, as bench_device.ts has them.

usage: python3 bench/gpu/jax_peer.py [--shape llama-7b] [--layers 8] [--rows 4] [--tokens 2048] [--remat]"""

import argparse
import functools
import json
import os
import statistics
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")

import jax
import jax.numpy as jnp

# hidden, intermediate, layers, heads, key/value heads, vocabulary, rope theta: as bench_device.ts
SHAPES = {
    "tiny": (64, 192, 2, 4, 2, 512, 1e4),
    "llama-7b": (4096, 11008, 32, 32, 32, 32000, 1e4),
}
BETA1, BETA2, EPS, RATE = 0.9, 0.999, 1e-8, 1e-4

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--shape", choices=SHAPES, default="llama-7b")
parser.add_argument("--layers", type=int)
parser.add_argument("--rows", type=int, default=4)
parser.add_argument("--tokens", type=int, default=2048)
parser.add_argument("--remat", action="store_true", help="compute activations again in the backward pass")
args = parser.parse_args()

D, F, LAYERS, H, G, V, THETA = SHAPES[args.shape]
LAYERS = args.layers or LAYERS
E = D // H
on_gpu = jax.default_backend() == "gpu"
half = jnp.bfloat16


def main():
    parameters = jax.jit(fresh)(jax.random.key(0))
    moments = jax.tree.map(jnp.zeros_like, (parameters, parameters))
    tokens = jax.random.randint(jax.random.key(1), (args.rows, args.tokens), 0, V)
    seconds, losses = [], []
    for count in range(1, 9):
        begin = time.perf_counter()
        parameters, moments, loss = step(parameters, moments, tokens, count)
        losses.append(float(loss))
        seconds.append(time.perf_counter() - begin)
    seconds = sorted(seconds[3:])  # the first compiles
    each = args.rows * args.tokens
    row = {
        "step": "training",
        "what": f"{args.shape} x{LAYERS} layers, {args.rows} x {args.tokens} tokens, step",
        "value": each / statistics.median(seconds),
        "unit": "tokens/s",
        "range": [each / seconds[-1], each / seconds[0]],
        "peer": f"jax {jax.__version__}, jit",
        "note": f"loss {losses[0]:.3f} to {losses[-1]:.3f}",
    }
    print(json.dumps(row), flush=True)


def fresh(key):
    def normal(i, *shape):
        return jax.random.normal(jax.random.fold_in(key, i), shape, half) * shape[-2] ** -0.5

    layers = {
        "qkv": normal(2, LAYERS, D, (H + 2 * G) * E),
        "output": normal(3, LAYERS, H * E, D),
        "gate_up": normal(4, LAYERS, D, 2 * F),
        "down": normal(5, LAYERS, F, D),
        "attention_norm": jnp.ones((LAYERS, D), half),
        "mlp_norm": jnp.ones((LAYERS, D), half),
    }
    return {"embedding": normal(0, V, D), "head": normal(1, D, V), "norm": jnp.ones(D, half), "layers": layers}


def rms_norm(x, weight):
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + 1e-5)).astype(half) * weight


def rope(x):
    angles = jnp.arange(x.shape[1])[:, None] * THETA ** (-jnp.arange(0, E, 2) / E)
    cos, sin = (f(angles)[None, :, None].astype(half) for f in (jnp.cos, jnp.sin))
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def block(x, w):
    rows, tokens, _ = x.shape
    q, k, v = jnp.split(rms_norm(x, w["attention_norm"]) @ w["qkv"], [H * E, (H + G) * E], -1)
    q, k, v = (part.reshape(rows, tokens, -1, E) for part in (q, k, v))
    how = "cudnn" if on_gpu else "xla"
    y = jax.nn.dot_product_attention(rope(q), rope(k), v, is_causal=True, implementation=how)
    x = x + y.reshape(rows, tokens, -1) @ w["output"]
    gate, up = jnp.split(rms_norm(x, w["mlp_norm"]) @ w["gate_up"], 2, -1)
    return x + (jax.nn.silu(gate) * up) @ w["down"]


def loss_of(parameters, tokens):
    layer = jax.checkpoint(block) if args.remat else block
    x, _ = jax.lax.scan(lambda x, w: (layer(x, w), None), parameters["embedding"][tokens], parameters["layers"])
    logits = (rms_norm(x, parameters["norm"]) @ parameters["head"]).astype(jnp.float32)[:, :-1]
    chosen = jnp.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, -1) - chosen).mean()


@functools.partial(jax.jit, donate_argnums=(0, 1))
def step(parameters, moments, tokens, count):
    """AdamW without decay, clipped to norm 1, as training.ts; the arithmetic is float32, what is kept bfloat16."""
    loss, gradients = jax.value_and_grad(loss_of)(parameters, tokens)
    squares = sum((g.astype(jnp.float32) ** 2).sum() for g in jax.tree.leaves(gradients))
    scale = jnp.minimum(1, 1 / (jnp.sqrt(squares) + 1e-6))

    def update(w, m, v, g):
        w32, g = w.astype(jnp.float32), g.astype(jnp.float32) * scale
        m = BETA1 * m.astype(jnp.float32) + (1 - BETA1) * g
        v = BETA2 * v.astype(jnp.float32) + (1 - BETA2) * g**2
        w32 -= RATE * (m / (1 - BETA1**count)) / (jnp.sqrt(v / (1 - BETA2**count)) + EPS)
        return w32.astype(half), m.astype(half), v.astype(half)

    done = jax.tree.map(update, parameters, *moments, gradients)
    pick = lambda i: jax.tree.map(lambda three: three[i], done, is_leaf=lambda x: isinstance(x, tuple))
    return pick(0), (pick(1), pick(2)), loss


if __name__ == "__main__":
    main()
