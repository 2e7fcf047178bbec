"""What each launcher's environment means, down to accelerate's own translation of its config files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdl_toolkit.distributed.launch import Launch, read_launch
from mdl_toolkit.errors import SettingsError

WRITTEN_BY_ACCELERATE_CONFIG: dict[str, Any] = {
    "compute_environment": "LOCAL_MACHINE",
    "debug": False,
    "distributed_type": "MULTI_GPU",
    "downcast_bf16": "no",
    "enable_cpu_affinity": False,
    "gpu_ids": "all",
    "machine_rank": 0,
    "main_training_function": "main",
    "mixed_precision": "no",
    "num_machines": 1,
    "num_processes": 2,
    "rdzv_backend": "static",
    "same_network": True,
    "tpu_env": [],
    "tpu_use_cluster": False,
    "tpu_use_sudo": False,
    "use_cpu": False,
}
FSDP1 = {
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_backward_prefetch": "BACKWARD_PRE",
    "fsdp_cpu_ram_efficient_loading": True, "fsdp_forward_prefetch": False, "fsdp_offload_params": False,
    "fsdp_sharding_strategy": "FULL_SHARD", "fsdp_state_dict_type": "SHARDED_STATE_DICT",
    "fsdp_sync_module_states": True, "fsdp_use_orig_params": True, "fsdp_version": 1,
}  # fmt: skip
FSDP2 = {
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_cpu_ram_efficient_loading": True,
    "fsdp_offload_params": False, "fsdp_reshard_after_forward": True, "fsdp_activation_checkpointing": False,
    "fsdp_state_dict_type": "SHARDED_STATE_DICT", "fsdp_version": 2,
}  # fmt: skip
DEEPSPEED = {
    "gradient_accumulation_steps": 1, "offload_optimizer_device": "none", "offload_param_device": "none",
    "zero3_init_flag": False, "zero_stage": 2,
}  # fmt: skip


_OF_LAUNCHERS = ("ACCELERATE_", "FSDP_", "PARALLELISM_", "MASTER_")


def environment_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> dict[str, str]:
    """What ``accelerate launch --config_file`` puts into its workers' environment, ranks apart."""
    pytest.importorskip("accelerate")
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import launch

    monkeypatch.setattr(launch, "is_port_in_use", lambda port: False)
    path = tmp_path / "accelerate.yaml"
    path.write_text(yaml.safe_dump({**WRITTEN_BY_ACCELERATE_CONFIG, **fields}))
    parser = launch_command_parser()
    words = ["--config_file", str(path), "--no_python", "mdl-toolkit", "train"]
    with monkeypatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_OF_LAUNCHERS):
                patch.delenv(name)
        args, defaults, _ = _validate_launch_command(parser.parse_args(words))
        if args.use_deepspeed:
            args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
            environment = launch.prepare_deepspeed_cmd_env(args)[1]
        elif args.multi_gpu or args.use_fsdp:
            environment = launch.prepare_multi_gpu_env(args)
        else:
            environment = launch.prepare_simple_launcher_cmd_env(args)[1]
    return {k: v for k, v in environment.items() if k.startswith(_OF_LAUNCHERS)}


