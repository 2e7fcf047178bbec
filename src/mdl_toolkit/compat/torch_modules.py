"""torch's modules: tensors that keep their dtype in a conversion, hooks, and another class for an object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mdl_toolkit.compat import unknown_interface


class Float32Module(nn.Module):
    """A module whose tensors follow the model to its device, but never to another floating-point dtype.

    ``Module._apply`` is what ``.to()``, ``.half()`` and their like call on every module inside another one.
    Public ways that were tried: to override ``to`` and ``half``, which nothing calls where the module is part
    of a model; ``_keep_in_fp32_modules_strict``, which transformers heeds when it loads, but not afterwards.
    There is no fall-back, since what is rounded can't be restored: :meth:`check_dtype` refuses it.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if tensor.is_floating_point() and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved

        return super()._apply(keep, recurse)  # type: ignore[no-untyped-call]

    def check_dtype(self, tensor: Tensor) -> None:
        """Refuse to compute with a tensor of this module that has been rounded after all.

        Raises:
            ModelError: Naming torch's version and the remedy.
        """
        if tensor.dtype != torch.float32:
            raise unknown_interface(
                "torch",
                f"has converted a tensor to {tensor.dtype} that must stay float32",
                "load the model in the dtype that it shall have, and don't convert it afterwards",
            )


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_hooked(module: nn.Module) -> bool:
    """Whether anyone wants to be called when a module computes.

    torch has public ways to register hooks and none to ask for them. Fall-back: yes, by which the caller
    takes the slower way that calls the module.
    """
    return any(getattr(module, name, True) for name in _HOOKS)


def extend(module: nn.Module, mixin: type) -> None:
    """Put the methods of ``mixin`` before those of a library's layer, which stays the object that it is.

    The layer's class becomes one made of ``mixin`` and its own class, with its own class's name: libraries go
    by names (``_no_split_modules``) and by ``isinstance``. Public ways that were tried: to replace the layer
    by a new object, which loses what the library and others have put on it (hooks, PEFT's adapters,
    quantised state) and needs the library's constructor with arguments that only the library knows; to set
    ``forward`` on the object, which can't be copied or pickled. Assignment to ``__class__`` is Python's own
    and needs no fall-back; whether a layer is built as a mixin expects is for the caller to check.
    """
    kind: Any = type(module)
    module.__class__ = extended_class(kind, mixin)


@functools.cache
def extended_class(kind: Any, mixin: type) -> Any:
    """The class that :func:`extend` gives to a layer of the class ``kind``."""
    if issubclass(kind, mixin):
        return kind

    def reduce(self: Any, _protocol: Any) -> Any:
        # Copies and pickles are made by the two classes, since this one has no name to be found by.
        return _blank, (kind, mixin), self.__dict__.copy()

    fields = {"__module__": mixin.__module__, "__reduce_ex__": reduce, "__doc__": mixin.__doc__}
    return type(kind.__name__, (mixin, kind), fields)


def _blank(kind: type, mixin: type) -> Any:
    made = extended_class(kind, mixin)
    return made.__new__(made)
