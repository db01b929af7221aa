"""`udsbus config push --watch`: real files, saved as files are, and brokers that come and go."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import udsbus

from ..harness import wait_until
from .support import COMMAND, Command, Running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app.toml"
    path.write_text("a = 1\n")
    return path


@pytest.fixture
def watching(command: Command, file: Path) -> Iterator[Running]:
    """It has pushed the file."""
    with command.running("config", "push", "--watch", str(file)) as running:
        assert running.line() == "+\tconfig/app\ta: 1"
        yield running


def replace(file: Path, text: str) -> None:
    """As most editors save."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.replace(file)


def test_every_save(watching: Running, client: udsbus.Client, file: Path) -> None:
    assert client.get("config/app") == {"a": 1}
    file.write_text("a = 2\n")
    assert watching.line() == "~\tconfig/app\ta: 1 → 2"
    replace(file, "a = 3\n")
    assert watching.line() == "~\tconfig/app\ta: 2 → 3"
    file.rename(file.with_name("app.toml~"))
    file.write_text("a = 4\n")
    assert watching.line() == "~\tconfig/app\ta: 3 → 4"
    assert client.get("config/app") == {"a": 4}


def test_what_is_removed_stays_and_comes_back(
    watching: Running, client: udsbus.Client, file: Path
) -> None:
    file.unlink()
    assert watching.line("stderr") == f"udsbus: {file} is gone; what was there stays"
    assert client.get("config/app") == {"a": 1}
    file.write_text("a = 2\n")
    assert watching.line() == "~\tconfig/app\ta: 1 → 2"
    file.write_text("")
    assert watching.line("stderr") == f"udsbus: {file} is empty; what was there stays"
    assert client.get("config/app") == {"a": 2}
    file.write_text("a = 3\n")
    assert watching.line() == "~\tconfig/app\ta: 2 → 3"


def test_a_broken_save_is_told_of(watching: Running, client: udsbus.Client, file: Path) -> None:
    replace(file, "a = 2\nb =\n")
    line = watching.line("stderr")
    assert f"{file} is no TOML: " in line
    assert "(at line 2, column " in line
    assert line.endswith("; nothing was pushed, and what was there stays")
    assert client.get("config/app") == {"a": 1}
    replace(file, "a = 2\nb = 3\n")
    assert watching.line() == "~\tconfig/app\ta: 1 → 2"
    assert watching.line() == "+\tconfig/app\tb: 3"


def test_a_save_that_a_schema_refuses(watching: Running, client: udsbus.Client, file: Path) -> None:
    client.set_schema("config/app", {"properties": {"a": {"maximum": 9}}})
    try:
        replace(file, "a = 10\n")
        assert "does not match the schema of 'config/app' at /a" in watching.line("stderr")
        assert client.get("config/app") == {"a": 1}
        replace(file, "a = 9\n")
        assert watching.line() == "~\tconfig/app\ta: 1 → 9"
    finally:
        client.set_schema("config/app", None)


def test_it_begins_with_a_broken_file(command: Command, client: udsbus.Client, file: Path) -> None:
    file.write_text("a =")
    with command.running("config", "push", "--watch", str(file)) as running:
        assert "is no TOML" in running.line("stderr")
        replace(file, "a = 1\n")
        assert running.line() == "+\tconfig/app\ta: 1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_is_a_success(watching: Running, number: signal.Signals) -> None:
    assert watching.signal(number) == 0
    assert watching.rest() == ""
    assert watching.rest("stderr") == ""


def test_what_has_not_been_saved_is_not_pushed(
    command: Command, client: udsbus.Client, file: Path
) -> None:
    other = file.with_name("other.json")
    other.write_text('{"b": 1}')
    with command.running("config", "push", "--watch", str(file), str(other)) as running:
        assert running.line() == "+\tconfig/app\ta: 1"
        assert running.line() == "+\tconfig/other\tb: 1"
        client.set("config/app", {"a": "by hand"})
        replace(other, '{"b": 2}')
        assert running.line() == "~\tconfig/other\tb: 1 → 2"
        assert client.get("config/app") == {"a": "by hand"}
        os.utime(file)
        assert running.line() == '~\tconfig/app\ta: "by hand" → 1'