class TestRanks:
    def test_alone(self) -> None:
        assert read_launch({}) == Launch()

    def test_torchrun(self) -> None:
        environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
        launch = read_launch(environment)
        assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (5, 8, 1, 4)
        assert launch.nodes == 2

    @pytest.mark.parametrize(
        "environment",
        [
            {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
            {
                "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            },
        ],
    )  # fmt: skip
    def test_mpirun(self, environment: dict[str, str]) -> None:
        launch = read_launch(environment)
        assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (3, 4, 1, 2)

    def test_a_size_without_a_rank_is_one_process(self) -> None:
        assert read_launch({"WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1"}).world_size == 1

    @pytest.mark.parametrize(
        ("rank", "said"), [("4", r"RANK=4 of 4 processes .*ranks are 0 to 3"), ("-1", "RANK=-1: at least 0")]
    )
    def test_a_rank_out_of_range(self, rank: str, said: str) -> None:
        with pytest.raises(SettingsError, match=said):
            read_launch({"RANK": rank, "WORLD_SIZE": "4"})

    def test_a_rank_that_is_no_number(self) -> None:
        with pytest.raises(SettingsError, match="RANK=first: a whole number expected"):
            read_launch({"RANK": "first", "WORLD_SIZE": "4"})


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "abc"}, r"RANK=abc: a whole number expected .*unset RANK\)"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0: at least 1 expected"),
        ({"RANK": "1"}, r"RANK=1 of 1 processes \(no WORLD_SIZE\)"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x: a whole number"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "2"}, "LOCAL_RANK=2 of 2 processes on this machine"),
        (
            {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"},
            "local ranks are 0 to 1",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE=8: at most"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "abc"}, "MASTER_PORT=abc: a port"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "70000"}, "MASTER_PORT=70000: a port"),
    ],
)
def test_what_can_not_be_is_told_with_a_way_out(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        read_launch(environment)
    assert len(caught.value.problems) == 1 and "left over in this shell? unset " in str(caught.value)


class TestAccelerateConfigs:
    @pytest.mark.parametrize(
        ("fields", "sharding"),
        [
            ({}, None),
            ({"distributed_type": "FSDP", "fsdp_config": FSDP1}, "full"),
            (
                {
                    "distributed_type": "FSDP",
                    "fsdp_config": {**FSDP1, "fsdp_sharding_strategy": "SHARD_GRAD_OP"},
                },
                "optimizer",
            ),
            (
                {
                    "distributed_type": "FSDP",
                    "fsdp_config": {**FSDP1, "fsdp_sharding_strategy": "HYBRID_SHARD"},
                },
                "hybrid",
            ),
            (
                {"distributed_type": "FSDP", "fsdp_config": {**FSDP1, "fsdp_sharding_strategy": "NO_SHARD"}},
                "none",
            ),
            ({"distributed_type": "FSDP", "fsdp_config": FSDP2}, "full"),
            (
                {"distributed_type": "FSDP", "fsdp_config": {**FSDP2, "fsdp_reshard_after_forward": False}},
                "optimizer",
            ),
            ({"distributed_type": "DEEPSPEED", "deepspeed_config": DEEPSPEED}, "optimizer"),
            ({"distributed_type": "DEEPSPEED", "deepspeed_config": {**DEEPSPEED, "zero_stage": 3}}, "full"),
            ({"distributed_type": "DEEPSPEED", "deepspeed_config": {**DEEPSPEED, "zero_stage": 0}}, "none"),
        ],
    )
    def test_sharding(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], sharding: str | None
    ) -> None:
        launch = read_launch(environment_of_workers(tmp_path, monkeypatch, **fields))
        assert launch.sharding == sharding
        assert not launch.remarks and not launch.bf16 and not launch.use_cpu

    def test_a_config_without_gpus(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = environment_of_workers(
            tmp_path, monkeypatch, distributed_type="NO", use_cpu=True, num_processes=1
        )
        assert read_launch(environment).use_cpu

    def test_a_cpu_config_of_several_processes_starts_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        environment = environment_of_workers(
            tmp_path, monkeypatch, distributed_type="MULTI_CPU", use_cpu=True, num_processes=4
        )
        launch = read_launch(environment)
        assert launch.world_size == 1 and "torchrun --nproc-per-node" in launch.remarks[0]

    def test_precision_checkpointing_and_accumulation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fsdp = read_launch(
            environment_of_workers(
                tmp_path,
                monkeypatch,
                distributed_type="FSDP",
                mixed_precision="bf16",
                fsdp_config={**FSDP2, "fsdp_activation_checkpointing": True},
            )
        )
        assert fsdp.bf16 and fsdp.checkpointing
        deepspeed = read_launch(
            environment_of_workers(
                tmp_path,
                monkeypatch,
                distributed_type="DEEPSPEED",
                deepspeed_config={**DEEPSPEED, "gradient_accumulation_steps": 4, "gradient_clipping": 0.5},
            )
        )
        assert deepspeed.accumulation == 4 and deepspeed.clipping == 0.5

    def test_a_deepspeed_file(self, tmp_path: Path) -> None:
        path = tmp_path / "ds.json"
        path.write_text('{"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}')
        environment = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(path)}
        launch = read_launch(environment)
        assert launch.sharding == "full" and "offloading" in launch.remarks[0]
        path.write_text("{")
        with pytest.raises(SettingsError, match=r"ds\.json"):
            read_launch(environment)

    @pytest.mark.parametrize(
        ("environment", "words"),
        [
            ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "MEGATRON_LM is not offered"),
            (
                {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "PARALLELISM_CONFIG_TP_SIZE": "2"},
                "tp_size above 1 is not offered",
            ),
        ],
    )
    def test_what_is_not_offered(self, environment: dict[str, str], words: str) -> None:
        with pytest.raises(SettingsError, match=words):
            read_launch(environment)


def test_torchrun_counts_machines_with_unequal_numbers_of_processes() -> None:
    given = {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    told = {"GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2"}
    launch = read_launch({**given, **told, "TORCHELASTIC_RUN_ID": "job"})
    assert (launch.node, launch.nodes) == (1, 2)
    launch = read_launch({**given, **told})  # left over: without torchrun they mean nothing
    assert (launch.node, launch.nodes) == (0, 1)
