"""Keys and values of rows of different lengths, sized to what the rows need.

Dimensions: B rows, T tokens of all prompts end to end, K key heads, E width of a head, C capacity in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

#: Tokens that the storage grows by at least.
_GROWTH = 32


class RaggedCache(Cache):  # type: ignore[misc]
    """A key-value cache in which every row begins at 0 and has a length of its own.

    It is transformers' cache to the decoder's forward. While prompts are read, packed, it keeps
    keys and values by row; afterwards each forward adds one token to every row, or brings tokens that are
    looked at and not kept (:meth:`aside`). Rows leave and join between forwards.

    Args:
        device: Where the rows are computed.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        self._device = device
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._capacity = 0
        self._reading = False
        self._aside: Tensor | slice | None = None
        self._longest = 0
        self._rows: Tensor | None = None
        self._columns: Tensor | None = None

    def change(self, keep: Sequence[int], add: Sequence[int]) -> None:
        """Drop all rows but some, and make room for prompts of these lengths after them."""
        kept = [self.lengths[row] for row in keep]
        self.lengths = [*kept, *add]
        if add or not kept:
            self._capacity = max(self.lengths, default=0) + _GROWTH
        index = torch.tensor(list(keep), dtype=torch.long, device=self._device)
        for tensors in (self._keys, self._values):
            for layer, old in enumerate(tensors):
                rows = old.index_select(0, index)
                if add:
                    new = self._storage(old)
                    width = min(self._capacity, old.shape[2])
                    new[: len(kept), :, :width] = rows[:, :, :width]
                    rows = new
                tensors[layer] = rows

    def read(self, first: int, stop: int) -> None:
        """Say that the next forward brings the packed prompts of rows ``first`` to ``stop``."""
        counts = torch.tensor(self.lengths[first:stop])
        rows = torch.repeat_interleave(torch.arange(first, stop), counts)
        columns = torch.cat([torch.arange(int(count)) for count in counts])
        self._rows, self._columns = rows.to(self._device), columns.to(self._device)
        self._reading, self._aside = True, None

    def aside(self, rows: Sequence[int]) -> int:
        """Say that the next forwards bring tokens that come after these rows, and that aren't kept.

        Returns:
            The length of the longest of the rows; the tokens come after so many keys.
        """
        self._longest = max(self.lengths[row] for row in rows)
        every = list(rows) == list(range(len(self.lengths)))
        self._aside = slice(None) if every else torch.tensor(list(rows), device=self._device)
        return self._longest

    def step(self) -> tuple[Tensor, Tensor]:
        """Say that the next forward brings one more token of every row.

        Returns:
            Its positions [B, 1], and a mask [B, 1, 1, longest] that is true where a row has keys.
        """
        longest = max(self.lengths) + 1
        if longest > self._capacity:
            self._grow(longest)
        position = torch.tensor(self.lengths)
        mask = torch.arange(longest)[None, :] <= position[:, None]
        self._columns = position.to(self._device)
        self._rows = torch.arange(len(self.lengths), device=self._device)
        self.lengths = [length + 1 for length in self.lengths]
        self._reading, self._aside = False, None
        return self._columns[:, None], mask[:, None, None, :].to(self._device)

    def update(
        self, key: Tensor, value: Tensor, layer: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take in what a layer has computed; transformers' attention calls this.

        Args:
            key: [1, K, T, E] while prompts are read, else [B, K, 1, E]; aside [rows, K, tokens, E].
            value: The values, of the same shape.
            layer: Number of the layer.
            args: What else transformers passes; unused.
            kwargs: What else transformers passes; unused.

        Returns:
            The keys and values to attend to: those given, or all of every row, [B, K, longest, E]; aside
            both, what the rows have before what is given.
        """
        if self._aside is not None:
            return tuple(
                torch.cat([kept[self._aside, :, : self._longest], new], 2)
                for kept, new in ((self._keys[layer], key), (self._values[layer], value))
            )  # type: ignore[return-value]
        if layer == len(self._keys):
            self._keys.append(self._storage(key))
            self._values.append(self._storage(value))
        place = (self._rows, slice(None), self._columns)
        self._keys[layer][place] = key[0].transpose(0, 1) if self._reading else key[:, :, 0]
        self._values[layer][place] = value[0].transpose(0, 1) if self._reading else value[:, :, 0]
        if self._reading:
            return key, value
        longest = max(self.lengths)
        return self._keys[layer][:, :, :longest], self._values[layer][:, :, :longest]

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002 -- transformers' own signature
        """Tokens so far of the longest row; transformers may ask for it."""
        return max(self.lengths, default=0)

    def _storage(self, like: Tensor) -> Tensor:
        return like.new_zeros((len(self.lengths), like.shape[1], self._capacity, like.shape[3]))

    def _grow(self, needed: int) -> None:
        self._capacity = max(needed, self._capacity + max(_GROWTH, self._capacity // 4))
        for tensors in (self._keys, self._values):
            for layer, old in enumerate(tensors):
                tensors[layer] = self._storage(old)
                tensors[layer][:, :, : old.shape[2]] = old
