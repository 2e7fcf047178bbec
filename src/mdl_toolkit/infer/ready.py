"""What can be checked before torch is imported: the input and the model are there."""

from __future__ import annotations

from mdl_toolkit.data.input.records import read_header
from mdl_toolkit.errors import SettingsError, UserError
from mdl_toolkit.hub import resolve_model
from mdl_toolkit.infer.confidence.choices import has_choices, listed_choices
from mdl_toolkit.infer.processes.peer import Peer
from mdl_toolkit.settings import InferenceSettings


def make_ready(settings: InferenceSettings) -> InferenceSettings:
    """Check input and model on the main process of a launch, which reports for all.

    Raises:
        SettingsError: With everything that is wrong.
    """
    peer = Peer.of_environment()
    if peer.is_main:
        with peer.named_errors():
            _check(settings)
    return settings


def _check(settings: InferenceSettings) -> None:
    problems = []
    try:
        columns = read_header(settings.input, settings.encoding)
        if has_choices(settings, columns):
            listed_choices(settings)
    except SettingsError as error:
        problems += error.problems
    except UserError as error:
        problems.append(str(error))
    try:
        resolve_model(
            settings.model_name, revision=settings.revision, from_modelscope=settings.from_modelscope
        )
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise SettingsError(problems)
