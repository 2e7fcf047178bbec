"""What a conversion is asked to do, its fingerprint, and a first look at the rows."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdl_toolkit.data.audio.load import AudioLimits
from mdl_toolkit.data.dataset.manifest import FORMAT, ModelRecord
from mdl_toolkit.data.dataset.some_rows import spread
from mdl_toolkit.data.input.compressed import unpacked_name
from mdl_toolkit.data.input.kinds import table_head
from mdl_toolkit.data.input.likely_mistakes import LikelyMistakes
from mdl_toolkit.data.input.records import BadRow, Row, TableLayout, check_table, read_records
from mdl_toolkit.data.prompt.builder import default_order, processing_fingerprint
from mdl_toolkit.errors import DataError, printable
from mdl_toolkit.files import sha256_of
from mdl_toolkit.hub import revision_of
from mdl_toolkit.settings import ConvertOptions
from mdl_toolkit.settings.options import DatasetRule, options_where
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)

#: Rows whose recordings are looked at beforehand, to say how large the dataset will be.
_SAMPLED = 24


@dataclass(frozen=True)
class Request:
    """Everything that decides a conversion's result.

    Attributes:
        input: The CSV, JSONL or Parquet file.
        options: The options of the command.
        model_folder: The model whose tokenizer, template and front end the rows are converted for.
        order: The order of clip and text in the user's turn.
        root: The absolute path of the folder that relative paths start from.
        sha256: The digest of the input file.
        processing: The processing fingerprint of the model folder.
        shard: ``(i, n)`` for part i of n; ``None`` for all rows.
        sample: The number of rows, at equal distances, that are converted at most; ``None`` for all.
    """

    input: Path
    options: ConvertOptions
    model_folder: Path
    order: str
    root: str
    sha256: str
    processing: str
    shard: tuple[int, int] | None = None
    sample: int | None = None

    @classmethod
    def of(
        cls, path: Path, options: ConvertOptions, model_folder: Path, shard: tuple[int, int] | None = None
    ) -> Request:
        """Make a request of options, for which the input file and the model folder are read.

        Raises:
            DataError: The file is no table at all; this is found before all of it is read.
        """
        table_head(Path(path))
        return cls(
            input=Path(path),
            options=options,
            model_folder=Path(model_folder),
            order=options.prompt_order or default_order(model_folder),
            root=os.path.abspath(options.base_dir or "."),
            sha256=_sha256(Path(path)),
            processing=processing_fingerprint(model_folder),
            shard=shard,
        )

    @property
    def effective(self) -> dict[str, Any]:
        """The options that have a bearing on the result."""
        return self._values("fingerprint")

    @property
    def recorded(self) -> dict[str, Any]:
        """The options for the folder's manifest: also those that decide whether a URL can be fetched."""
        return {**self.effective, **self._values("recorded")}

    def _values(self, conversion: DatasetRule) -> dict[str, Any]:
        """The options that mean this for a conversion, as JSON values."""
        o = self.options
        values = {name: getattr(o, name) for name in options_where(ConvertOptions, conversion=conversion)}
        decided = {"prompt_order": self.order, "base_dir": str(o.base_dir) if o.base_dir else None}
        return {name: decided.get(name, value) for name, value in values.items()}

    @property
    def model(self) -> ModelRecord:
        """The model that the rows are converted for."""
        o, folder = self.options, self.model_folder.resolve()
        if Path(o.model_name).expanduser().exists():
            return ModelRecord(str(folder))
        return ModelRecord(o.model_name, revision_of(folder) or o.revision, o.from_modelscope)

    @property
    def group(self) -> str:
        """Fingerprint of the whole conversion, without the shard."""
        value = {
            **self.effective,
            "format": FORMAT,
            "base_dir": self.root,
            "kind": unpacked_name(self.input).suffix.lower(),
            "sha256": self.sha256,
            "processing": self.processing,
        }
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of this conversion."""
        if self.shard is None and self.sample is None:
            return self.group
        part = f"{self.shard[0]}/{self.shard[1]}" if self.shard else f"sample {self.sample}"
        return hashlib.sha256(f"{self.group} {part}".encode()).hexdigest()[:32]

    @property
    def limits(self) -> AudioLimits:
        """What rows may name."""
        return AudioLimits.of(self.options)

    def name(self, row: Row | BadRow | int, source: str = "") -> str:
        """A row's name for people."""
        if isinstance(row, Row):
            source, row = row.audio, row.number
        number = row.number if isinstance(row, BadRow) else row
        return f"{self.input.name} row {number}" + (f" ({printable(source)})" if source else "")


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from error


@dataclass
class Survey:
    """What a first pass over the rows found.

    Attributes:
        layout: How the table is written.
        rows: The number of rows.
        sample: Some rows, drawn by chance.
    """

    layout: TableLayout
    rows: int = 0
    sample: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request) -> Survey:
        """Read all rows once.

        Raises:
            DataError: Something is wrong with the file as a whole.
        """
        path, encoding = request.input, request.options.encoding
        found = cls(check_table(path, encoding))
        misread = LikelyMistakes(found.layout.columns)
        dice = random.Random(0)  # noqa: S311 -- the same sample each time
        for record in read_records(path, encoding, found.layout):
            found.rows += 1
            if isinstance(record, Row):
                misread.look_at(record)
                place = dice.randrange(found.rows) if len(found.sample) >= _SAMPLED else len(found.sample)
                if place < _SAMPLED:
                    found.sample[place : place + 1] = [record]
        for sentence in misread.sentences():
            logger.warning(f"{path}{sentence}")
        return found

    def part(self, shard: tuple[int, int] | None, sample: int | None = None) -> Collection[int]:
        """Which rows, counted from 0, a shard or a sample has."""
        if sample is not None:
            return frozenset(spread(sample, range(self.rows)))
        if shard is None:
            return range(self.rows)
        i, n = shard
        return range((i - 1) * self.rows // n, i * self.rows // n)
