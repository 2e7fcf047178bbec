"""8- and 4-bit weights of the decoder's linear layers, by bitsandbytes. It runs on CPUs too."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mdl_toolkit.errors import ModelError
from mdl_toolkit.model.kernels.linear import is_plain
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

Quantization = Literal["8bit", "4bit"]
#: Weights that share a scale in 4 bits. Rows must hold whole blocks: with others, what bitsandbytes
#: dequantises on CPUs is wrong (measured: 24 % off instead of 9 %).
_BLOCKS = (64, 32)
#: Elements of a weight that are quantised at a time on a CPU.
_PIECE_ELEMENTS = 1 << 19


class _Quiet(logging.Filter):
    """Drops what bitsandbytes says of casts and missing kernels: at every product, and nothing to mend."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        return "inputs will be cast" not in text and "kernels-community" not in text


def tame_bitsandbytes() -> Any:
    """Import bitsandbytes, where it is installed, before anything else does.

    On some CPUs its import fetches compiled code from the Hub through the ``kernels`` package. Such code is
    never run here unasked, so that package is out of sight meanwhile.

    Returns:
        The module, or ``None``.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        return None
    for name in ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops"):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _Quiet) for f in logger.filters):
            logger.addFilter(_Quiet())
    if "bitsandbytes" not in sys.modules:
        missing = object()
        before = sys.modules.get("kernels", missing)
        sys.modules["kernels"] = None  # type: ignore[assignment]
        try:
            importlib.import_module("bitsandbytes")
        except ImportError:
            return None
        finally:
            if before is missing:
                del sys.modules["kernels"]
            else:
                sys.modules["kernels"] = before  # type: ignore[assignment]
    return sys.modules["bitsandbytes"]


def _bitsandbytes() -> Any:
    module = tame_bitsandbytes()
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
        dtype: Of the computation.
        prefix: Of the decoder's names in the whole model.

    Returns:
        Names of the weights to quantise, as the whole model has them.

    Raises:
        ModelError: Where bitsandbytes is not installed.
    """
    _bitsandbytes()
    names = set()
    for name, module in list(decoder.named_modules()):
        if not is_plain(module) or not name.startswith("model."):
            continue
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
        parent, _, leaf = name.rpartition(".")
        setattr(decoder.get_submodule(parent), leaf, new)
        names.add(f"{prefix}{name}.weight")
    return names


def quantized_names(decoder: nn.Module, quantization: Quantization, prefix: str) -> set[str]:
    """Names of the weights that :func:`replace_linears` would quantise."""
    return {
        f"{prefix}{name}.weight"
        for name, module in decoder.named_modules()
        if is_plain(module) and name.startswith("model.") and _makes_blocks(module, quantization)
    }


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
    # The packed form for CPUs can't be trained, needs widths of whole blocks, and its kernel is code from the
    # Hub.
    layer.support_avx512bf16_for_cpu = False
    return layer


@torch.no_grad()
def dequantized(weight: Tensor, quantization: Quantization, device: torch.device) -> Tensor:
    """What a quantised layer computes with in place of the weight that it was made of.

    Args:
        weight: [out, in] of the base.
        quantization: Of the layer.
        device: Where it was quantised.

    Returns:
        [out, in] float32 on the CPU.
    """
    bnb = _bitsandbytes()
    layer = _empty_layer(weight.shape[1], weight.shape[0], quantization, torch.float32, bias=False)
    made: Any = quantized_parameter(layer, weight.to(layer.weight.dtype), device)
    if quantization == "8bit":
        values = made.CB.float().mul_(made.SCB.float().div(127)[:, None])
    else:
        values = bnb.functional.dequantize_4bit(made.data, made.quant_state).float()
    result: Tensor = values.to("cpu")
    return result


def quantized_parameter(layer: nn.Module, weight: Tensor, device: torch.device) -> Tensor:
    """A layer's weight [out, in] in its quantised form, on a device.

    On a CPU it is done some rows at a time: bitsandbytes takes seven times a weight's memory for it there.
    """
    bnb = _bitsandbytes()
    eight = isinstance(layer, bnb.nn.Linear8bitLt)
    if device.type == "cpu":
        return _quantized_8bit(bnb, weight) if eight else _quantized_4bit(bnb, layer, weight)
    if eight:
        made = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        made = bnb.nn.Params4bit(
            weight, requires_grad=False, quant_type="nf4", blocksize=_block(weight), module=layer
        )
    moved: Tensor = made.to(device)
    return moved


def _block(weight: Tensor) -> int:
    return next(size for size in _BLOCKS if weight.shape[1] % size == 0)


def _pieces(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of a weight, some at a time."""
    rows = max(1, _PIECE_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        part = slice(start, min(start + rows, weight.shape[0]))
        yield part, weight[part]


def _quantized_8bit(bnb: Any, weight: Tensor) -> Tensor:
    """As ``Int8Params`` does it when it moves: rows in float16, each with a scale of its own."""
    values = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0], dtype=torch.float32)
    for part, rows in _pieces(weight):
        values[part], scales[part], _ = bnb.functional.int8_vectorwise_quant(rows.to(torch.float16))
    made: Tensor = bnb.nn.Int8Params(
        values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scales
    )
    return made


def _quantized_4bit(bnb: Any, layer: Any, weight: Tensor) -> Tensor:
    """As ``quantize_4bit`` does it: NF4 by blocks within rows, then the blocks' scales in 8 bits."""
    block = _block(weight)
    packed = torch.empty((weight.numel() // 2, 1), dtype=torch.uint8)
    scales = torch.empty(weight.numel() // block, dtype=torch.float32)
    per_row = weight.shape[1]
    for part, rows in _pieces(weight):
        first, last = part.start * per_row, part.stop * per_row
        packed[first // 2 : last // 2], piece = bnb.functional.quantize_4bit(
            rows, blocksize=block, quant_type="nf4"
        )
        scales[first // block : last // block] = piece.absmax
    offset = scales.mean()
    absmax, of_scales = bnb.functional.quantize_blockwise(scales - offset, blocksize=256)
    state = bnb.functional.QuantState(
        absmax=absmax, shape=weight.shape, code=piece.code, blocksize=block, quant_type="nf4",
        dtype=weight.dtype, offset=offset, state2=of_scales,
    )  # fmt: skip
    layer.quant_state = state
    made: Tensor = bnb.nn.Params4bit(
        packed, requires_grad=False, quant_state=state, blocksize=block, quant_type="nf4", module=layer,
        bnb_quantized=True,
    )  # fmt: skip
    return made
