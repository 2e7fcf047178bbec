"""MiDashengLM computed slowly and plainly in float64, from the specification alone.

Clip by clip, chunk by chunk, head by head and query by query; nothing is batched, packed, padded or masked by
tensors, and nothing of the package is used. Weights come as a dictionary of published tensor names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = Mapping[str, Array]


def load_tensors(path: Any) -> dict[str, Array]:
    """The tensors of a ``model.safetensors`` as float64."""
    from safetensors.numpy import load_file

    return {name: tensor.astype(np.float64) for name, tensor in load_file(path).items()}


# The front end


def mel_bands(sample_rate: int = 16000, n_fft: int = 512, n_mels: int = 64, top: float = 8000.0) -> Array:
    """HTK mel triangles without area normalisation: [n_fft / 2 + 1, n_mels]."""

    def to_mel(hertz: float) -> float:
        return 2595.0 * math.log10(1.0 + hertz / 700.0)

    def to_hertz(mel: float) -> float:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)

    step = to_mel(top) / (n_mels + 1)
    edges = [to_hertz(step * i) for i in range(n_mels + 2)]
    bands = np.zeros((n_fft // 2 + 1, n_mels))
    for band in range(n_mels):
        low, peak, high = edges[band : band + 3]
        for k in range(n_fft // 2 + 1):
            hertz = k * sample_rate / n_fft
            if low < hertz <= peak:
                bands[k, band] = (hertz - low) / (peak - low)
            elif peak < hertz < high:
                bands[k, band] = (high - hertz) / (high - peak)
    return bands


def reflected(waveform: Array, index: int) -> float:
    """A sample of the waveform continued by reflection at both ends (the end sample isn't repeated)."""
    last = len(waveform) - 1
    if index < 0:
        index = -index
    if index > last:
        index = 2 * last - index
    return float(waveform[index])


def log_mel(waveform: Array) -> Array:
    """Decibels of a clip, [frames, 64], after the padding of very short clips."""
    waveform = np.asarray(waveform, dtype=np.float64)
    if len(waveform) < 3200:
        waveform = np.concatenate([waveform, np.zeros(3200 - len(waveform))])
    n = np.arange(512)
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * n / 512)
    k = np.arange(257)
    fourier = np.exp(-2j * np.pi * np.outer(n, k) / 512)
    bands = mel_bands()
    frames = []
    for frame in range(1 + len(waveform) // 160):
        start = frame * 160 - 256
        if start >= 0 and start + 512 <= len(waveform):
            samples = waveform[start : start + 512]
        else:
            samples = np.array([reflected(waveform, start + i) for i in range(512)])
        power = np.abs((samples * hann) @ fourier) ** 2
        frames.append(10.0 * np.log10(np.maximum(power @ bands, 1e-10)))
    decibels = np.array(frames)
    return np.maximum(decibels, decibels.max() - 120.0)


# The encoder


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """Over the last dimension, eps 1e-6."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-6) * weight + bias


def gelu(x: Array) -> Array:
    """The exact one."""
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def softmax(scores: Array) -> Array:
    """Of one query."""
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def encoder_block(t: Tensors, name: str, x: Array, keys: int, heads: int) -> Array:
    """One block on one chunk ``x`` [patches, D]; only the first ``keys`` patches may be attended to."""
    width = x.shape[1] // heads
    normed = layer_norm(x, t[f"{name}.norm1.weight"], t[f"{name}.norm1.bias"])
    qkv = normed @ t[f"{name}.attn.qkv.weight"].T
    if f"{name}.attn.qkv.bias" in t:
        qkv = qkv + t[f"{name}.attn.qkv.bias"]
    q, k, v = np.split(qkv, 3, axis=1)
    attended = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for query in range(len(x)):
            if keys:
                scores = k[:keys, part] @ q[query, part] / math.sqrt(width)
                attended[query, part] = softmax(scores) @ v[:keys, part]
    attended = attended @ t[f"{name}.attn.proj.weight"].T + t[f"{name}.attn.proj.bias"]
    x = x + attended * t.get(f"{name}.ls1.gamma", 1.0)
    normed = layer_norm(x, t[f"{name}.norm2.weight"], t[f"{name}.norm2.bias"])
    hidden = gelu(normed @ t[f"{name}.mlp.fc1.weight"].T + t[f"{name}.mlp.fc1.bias"])
    hidden = hidden @ t[f"{name}.mlp.fc2.weight"].T + t[f"{name}.mlp.fc2.bias"]
    return x + hidden * t.get(f"{name}.ls2.gamma", 1.0)


def encode(t: Tensors, config: Mapping[str, Any], waveform: Array) -> Array:
    """Encoder features of a clip: [patches, D]."""
    audio = config["audio_encoder_config"]
    a = "audio_encoder"
    mel = log_mel(waveform)
    scale = t[f"{a}.init_bn.weight"] / np.sqrt(t[f"{a}.init_bn.running_var"] + 1e-5)
    mel = (mel - t[f"{a}.init_bn.running_mean"]) * scale + t[f"{a}.init_bn.bias"]
    kernel, bias = t[f"{a}.patch_embed.proj.weight"], t[f"{a}.patch_embed.proj.bias"]
    patches = []
    for start in range(0, len(mel) // 4 * 4, 4):
        window = mel[start : start + 4].T
        patches.append(np.array([(kernel[d, 0] * window).sum() for d in range(len(kernel))]) + bias)
    valid, size = max(len(waveform), 3200) // 640, audio["target_length"] // 4
    outputs = []
    for start in range(0, len(patches), size):
        x = np.array(patches[start : start + size])
        for position in range(len(x)):
            x[position] += t[f"{a}.time_pos_embed"][0, :, 0, position] + t[f"{a}.freq_pos_embed"][0, :, 0, 0]
        keys = min(max(valid - start, 0), len(x))
        for block in range(audio["depth"]):
            x = encoder_block(t, f"{a}.blocks.{block}", x, keys, audio["num_heads"])
        outputs.append(layer_norm(x, t[f"{a}.norm.weight"], t[f"{a}.norm.bias"]))
    return np.concatenate(outputs)


def audio_features(t: Tensors, config: Mapping[str, Any], waveform: Array) -> Array:
    """What the decoder gets of a clip: [audio tokens, H]."""
    features, run = encode(t, config, waveform), config["subsample_factor"]
    p = "audio_projector.net"
    tokens = []
    for start in range(0, len(features) - run + 1, run):
        joined = np.concatenate([features[start + i] for i in range(run)])
        hidden = gelu(t[f"{p}.0.weight"] @ joined + t[f"{p}.0.bias"])
        tokens.append(t[f"{p}.2.weight"] @ hidden + t[f"{p}.2.bias"])
    return np.array(tokens)


# The decoder


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Over the last dimension."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def rotate(x: Array, position: int, theta: float) -> Array:
    """Rotary embedding of one head's vector."""
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        angle = position * theta ** (-2.0 * i / len(x))
        out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
    return out


def decoder_layer(t: Tensors, name: str, text: Mapping[str, Any], x: Array) -> Array:
    """One layer on one row ``x`` [T, H]."""
    heads, kv_heads, eps = text["num_attention_heads"], text["num_key_value_heads"], text["rms_norm_eps"]
    width = text.get("head_dim") or text["hidden_size"] // heads
    normed = rms_norm(x, t[f"{name}.input_layernorm.weight"], eps)

    def project(what: str) -> Array:
        return normed @ t[f"{name}.self_attn.{what}.weight"].T + t.get(f"{name}.self_attn.{what}.bias", 0.0)

    q, k, v = project("q_proj"), project("k_proj"), project("v_proj")

    def turned(rows: Array, head: int, norm: str) -> Array:
        vectors = rows[:, head * width : (head + 1) * width]
        if f"{name}.self_attn.{norm}.weight" in t:  # Qwen3
            vectors = rms_norm(vectors, t[f"{name}.self_attn.{norm}.weight"], eps)
        return np.array([rotate(vector, i, text["rope_theta"]) for i, vector in enumerate(vectors)])

    attended = np.zeros((len(x), heads * width))
    for head in range(heads):
        group = head // (heads // kv_heads)
        queries, keys = turned(q, head, "q_norm"), turned(k, group, "k_norm")
        values = v[:, group * width : (group + 1) * width]
        for i in range(len(x)):
            scores = np.array([queries[i] @ keys[j] for j in range(i + 1)]) / math.sqrt(width)
            attended[i, head * width : (head + 1) * width] = softmax(scores) @ values[: i + 1]
    x = x + attended @ t[f"{name}.self_attn.o_proj.weight"].T
    normed = rms_norm(x, t[f"{name}.post_attention_layernorm.weight"], eps)
    gate = normed @ t[f"{name}.mlp.gate_proj.weight"].T
    gate = gate / (1.0 + np.exp(-gate))
    return x + (gate * (normed @ t[f"{name}.mlp.up_proj.weight"].T)) @ t[f"{name}.mlp.down_proj.weight"].T


def logits(
    t: Tensors, config: Mapping[str, Any], input_ids: Sequence[int], clips: Sequence[Array] = ()
) -> Array:
    """Logits of one row: [T, V]. The clips' features stand where the placeholders are, in order."""
    text = config["text_config"]
    embeddings = t["decoder.model.embed_tokens.weight"]
    features = (
        iter(np.concatenate([audio_features(t, config, clip) for clip in clips])) if clips else iter(())
    )
    x = np.array(
        [next(features) if token == config["audio_token_id"] else embeddings[token] for token in input_ids]
    )
    for layer in range(text["num_hidden_layers"]):
        x = decoder_layer(t, f"decoder.model.layers.{layer}", text, x)
    x = rms_norm(x, t["decoder.model.norm.weight"], text["rms_norm_eps"])
    return x @ t.get("decoder.lm_head.weight", embeddings).T


def cross_entropies(row_logits: Array, labels: Sequence[int]) -> list[float]:
    """Of the supervised tokens of a row: position i predicts label i + 1; -100 isn't supervised."""
    losses = []
    for position, label in enumerate(labels[1:]):
        if label != -100:
            scores = row_logits[position]
            top = scores.max()
            losses.append(float(top + math.log(np.exp(scores - top).sum()) - scores[label]))
    return losses
