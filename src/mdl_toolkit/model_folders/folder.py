"""What kind of model folder a path is, and where the base under it lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdl_toolkit.errors import ModelError
from mdl_toolkit.hub import resolve_model
from mdl_toolkit.model_folders.manifest import Kind, ModelManifest
from mdl_toolkit.model_folders.tensorfiles.headers import fingerprint, read_headers, read_json

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
OVERLAY_WEIGHTS = "overlay.safetensors"


@dataclass(frozen=True)
class ModelFolder:
    """A model folder and the stand-alone model that it rests on.

    Attributes:
        folder: The folder as it was given.
        kind: ``model``, ``adapter`` or ``overlay``.
        manifest: The folder's ``mdl_toolkit.json``; ``None`` for a model as it was published.
        base: The folder with configuration, tokenizer and base weights; ``folder`` itself if that is a model.
    """

    folder: Path
    kind: Kind
    manifest: ModelManifest | None
    base: Path


def open_folder(folder: Path, base_model: str | Path | None = None) -> ModelFolder:
    """Find out what a model folder is, and its base.

    Args:
        folder: The folder of a model, an adapter or a training checkpoint.
        base_model: The base's name or folder, for when the folder's own record doesn't lead to it any more.

    Raises:
        ModelError: The folder is none of the three, or its base can't be found or isn't the right one.
    """
    folder = Path(folder)
    manifest = ModelManifest.read(folder)
    kind = manifest.kind if manifest else _kind(folder)
    if kind == "model":
        return ModelFolder(folder, kind, manifest, folder)
    base = _find_base(folder, manifest, base_model)
    below = ModelManifest.read(base)
    if (below.kind if below else _kind(base)) != "model":
        raise ModelError(
            f"{folder}: its base {base} is no stand-alone model; merge that first (--merge-lora true)"
        )
    known = manifest.base.fingerprint if manifest and manifest.base else None
    if known is not None and (found := fingerprint(read_headers(base))) != known:
        raise ModelError(
            f"{folder}: trained on another base than {base} (weights {known[:8]}, here {found[:8]}); "
            "name the right one with --base-model"
        )
    return ModelFolder(folder, kind, manifest, base)


def _kind(folder: Path) -> Kind:
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    if (folder / OVERLAY_WEIGHTS).is_file():
        return "overlay"
    return "model"


def _find_base(folder: Path, manifest: ModelManifest | None, base_model: str | Path | None) -> Path:
    if base_model is not None:
        return resolve_model(base_model, option="--base-model")
    name, revision = None, None
    if manifest and manifest.base:
        if manifest.base.path is not None and Path(manifest.base.path).is_dir():
            return Path(manifest.base.path)
        name, revision = manifest.base.name, manifest.base.revision
    elif (folder / ADAPTER_CONFIG).is_file():
        config = read_json(folder / ADAPTER_CONFIG)
        name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(name, str) or not name:
        raise ModelError(f"{folder}: it doesn't say what its base is; name it with --base-model")
    try:
        return resolve_model(name, revision=revision, option="--base-model")
    except ModelError as error:
        raise ModelError(f"{folder}: its base can't be found ({error}); name it with --base-model") from None
