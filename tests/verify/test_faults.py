"""Versions of engines with known faults."""

from __future__ import annotations

import pytest

from mdl_toolkit.verify.engines.faults import faults_of


@pytest.mark.parametrize("version", ["0.10.2", "0.10.2.post1", "0.10.2rc3+cu128", "0.9"])
def test_vllm_had_the_encoders_mask_wrong(version: str):
    [fault] = faults_of("vllm", version, adapter=False)
    assert "mask" in fault.what and "0.11.0" in fault.remedy


@pytest.mark.parametrize("version", ["0.11.0", "0.11.1", "0.20.1.dev3", "1.0"])
def test_later_versions_have_not(version: str):
    assert faults_of("vllm", version, adapter=False) == []


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_adapters_of_the_audio_parts_are_lost_in_every_version(engine: str):
    [fault] = faults_of(engine, "99.0", adapter=True)
    assert "merged" in fault.remedy


def test_other_engines_are_not_known():
    assert faults_of("tensorrt-llm", "1.0", adapter=True) == []
