"""Tasks of srun are the processes of a run; batch scripts and shells of allocations are alone."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mdl_toolkit.distributed.environment import (
    adopt_slurm_task,
    has_gpu_to_itself,
    is_slurm_task,
    process_rank,
)
from mdl_toolkit.distributed.slurm import hosts_of, slurm_variables, tasks_per_node
from mdl_toolkit.distributed.waiting import waiting_message
from mdl_toolkit.errors import SettingsError

#: What srun tells the fourth of six tasks on nodes of 2, 2 and 2.
TASK = {
    "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "0", "SLURM_STEPID": "0", "SLURM_NTASKS": "6",
    "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)", "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_JOB_NODELIST": "gpu[01-16]",
}  # fmt: skip
#: What a script that sbatch starts once is told of the same job.
BATCH = {
    "SLURM_JOB_ID": "123456", "SLURM_NTASKS": "6", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "gpu[07-09]", "SLURM_TASKS_PER_NODE": "2(x3)",
}  # fmt: skip


def _without(environ: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}


def test_a_task_is_a_process_of_the_run():
    assert slurm_variables(TASK) == {
        "RANK": "3", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "3", "MASTER_ADDR": "gpu07", "MASTER_PORT": "23456",
    }  # fmt: skip
    found = process_rank(TASK)
    assert (found.rank, found.world_size, found.local_rank, found.local_world_size) == (3, 6, 1, 2)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        BATCH,
        # Newer versions give batch scripts and interactive shells steps of their own, with these ids.
        {**BATCH, "SLURM_STEP_ID": "4294967291", "SLURM_STEP_NUM_TASKS": "6"},
        {**TASK, "SLURM_STEP_ID": "4294967290", "SLURM_STEPID": "4294967290"},
        {**TASK, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        _without(TASK, "SLURM_PROCID"),
        {**TASK, "SLURM_PROCID": "x"},
    ],
)
def test_what_is_no_task_is_alone(environ: dict[str, str]):
    assert slurm_variables(environ) == {} and not is_slurm_task(environ)
    assert process_rank(environ).world_size == 1


@pytest.mark.parametrize(
    ("launcher", "rank", "world_size"),
    [
        ({"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}, 0, 1),
        ({"RANK": "5", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "x"}, 5, 8),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}, 1, 4),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, 2, 4),
    ],
)
def test_a_launcher_within_a_task_wins(launcher: dict[str, str], rank: int, world_size: int):
    environ = {**TASK, **launcher}
    found = process_rank(environ)
    assert (found.rank, found.world_size) == (rank, world_size) and not is_slurm_task(environ)


def test_mpi_variables_that_srun_sets_itself_change_nothing():
    found = process_rank({**TASK, "PMI_RANK": "3", "PMI_SIZE": "6"})
    assert (found.rank, found.local_rank, found.local_world_size) == (3, 1, 2)


def test_an_address_that_was_set_stays():
    found = slurm_variables({**TASK, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4444"})
    assert not found.keys() & {"MASTER_ADDR", "MASTER_PORT"}


def test_steps_side_by_side_have_ports_of_their_own():
    ports = {slurm_variables({**TASK, "SLURM_STEP_ID": str(step)})["MASTER_PORT"] for step in range(8)}
    assert len(ports) == 8 and all(20000 <= int(port) < 30000 for port in ports)


def test_tasks_on_one_node_meet_on_its_loopback():
    one = {"SLURM_STEP_TASKS_PER_NODE": "6", "SLURM_NODEID": "0", "SLURM_LOCALID": "3"}
    assert slurm_variables({**TASK, **one})["MASTER_ADDR"] == "127.0.0.1"


def test_tasks_dealt_out_in_turn_are_refused_with_the_remedy():
    environ = {**TASK, "SLURM_NODEID": "0"}
    with pytest.raises(SettingsError, match="--distribution=block"):
        process_rank(environ)
    assert is_slurm_task(environ)  # so that the first of each node says it, once


def test_tasks_of_unequal_nodes():
    third = {"SLURM_STEP_TASKS_PER_NODE": "1,3,2", "SLURM_NODEID": "1", "SLURM_LOCALID": "2"}
    assert slurm_variables({**TASK, **third})["LOCAL_WORLD_SIZE"] == "3"


def test_adopted_variables_are_still_known_for_slurms():
    environ = dict(TASK)
    adopt_slurm_task(environ)
    assert environ["RANK"] == "3" and is_slurm_task(environ)
    message = waiting_message(5, "to start", environ)
    assert (
        "from srun (SLURM_PROCID=3 of 6 tasks); if this process is to work alone: unset SLURM_PROCID"
        in message
    )
    before = dict(environ)
    adopt_slurm_task(environ)
    assert environ == before


def test_each_task_may_have_its_own_gpu():
    assert has_gpu_to_itself({**TASK, "SLURM_GPUS_PER_TASK": "1"})
    assert not has_gpu_to_itself(TASK) and not has_gpu_to_itself({**BATCH, "SLURM_GPUS_PER_TASK": "1"})


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("node1", ["node1"]),
        ("node[01-03,7],gpu-a[2-3]", ["node01", "node02", "node03", "node7", "gpu-a2", "gpu-a3"]),
        ("rack[1-2]n[8-9]-ib", ["rack1n8-ib", "rack1n9-ib", "rack2n8-ib", "rack2n9-ib"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("a.example.org,b.example.org", ["a.example.org", "b.example.org"]),
        ("", []),
    ],
)
def test_names_of_nodes(nodes: str, hosts: list[str]):
    assert list(hosts_of(nodes)) == hosts


@pytest.mark.parametrize(
    ("text", "counts"),
    [("2(x3),1", [2, 2, 2, 1]), ("8", [8]), ("1,1", [1, 1]), ("", []), ("2(x3),y", []), ("-1", [])],
)
def test_tasks_of_nodes(text: str, counts: list[int]):
    assert tasks_per_node(text) == counts


def test_nodes_are_counted_where_they_have_unequal_numbers_of_tasks():
    unequal = {**TASK, "SLURM_STEP_TASKS_PER_NODE": "1,5", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    found = process_rank(unequal)
    assert (found.rank, found.local_world_size, found.node, found.nodes) == (1, 5, 1, 2)
    adopt_slurm_task(unequal)
    assert process_rank(unequal) == found
