"""``doctor``: looks at this machine, in a launch at all of them, and says what is wrong and what to do."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mdl_toolkit.distributed.environment import is_first_on_machine
from mdl_toolkit.distributed.hosts import host_name
from mdl_toolkit.distributed.launch import Launch, read_launch
from mdl_toolkit.distributed.network.addresses import with_port
from mdl_toolkit.distributed.network.reach import with_remark
from mdl_toolkit.distributed.waiting import WaitingMessage
from mdl_toolkit.doctor import launched, machine, software
from mdl_toolkit.doctor.findings import OK, PROBLEM, WARNING, Examined, Finding, looked_at
from mdl_toolkit.errors import MdlError, SettingsError
from mdl_toolkit.settings import DoctorSettings
from mdl_toolkit.terminal.console import print_line, print_result

#: Seconds that importing torch and a first computation may take: libraries on a slow shared drive.
_TORCH_SECONDS = 180.0


def doctor(settings: DoctorSettings) -> None:
    """Look at everything and print the findings, in a launch once for all its processes.

    Args:
        settings: The settings of the command.

    Raises:
        MdlError: There is a problem.
    """
    environ = dict(os.environ)  # before anything completes it: what the person or the launcher has set
    launch = read_launch()
    found = Examined(host_name(), software.versions(), look(settings, launch, environ))
    found.hosts = {found.host: {"ranks": [launch.rank], "versions": found.versions}}
    if launch.world_size > 1:
        found = _with_others(found, launch, settings, environ)
    if launch.rank != 0:
        return
    if settings.json:
        print_result(as_json(found))
    else:
        several = len(found.hosts) > 1
        print_result("\n".join(finding.line(several) for finding in shown(found)))
    if problems := found.problems:
        number = f"{len(problems)} problems, the first of them" if len(problems) > 1 else "a problem"
        raise MdlError(f"{number}: {problems[0].topic}: {problems[0].text}")


def _with_others(
    own: Examined, launch: Launch, settings: DoctorSettings, environ: Mapping[str, str]
) -> Examined:
    """What is found together with the other processes of the launch.

    Raises:
        MdlError: On others than rank 0: they could not be met. What was found here is printed then, for no
            one else will.
    """
    try:
        return _met(own, launch, settings, environ)
    except MdlError as error:
        if launch.rank == 0:
            remedy = "is the command running on every host? There it says what it can't reach"
            own.findings.append(Finding(PROBLEM, "processes", str(error), remedy, own.host))
            return own
        for finding in own.findings:
            if finding.level != OK:
                print_line(finding.line(True))
        raise MdlError(f"{launch.name}: could not join the other processes: {error}") from None


def _met(own: Examined, launch: Launch, settings: DoctorSettings, environ: Mapping[str, str]) -> Examined:
    """Meet the others and look at all together.

    Raises:
        MdlError: They could not be met.
    """
    if not os.environ.get("MASTER_ADDR"):
        raise MdlError("MASTER_ADDR, the address of rank 0's host, isn't set")
    try:
        from mdl_toolkit.doctor.together import examine_together
    except (ImportError, OSError, RuntimeError) as error:
        raise MdlError(f"they can't be met without torch ({error})") from None
    where = with_port(os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"])
    waiting = with_remark(WaitingMessage(f"at {where}", environ), launch, environ)
    try:
        return examine_together(own, launch, settings.output, settings.wait, waiting)
    except MdlError as error:
        raise MdlError(f"at {where}: {error}") from None


def look(settings: DoctorSettings, launch: Launch, environ: Mapping[str, str]) -> list[Finding]:
    """All that can be found out on this process by itself, what concerns its host by the first one there."""
    host = host_name()
    device = looked_at("device", partial(software.device, launch), host, _TORCH_SECONDS)
    found = [finding for finding in device if finding.level == PROBLEM]
    if is_first_on_machine(environ):
        gpus = sum(finding.topic == "device" and "GPU" in finding.text for finding in device)
        gpus = max(gpus, launch.local_world_size) if gpus else 0
        found = looked_at("versions", software.packages, host) + device
        found += looked_at("cores", partial(machine.cores, launch, on_cpu=not gpus), host)
        found += looked_at("memory", machine.memory, host)
        found += looked_at(machine.SHARED_MEMORY, partial(machine.shared_memory, gpus), host)
        found += looked_at("open files", partial(machine.open_files, launch), host)
        topic = "output" if settings.output else "working directory"
        folder = (settings.output or Path()).absolute()
        found += looked_at(topic, partial(machine.disk, folder, topic), host)
        topic, folder = "temporary files", Path(tempfile.gettempdir())
        found += looked_at(topic, partial(machine.disk, folder, topic, measured=False), host)
        found += looked_at("hub", partial(machine.hub, settings.online), host)
        found += looked_at("launch", partial(launched.launcher, launch, environ), host)
        found += looked_at("own name", partial(launched.own_name, launch), host)
        found += looked_at("networks", launched.interfaces, host)
    if launch.world_size > 1:
        found += _rendezvous(launch, environ, host)
    return found


def _rendezvous(launch: Launch, environ: Mapping[str, str], host: str) -> list[Finding]:
    """What is to be said of the rendezvous; its address is completed in this process's environment."""
    try:
        from mdl_toolkit.distributed.rendezvous import export_address

        export_address(launch)
    except SettingsError as error:
        return [Finding(PROBLEM, "rendezvous", str(error), host=host)]
    except (ImportError, OSError, RuntimeError):
        return []  # torch can't be loaded: the device's finding says so
    if not is_first_on_machine(environ):
        return []
    return looked_at("rendezvous", partial(launched.rendezvous, launch, environ), host)


def shown(found: Examined) -> list[Finding]:
    """What a person is to read: what is wrong anywhere, and what is right here and between all hosts."""
    return [finding for finding in found.findings if finding.level != OK or finding.host in ("", found.host)]


def as_json(found: Examined) -> str:
    """Everything as one JSON object."""
    levels = Counter(finding.level for finding in found.findings)
    described = {
        "ok": not levels[PROBLEM],
        "problems": levels[PROBLEM],
        "warnings": levels[WARNING],
        "findings": [finding.as_dict() for finding in found.findings],
        "hosts": found.hosts,
        "pairs": found.pairs,
    }
    return json.dumps(described, indent=2, ensure_ascii=False)