def test_files_that_change_at_once_are_one_transaction(
    command: Command, client: udsbus.Client, tmp_path: Path
) -> None:
    """As Kubernetes mounts a ConfigMap."""
    for version in (1, 2):
        (tmp_path / str(version)).mkdir()
        for name in ("a", "b"):
            (tmp_path / str(version) / f"{name}.toml").write_text(f"x = {version}")
    (tmp_path / "data").symlink_to("1")
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").symlink_to(f"data/{name}.toml")
    files = [str(tmp_path / f"{name}.toml") for name in ("a", "b")]
    with command.running("config", "push", "--watch", *files) as running:
        assert {running.line(), running.line()} == {"+\tconfig/a\tx: 1", "+\tconfig/b\tx: 1"}
        with client.watch("config/*") as watch:
            (tmp_path / "new").symlink_to("2")
            (tmp_path / "new").replace(tmp_path / "data")
            told = watch.get_transaction(20)
        assert told is not None
        assert {change.key: change.value for change in told} == {
            "config/a": {"x": 2}, "config/b": {"x": 2},
        }  # fmt: skip


def test_one_that_is_broken_holds_up_what_was_saved_with_it(
    command: Command, client: udsbus.Client, file: Path
) -> None:
    other = file.with_name("other.toml")
    other.write_text("b =")
    with command.running("config", "push", "--watch", str(file), str(other)) as running:
        assert f"{other} is no TOML" in running.line("stderr")
        assert client.keys() == []
        replace(other, "b = 1\n")
        assert {running.line(), running.line()} == {"+\tconfig/app\ta: 1", "+\tconfig/other\tb: 1"}
    assert client.entry("config/app").revision == client.entry("config/other").revision  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "text", "split"),
    [
        ("app.toml", "\n  # nothing\n", False), ("app.toml", "# nothing", True),
        ("app.json", " \n", False), ("app.yaml", "--- # nothing\n\n...\n", True),
        (".env", "\ufeff# A=1\n", False),
    ],
)  # fmt: skip
def test_one_without_any_entry_is_empty(
    command: Command, client: udsbus.Client, tmp_path: Path, name: str, text: str, split: bool
) -> None:
    file, other = tmp_path / name, tmp_path / "other.toml"
    other.write_text("b = 1\n")
    file.write_text({".json": '{"a": 1}', ".yaml": "a: 1"}.get(file.suffix, "a=1"))
    args = ["--split"] if split else []
    with command.running("config", "push", "--watch", *args, str(file), str(other)) as running:
        assert [running.line()[:8], running.line()[:8]] == ["+\tconfig"] * 2
        before = dict(client.items())
        replace(file, text)
        assert running.line("stderr") == f"udsbus: {file} is empty; what was there stays"
        assert dict(client.items()) == before
        if file.suffix in (".json", ".yaml"):
            replace(file, "{}")
            assert running.line().startswith("-\tconfig/app")
            assert not dict(client.items("config/app/*"))
            assert client.get("config/app") == (None if split else {})


@pytest.mark.skipif(sys.platform != "linux", reason="inotify")
def test_one_that_is_being_written_is_left_alone(
    command: Command, client: udsbus.Client, file: Path
) -> None:
    """Also if it was saved before, and is due because it was broken."""
    other = file.with_name("other.toml")
    other.write_text("b = 0\n")
    with command.running("config", "push", "--watch", str(file), str(other)) as running:
        assert [running.line(), running.line()] == [
            "+\tconfig/app\ta: 1", "+\tconfig/other\tb: 0",
        ]  # fmt: skip
        replace(file, "a =")
        running.told("is no TOML")
        for number in (1, 2):
            with file.open("w") as opened:
                opened.write(f"a = {number + 1}\n")
                opened.flush()
                replace(other, f"b = {number}\n")
                assert running.line() == f"~\tconfig/other\tb: {number - 1} → {number}"
                assert client.get("config/app") == {"a": number}
                opened.write("# the end\n")
            assert running.line() == f"~\tconfig/app\ta: {number} → {number + 1}"


