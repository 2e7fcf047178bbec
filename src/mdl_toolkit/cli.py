"""The command line: flags to settings to one library call, and the exit code. Nothing else."""

from __future__ import annotations

import difflib
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any, NamedTuple

from mdl_toolkit import __version__, settings
from mdl_toolkit.distributed.environment import (
    adopt_slurm_task,
    is_first_on_machine,
    is_slurm_task,
    is_started_by_torchrun,
    process_rank,
)
from mdl_toolkit.distributed.joining.early import has_begun_joining, tell_others
from mdl_toolkit.errors import (
    STOPPED,
    ExitCode,
    MdlError,
    SettingsError,
    Stopped,
    describe_exit_codes,
    first_error,
    shortage,
)
from mdl_toolkit.settings import options
from mdl_toolkit.settings.commandline import parse_flags
from mdl_toolkit.settings.values import make_settings
from mdl_toolkit.terminal import console
from mdl_toolkit.terminal.ending import end_process
from mdl_toolkit.terminal.interrupts import (
    FORWARDED,
    Interrupted,
    Listener,
    current,
    end_undisturbed,
    stop_code,
    stop_line,
)
from mdl_toolkit.terminal.live_line import status
from mdl_toolkit.terminal.torchrun import (
    earlier_refusal,
    is_reported,
    let_cause_end_first,
    report_failure,
)


class Command(NamedTuple):
    """A command.

    Attributes:
        settings: The class of its settings.
        function: The function that does the work, as ``module:name``.
        help: What it does, in a line.
        after_signal: What is left after a signal has stopped it, and how to go on.
        example: A command line to copy.
        torch: Whether importing the function loads torch, which takes seconds.
        meets: Which processes of a launch join each other: ``all``, or ``all`` where they are on several
            ``hosts``.
        unsaved: What a signal costs that comes before the work says so itself; see ``Listener.unsaved``.
        prepare: A function that is called first, before torch is loaded, as ``module:name``. It is given the
            settings, and the other function is given what it returns.
    """

    settings: type[options.Settings]
    function: str
    help: str
    after_signal: str
    example: str
    torch: bool = False
    meets: str = ""
    unsaved: str = ""
    prepare: str = ""


