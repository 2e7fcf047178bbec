"""The training loop."""

from __future__ import annotations

import torch

from mdl_toolkit.training.steps.pending import seed_dropout


def test_dropout_is_seeded_by_place_alone():
    def draw(*place: int) -> torch.Tensor:
        seed_dropout(*place)
        return torch.rand(4)

    assert torch.equal(draw(1, 2, 3), draw(1, 2, 3))
    others = [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(1, 1, 23), draw(1, 12, 3)]
    assert not any(torch.equal(draw(1, 2, 3), other) for other in others)