@pytest.mark.skipif(sys.platform != "linux", reason="inotify")
def test_there_is_no_room_for_another_watch(
    command: Command, client: udsbus.Client, file: Path
) -> None:
    limit = "echo 0 > /proc/sys/user/max_inotify_instances"
    enter = ["unshare", "-Ur", "sh", "-c"]
    if subprocess.run([*enter, limit], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    push = shlex.join([*COMMAND, "config", "push", "--watch", str(file)])
    running = Running([*enter, f"{limit}; exec {push}"], command.environ)
    try:
        assert running.line() == "+\tconfig/app\ta: 1"
        assert running.line("stderr") == (
            "udsbus: inotify has no room for another watch (Too many open files): the files are "
            "looked at once a second"
        )
        for number in (1, 2, 3):
            replace(file, f"a = {number + 1}\n")
            assert running.line() == f"~\tconfig/app\ta: {number} → {number + 1}"
        assert running.signal(signal.SIGTERM) == 0
        assert running.rest("stderr") == ""
    finally:
        running.close()


def test_quiet(command: Command, client: udsbus.Client, file: Path) -> None:
    with command.running("config", "push", "--watch", "--quiet", str(file)) as running:
        with client.watch("config/app", initial=True) as watch:
            wait_until(lambda: client.exists("config/app"), "the first push")
            file.write_text("a = 2\n")
            while not isinstance(change := watch.get(20), udsbus.Change) or change.value["a"] < 2:
                assert change is not None
        assert running.signal(signal.SIGINT) == 0
        assert running.rest() == ""


def test_split(command: Command, client: udsbus.Client, file: Path) -> None:
    with command.running("config", "push", "--watch", "--split", str(file)) as running:
        assert running.line() == "+\tconfig/app/a\t1"
        file.write_text("b = 2\n")
        assert {running.line(), running.line()} == {"+\tconfig/app/b\t2", "-\tconfig/app/a\t1"}
        assert client.keys() == ["config/app/b"]


def test_through_a_restart_of_the_broker(lonely: Command, file: Path) -> None:
    follow = ("config", "push", "--watch", str(file), "--timeout", "2")
    with lonely.running("serve", "--alone") as broker:
        broker.told("serving")
        with lonely.running(*follow) as watching:
            assert watching.line() == "+\tconfig/app\ta: 1"
            broker.signal(signal.SIGKILL)
            replace(file, "a = 2\n")
            watching.told("; it is tried again$")
            with lonely.running("serve", "--alone") as next_one:
                next_one.told("serving")
                assert watching.line() == "~\tconfig/app\ta: 1 → 2"
                replace(file, "a = 3\n")
                assert watching.line() == "~\tconfig/app\ta: 2 → 3"
                assert lonely.lines("get", "config/app") == ['{"a": 3}']
                assert watching.signal(signal.SIGINT) == 0


def test_a_bus_that_begins_anew_gets_it_again(lonely: Command, file: Path) -> None:
    serve = ("serve", "--durability", "none")
    with lonely.running(*serve) as broker:
        broker.told("serving")
        with lonely.running("config", "push", "--watch", str(file)) as watching:
            assert watching.line() == "+\tconfig/app\ta: 1"
            broker.signal(signal.SIGTERM)
            with lonely.running(*serve) as next_one:
                next_one.told("serving")
                assert watching.line() == "+\tconfig/app\ta: 1"
                assert lonely.lines("get", "config/app") == ['{"a": 1}']