COMMANDS = {
    "convert-dataset": Command(
        settings.OF_COMMAND["convert-dataset"],
        "mdl_toolkit.data.conversion.command:convert_dataset",
        "turn a CSV of clips into a training dataset",
        "no half dataset is left; the same command starts again",
        "mdl-toolkit convert-dataset train.csv --base-dir recordings --output train-converted/",
    ),
    "train": Command(
        settings.OF_COMMAND["train"],
        "mdl_toolkit.training.run:train_ready",
        "fine-tune a model",
        "nothing that was saved is lost; resume with --resume-from-checkpoint true, which starts anew where "
        "there is no checkpoint yet",
        "mdl-toolkit train --train-dataset train-converted/ --output output/",
        torch=True,
        meets="all",
        unsaved="before the first step was finished",
        prepare="mdl_toolkit.training.ready:make_ready",
    ),
    "inference": Command(
        settings.OF_COMMAND["inference"],
        "mdl_toolkit.infer.run:inference",
        "predict answers for a CSV of clips",
        "the answers so far are kept; the same command goes on with them",
        "mdl-toolkit inference test.csv --model-name output/final --output predictions.csv",
        prepare="mdl_toolkit.infer.ready:make_ready",
        torch=True,
        meets="hosts",
    ),
    "inspect": Command(
        settings.OF_COMMAND["inspect"],
        "mdl_toolkit.inspection.run:inspect",
        "see what is in your data, and what is wrong",
        "nothing is left behind; the same command starts again",
        "mdl-toolkit inspect train.csv --against test.csv --base-dir recordings",
    ),
    "evaluate": Command(
        settings.OF_COMMAND["evaluate"],
        "mdl_toolkit.scoring.evaluate:evaluate",
        "score predictions, to know how good a model is",
        "nothing half-written is left; the same command starts again",
        "mdl-toolkit evaluate predictions.csv --task classification --output scores/",
    ),
    "verify": Command(
        settings.OF_COMMAND["verify"],
        "mdl_toolkit.verify.run:verify",
        "find out whether a model says the same in every form",
        "nothing is left behind; the same command starts again",
        "mdl-toolkit verify output/final --data test.csv -n 32",
        prepare="mdl_toolkit.verify.run:make_ready",
        torch=True,
    ),
    "report": Command(
        settings.OF_COMMAND["report"],
        "mdl_toolkit.report.write:report",
        "show how good runs are, and where they fail, in a page",
        "an older page is as it was; the same command starts again",
        "mdl-toolkit report output/ --output report.html",
    ),
    "demo": Command(
        settings.OF_COMMAND["demo"],
        "mdl_toolkit.demo.run:demo",
        "see it all work in two minutes, on the CPU",
        "the same command starts the demonstration anew",
        "mdl-toolkit demo --output mdl-demo",
    ),
    "doctor": Command(
        settings.OF_COMMAND["doctor"],
        "mdl_toolkit.doctor.run:doctor",
        "find what is wrong with a machine, or with a launch",
        "nothing is left behind; the same command starts again",
        "mdl-toolkit doctor --output output/",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and leave the process with its exit code."""
    end_undisturbed()
    try:
        with console.guarded_streams():
            code = run(list(sys.argv[1:] if argv is None else argv))
        if code == ExitCode.NOT_SAVED or code > 128:
            end_process(code, exit_functions=True)  # it may have threads that wait for a slow server
        sys.exit(code)
    finally:
        if failure := sys.modules.get("mdl_toolkit.distributed.failure"):
            failure.leave_group()


def run(argv: list[str]) -> int:
    """Run a command.

    Args:
        argv: The words after the program's name.

    Returns:
        An :class:`~mdl_toolkit.errors.ExitCode`, or 128 + n where signal n has stopped the command.
    """
    with console.messages_on_console(), Listener():
        try:
            return _dispatch(argv)
        except MdlError as error:
            code = _report(error)
            _tell_others(error, argv)
            return code
        except KeyboardInterrupt as interrupt:
            code = _interrupted(interrupt, argv)
            _tell_others(interrupt, argv)
            return code
        except Exception as error:
            if (cause := shortage(error)) is not None:
                named = _named_shortage(cause, error)
                code = _report(named)
                _tell_others(named, argv)
                return code
            _prints_for_machine(f"{type(error).__name__}: {error}", 1)  # a traceback is printed in any case
            _tell_others(error, argv)
            raise


def _named_shortage(cause: str, error: BaseException) -> MdlError:
    """The error for a person where the system is short of something: the first one, if others followed."""
    first = first_error(error)
    if isinstance(first, MdlError):
        return first
    if shortage(first) is not None:
        return MdlError(shortage(first) or cause)
    return MdlError(f"{type(first).__name__}: {' '.join(str(first).split())}; and then {cause}")


def _interrupted(interrupt: KeyboardInterrupt, argv: list[str]) -> int:
    number = interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT
    # A program that started this command as one of its steps says itself how to go on.
    tells = argv and argv[0] in COMMANDS and FORWARDED not in os.environ
    line = stop_line(number, then=COMMANDS[argv[0]].after_signal if tells else "")
    if _prints_for_machine(line, stop_code(number)):
        console.print_line(line)
    return stop_code(number)


def _prints_for_machine(cause: str, exit_code: int) -> bool:
    """Report a cause, unless one is reported already, and whether this process is to print it too.

    Where all processes of a launch know it, one on each machine prints it under torchrun and srun; without
    them, all do.
    """
    if not is_reported():
        report_failure(cause, exit_code)
    together = is_started_by_torchrun() or is_slurm_task()
    return not together or is_first_on_machine()


def _report(error: MdlError) -> int:
    lines = _with_host(error, str(error).splitlines() or [type(error).__name__])
    prints = _prints_for_machine("\n".join(lines), error.exit_code)
    if isinstance(error, SettingsError):
        # All processes of a launch have the same options: one on each machine says what is wrong with them,
        # and its end makes the launcher end the others. Those that have joined know whose error it is.
        says_it = prints or has_begun_joining() or (is_started_by_torchrun() and not let_cause_end_first())
        if not says_it:
            return error.exit_code
        for line in lines:
            console.print_line(f"{error.state}: {line}")
    else:
        # A message is a whole sentence wherever else it is printed; here its first word stands before it.
        console.print_line(f"{error.state}: " + "\n".join(lines).removeprefix(f"{STOPPED} "))
    return error.exit_code


def _with_host(error: MdlError, lines: list[str]) -> list[str]:
    """The lines of an error with the name of this process, where the launch has several hosts.

    Processes that have joined name themselves.
    """
    try:
        process = process_rank()
    except SettingsError:
        return lines
    if process.nodes == 1 or has_begun_joining() or isinstance(error, Stopped):
        return lines
    return [line if line.startswith(process.name) else f"{process.name}: {line}" for line in lines]


def _tell_others(error: BaseException, argv: list[str]) -> None:
    """Tell the other processes of the launch why this one ends, where the command's processes meet."""
    if argv and argv[0] in COMMANDS and (meets := COMMANDS[argv[0]].meets):
        tell_others(error, across_hosts=meets == "hosts")


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        console.print_result(_overview())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        console.print_result(f"mdl-toolkit {__version__}")
        return 0
    name, words = argv[0], argv[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(COMMANDS)}"
        raise SettingsError([f"no command {name!r}{hint}"])
    command = COMMANDS[name]
    if "-h" in words or "--help" in words:
        from mdl_toolkit.settings.help import command_help

        console.print_result(
            command_help(name, command.settings, command.help, describe_exit_codes(), command.example)
        )
    else:
        _execute(command, words)
    return 0


def _execute(command: Command, words: list[str]) -> None:
    if refusal := earlier_refusal():
        raise SettingsError(refusal.splitlines())
    problems: list[str] = []
    flags, config = parse_flags(command.settings, words, problems)
    if listener := current():
        listener.unsaved = command.unsaved
    adopt_slurm_task()
    process_rank(os.environ)  # a launcher's variable that makes no sense is told before anything else
    work: Any = make_settings(command.settings, flags, config, problems)
    _let_threads_sleep()
    if command.prepare:
        work = _import_function(command.prepare)(work)
    with status("loading PyTorch…") if command.torch else nullcontext():
        function = _import_function(command.function)
    function(work)


def _let_threads_sleep() -> None:
    """Let OpenMP's threads sleep soon while they wait for each other, unless the environment says otherwise.

    By default a waiting thread spins and keeps its core busy. Where other programs need that core, the thread
    that is waited for can't run: beside 8 busy processes 10 steps took minutes. With 1,000 spins before the
    sleep they take 23 s, and a machine that has nothing else to do loses a seventh on the smallest model
    (``benchmarks/training/waiting.py``). The variables are read when torch is loaded.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        # libgomp reads the count, the runtimes of LLVM and Intel read the policy.
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def _import_function(place: str) -> Callable[[Any], Any]:
    """Import a command's function, given as ``module:name``.

    Objects that imports create live as long as the process. The garbage collector would search them again and
    again: during the import, for a quarter of its time, and in every later pass. So it is off during the
    import and ignores these objects afterwards.
    """
    module, _, name = place.partition(":")
    gc.disable()
    try:
        function: Callable[[Any], Any] = getattr(import_module(module), name)
    finally:
        gc.freeze()
        gc.enable()
    return function


def _overview() -> str:
    from mdl_toolkit.settings.help import wrapped

    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items())
    examples = "\n".join(f"  {command.example}" for command in COMMANDS.values())
    codes = wrapped(describe_exit_codes())
    return (
        f"mdl-toolkit {__version__}: fine-tune MiDashengLM on your own recordings\n\n"
        f"usage: mdl-toolkit COMMAND …\n\n{commands}\n\n"
        f"mdl-toolkit COMMAND --help explains a command.\n\n{codes}\n\nexamples:\n{examples}"
    )
