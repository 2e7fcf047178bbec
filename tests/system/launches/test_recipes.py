"""The recipes for Slurm and Kubernetes, with the cluster's part played by a few lines of shell."""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.processes.launch import environment, free_port, launched, run, run_together
from support.processes.netns import Host, two_hosts
from support.training.guide import ROOT, blocks, for_cpus
from support.training.shop import TRAIN, assert_same_run, steps

pytestmark = pytest.mark.system

SBATCH = ROOT / "examples" / "slurm" / "train.sbatch"
# Slurm starts the command once on each node, passes signals on and ends with the worst exit code.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do echo "srun $1" >> srun.log; shift; done
for node in $(seq "$SLURM_JOB_NUM_NODES"); do SLURM_NODEID=$((node - 1)) "$@" & tasks+=($!); done
trap 'kill -TERM "${tasks[@]}"' TERM
worst=0
for task in "${tasks[@]}"; do
    while kill -0 "$task" 2>/dev/null; do wait "$task"; done
    wait "$task" || worst=$?
done
exit "$worst"
"""
SCONTROL = """#!/usr/bin/env bash
case $1 in
    show) echo localhost; echo node2;;
    requeue) echo "$2" >> requeued.log;;
esac
"""
# `sbatch` copies the script to the first node and runs it there, with the words after its name.
SBATCH_PROGRAM = """#!/usr/bin/env bash
exec bash batch.sh "${@:2}"
"""
SLURM = [block.text for block in blocks("docs/en/distributed.md") if block.place == "slurm"]
KUBERNETES = ROOT / "examples" / "kubernetes"


def _slurm_job(shop: Path, programs: Path) -> dict[str, str]:
    """Variables of a job on two nodes, with the programs of Slurm first on the path."""
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("sbatch", SBATCH_PROGRAM)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    shutil.rmtree(shop / "output", ignore_errors=True)
    return {
        "PATH": f"{programs}:{environment(shop)['PATH']}",
        # The recipe's nodes meet at port 20000 + job id modulo 10000.
        "SLURM_JOB_ID": str(free_port(20000, 30000) + 50000),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }


def test_slurm_job_is_stopped_requeued_and_goes_on(shop: Path, undisturbed: Path, tmp_path: Path):
    job = _slurm_job(shop, tmp_path / "programs")
    (shop / "batch.sh").write_text(for_cpus(SBATCH.read_text(), settings=shop / "train.yaml", processes=1))
    submit = f"exec {SLURM[0].rstrip()} --num-epochs 8 --save-steps 1 --save-total-limit 3"
    with launched(["bash", "-ec", submit], cwd=shop, env=job) as launch:
        launch.until((shop / "output" / "checkpoint-4").is_dir, "checkpoint-4")
        launch.signal(signal.SIGUSR1)
        finished = launch.wait()
    assert finished.code == 0, finished.output
    assert (shop / "requeued.log").read_text().split() == [job["SLURM_JOB_ID"]]
    done = steps(shop / "output")[-1]["step"]
    assert done < 24 and (shop / "output" / f"checkpoint-{done}").is_dir()

    finished = run(["bash", "-ec", submit], cwd=shop, env={**job, "SLURM_RESTART_COUNT": "1"})
    assert finished.code == 0, finished.output
    assert (shop / "requeued.log").read_text().split() == [job["SLURM_JOB_ID"]], "done: not queued again"
    assert_same_run(shop / "output", undisturbed)


def test_slurm_job_that_fails_says_so_and_is_not_requeued(shop: Path, tmp_path: Path):
    job = _slurm_job(shop, tmp_path / "programs")
    (shop / "batch.sh").write_text(for_cpus(SBATCH.read_text(), settings=shop / "train.yaml", processes=1))
    (shop / "requeued.log").unlink(missing_ok=True)
    submit = SLURM[0].replace("--lora-rank 16", "--lora-rank 0")
    finished = run(["bash", "-ec", submit], cwd=shop, env=job)
    assert finished.code == 1 and "--lora-rank 0" in finished.output, finished.output
    assert not (shop / "requeued.log").exists()


def test_slurm_line_inside_an_allocation(shop: Path, tmp_path: Path, hosts: tuple[Host, Host]):
    """Run within one host's network, for it takes torchrun's own port."""
    job = _slurm_job(shop, tmp_path / "programs")
    text = for_cpus(SLURM[1], settings=shop / "train.yaml", processes=1)
    finished = run(["sh", "-ec", text], cwd=shop, env=job, prefix=hosts[0].prefix)
    assert finished.code == 0, finished.output
    assert_same_run(shop / "output", shop / "alone")


def test_batch_script_is_sound():
    assert subprocess.run(["bash", "-n", SBATCH], check=False).returncode == 0
    options = [line.split()[1] for line in SBATCH.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "--requeue" in options and "--signal=B:USR1@180" in options


def _container(spec: dict[str, Any], shop: Path) -> tuple[list[str], dict[str, str]]:
    """The command and variables of a pod's container, with the CPU's words put in."""
    container = spec["containers"][0]
    command = " ".join(container["command"])
    words = for_cpus(command, settings=shop / "train.yaml", processes=1).split()
    return [*words, "--lora-rank=16", "--eval-steps=50"], {e["name"]: e["value"] for e in container["env"]}


def test_kubernetes_job(shop: Path, tmp_path: Path):
    service, job = yaml.safe_load_all((KUBERNETES / "job.yaml").read_text())
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert (service["kind"], service["metadata"]["name"]) == ("Service", pod["subdomain"])
    assert service["spec"]["selector"] == {"job-name": name}
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 2
    assert pod["terminationGracePeriodSeconds"] > 150
    words, variables = _container(pod, shop)
    shutil.rmtree(shop / "output", ignore_errors=True)
    with two_hosts(tmp_path, names=(f"{name}-0", f"{name}-1"), domain=pod["subdomain"]) as pods:
        for finished in run_together([(pod.prefix, words) for pod in pods], cwd=shop, env=variables):
            assert finished.code == 0, finished.output
    assert_same_run(shop / "output", shop / "alone")


def test_kubeflow_job(shop: Path, tmp_path: Path):
    """The operator tells torchrun through variables: those of an elastic policy are set here in its place."""
    job = yaml.safe_load((KUBERNETES / "pytorchjob.yaml").read_text())
    name, policy = job["metadata"]["name"], job["spec"]["elasticPolicy"]
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert worker["replicas"] == policy["minReplicas"] == policy["maxReplicas"] == 2
    words, variables = _container(worker["template"]["spec"], shop)
    port = worker["template"]["spec"]["containers"][0]["ports"][0]["containerPort"]
    operator = {
        "PET_NNODES": f"{policy['minReplicas']}:{policy['maxReplicas']}",
        "PET_RDZV_BACKEND": policy["rdzvBackend"],
        "PET_RDZV_ENDPOINT": f"{name}-worker-0:{port}",
        "PET_MAX_RESTARTS": str(policy["maxRestarts"]),
        "PYTHONUNBUFFERED": "0",
    }
    shutil.rmtree(shop / "output", ignore_errors=True)
    with two_hosts(tmp_path, names=(f"{name}-worker-0", f"{name}-worker-1")) as pods:
        launches = [(pod.prefix, words) for pod in pods]
        for finished in run_together(launches, cwd=shop, env={**variables, **operator}):
            assert finished.code == 0, finished.output
    assert_same_run(shop / "output", shop / "alone")


#: `srun mdl-toolkit …` starts the command itself as often as there are tasks; nothing else numbers them.
_STEP = {
    "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "host-a,host-b",
}  # fmt: skip


def _task(rank: int, *, nodes: int, job: str) -> dict[str, str]:
    """What srun tells one of two tasks, on one node or on two."""
    return {
        **_STEP, "SLURM_JOB_ID": job, "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank if nodes == 1 else 0), "SLURM_NODEID": str(0 if nodes == 1 else rank),
        "SLURM_STEP_TASKS_PER_NODE": "2" if nodes == 1 else "1(x2)",
    }  # fmt: skip


@pytest.mark.parametrize("nodes", [1, 2])
def test_tasks_of_srun_are_one_run(nodes: int, shop: Path, hosts: tuple[Host, Host]):
    output = f"srun-{nodes}/"
    with ExitStack() as stack:
        tasks = [
            stack.enter_context(
                launched(
                    [*TRAIN, "--output", output],
                    cwd=shop,
                    prefix=hosts[rank if nodes == 2 else 0].prefix,
                    env=_task(rank, nodes=nodes, job=f"77{nodes}"),
                )
            )
            for rank in range(2)
        ]
        for finished in [task.wait() for task in tasks]:
            assert finished.code == 0, finished.output
    assert_same_run(shop / output, shop / "alone")


def test_a_batch_script_that_starts_the_command_itself_is_alone(shop: Path):
    job = {**_STEP, "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    job |= {"SLURM_STEP_ID": "4294967291"}
    finished = run([*TRAIN, "--batch-size", "8", "--output", "batch/"], cwd=shop, env=job)
    assert finished.code == 0, finished.output
    assert_same_run(shop / "batch", shop / "alone")
