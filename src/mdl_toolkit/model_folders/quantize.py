"""8- and 4-bit weights of the decoder's linear layers, by bitsandbytes. It runs on CPUs too."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mdl_toolkit.compat.bitsandbytes_layers import (
    import_bitsandbytes,
    keep_unpacked,
    quantized_4bit,
    quantized_8bit,
    rows_in_8bit,
)
from mdl_toolkit.errors import ModelError
from mdl_toolkit.model.kernels.linear import is_plain
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

Quantization = Literal["8bit", "4bit"]
#: Weights that share a scale in 4 bits. Rows must hold whole blocks: with others, what bitsandbytes
#: dequantises on CPUs is wrong (measured: 24 % off instead of 9 %).
_BLOCKS = (64, 32)


def _bitsandbytes() -> Any:
    module = import_bitsandbytes()
    if module is None:
        raise ModelError(
            "--quantization needs the quantization extra: pip install 'mdl-toolkit[quantization]'"
        )
    return module


def replace_linears(
    decoder: nn.Module, quantization: Quantization, dtype: torch.dtype, prefix: str
) -> set[str]:
    """Swap the linear layers of the decoder's blocks for quantised ones, still without storage.

    The head stays as it is: errors there go straight into the answer, and it is small beside the blocks.

    Args:
        decoder: A causal language model on the meta device; its blocks are under ``model``.
        quantization: ``8bit`` (LLM.int8 without outlier columns) or ``4bit`` (NF4 with double quantisation).
        dtype: The dtype of the computation.
        prefix: What the decoder's names begin with in the whole model.

    Returns:
        Names of the weights to quantise, as the whole model has them.

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    _bitsandbytes()
    names = set()
    for name, module in _linear_layers(decoder):
        if not _makes_blocks(module, quantization):
            logger.warning(
                f"{prefix}{name} stays unquantised: its {module.in_features} inputs make no whole blocks"
            )
            continue
        new = _empty_layer(
            module.in_features, module.out_features, quantization, dtype, module.bias is not None
        )
        if module.bias is not None:
            new.bias = nn.Parameter(module.bias.detach(), requires_grad=False)
        decoder.set_submodule(name, new)
        names.add(f"{prefix}{name}.weight")
    return names


def quantized_names(decoder: nn.Module, quantization: Quantization, prefix: str) -> set[str]:
    """Names of the weights that :func:`replace_linears` would quantise."""
    return {
        f"{prefix}{name}.weight"
        for name, module in _linear_layers(decoder)
        if _makes_blocks(module, quantization)
    }


def _linear_layers(decoder: nn.Module) -> list[tuple[str, nn.Linear]]:
    """The linear layers of a decoder's blocks, by name; its head stays as it is."""
    return [(n, m) for n, m in decoder.named_modules() if is_plain(m) and n.startswith("model.")]


def _makes_blocks(layer: nn.Linear, quantization: Quantization) -> bool:
    return quantization == "8bit" or any(layer.in_features % size == 0 for size in _BLOCKS)


def _empty_layer(
    inputs: int, outputs: int, quantization: Quantization, dtype: torch.dtype, bias: bool
) -> Any:
    """A quantised layer without storage."""
    bnb = _bitsandbytes()
    with torch.device("meta"):
        if quantization == "8bit":
            return bnb.nn.Linear8bitLt(inputs, outputs, bias, has_fp16_weights=False)
        layer = bnb.nn.Linear4bit(inputs, outputs, bias, compute_dtype=dtype, quant_type="nf4")
    keep_unpacked(layer)
    return layer


@torch.no_grad()
def dequantized(weight: Tensor, quantization: Quantization, device: torch.device) -> Tensor:
    """The weight that a quantised layer computes with, instead of the one that it was made from.

    Args:
        weight: The base's weight, [out, in].
        quantization: The layer's quantisation.
        device: The device on which it was quantised.

    Returns:
        [out, in] float32 on the CPU.
    """
    bnb = _bitsandbytes()
    if quantization == "8bit":
        if device.type == "cpu":
            rows, scales = rows_in_8bit(bnb, weight)
        else:
            rows, scales, _ = bnb.functional.int8_vectorwise_quant(weight.to(device, torch.float16))
        values = rows.float().mul_(scales.float().div(127)[:, None])
    else:
        layer = _empty_layer(weight.shape[1], weight.shape[0], quantization, torch.float32, bias=False)
        made: Any = quantized_parameter(layer, weight.to(layer.weight.dtype), device)
        values = bnb.functional.dequantize_4bit(made.data, made.quant_state).float()
    result: Tensor = values.to("cpu")
    return result


def quantized_parameter(layer: nn.Module, weight: Tensor, device: torch.device) -> Tensor:
    """Quantise a layer's weight [out, in] on a device.

    On a CPU some rows are quantised at a time: for a whole weight bitsandbytes takes seven times its memory.
    """
    bnb = _bitsandbytes()
    eight = isinstance(layer, bnb.nn.Linear8bitLt)
    made: Any
    if device.type == "cpu":
        made = quantized_8bit(bnb, weight) if eight else quantized_4bit(bnb, layer, weight, _block(weight))
    elif eight:
        made = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        made = bnb.nn.Params4bit(
            weight, requires_grad=False, quant_type="nf4", blocksize=_block(weight), module=layer
        )
    moved: Tensor = made.to(device)
    return moved


def _block(weight: Tensor) -> int:
    return next(size for size in _BLOCKS if weight.shape[1] % size == 0)
