"""Products by oneDNN on CPUs, MKL's first vector function, and torch's count of the writes to a tensor.

Dimensions: I and O inputs and outputs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@functools.cache
def has_onednn() -> bool:
    """Whether this torch multiplies by oneDNN where it is asked to: tried once, with one small product.

    ``torch.ops.mkldnn._linear_pointwise`` and ``_reorder_linear_weight`` are what torch's compiler calls for
    linear layers. Public ways that were tried (2 cores of an AMD processor, float32, 400 rows, I = O = 2048):

    - ``torch.nn.functional.linear`` takes MKL, which leaves AVX-512 unused there: twice the time.
    - ``Tensor.to_mkldnn`` and ``torch.utils.mkldnn`` copy inputs and outputs of every product, so they are
      no faster (165 ms; 162 by MKL, 72 by the operator), and have no backward pass for training.
    - ``torch.set_float32_matmul_precision("medium")`` lets other processors round to bfloat16.

    Fall-back: ``torch.nn.functional.linear``.
    """
    kind: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    x, bias = torch.ones(1, 3, **kind), torch.ones(2, **kind)
    weight = torch.tensor([[0, 1, 2], [3, 4, 5]], **kind)
    try:
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        arranged = torch.ops.mkldnn._reorder_linear_weight(weight)  # noqa: SLF001
        products = [_pointwise(x, weight, bias), _pointwise(x, arranged, bias)]
    except (AttributeError, TypeError, RuntimeError):
        return False
    return all(product.tolist() == [[4.0, 13.0]] for product in products)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` by oneDNN, outside of autograd.

    Args:
        x: [..., I], on the CPU.
        weight: [O, I], or what :func:`arranged_weight` made of it.
        bias: [O].

    Returns:
        [..., O].
    """
    return _pointwise(x, weight, bias) if has_onednn() else F.linear(x, weight, bias)


def arranged_weight(weight: Tensor) -> Tensor:
    """A copy of a weight [O, I] as oneDNN reads it fastest; the weight itself where there is no oneDNN."""
    arranged: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight) if has_onednn() else weight  # noqa: SLF001
    return arranged


def settle_vector_functions() -> None:
    """Let MKL choose its vector functions for this processor while one thread asks: one logarithm.

    torch takes logarithms, cosines and their like from MKL, and shares a large tensor out among its threads.
    At the first of them in a process MKL looks at the processor. ``mkl_vml_serv_cpu_detect`` (MKL 2024.2)
    stores the number that it finds and, over it, that of the table that this stands for. A thread that asks
    between the two takes the number found for a table's. For Intel's processors with AVX-512 that is the
    logarithm of "enhanced performance", up to 16 units in the last place from the right one (7.6e-5 dB), in
    all that this thread computes there. On AMD's processors the two numbers are equal. None of MKL's other
    choices passes through the value of another.

    Considered: ``MKL_CBWR`` and ``MKL_VML_MODE`` don't reach it, and other operators' logarithms have other
    bits. Without MKL it is the logarithm of one number.
    """
    torch.ones(1, dtype=torch.float32, device="cpu").log10()


def write_count(tensor: Tensor) -> int | None:
    """How often torch's operators have written to a tensor's storage; ``None`` where torch doesn't say.

    Autograd notices by ``Tensor._version`` that a saved tensor has changed. The public way is to wait for its
    error, which a tensor outside of autograd never raises. Fall-back of the caller: to keep no copies.
    """
    count: int | None = getattr(tensor, "_version", None)
    return count


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # noqa: SLF001
    return product
