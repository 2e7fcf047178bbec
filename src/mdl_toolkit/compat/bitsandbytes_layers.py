"""bitsandbytes: its import without downloads, and the state of its quantised layers.

Dimensions: I and O input and output features of a linear layer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

#: Elements of a weight that are quantised at a time on a CPU.
PIECE_ELEMENTS = 1 << 19
#: Loggers that say at every product that inputs are cast, and at import that kernels are missing.
_LOGGERS = ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops")


class _Repeated(logging.Filter):
    """Drops what bitsandbytes logs of casts and missing kernels at every product: users can't mend it."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        return "inputs will be cast" not in text and "kernels-community" not in text


def import_bitsandbytes() -> Any:
    """Import bitsandbytes, where it is installed, before anything else does (PEFT imports it).

    On some CPUs its import fetches compiled code from the Hub through the ``kernels`` package. Such code is
    not run without permission, so the import of that package is blocked meanwhile. There is no public switch
    against it: ``HF_HUB_OFFLINE`` would forbid the user's own downloads as well. Where the loggers have
    other names, the lines appear; where the import fetches nothing any more, nothing is hidden from anyone.

    Returns:
        The module, or ``None``.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        return None
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(f, _Repeated) for f in logger.filters):
            logger.addFilter(_Repeated())
    if "bitsandbytes" not in sys.modules:
        with _out_of_sight("kernels"):
            try:
                importlib.import_module("bitsandbytes")
            except ImportError:
                return None
    return sys.modules["bitsandbytes"]


@contextlib.contextmanager
def _out_of_sight(package: str) -> Iterator[None]:
    """Imports of a package fail meanwhile, as if it were not installed."""
    missing: Any = object()
    before: Any = sys.modules.get(package, missing)
    modules: dict[str, Any] = sys.modules
    modules[package] = None
    try:
        yield
    finally:
        if before is missing:
            del modules[package]
        else:
            modules[package] = before


def keep_unpacked(layer: Any) -> None:
    """Stop bitsandbytes (since 0.49) from converting a 4-bit layer to its form for CPUs with bfloat16.

    That form can't be trained, needs widths of whole blocks, and its kernel is code from the Hub. It has no
    public switch. Versions without the attribute have no such form, or are found by the test of this one.
    """
    layer.support_avx512bf16_for_cpu = False


def quantized_8bit(bnb: Any, weight: Tensor) -> Any:
    """A weight [O, I] on a CPU as ``Int8Params``: rows in float16, each with a scale of its own.

    The public way, ``Int8Params(...).to(device)``, takes seven times the weight's memory on a CPU; here rows
    are quantised some at a time, by the public functions, and handed to its constructor. Fall-back: the
    public way.
    """
    try:
        values, scales = rows_in_8bit(bnb, weight)
        return bnb.nn.Int8Params(values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scales)
    except (AttributeError, TypeError, ValueError):
        return bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(weight.device)


def rows_in_8bit(bnb: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The 8-bit values [O, I] of a weight and the largest magnitude of each of its rows, [O] float32."""
    values = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0], dtype=torch.float32)
    for part, rows in _pieces(weight):
        values[part], scales[part], _ = bnb.functional.int8_vectorwise_quant(rows.to(torch.float16))
    return values, scales


def quantized_4bit(bnb: Any, layer: Any, weight: Tensor, block: int) -> Any:
    """A weight [O, I] on a CPU as ``Params4bit``: NF4 by blocks within rows, their scales in 8 bits.

    For the memory of the public way see :func:`quantized_8bit`. Fall-back: the public way,
    ``Params4bit(...).to(device)``.

    Args:
        bnb: The module.
        layer: The ``Linear4bit`` that the weight is for.
        weight: A float tensor.
        block: Weights that share a scale; a row holds a whole number of blocks.
    """
    form = {"requires_grad": False, "quant_type": "nf4", "blocksize": block, "module": layer}
    try:
        packed, state = _blocks_in_4bit(bnb, weight, block)
        made = bnb.nn.Params4bit(packed, quant_state=state, bnb_quantized=True, **form)
    except (AttributeError, TypeError, ValueError):
        return bnb.nn.Params4bit(weight, **form).to(weight.device)
    layer.quant_state = state
    return made


def _blocks_in_4bit(bnb: Any, weight: Tensor, block: int) -> tuple[Tensor, Any]:
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
    return packed, state


def _pieces(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of a weight, some at a time."""
    rows = max(1, PIECE_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        part = slice(start, min(start + rows, weight.shape[0]))
        yield part, weight[part]
