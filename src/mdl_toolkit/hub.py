"""Find the local folder of a model: in the package, on this machine, in the Hub's cache, or by a download.

No torch is imported, and the Hub's client only if a name is neither ``tiny`` nor a local folder.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from mdl_toolkit.errors import ModelError
from mdl_toolkit.family import check_folder

#: The small base that ships with the package.
TINY = "tiny"
#: Patterns of the files of a model: all but the weights, and the weights.
_SMALL_FILES = ("*.json", "*.txt", "*.jinja", "*.py")
_WEIGHT_FILES = ("*.safetensors",)
#: One of these makes a folder a model, an adapter or a checkpoint.
_MODEL_FILES = ("config.json", "adapter_config.json", "mdl_toolkit.json")
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_model(
    name: str | Path,
    *,
    revision: str | None = None,
    from_modelscope: bool = False,
    weights: bool = True,
    option: str = "--model-name",
) -> Path:
    """Find the folder of a model, and download the model only if nothing local has its name.

    Args:
        name: ``tiny``, a local folder, or a Hub id. A local folder wins over a Hub id of the same name.
        revision: The branch, tag or commit of a model on the Hub.
        from_modelscope: Whether to download from ModelScope (needs the ``modelscope`` extra).
        weights: Whether weights are needed, beside the tokenizer, template and configuration.
        option: The option that names the model, for messages.

    Returns:
        A folder with a model, an adapter or a training checkpoint in it. The Hub's cache is searched first,
        without network access. Pickled weights are never downloaded.

    Raises:
        ModelError: No model was found. The message says what was tried, similar names, and what to do.
    """
    text = str(name)
    if text == TINY and not Path(text).is_dir():
        return Path(__file__).parent / "demo" / "tiny"
    path = Path(os.path.expanduser(text))
    if path.exists():
        return check_folder(_local(path))
    if not _is_hub_id(text):
        raise ModelError(f"no model folder {text}{_did_you_mean(path)}")
    if from_modelscope:
        return check_folder(_from_modelscope(text, revision, weights), text)
    return check_folder(_cached(text, revision, weights) or _download(text, revision, weights, option), text)


def model_at_hand(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model that is on this machine, without its weights; ``None`` rather than a download.

    Args:
        name: ``tiny``, a local folder, or a Hub id.
        revision: The branch, tag or commit of a model on the Hub.
    """
    if name == TINY or Path(os.path.expanduser(name)).exists():
        return resolve_model(name, weights=False)
    return _cached(name, revision, weights=False) if _is_hub_id(name) else None


def revision_of(folder: Path) -> str | None:
    """The commit of a model in the Hub's cache; ``None`` for other folders."""
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


def _local(path: Path) -> Path:
    if path.is_file():
        beside = _has_model(path.parent)
        hint = f"; give the folder that it is in: {path.parent}" if beside else ""
        raise ModelError(f"{path}: a file; a model is a folder with config.json in it{hint}")
    if _has_model(path):
        return path
    inside = sorted(
        (child for child in _children(path) if _has_model(child)),
        key=lambda child: (child.name != "final", -_trailing_number(child.name)),
    )
    hint = f"; did you mean {' or '.join(str(child) for child in inside[:2])}?" if inside else ""
    raise ModelError(f"{path}: no model in this folder (none of {', '.join(_MODEL_FILES)}){hint}")


def _has_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MODEL_FILES)


def _trailing_number(name: str) -> int:
    digits = re.search(r"(\d{1,15})$", name)
    return int(digits[1]) if digits else -1


