"""What a dataset folder holds: its manifest, its table, and the two files that the datasets library reads.

::

    DIR/data-00000-of-00001.arrow   an Arrow stream, one row per clip (columns below)
    DIR/dataset_info.json, state.json   so that datasets.load_from_disk opens it
    DIR/mdl_dataset.json            what it was made from, and how (DatasetManifest)

Columns: ``input_ids``, ``labels`` (lists of int32), ``audio`` (16-bit little-endian PCM at the model's rate,
or FLAC, or null for a reference), ``samples``, ``supervised``, ``line`` and ``source`` (where the row came
from), ``start`` and ``end`` (seconds of the source; null: all of it).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mdl_toolkit import __version__
from mdl_toolkit.compat.datasets_format import DATA_NAME, INFO_NAME, STATE_NAME, with_features
from mdl_toolkit.data.prompt.record import PromptRecord, PromptUse
from mdl_toolkit.errors import DataError
from mdl_toolkit.geometry import AudioGeometry

MANIFEST_NAME = "mdl_dataset.json"
#: All files of a dataset that this version writes.
FILES = frozenset({MANIFEST_NAME, DATA_NAME, INFO_NAME, STATE_NAME})
FORMAT = 1


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """The versions of this package, of Python and of those of some packages that are installed."""
    found = {name: version for name in packages if (version := _installed_version(name)) is not None}
    return {"mdl-toolkit": __version__, "python": platform.python_version(), **found}


@cache
def _installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class ModelRecord:
    """The model that a conversion was made for.

    Attributes:
        name: ``tiny``, the absolute path of a local folder, or a Hub id.
        revision: The commit of a Hub model; what was given where the commit isn't known.
        from_modelscope: Whether the id is ModelScope's.
    """

    name: str
    revision: str | None = None
    from_modelscope: bool = False

    def __str__(self) -> str:
        place = " of ModelScope" if self.from_modelscope else ""
        return f"{self.name}{place}" + (f" at revision {self.revision}" if self.revision else "")


@dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """What a dataset is and how it was made.

    Attributes:
        fingerprint: The digest of what the conversion was made from: input file, options, and the model
            folder's processing.
        group: The same digest without ``--shard``: all shards of one conversion share it.
        processing_fingerprint: The digest of tokenizer, template and front end, see
            :func:`mdl_toolkit.data.prompt.builder.processing_fingerprint`.
        source: The ``name`` and ``sha256`` of the input file.
        model: The model that the conversion was made for; ``None`` where that isn't recorded.
        prompts: The prompts of the rows.
        geometry: The fields of ``AudioGeometry``.
        audio_token_id: The id of an audio placeholder.
        storage: ``pcm16``, ``flac`` or ``reference``.
        base_dir: The folder that relative paths of a ``reference`` dataset start from.
        shard: ``[i, n]`` for part i of n; ``None`` for all rows.
        rows: The number of rows.
        skipped: The number of bad rows that were left out (``--on-error skip``).
        seconds: The length of all clips together.
        tokens: The number of decoder tokens.
        supervised: The number of supervised tokens.
        files: The size in bytes of each data file, by its name.
        options: The options of the conversion.
        versions: The versions of the packages that made it.
    """

    fingerprint: str
    group: str
    processing_fingerprint: str
    source: Mapping[str, str]
    model: ModelRecord | None = None
    prompts: PromptRecord
    geometry: Mapping[str, int]
    audio_token_id: int
    storage: str
    base_dir: str | None = None
    shard: tuple[int, int] | None = None
    rows: int
    skipped: int = 0
    seconds: float
    tokens: int
    supervised: int
    files: Mapping[str, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """As written to ``mdl_dataset.json``."""
        return {"format": self.format, **{k: v for k, v in asdict(self).items() if k != "format"}}

    @classmethod
    def read(cls, folder: Path) -> DatasetManifest:
        """Read a folder's manifest.

        Raises:
            DataError: Where it is absent, damaged, or of a newer format.
        """
        path = folder / MANIFEST_NAME
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(value, dict):
                raise ValueError("not a JSON object")
            if value.get("format") != FORMAT:
                raise DataError(
                    f"{path}: dataset format {value.get('format')!r:.40}, this version reads {FORMAT}: "
                    "convert again"
                )
            known = {f.name for f in fields(cls)}
            made = {k: v for k, v in value.items() if k in known}
            prompts = dict(made["prompts"])
            prompts["seen"] = tuple(PromptUse(**use) for use in prompts["seen"])
            made["prompts"] = PromptRecord(**prompts)
            made["model"] = ModelRecord(**made["model"]) if made.get("model") else None
            made["shard"] = tuple(made["shard"]) if made.get("shard") else None
            manifest = cls(**made)
            manifest._check_types()
            return manifest
        except DataError:
            raise
        except FileNotFoundError as error:
            raise DataError(f"{folder}: not a converted dataset (no {MANIFEST_NAME} in it)") from error
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(
                f"{path}: damaged ({type(error).__name__}: {error}): convert the dataset again"
            ) from error

    def _check_types(self) -> None:
        for name in ("source", "geometry", "files", "options", "versions"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} is not an object")
        if self.model is not None:
            model = self.model
            if not isinstance(model.name, str) or not isinstance(model.revision, (str, type(None))):
                raise ValueError("model: a name and a revision expected")
        for name in ("rows", "tokens", "supervised", "audio_token_id"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} is not a whole number")
        for name in ("fingerprint", "group", "processing_fingerprint", "storage"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is not text")
        if any("/" in name or not isinstance(size, int) for name, size in self.files.items()):
            raise ValueError("files: names and sizes expected")
        if self.shard is not None and not all(isinstance(n, int) for n in self.shard):
            raise ValueError("shard: two whole numbers expected")
        if not all(isinstance(n, int) and n > 0 for n in vars(AudioGeometry(**self.geometry)).values()):
            raise ValueError("geometry: positive whole numbers expected")


def arrow_schema() -> Any:
    """The table's pyarrow schema, with what the datasets library wants to know of it."""
    import pyarrow as pa

    columns = {
        "input_ids": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "audio": pa.large_binary(),
        "samples": pa.int64(),
        "supervised": pa.int32(),
        "line": pa.int64(),
        "source": pa.string(),
        "start": pa.float64(),
        "end": pa.float64(),
    }
    return with_features(pa.schema(list(columns.items())))


def arrow_types() -> dict[str, str]:
    """The types of the table's columns, in Arrow's words."""
    return {field.name: str(field.type) for field in arrow_schema()}
