"""``mdl_toolkit.json``: what a model folder says about itself, so that it is used as it was trained.

No torch. Kinds of folders:

* ``model``: stands alone (a base, or a merged result);
* ``adapter``: PEFT's ``adapter_model.safetensors`` and ``adapter_config.json``, on top of a base;
* ``overlay``: the tensors of a base that were trained in full, on top of that base.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from mdl_toolkit import __version__
from mdl_toolkit.data.dataset.manifest import versions_of
from mdl_toolkit.data.prompt.record import ORDERS, PromptRecord, PromptUse
from mdl_toolkit.errors import ModelError
from mdl_toolkit.files import write_json
from mdl_toolkit.hub import TINY, revision_of
from mdl_toolkit.model_folders.tensorfiles.headers import fingerprint, read_headers, read_json

#: The file in which a model folder describes itself.
MANIFEST_NAME = "mdl_toolkit.json"
FORMAT = 1
Kind = Literal["model", "adapter", "overlay"]
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "bitsandbytes")
_SECRETS = re.compile(r"hf_[A-Za-z0-9]{8,}|(?<=://)[^/\s@]+(?=@)")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class BaseRecord:
    """The model that was trained: the name it was given by, where it lay, and a digest of its weights."""

    name: str
    path: str | None = None
    revision: str | None = None
    fingerprint: str | None = None

    @classmethod
    def of(cls, name: str, folder: Path, revision: str | None = None) -> BaseRecord:
        """Describe a base folder that ``name`` was resolved to."""
        return cls(
            name=name,
            path=None if name == TINY else str(folder.resolve()),
            revision=revision_of(folder.resolve()) or revision,
            fingerprint=fingerprint(read_headers(folder)),
        )


def package_versions() -> dict[str, str]:
    """Versions of the software that makes a model."""
    return versions_of(_PACKAGES)


@dataclass(frozen=True, kw_only=True)
class ModelManifest:
    """What a model folder is, and how it came to be.

    Attributes:
        kind: ``model``, ``adapter`` or ``overlay``.
        base: The model that was trained.
        prompts: The prompts of the training data.
        audio: What inference has to repeat of the audio processing.
        dataset: Fingerprint and size of the training data.
        options: The settings of the run.
        training: The step and epoch at which this was written, and what was trained.
        versions: Versions of the packages that made it.
    """

    kind: Kind
    base: BaseRecord | None = None
    prompts: PromptRecord = field(default_factory=PromptRecord)
    audio: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=package_versions)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without anything that looks like a secret."""
        plain: dict[str, Any] = _without_secrets({"format": FORMAT, **asdict(self)})
        return plain

    def write(self, folder: Path) -> None:
        """Write ``mdl_toolkit.json`` into a folder, with the names of the files that are in it."""
        write_json(folder / MANIFEST_NAME, {**self.to_dict(), "files": _files_in(folder)})

    @classmethod
    def read(cls, folder: Path) -> ModelManifest | None:
        """The manifest of a folder; ``None`` for one without (a base as it was published).

        Raises:
            ModelError: There is one that can't be understood.
        """
        path = folder / MANIFEST_NAME
        return cls.from_dict(read_json(path), str(path)) if path.is_file() else None

    @classmethod
    def from_dict(cls, value: Any, where: str) -> ModelManifest:
        """Check parsed JSON and make a manifest of it; unknown fields (of later versions) are ignored.

        Raises:
            ModelError: Something is wrong; the message names ``where`` and the field.
        """
        if not isinstance(value, dict):
            raise ModelError(f"{where}: a mapping expected")
        version = value.get("format", FORMAT)
        if type(version) is not int or version > FORMAT:
            raise ModelError(
                f"{where}: format {str(version)[:20]}; mdl-toolkit {__version__} reads {FORMAT} at most"
            )
        if value.get("kind") not in get_args(Kind):
            raise ModelError(
                f"{where}: kind is {str(value.get('kind'))[:40]!r}; one of {', '.join(get_args(Kind))}"
            )
        base = value.get("base")
        return cls(
            kind=value["kind"],
            base=None if base is None else _record(BaseRecord, base, f"{where}: base"),
            prompts=_prompts(value.get("prompts") or {}, f"{where}: prompts"),
            **{
                name: _mapping(value.get(name), f"{where}: {name}")
                for name in ("audio", "dataset", "options", "training", "versions")
            },
        )


def listed_files(folder: Path) -> set[str] | None:
    """What a folder's manifest says was written with it: no other files are ever removed.

    Returns:
        Paths relative to the folder; ``None`` where the manifest is missing or says nothing readable.
    """
    try:
        names = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))["files"]
        return {str(name) for name in names}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _files_in(folder: Path) -> list[str]:
    """Names of the files in a folder, and of its manifest, which is written last."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(names | {MANIFEST_NAME})


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelError(f"{where}: a mapping expected")
    return value


def _prompts(value: Any, where: str) -> PromptRecord:
    value = _mapping(value, where)
    seen = value.get("seen") or []
    if not isinstance(seen, list):
        raise ModelError(f"{where}: seen: a list expected")
    uses = tuple(_record(PromptUse, use, f"{where}: seen") for use in seen)
    record = _record(PromptRecord, {**value, "seen": uses}, where)
    if record.order not in ORDERS:
        raise ModelError(f"{where}: order is {record.order[:40]!r}; audio-first or text-first expected")
    return record


def _record(kind: type[R], value: Any, where: str) -> R:
    """Make a record of a mapping: known fields alone, each of its type."""
    value = _mapping(value, where)
    made: dict[str, Any] = {}
    types: dict[str, Any] = {"int": int, "bool": bool, "str": str, "str | None": (str, type(None))}
    for f in fields(kind):  # type: ignore[arg-type]
        if f.name not in value:
            continue
        expected = types.get(str(f.type), tuple)
        if not isinstance(value[f.name], expected) or (expected is int and isinstance(value[f.name], bool)):
            raise ModelError(f"{where}: {f.name} is {str(value[f.name])[:40]!r}; {f.type} expected")
        made[f.name] = value[f.name]
    try:
        return kind(**made)
    except TypeError:
        raise ModelError(f"{where}: a field is missing") from None


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_secrets(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    return _SECRETS.sub("***", value) if isinstance(value, str) else value
