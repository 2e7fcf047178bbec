"""What a conversion or a dataset folder is refused with."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdl_toolkit.data.conversion.command import convert_dataset
from mdl_toolkit.data.dataset.dataset import ClipDataset
from mdl_toolkit.errors import DataError, UserError
from mdl_toolkit.settings import ConvertSettings


def conversion_problem(settings: ConvertSettings, kind: type[UserError] = DataError) -> str:
    """The message of a conversion that is refused."""
    with pytest.raises(kind) as caught:
        convert_dataset(settings)
    return str(caught.value)


def dataset_problem(*folders: Path) -> str:
    """The one line with which folders are refused that are opened together."""
    with pytest.raises(DataError) as caught:
        ClipDataset.open(folders)
    assert "\n" not in str(caught.value)
    return str(caught.value)
