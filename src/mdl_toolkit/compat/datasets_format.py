"""The folders of the ``datasets`` library: an Arrow stream, and two small files that it documents nowhere.

``Dataset.save_to_disk`` writes such a folder and ``load_from_disk`` opens it. That is the public way, and it
was tried: importing the library takes 0.7 to 1.0 s (a small conversion takes as long), and
``from_generator(…).save_to_disk(…)`` writes all data twice, once into its own cache: 400 clips, 192 MB, took
385 MB of disk and 3 s more. So a conversion writes the Arrow stream by pyarrow, and the small files by this
module; the library need not be installed.

Holds for datasets 4.0 to 5.2. ``tests/compat`` opens a folder of ours with the installed version, and fails
when that version writes other small files than these. Where they stop being right, ``load_from_disk`` refuses
the folder; this package doesn't: it reads folders of its own without them, and
``datasets.Dataset.from_file`` opens their Arrow stream as before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: The library's name for the only file of data.
DATA_NAME = "data-00000-of-00001.arrow"
INFO_NAME, STATE_NAME = "dataset_info.json", "state.json"
#: The library's names of types where Arrow has others.
_DTYPES = {"double": "float64", "float": "float32"}


def with_features(schema: Any) -> Any:
    """A pyarrow schema with the metadata by which the library knows its columns."""
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": _features(schema)}})})


def dataset_info(schema: Any) -> dict[str, Any]:
    """Contents of ``dataset_info.json`` for a table of this pyarrow schema."""
    return {"citation": "", "description": "", "features": _features(schema), "homepage": "", "license": ""}


def dataset_state(fingerprint: str) -> dict[str, Any]:
    """Contents of ``state.json``.

    Args:
        fingerprint: Tells the data from other data; the library names its caches by the first 16 characters.
    """
    return {
        "_data_files": [{"filename": DATA_NAME}],
        "_fingerprint": fingerprint[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }


def data_files(folder: Path) -> list[str]:
    """Names of the Arrow streams of a folder that the library has written, in order.

    Raises:
        OSError: ``state.json`` can't be read.
        ValueError: It isn't what the library writes.
    """
    try:
        state = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
        return [str(item["filename"]) for item in state["_data_files"]]
    except (TypeError, KeyError) as error:
        raise ValueError(str(error)) from error


def _features(schema: Any) -> dict[str, Any]:
    return {field.name: _feature(field.type) for field in schema}


def _feature(kind: Any) -> dict[str, Any]:
    import pyarrow as pa

    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": _DTYPES.get(str(kind), str(kind)), "_type": "Value"}
