"""What the folders named as datasets have already decided: the model, and the options of their conversion."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mdl_toolkit.data.dataset.manifest import MANIFEST_NAME, DatasetManifest, ModelRecord
from mdl_toolkit.errors import SettingsError, printable
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.settings.checks import dataset_paths
from mdl_toolkit.settings.evaluation_sets import evaluation_paths
from mdl_toolkit.settings.options import flag, given_names, options_where, with_defaults
from mdl_toolkit.terminal.logs import get_logger

logger = get_logger(__name__)


def reconcile_with_folders(settings: TrainSettings) -> TrainSettings:
    """Take the model that converted folders were made for, and refuse options that they leave no say in.

    Args:
        settings: The settings of the training. Values that somebody gave count; defaults refuse nothing.

    Returns:
        Settings with the folders' model, where none was given.

    Raises:
        DataError: A folder's manifest can't be read.
        SettingsError: Options contradict the folders; every problem found is in it.
    """
    paths = [*dataset_paths(settings.train_dataset), *evaluation_paths(settings.eval_dataset)]
    folders = [path for path in paths if path.is_dir()]
    # Folders of the public 0.1.0 have no manifest: their options are decided too, but not recorded.
    manifests = {
        path: DatasetManifest.read(path) if (path / MANIFEST_NAME).is_file() else None for path in folders
    }
    problems = _problems(settings, manifests, any(path not in manifests for path in paths))
    models = {path: m.model for path, m in manifests.items() if m is not None and m.model is not None}
    wanted = "model_name" not in given_names(settings) and bool(models)
    if wanted:
        problems += _model_problems(models)
    if problems:
        raise SettingsError(problems)
    return _with_model(settings, models) if wanted else settings


def _problems(
    settings: TrainSettings, manifests: dict[Path, DatasetManifest | None], files_too: bool
) -> list[str]:
    """Options that were given and that a folder was not converted with."""
    problems = []
    for name in options_where(TrainSettings, conversion=("fingerprint", "recorded")):
        if name not in given_names(settings):
            continue
        for path, manifest in manifests.items():
            wanted = getattr(settings, name)
            if manifest is not None and name in manifest.options:
                had = manifest.options[name]
                if _same(wanted, had):
                    continue
                how = f"with {flag(name)} {_shown(had)}" if had is not None else "without it"
            else:
                how = "with what was given then"
            if not files_too:
                problems.append(
                    f"{flag(name)} {_shown(wanted)} has no effect: {path} was converted {how}; convert it "
                    "again with the option, or leave it out here"
                )
                break
            if name in options_where(TrainSettings, group="prompt"):
                logger.warning(
                    f"{flag(name)} {_shown(wanted)} is for the files alone: {path} was converted {how}"
                )
    return problems


def _model_problems(models: dict[Path, ModelRecord]) -> list[str]:
    """Why the folders don't name one model that is there."""
    (first, model), *others = models.items()
    for path, other in others:
        if other != model:
            return [
                f"{first} was converted for the model {model}, {path} for {other}: say which one to train "
                "with --model-name"
            ]
    if os.path.isabs(model.name) and not os.path.exists(model.name):
        return [
            f"{first} was converted for the model in {model.name}, which is not there any more: say where it "
            "is with --model-name"
        ]
    return []


def _with_model(settings: TrainSettings, models: dict[Path, ModelRecord]) -> TrainSettings:
    path, model = next(iter(models.items()))
    revision = settings.revision if "revision" in given_names(settings) else model.revision
    model = ModelRecord(model.name, revision, settings.from_modelscope or model.from_modelscope)
    logger.info(f"model: {model}, for which {path} was converted (--model-name names another)")
    return with_defaults(
        settings, model_name=model.name, revision=revision, from_modelscope=model.from_modelscope
    )


def _same(wanted: Any, had: Any) -> bool:
    if isinstance(wanted, Path):
        return had is not None and os.path.abspath(wanted) == os.path.abspath(str(had))
    return bool(wanted == had)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else printable(value)