def _children(folder: Path) -> list[Path]:
    try:
        return [child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")]
    except OSError:
        return []


def _is_hub_id(text: str) -> bool:
    return bool(_HUB_ID.fullmatch(text)) and ".." not in text and "--" not in text and len(text) <= 96


def _did_you_mean(path: Path) -> str:
    """``; did you mean …?`` with the most similar local names, or nothing."""
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent  # its folder doesn't exist either: look for names similar to the folder's
    names = {child.name: child for child in _children(path.parent)}
    close = difflib.get_close_matches(path.name, [*names, TINY], n=2)
    found = [TINY if word == TINY else str(names[word]) for word in close]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _patterns(weights: bool) -> list[str]:
    return [*_SMALL_FILES, *(_WEIGHT_FILES if weights else ())]


def _complete(folder: Path, weights: bool) -> bool:
    """Whether a cached snapshot is complete: other programs fetch single files into the same cache."""
    if not _has_model(folder):
        return False
    if not weights or (folder / "model.safetensors").is_file():
        return True
    if (folder / "adapter_model.safetensors").is_file():
        return True
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return all((folder / str(file)).is_file() for file in set(index["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def _cached(name: str, revision: str | None, weights: bool) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        found = Path(
            snapshot_download(
                name, revision=revision, local_files_only=True, allow_patterns=_patterns(weights)
            )
        )
    except (OSError, ValueError):
        return None
    return found if _complete(found, weights) else None


def _download(name: str, revision: str | None, weights: bool, option: str) -> Path:
    from huggingface_hub import snapshot_download

    called = f"{name} at revision {revision}" if revision else name
    if (offline := offline_reason()) is not None:
        why = _unreachable(name, offline, option)
        raise ModelError(f"{called}: no local folder of this name, and {why}{_did_you_mean(Path(name))}")
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=_patterns(False)))
        if weights:
            check_folder(found, name)  # before gigabytes are fetched
            found = Path(snapshot_download(name, revision=revision, allow_patterns=_patterns(True)))
    except ModelError:
        raise
    except Exception as error:
        why = _reason(error, name, revision, option)
        raise ModelError(
            f"{called}: no local folder of this name, and {why}{_did_you_mean(Path(name))}"
        ) from None
    if not _complete(found, weights):
        raise ModelError(
            f"{called}: downloaded, but it has no safetensors weights; pickled ones are never read"
        )
    return found


def _reason(error: Exception, name: str, revision: str | None, option: str) -> str:
    """Why a download from the Hub failed and what to do, for a person."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    answers: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        (
            GatedRepoError,
            "it is on the Hub, but not open to all: ask for access on its page, then run `hf auth login`",
        ),
        (
            RevisionNotFoundError,
            f"the Hub has the model, but no revision {revision}: look up its branches and tags",
        ),
        (
            (RepositoryNotFoundError, HFValidationError),
            "the Hub has no such model either; is the name right? (a private one needs `hf auth login`)",
        ),
    )
    for kind, answer in answers:
        if isinstance(error, kind):
            return answer
    if isinstance(error, HfHubHTTPError):
        status = getattr(getattr(error, "response", None), "status_code", None)
        return f"the Hub answered with status {status}; try again later, or give a local folder"
    if isinstance(error, OSError):
        if error.errno is not None and error.filename is not None:
            return f"the download could not be stored: {error.strerror} ({error.filename})"
        return _unreachable(name, type(error).__name__, option)
    # The client's transport has its own family of errors (proxies, certificates); their texts can hold URLs
    # with credentials, so only their kind is shown.
    return f"the download failed ({type(error).__name__}); check the network, or give a local folder"


def _unreachable(name: str, reason: str, option: str) -> str:
    why = (
        f"it is not in the Hub's local cache, and the Hub can't be reached ({reason}); download it where "
        f"there is a network (`hf download {name}`) and give the folder with {option}"
    )
    if option == "--model-name":
        why += f", or try the small base that ships with the toolkit: {option} {TINY}"
    return why


def offline_reason() -> str | None:
    """Which variable keeps everything off the network, if one does."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            return f"{variable} is set"
    return None


def _from_modelscope(name: str, revision: str | None, weights: bool) -> Path:
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise ModelError(
            "--from-modelscope needs the modelscope extra: pip install 'mdl-toolkit[modelscope]'"
        ) from None
    patterns = _patterns(weights)

    def download() -> str:
        small = snapshot_download(name, revision=revision, allow_patterns=_patterns(False))
        check_folder(Path(small), name)  # before gigabytes are fetched
        return str(snapshot_download(name, revision=revision, allow_patterns=patterns) if weights else small)

    attempts: Iterable[Callable[[], str]] = (
        lambda: snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=patterns),
        download,
    )
    kind = ""
    for attempt in attempts:
        try:
            found = Path(attempt())
        except ModelError:
            raise
        except Exception as error:
            kind = type(error).__name__
            continue
        if _complete(found, weights):
            return found
        kind = "no safetensors weights in it"
    raise ModelError(
        f"{name}: no local folder of this name, and ModelScope gave none ({kind}); check the name and "
        f"the network{_did_you_mean(Path(name))}"
    )
