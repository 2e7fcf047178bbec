"""The projector: runs of encoder features to embeddings of the decoder.

Dimensions: P patches, A audio tokens, K patches of a token, D encoder width, H decoder width.
"""

from __future__ import annotations

from torch import Tensor, nn


class AudioProjector(nn.Module):
    """Joins K consecutive features of a clip and projects them.

    Args:
        width: D.
        factor: K.
        out: H.
    """

    def __init__(self, width: int, factor: int, out: int) -> None:
        super().__init__()
        self.factor = factor
        self.net = nn.Sequential(nn.Linear(factor * width, out), nn.GELU(), nn.Linear(out, out))

    def forward(self, features: Tensor, token_patches: Tensor) -> Tensor:
        """Project the patches that make whole tokens; what is left over of a clip is dropped.

        Args:
            features: [P, D].
            token_patches: [A · K] rows of ``features``, token after token.

        Returns:
            [A, H].
        """
        runs = features.index_select(0, token_patches)
        return self.net(runs.view(-1, self.factor * features.shape[1]))  # type: ignore[no-any-return]
