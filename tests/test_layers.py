"""Who may import whom: the contracts in pyproject.toml, checked by import-linter."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import udsbus

ROOT = Path(__file__).parent.parent
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return found


def test_the_contracts_are_kept() -> None:
    if importlib.util.find_spec("importlinter") is None:
        reason = "import-linter is not installed; `pip install udsbus[dev]` brings it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    lint = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert lint.returncode == 0, lint.stdout
    assert f"{len(contracts())} kept, 0 broken" in lint.stdout


def test_every_part_of_the_package_has_its_layer() -> None:
    """One that no contract names is checked by none."""
    layers = next(contract["layers"] for contract in contracts() if contract["type"] == "layers")
    named = {name.strip() for layer in layers for name in layer.split("|")}
    parts = {f"udsbus.{part.name}" for part in pkgutil.iter_modules(udsbus.__path__)}
    assert parts - named == {"udsbus.__main__"}, "which stands above all: nobody imports it"
