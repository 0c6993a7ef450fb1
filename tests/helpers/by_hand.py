"""Transformers step by step in float64, from their papers and by weights alone: what the scorers are checked against.

`w` is a function from a name to its tensor.
"""

import math

import numpy as np
import torch
from PIL import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(picture: Image.Image, size: int, mean=MEAN, deviation=DEVIATION) -> torch.Tensor:
    """(1, 3, size, size): shortest side to `size` by PIL's bicubic, the centre, normalised."""
    width, height = picture.size
    scale = size / min(width, height)
    target = (size, int(height * scale)) if width <= height else (int(width * scale), size)
    picture = picture.resize(target, Image.Resampling.BICUBIC)
    left, top = round((target[0] - size) / 2), round((target[1] - size) / 2)  # torchvision's rounding
    pixels = np.asarray(picture.crop((left, top, left + size, top + size)), dtype=np.float64) / 255
    return torch.from_numpy((pixels - mean) / deviation).permute(2, 0, 1)[None]


def hps_pixels(picture: Image.Image, size: int) -> torch.Tensor:
    """(1, 3, size, size): hpsv2's ResizeMaxSize on a tensor. The longest side to `size` by a bicubic that smooths, the
    other by Python's rounding; black to the square, the odd line at the end; then CLIP's mean and deviation."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64) / 255
    scale = size / max(pixels.shape[:2])
    if scale != 1:
        height, width = (round(side * scale) for side in pixels.shape[:2])
        rows, columns = smooth_bicubic(pixels.shape[0], height), smooth_bicubic(pixels.shape[1], width)
        pixels = np.einsum("ij,jkc,lk->ilc", rows, pixels, columns)
        padded = np.zeros((size, size, 3))
        top, left = (size - height) // 2, (size - width) // 2
        padded[top : top + height, left : left + width] = pixels
        pixels = padded
    return torch.from_numpy((pixels - MEAN) / DEVIATION).permute(2, 0, 1)[None]


def smooth_bicubic(length: int, size: int) -> np.ndarray:
    """(size, length): each output line as a mean of input lines, by Keys' cubic, a = -0.5, widened when reducing."""
    scale = length / size
    wide = max(scale, 1.0)
    matrix = np.zeros((size, length))
    for row in range(size):
        place = (row + 0.5) * scale
        for tap in range(max(int(place - 2 * wide + 0.5), 0), min(int(place + 2 * wide + 0.5), length)):
            matrix[row, tap] = keys_cubic((tap + 0.5 - place) / wide, -0.5)
        matrix[row] /= matrix[row].sum()
    return matrix


def keys_cubic(distance: float, a: float) -> float:
    """Keys 1981's interpolation kernel."""
    x = abs(distance)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def weights_of(tensors: dict[str, torch.Tensor], prefix: str = ""):
    return lambda name: tensors[prefix + name].double()


def linear(x, weight, bias=None):
    return x @ weight.T + (0 if bias is None else bias)


def layer_norm(x, weight, bias, eps):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def attention(queries, keys, values, heads, mask=None):
    """(1, N, D), (1, M, D), (1, M, D) -> (1, N, D); mask: (N, M), added to the scores."""
    width = queries.shape[-1] // heads
    parts = []
    for head in range(heads):
        at = slice(head * width, (head + 1) * width)
        scores = queries[..., at] @ keys[..., at].transpose(1, 2) / math.sqrt(width)
        scores = scores if mask is None else scores + mask
        parts.append(torch.softmax(scores, -1) @ values[..., at])
    return torch.cat(parts, -1)


def causal(length):
    return torch.full((length, length), -math.inf, dtype=torch.float64).triu(1)


def patches(pixels, weight, bias, patch):
    """(1, 3, S, S) -> (1, (S / patch)^2, D): each patch times the kernel."""
    rows = pixels.unfold(2, patch, patch).unfold(3, patch, patch)  # (1, 3, h, w, patch, patch)
    rows = rows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    return linear(rows, weight.flatten(1), bias)


def pre_norm_block(x, heads, activation, eps, w, names, mask=None):
    """x + attention(norm(x)), then x + mlp(norm(x)). names: norm 1, query/key/value, output, norm 2, mlp 1 and 2."""
    norm_1, qkv, out, norm_2, up, down = names
    h = layer_norm(x, w(f"{norm_1}.weight"), w(f"{norm_1}.bias"), eps)
    q, k, v = (linear(h, *pair) for pair in qkv(w))
    x = x + linear(attention(q, k, v, heads, mask), w(f"{out}.weight"), w(f"{out}.bias"))
    h = layer_norm(x, w(f"{norm_2}.weight"), w(f"{norm_2}.bias"), eps)
    h = activation(linear(h, w(f"{up}.weight"), w(f"{up}.bias")))
    return x + linear(h, w(f"{down}.weight"), w(f"{down}.bias"))


def joined_qkv(weight, bias):
    """For weights that hold query, key and value one below the other."""
    return lambda w: list(zip(w(weight).chunk(3), w(bias).chunk(3), strict=True))


def separate_qkv(prefix, names=("q_proj", "k_proj", "v_proj")):
    return lambda w: [(w(f"{prefix}.{name}.weight"), w(f"{prefix}.{name}.bias")) for name in names]


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def open_clip_picture(pixels, w, layers, heads, patch, activation):
    """open-clip's picture tower -> (1, D)."""
    x = patches(pixels, w("visual.conv1.weight"), None, patch)
    x = torch.cat([w("visual.class_embedding")[None, None], x], 1) + w("visual.positional_embedding")
    x = layer_norm(x, w("visual.ln_pre.weight"), w("visual.ln_pre.bias"), 1e-5)
    for layer in range(layers):
        x = _open_clip_block(x, f"visual.transformer.resblocks.{layer}", heads, activation, w)
    x = layer_norm(x[:, 0], w("visual.ln_post.weight"), w("visual.ln_post.bias"), 1e-5)
    return x @ w("visual.proj")


def open_clip_prompt(tokens, w, layers, heads, activation):
    """tokens: the ids of one prompt, padded or not -> (1, D), read at the end token, which has the highest id."""
    x = (w("token_embedding.weight")[tokens] + w("positional_embedding")[: len(tokens)])[None]
    for layer in range(layers):
        x = _open_clip_block(x, f"transformer.resblocks.{layer}", heads, activation, w, causal(len(tokens)))
    x = layer_norm(x, w("ln_final.weight"), w("ln_final.bias"), 1e-5)
    return x[:, int(torch.tensor(tokens).argmax())] @ w("text_projection")


def _open_clip_block(x, at, heads, activation, w, mask=None):
    names = (
        f"{at}.ln_1", joined_qkv(f"{at}.attn.in_proj_weight", f"{at}.attn.in_proj_bias"), f"{at}.attn.out_proj",
        f"{at}.ln_2", f"{at}.mlp.c_fc", f"{at}.mlp.c_proj",
    )  # fmt: skip
    return pre_norm_block(x, heads, activation, 1e-5, w, names, mask)
