"""Makes the evaluation of a run: the sets, what is measured on each, and how answers are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mdl_toolkit.data.prompt.builder import PromptBuilder
from mdl_toolkit.generation.config_file import decoding_of, end_tokens, read_generation_file
from mdl_toolkit.model_folders.folder import open_folder
from mdl_toolkit.settings import TrainSettings
from mdl_toolkit.terminal.logs import get_logger
from mdl_toolkit.training.evaluation.answers import Answering, AnswersOfSet
from mdl_toolkit.training.evaluation.asked import AnswerBudget, chosen_rows
from mdl_toolkit.training.evaluation.evaluation import Evaluation, SetMeasures
from mdl_toolkit.training.evaluation.loss import LossOfSet
from mdl_toolkit.training.evaluation.scores import ScoresOfSet
from mdl_toolkit.training.evaluation.sets import EvaluationSet, loaders

if TYPE_CHECKING:
    from mdl_toolkit.data.dataset.dataset import ClipDataset
    from mdl_toolkit.distributed.group import Ranks
    from mdl_toolkit.training.batches.loader import MicroBatches

logger = get_logger(__name__)

#: Rows that are answered together, unless --eval-batch-size says it or --batch-size is larger: a step of
#: generation takes about as long for this many as for a few, and far less memory than one of training.
_ROWS_TOGETHER = 32


def make_evaluation(
    settings: TrainSettings,
    ranks: Ranks,
    sets: Sequence[EvaluationSet],
    batches: MicroBatches,
    how: Answering | None,
    folder: Path,
) -> Evaluation:
    """Make the evaluation of a run.

    Args:
        settings: The settings of the run.
        ranks: The processes of the run.
        sets: The sets, one at least.
        batches: The micro-batches of all sets, numbered through.
        how: How answers are made; ``None`` where none are.
        folder: The folder for the files of generated answers.
    """
    size = settings.eval_batch_size or settings.batch_size
    tokens = None if settings.eval_batch_size else settings.max_tokens
    measures = []
    for each, load in zip(sets, loaders(sets, batches), strict=True):
        loss = LossOfSet(each.data, load, ranks, size, tokens)
        scores = None
        if how is not None:
            rows = chosen_rows(each.data, settings.eval_generate or 0)
            answers = AnswersOfSet(each.data, load, ranks, rows, how)
            scores = ScoresOfSet(each, ranks, answers, settings.eval_task, folder / each.name)
        measures.append(SetMeasures(each.name, each.named, len(each.data), loss, scores))
    return Evaluation(measures)


def make_answering(settings: TrainSettings, model_folder: Path, data: ClipDataset) -> Answering:
    """How answers are made: greedily, otherwise as the base's own generation settings say.

    Args:
        settings: The settings of the run.
        model_folder: The folder of the base model.
        data: The training data; its longest answer limits those that are made.

    Raises:
        ModelError: The base's generation settings can't be used.
    """
    place, builder = open_folder(model_folder), PromptBuilder(model_folder)
    file = read_generation_file(place)
    greedy = {"do_sample": False, "num_beams": 1}
    others = [name for name, value in greedy.items() if file.honoured.get(name, value) != value]
    if others:
        logger.info(f"evaluations generate greedily, without the {' and '.join(others)} of {file.path}")
    budget = AnswerBudget.of(
        settings.eval_max_new_tokens, file, int(data.supervised.max()), builder.max_tokens
    )
    return Answering(
        ends=end_tokens(file, builder.end_id),
        decoding=decoding_of(file, greedy, settings.seed, place),
        budget=budget,
        decode=lambda ids: builder.decode(ids, skip_special=True),
        slots=settings.eval_batch_size or max(settings.batch_size, _ROWS_TOGETHER),
        compiled=settings.compile,
    )
