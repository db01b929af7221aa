"""docs/command.md says what the command does: every command, option, exit code and tag."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import udsbus
from udsbus.cli.completing import SHELLS
from udsbus.cli.main import COMMANDS
from udsbus.cli.main import udsbus as group
from udsbus.cli.outcomes import MEANINGS
from udsbus.wire.notation import tag_of
from udsbus.wire.values import EXTENSIONS

from .support import Command

PAGE = (Path(__file__).parents[2] / "docs" / "command.md").read_text()
CONTEXT = click.Context(group)


def commands() -> dict[str, click.Command]:
    """Every command by its full name, `journal check` for instance."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = group.get_command(CONTEXT, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": one for sub, one in command.commands.items()}
        else:
            found[name] = command
    return found


ALL = commands()


def section(name: str) -> str:
    found = re.search(rf"^### `udsbus {name}`\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert found, f"docs/command.md has no section for {name}"
    return found[1]


def options(name: str) -> set[str]:
    return {
        spelling
        for param in ALL[name].params
        if isinstance(param, click.Option) and not param.hidden
        for spelling in param.opts
    }


@pytest.mark.parametrize("name", ALL)
def test_every_option_and_no_other(name: str) -> None:
    documented = {
        spelling
        for line in section(name).splitlines()
        if line.startswith("| `-")
        for spelling in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", line.split("|")[1])
    }
    assert documented == options(name)


@pytest.mark.parametrize("name", ALL)
def test_arguments_and_help(name: str) -> None:
    assert f"[{name}](#udsbus-{name.replace(' ', '-')})" in PAGE
    for param in ALL[name].params:
        if isinstance(param, click.Argument):
            assert (param.metavar or param.name or "").upper() in section(name)
        elif isinstance(param, click.Option) and not param.hidden:
            assert param.help, param.name
            assert param.metavar or param.is_flag or isinstance(param.type, click.Choice)


def test_only_commands_that_exist() -> None:
    assert re.findall(r"^### `udsbus ([\w ]+)`", PAGE, re.M) == list(ALL)


def test_exit_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", PAGE, re.M)
    assert {int(code): meaning for code, meaning in rows} == MEANINGS


def test_tags() -> None:
    tags = {tag_of(extension) for extension in EXTENSIONS} | {"$bytes", "$float", "$map"}
    assert set(re.findall(r'\{"(\$\w+)": ', PAGE)) == tags


def test_how_to_complete(command: Command) -> None:
    for shell, line in SHELLS.items():
        assert line in section("completion")
        assert line in command("completion", "--help").out, shell


def test_examples(command: Command, client: udsbus.Client, runtime: Path) -> None:
    """The transcripts on the page, one after the other, on one bus of their own."""
    program = runtime / "udsbus"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m udsbus "$@"\n')
    program.chmod(0o755)
    environ = command.environ | {"PATH": f"{runtime}:{os.environ['PATH']}"}
    shift = client.revision()
    for transcript in re.findall(r"```console\n(.*?)```", PAGE, re.S):
        for step in re.split(r"^\$ ", transcript, flags=re.M)[1:]:
            typed, _, expected = step.partition("\n")
            done = subprocess.run(
                ["sh", "-c", typed],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environ,
            )
            expected = re.sub(
                r"(revision\D+)(\d+)", lambda found: f"{found[1]}{int(found[2]) + shift}", expected
            )
            assert done.stdout == expected, typed
