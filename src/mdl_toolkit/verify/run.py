"""The command ``verify``, from top to bottom."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mdl_toolkit.errors import MdlError, SettingsError
from mdl_toolkit.hub import resolve_model
from mdl_toolkit.settings import VerifySettings
from mdl_toolkit.terminal.console import print_result
from mdl_toolkit.terminal.live_line import status
from mdl_toolkit.terminal.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mdl_toolkit.verify.asked import Questions
    from mdl_toolkit.verify.forms import ModelForm
    from mdl_toolkit.verify.outcome import FormOutcome
    from mdl_toolkit.verify.subject import Subject
    from mdl_toolkit.verify.traces import Trace

logger = get_logger(__name__)


def make_ready(settings: VerifySettings) -> VerifySettings:
    """Check table and model before torch is imported.

    Raises:
        UserError: One of them can't be used.
    """
    from mdl_toolkit.data.input.records import read_header

    read_header(settings.data, settings.encoding)
    _folder(settings)
    return settings


def verify(settings: VerifySettings) -> None:
    """Ask a model the same in all its forms, and print how far they are from each other.

    Args:
        settings: The options of the command.

    Raises:
        UserError: Something can't be used, before anything is computed.
        MdlError: A form says something else than the reference, beyond what is accepted.
    """
    import torch

    from mdl_toolkit.gpu import require_usable_gpu
    from mdl_toolkit.model_folders.folder import open_folder
    from mdl_toolkit.verify.asked import read_questions
    from mdl_toolkit.verify.asking import make_reference
    from mdl_toolkit.verify.outcome import Verification
    from mdl_toolkit.verify.subject import opened_subject

    require_usable_gpu()
    place = open_folder(_folder(settings), settings.base_model)
    questions = read_questions(settings, place)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    dtype = torch.bfloat16 if settings.bf16 else torch.float32
    with opened_subject(place, device, dtype) as subject:
        forms = _chosen(subject, settings)
        with status("asking the reference…"):
            reference = make_reference(subject.load_reference(), questions)
        answers = [trace.tokens for trace in reference]
        lines = questions.lines
        found = Verification(str(settings.data), lines, subject.describe(), questions.decode, answers)
        for form in forms:
            found.outcomes.append(_compared(form, subject, questions, reference, settings))
    print_result(found.as_json() if settings.json else found.table())
    if parted := found.parted:
        names = ", ".join(outcome.title for outcome in parted)
        what = "a form differs" if len(parted) == 1 else f"{len(parted)} forms differ"
        raise MdlError(f"{what} from the reference by more than is accepted, or could not be asked: {names}")


def _folder(settings: VerifySettings) -> Any:
    return resolve_model(
        settings.model_name,
        revision=settings.revision,
        from_modelscope=settings.from_modelscope,
        option="MODEL",
    )


def _chosen(subject: Subject, settings: VerifySettings) -> list[ModelForm]:
    """The forms to compare, with the tolerance that was asked for.

    Raises:
        SettingsError: One was named that can't be had here.
    """
    from mdl_toolkit.verify.forms import all_forms

    forms = all_forms(subject, settings)
    if settings.form:
        forms = [form for form in forms if form.name in settings.form]
        if problems := [f"--form {form.name}: {form.unavailable}" for form in forms if form.unavailable]:
            raise SettingsError(problems)
    if settings.tolerance is not None:
        forms = [replace(form, tolerance=settings.tolerance) for form in forms]
    return forms


def _compared(
    form: ModelForm,
    subject: Subject,
    questions: Questions,
    reference: Sequence[Trace],
    settings: VerifySettings,
) -> FormOutcome:
    """Ask one form; what goes wrong in it is its outcome, and the others are asked all the same."""
    from mdl_toolkit.memory import free_memory, is_out_of_memory
    from mdl_toolkit.verify.forms import plain_error
    from mdl_toolkit.verify.outcome import FormOutcome
    from mdl_toolkit.verify.traces import compare

    faults = [f"{fault.what}; {fault.remedy}" for fault in form.faults]
    outcome = FormOutcome(form.name, form.title, form.tolerance, faults=faults)
    if form.unavailable:
        return replace(outcome, left_out=form.unavailable)
    try:
        with status(f"asking it {form.title}…"):
            found = form.ask(subject, questions, reference, settings.batch_size)
        return replace(outcome, comparison=compare(reference, found))
    except Exception as error:  # whatever an engine does, the others are still to be asked
        short = is_out_of_memory(error)
        outcome = replace(
            outcome, failed=not short, left_out="not enough memory" if short else plain_error(error)
        )
    free_memory()
    return outcome
