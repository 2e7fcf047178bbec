"""The libraries' first uses in a process: that they are made before threads share work, and end alike.

What a race does, these tests can't see for certain: the known one needs a processor of Intel's with AVX-512,
and shows in one start of forty at most. So one test looks at what MKL has stored, on any processor, and the
other compares a few starts, which catches first uses that go otherwise much more often than that.
``python -m benchmarks.reliability.starts`` makes as many of them as one likes.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from support.training.runs import environment

#: Prints the number of MKL's tables that is stored: before the model is imported, and after.
WHAT_MKL_HAS_STORED = """
import ctypes, json, mmap, struct
import numpy as np
import torch, transformers

NAME = b"mkl_vml_serv_cpu_detect.vml_cpu_type"
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = np.dtype([("name", "<u4"), ("kinds", "u1", 2), ("at", "<u2"), ("value", "<u8"), ("size", "<u8")])

def loaded():
    for line in open("/proc/self/maps"):
        if line.rstrip().endswith("libtorch_cpu.so"):
            return int(line.split("-")[0], 16), line.split()[-1]

def value_in(library):
    with open(library, "rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    offset, = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [SECTION.unpack_from(data, offset + number * size) for number in range(count)]
    for _, kind, _, _, start, length, link, *_ in sections:
        if kind == 2:
            names, ends = sections[link][4], sections[link][4] + sections[link][5]
            place = data.find(b"\\0" + NAME + b"\\0", names, ends)
            symbols = np.frombuffer(data[start:start + length], SYMBOL)
            found = symbols[symbols["name"] == place + 1 - names]["value"]
            if place >= 0 and len(found):
                return int(found[0])

base, library = loaded() or (0, "")
value = value_in(library) if library else None
if value is None:
    print("null")
else:
    stored = ctypes.c_int.from_address(base + value)
    before = stored.value
    import mdl_toolkit.model
    after = stored.value
    torch.ones(100_000).log10()
    print(json.dumps([before, after, stored.value]))
"""

#: Forks processes that have everything imported and computed nothing, and prints how many results there were.
MANY_STARTS = """
import gc, hashlib, json, os
import numpy as np
import torch
import transformers.models.auto.processing_auto, transformers.models.qwen2.modeling_qwen2
import transformers.processing_utils

SECONDS = (1.3, 0.8, 1.1)
WAVES = [np.sin(np.arange(int(16000 * each)) * 0.3 * each).astype(np.float32) for each in SECONDS]

def start():
    from mdl_toolkit.geometry import AudioGeometry
    from mdl_toolkit.model.config import DashengConfig
    from mdl_toolkit.model.encoder import DashengEncoder
    from mdl_toolkit.model.layout import ClipLayout

    torch.set_num_threads(2)
    torch.manual_seed(0)
    geometry = AudioGeometry()
    layout = ClipLayout.build([len(wave) for wave in WAVES], geometry, 512, torch.device("cpu"))
    encoder = DashengEncoder(DashengConfig(embed_dim=192, depth=1, num_heads=6))
    found = encoder(torch.from_numpy(np.concatenate(WAVES)), layout)
    found.logsumexp(-1).cos().sum().backward()
    digest = hashlib.sha256(found.detach().numpy().tobytes())
    for parameter in encoder.parameters():
        if parameter.grad is not None:
            digest.update(parameter.grad.numpy().tobytes())
    return digest.digest()

gc.freeze()
results = []
for _ in range(STARTS):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, start())
        os._exit(0)
    os.close(writing)
    results.append(os.read(reading, 100).hex())
    os.close(reading)
    assert os.waitpid(pid, 0)[1] == 0
print(json.dumps([len(results), len(set(results))]))
"""


def told_by(script: str) -> list[int] | None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(), timeout=600
    )
    assert done.returncode == 0, done.stderr
    told: list[int] | None = json.loads(done.stdout)
    return told


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch was built without MKL")
@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of the process")
def test_mkl_has_chosen_its_vector_functions_when_the_model_is_imported() -> None:
    told = told_by(WHAT_MKL_HAS_STORED)
    if told is None:
        pytest.skip("this torch doesn't say where MKL stores its choice")
    before, imported, after = told
    assert before in (-1, imported)  # not yet, or by libraries that are imported in one thread too
    assert imported >= 0 and imported == after


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_processes_that_begin_anew_compute_the_same_bits() -> None:
    assert told_by(MANY_STARTS.replace("STARTS", "10")) == [10, 1]
