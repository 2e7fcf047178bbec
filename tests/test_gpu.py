"""A GPU that is there and can't be used is told, with the reason and what helps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mdl_toolkit import gpu
from mdl_toolkit.distributed.group import choose_device
from mdl_toolkit.distributed.launch import Launch
from mdl_toolkit.errors import SettingsError
from mdl_toolkit.gpu import require_usable_gpu

OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by "
    "downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)


class Machine:
    """A file system's root with what drivers put there, and a torch that finds no GPU."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._patch = root, monkeypatch
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        gpu._warn_once.cache_clear()
        self.torch()

    def torch(
        self, version: str = "2.13.0", cuda: str | None = None, hip: str | None = None, says: str = ""
    ) -> None:
        def init() -> None:
            raise RuntimeError(says)

        self._patch.setattr(torch, "__version__", version)
        self._patch.setattr(torch.version, "cuda", cuda)
        self._patch.setattr(torch.version, "hip", hip)
        self._patch.setattr(torch.cuda, "init", init)

    def file(self, path: str, text: str = "") -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def amd(self, node: int, simd: int, gib: int) -> None:
        folder = f"sys/class/kfd/kfd/topology/nodes/{node}"
        self.file("dev/kfd")
        self.file(f"{folder}/properties", f"cpu_cores_count {0 if simd else 16}\nsimd_count {simd}\n")
        self.file(
            f"{folder}/mem_banks/0/properties", f"heap_type {1 if simd else 0}\nsize_in_bytes {gib << 30}\n"
        )

    def refusal(self, **environ: str) -> str:
        with pytest.raises(SettingsError) as caught:
            require_usable_gpu(environ=environ, root=self.root)
        assert "\n" not in str(caught.value) and caught.value.exit_code == 2
        assert str(caught.value).endswith("to work on the CPU, say so by CUDA_VISIBLE_DEVICES= (empty)")
        return str(caught.value)

    def lets(self, use_cpu: bool = False, **environ: str) -> None:
        require_usable_gpu(use_cpu, environ, self.root)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def nvidia(machine: Machine) -> Machine:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        machine.file(f"dev/{name}")
    machine.file(
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55 UTC 2021\n"
        "GCC version:  gcc version 12.2.0\n",
    )
    return machine


def test_a_machine_without_a_gpu_is_as_quiet_as_ever(machine: Machine, capsys: pytest.CaptureFixture) -> None:
    machine.lets()
    assert capsys.readouterr().err == ""


def test_a_torch_for_cpus_beside_a_gpu(nvidia: Machine) -> None:
    nvidia.torch("2.13.0+cpu")
    assert nvidia.refusal().startswith(
        "an NVIDIA GPU (/dev/nvidia0) is here, but torch 2.13.0+cpu is built for CPUs alone; "
        "install a build for CUDA"
    )
    nvidia.torch("2.13.0+rocm6.4", hip="6.4")
    assert "is built for ROCm; install a build for CUDA" in nvidia.refusal()


def test_a_driver_too_old_for_this_torch(nvidia: Machine) -> None:
    nvidia.torch("2.13.0", cuda="13.0", says=OLD_DRIVER)
    message = nvidia.refusal()
    assert "torch 2.13.0, built for CUDA 13.0, can't use it with driver 470.82.01" in message
    assert "(The NVIDIA driver on your system is too old (found version 11040))" in message
    assert "update the driver or install a torch for its version of CUDA" in message


def test_a_number_that_no_gpu_has(nvidia: Machine) -> None:
    nvidia.torch("2.13.0", cuda="13.0", says="No CUDA GPUs are available")
    assert "is here, CUDA_VISIBLE_DEVICES=5, but" in nvidia.refusal(CUDA_VISIBLE_DEVICES="5")


@pytest.mark.parametrize("value", ["0", "0,1", "3", "GPU-8f2", "MIG-1/2"])
def test_who_asks_for_a_gpu_gets_no_cpu(machine: Machine, value: str) -> None:
    message = machine.refusal(CUDA_VISIBLE_DEVICES=value)
    assert message.startswith(
        f"CUDA_VISIBLE_DEVICES={value} asks for a GPU, but none is found here; unset it"
    )


@pytest.mark.parametrize("value", ["", " ", "-1", "NoDevFiles", "none", "-1,0"])
@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"])
def test_whoever_hides_the_gpus_means_the_cpu(nvidia: Machine, name: str, value: str) -> None:
    nvidia.lets(**{name: value})  # type: ignore[arg-type]


def test_accelerates_config_may_mean_the_cpu(nvidia: Machine) -> None:
    nvidia.lets(use_cpu=True)
    nvidia.lets(ACCELERATE_USE_CPU="true")
    nvidia.refusal(ACCELERATE_USE_CPU="false")


def test_amds_gpus(machine: Machine) -> None:
    machine.amd(0, simd=0, gib=64)
    machine.amd(1, simd=8, gib=1)
    machine.lets()  # a processor, and the small one that is built into it
    machine.amd(2, simd=480, gib=64)
    machine.torch("2.13.0", cuda="13.0")
    assert machine.refusal().startswith(
        "an AMD GPU with 64 GiB (/dev/kfd) is here, but torch 2.13.0 is built for CUDA 13.0; "
        "install a build for ROCm"
    )
    machine.torch("2.13.0+rocm7", hip="7.0", says="No HIP GPUs are available")
    assert "can't use it (No HIP GPUs are available); see that rocminfo lists it" in machine.refusal()


def test_a_gpu_of_windows(machine: Machine) -> None:
    machine.file("dev/dxg")
    machine.lets()
    machine.file("usr/lib/wsl/lib/libcuda.so.1")
    assert machine.refusal().startswith("an NVIDIA GPU (of Windows) is here, but torch")


def test_a_container_that_was_given_none_is_told_once(
    machine: Machine, capsys: pytest.CaptureFixture
) -> None:
    machine.file("proc/driver/nvidia/gpus/0000:3b:00.0/information")
    machine.lets()
    machine.lets()
    assert capsys.readouterr().err.count("this container was given none") == 1


def test_a_gpu_that_works_is_nobodys_business(nvidia: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    nvidia.lets()


def test_training_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(SettingsError, match="asks for a GPU"):
        choose_device(Launch())
    assert choose_device(Launch(use_cpu=True)).type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    "command",
    [
        ["train", "--train-dataset", "no.csv", "--output", "run", "--model-name", "tiny"],
        ["inference", "no.csv", "--output", "out.csv", "--model-name", "tiny"],
    ],
)
def test_the_commands_refuse_before_they_work(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "no.csv").write_text("audio,prediction\nmissing.wav,x\n")
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "mdl_toolkit", *command],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "CUDA_VISIBLE_DEVICES=0 asks for a GPU, but none is found here" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no.csv"]
