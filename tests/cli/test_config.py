"""`udsbus config`: push, diff, pull and rollback. Their --watch is in test_config_watch.py."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import queue
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import udsbus
from udsbus.limits import VALUE_BYTES

from ..harness import BrokerProcess
from .support import COMMAND, Command, is_one_complaint
from .test_completing import completed
from .test_terminal import harmless


@dataclasses.dataclass
class Database:
    host: str
    port: int


@dataclasses.dataclass
class AppConfig:
    workers: int
    database: Database


APP = 'workers = 4\n\n[database]\nhost = "localhost"\nport = 5432\n'
VALUE = {"workers": 4, "database": {"host": "localhost", "port": 5432}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app.toml"
    path.write_text(APP)
    return path


@pytest.fixture
def kept(lonely: Command) -> Iterator[Command]:
    """The command for a bus that keeps its history."""
    with lonely.running("serve", "--alone") as broker:
        broker.told("serving")
        yield lonely


# --- push -----------------------------------------------------------------------------------


def test_push(command: Command, client: udsbus.Client, file: Path) -> None:
    assert command.lines("config", "push", str(file)) == [
        "+\tconfig/app\tworkers: 4",
        '+\tconfig/app\tdatabase: {"host": "localhost", "port": 5432}',
    ]
    assert client.get("config/app") == VALUE
    entry = client.entry("config/app")
    file.write_text("# the order and the comments of a file are nothing\n" + APP)
    assert command("config", "push", str(file)) == (
        0, "", "udsbus: nothing has changed: config/app held it already\n",
    )  # fmt: skip
    assert client.entry("config/app") == entry
    file.write_text(APP.replace("5432", "5433").replace("workers = 4\n", "") + "pool = [1, 2]\n")
    assert command.lines("config", "push", str(file)) == [
        "-\tconfig/app\tworkers: 4",
        "~\tconfig/app\tdatabase.port: 5432 → 5433",
        "+\tconfig/app\tdatabase.pool: [1, 2]",
    ]
    file.write_text(APP)
    assert command.lines("config", "push", "--quiet", str(file)) == []
    assert client.get("config/app") == VALUE


def test_a_number_of_another_type_is_a_change(
    command: Command, client: udsbus.Client, file: Path
) -> None:
    for text, value in (("a = 1", 1), ("a = 1.0", 1.0), ("a = true", True)):
        file.write_text(text)
        assert len(command.lines("config", "push", str(file))) == 1
        found = client.get("config/app")["a"]
        assert (type(found), found) == (type(value), value)


def test_several_files_are_one_transaction(
    command: Command, client: udsbus.Client, tmp_path: Path
) -> None:
    files = {"a.toml": "x = 1", "b.json": '{"x": 1}', "c.yml": "x: 1", ".env": "X=1", "d": "x: 1"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = [str(tmp_path / name) for name in files]
    outcome = command("config", "push", *paths)
    assert outcome.code == 2
    assert f"{paths[-1]}: its name does not say in which format it is" in outcome.err
    with client.watch("config/*") as watch:
        command.lines("config", "push", *paths[:-1])
        told = watch.get_transaction(20)
    assert told is not None
    assert {change.key: change.value for change in told} == {
        "config/a": {"x": 1}, "config/b": {"x": 1}, "config/c": {"x": 1}, "config/env": {"X": "1"},
    }  # fmt: skip
    assert command.lines("config", "push", paths[-1], "--format", "yaml") == ["+\tconfig/d\tx: 1"]


def test_nothing_is_written_if_one_is_broken(
    command: Command, client: udsbus.Client, file: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: 1\nb: [1,\n")
    code, out, err = command("config", "push", str(file), str(broken))
    assert (code, out) == (2, "")
    assert is_one_complaint(err)
    assert f"{broken} is no YAML: " in err
    assert "(at line 3, column 1)" in err
    assert client.keys() == []


def test_what_a_schema_refuses(
    command: Command, client: udsbus.Client, file: Path, tmp_path: Path
) -> None:
    client.set_schema("config/app", {"properties": {"workers": {"maximum": 3}}})
    try:
        other = tmp_path / "other.json"
        other.write_text('{"workers": 10}')
        code, out, err = command("config", "push", str(other), str(file))
        assert (code, out) == (3, "")
        assert err == (
            f"udsbus: {file}: 'config/app' does not match the schema of 'config/app' at /workers: "
            "4 is greater than the maximum of 3\n"
        )
        assert client.keys() == []
    finally:
        client.set_schema("config/app", None)


def test_what_is_too_large(command: Command, client: udsbus.Client, tmp_path: Path) -> None:
    file = tmp_path / "app.json"
    file.write_text(json.dumps({"a": "x" * VALUE_BYTES}))
    code, out, err = command("config", "push", str(file))
    assert (code, out) == (3, "")
    assert f"{file} is too large: more than {VALUE_BYTES} bytes" in err
    assert client.keys() == []


def test_stdin(command: Command, client: udsbus.Client) -> None:
    command.lines("set", "k", "1")
    done = command("config", "push", "-", "--key", "k", "--format", "yaml", stdin=b"a: 1")
    assert done == (0, "~\tk\t1 → {\"a\": 1}\n", "")  # fmt: skip
    assert command("config", "push", "-", "--format", "yaml").code == 2
    assert "use --key" in command("config", "push", "-", "--format", "yaml").err
    assert command("config", "push", "-", "--key", "k").code == 2
    broken = command("config", "push", "-", "--key", "k", "--format", "toml", stdin=b"a")
    assert broken.code == 2
    assert broken.err.startswith("udsbus: - is no TOML: ")
    watched = command("config", "push", "-", "--key", "k", "--format", "toml", "--watch")
    assert watched.code == 2


def test_wrong_usage(command: Command, file: Path) -> None:
    for args in (
        [], ["push"], ["push", "/no/such/file.toml"], ["push", str(file), str(file)],
        ["push", str(file), "--format", "ini"], ["diff"], ["pull"], ["rollback"],
        ["rollback", "k", "--steps", "0"], ["rollback", "k", "--steps", "1", "--to", "1"],
        ["rollback", "k", "--to", "soon"], ["pull", "k", "/tmp"],
    ):  # fmt: skip
        assert command("config", *args).code == 2, args
    assert command("config", "push", str(file), "--key", "a//b").code == 3
    assert command("config", "push", str(file), "--key", "$sys/x").code == 3


def test_no_broker(lonely: Command, file: Path) -> None:
    for args in (["push"], ["push", "--watch"], ["diff"]):
        assert lonely("config", *args, str(file), "--timeout", "0.2").code == 69


def test_a_binding_follows(command: Command, client: udsbus.Client, file: Path) -> None:
    command.lines("config", "push", str(file))
    values: queue.Queue[AppConfig] = queue.Queue()
    with client.bind("config/app", into=AppConfig) as config:
        config.on_change(values.put)
        assert config.value == AppConfig(4, Database("localhost", 5432))
        in_hand = config.value
        file.write_text(APP.replace("workers = 4", 'workers = "many"'))
        command.lines("config", "push", str(file))
        file.write_text(APP.replace("workers = 4", "workers = 5"))
        command.lines("config", "push", str(file))
        assert values.get(timeout=20) == AppConfig(5, Database("localhost", 5432))
        assert values.empty(), "the one that is not good was not taken"
        assert in_hand.workers == 4


def test_what_cannot_be_decoded_is_replaced(
    command: Command, client: udsbus.Client, shared_broker: BrokerProcess, file: Path
) -> None:
    """A client that is not ours may have written it."""

    def spoil(*keys: str) -> None:
        with shared_broker.connect() as raw:
            for key in keys:
                raw.call("set", key, b"\xc1\xff")

    spoil("config/app")
    line = "~\tconfig/app\t(undecodable, 2 bytes) → " + json.dumps(VALUE)
    assert command("config", "diff", str(file)) == (1, line + "\n", "")
    assert command.lines("config", "push", str(file)) == [line]
    assert client.get("config/app") == VALUE
    spoil("config/app/workers", "config/app/other")
    assert command.lines("config", "push", "--split", str(file)) == [
        "~\tconfig/app/workers\t(undecodable, 2 bytes) → 4",
        '+\tconfig/app/database\thost: "localhost"',
        "+\tconfig/app/database\tport: 5432",
        "-\tconfig/app/other\t(undecodable, 2 bytes)",
    ]
    assert client.get("config/app/workers") == 4
    assert not client.exists("config/app/other")


# --- split ----------------------------------------------------------------------------------


def test_split(command: Command, client: udsbus.Client, file: Path) -> None:
    client.set_many({"config/app": 1, "config/app/database/pool": 2, "config/apple": 3})
    command.lines("config", "push", "--split", str(file))
    others = {"config/app": 1, "config/app/database/pool": 2, "config/apple": 3}
    assert dict(client.items()) == others | {
        "config/app/workers": 4, "config/app/database": VALUE["database"],
    }  # fmt: skip
    file.write_text("[database]\nport = 1\n[cache]\nttl = 60\n")
    code, out, _ = command("config", "diff", "--split", str(file))
    assert code == 1
    assert out.splitlines() == [
        '-\tconfig/app/database\thost: "localhost"',
        "~\tconfig/app/database\tport: 5432 → 1",
        "+\tconfig/app/cache\tttl: 60",
        "-\tconfig/app/workers\t4",
    ]
    with client.watch("config/**") as watch:
        assert command.lines("config", "push", "--split", str(file)) == out.splitlines()
        told = watch.get_transaction(20)
    assert told is not None
    assert {change.key: change.kind for change in told} == {
        "config/app/database": "updated", "config/app/cache": "created",
        "config/app/workers": "deleted",
    }  # fmt: skip
    pulled = command("config", "pull", "config/app", "--split")
    assert json.loads(pulled.out) == {"cache": {"ttl": 60}, "database": {"port": 1}}
    assert command("config", "diff", "--split", str(file)).code == 0


# --- diff -----------------------------------------------------------------------------------


def test_diff(command: Command, client: udsbus.Client, file: Path) -> None:
    assert command("config", "diff", str(file)).code == 1
    command.lines("config", "push", str(file))
    assert command("config", "diff", str(file)) == (0, "", "")
    client.set("config/app", {**VALUE, "x\x1b": "\x1b"})
    code, out, err = command("config", "diff", str(file))
    assert (code, err) == (1, "")
    assert out == '-\tconfig/app\t"x\\u001b": "\\u001b"\n'
    assert client.get("config/app") == {**VALUE, "x\x1b": "\x1b"}
    file.write_text("a =")
    assert command("config", "diff", str(file)).code == 2


def test_colours_are_for_terminals(command: Command, client: udsbus.Client, file: Path) -> None:
    client.set("config/app", {"workers": 5, "evil\x1b": "x" * 1000})
    code, text = command.on_terminal("config", "diff", str(file))
    assert code == 1
    assert "\x1b[36m~" in text
    assert "\x1b[32m+" in text
    assert "\x1b[31m-" in text
    assert "config/app  workers: 5 → 4" in harmless(text)
    assert "xxx…" in harmless(text)
    _, out, _ = command("config", "diff", str(file))
    assert "\x1b" not in out
    assert "x" * 1000 in out


# --- pull -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["app.toml", "app.json", "app.yaml"])
def test_pull_is_the_reverse_of_push(
    command: Command, client: udsbus.Client, tmp_path: Path, name: str
) -> None:
    client.set("config/app", VALUE)
    file = tmp_path / name
    file.write_text("before")
    file.chmod(0o604)
    command.lines("config", "pull", "config/app", str(file))
    assert command("config", "diff", str(file)).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o604
    assert os.listdir(tmp_path) == [name]


def test_a_new_env_is_for_its_owner_alone(
    command: Command, client: udsbus.Client, tmp_path: Path
) -> None:
    client.set("config/prod", {"PASSWORD": "x"})
    for name, options in (("prod.env", []), ("secrets", ["--format", "env"])):
        file = tmp_path / name
        command.lines("config", "pull", "config/prod", str(file), *options)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.chmod(0o640)
        command.lines("config", "pull", "config/prod", str(file), *options)
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
    command.lines("config", "pull", "config/prod", str(tmp_path / "prod.json"))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "prod.json").stat().st_mode) == 0o666 & ~umask


def test_pull_to_stdout(command: Command, client: udsbus.Client) -> None:
    client.set("config/app", VALUE)
    assert json.loads(command("config", "pull", "config/app").out) == VALUE
    assert command("config", "pull", "config/app", "-", "--format", "toml").out == APP
    client.set("config/app", {"a": "\x1b"})
    assert "\x1b" not in command.on_terminal("config", "pull", "config/app")[1]


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("/dev/stdout", "stdout"), ("/dev/stderr", "stderr"), ("/dev/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ],
)  # fmt: skip
def test_pull_to_where_a_shell_has_sent_it(
    command: Command, client: udsbus.Client, tmp_path: Path, name: str, stream: str
) -> None:
    client.set("config/app", VALUE)
    pull = [*COMMAND, "config", "pull", "config/app", name, "--format", "toml"]
    file = tmp_path / "file"
    file.write_text("# before\n")
    number = file.stat().st_ino
    with file.open("a") as opened:
        subprocess.run(pull, env=command.environ, check=True, **{stream: opened})  # type: ignore[call-overload]
    assert file.read_text() == "# before\n" + APP
    assert file.stat().st_ino == number
    assert os.listdir(tmp_path) == ["file"]
    piped = subprocess.run(pull, env=command.environ, capture_output=True, text=True)
    assert (piped.returncode, piped.stdout + piped.stderr) == (0, APP)


def test_what_cannot_be_pulled(command: Command, client: udsbus.Client, tmp_path: Path) -> None:
    client.set("k", {"a": {"b": [None]}})
    client.set("n", 5)
    file = tmp_path / "k.toml"
    file.write_text("before")
    for key, path, code, said in (
        ("k", file, 3, "'k': a.b[0]: TOML has no form for null"),
        ("k", tmp_path / ".env", 3, "'k': a: a .env has no form for a map"),
        ("n", tmp_path / "n.json", 3, "'n' holds a value of type int, not names and values"),
        ("no", file, 1, "there is no key 'no'"),
        ("k", tmp_path / "k.conf", 2, "its name does not say in which format"),
        ("k", tmp_path / "no" / "k.json", 3, "cannot be written: No such file"),
        ("a//b", tmp_path / "k.json", 3, "empty segment"),
    ):
        outcome = command("config", "pull", key, str(path))
        assert outcome.code == code
        assert said in outcome.err
        assert is_one_complaint(outcome.err)
    assert command("config", "pull", "no", "--split").code == 1
    assert file.read_text() == "before"
    assert os.listdir(tmp_path) == ["k.toml"]


# --- rollback -------------------------------------------------------------------------------


def pushed(command: Command, file: Path, *texts: str, split: bool = False) -> None:
    for text in texts:
        file.write_text(text)
        command("config", "push", str(file), *(["--split"] if split else []))


def test_rollback(kept: Command, file: Path) -> None:
    pushed(kept, file, "a = 1", "a = 2", "a = 3")
    kept.lines("set", "config/app", '{"a": 3}')
    roll = ("config", "rollback", "config/app")
    assert kept.lines(*roll) == ["~\tconfig/app\ta: 3 → 2"]
    assert kept.lines(*roll) == ["~\tconfig/app\ta: 2 → 3"]
    assert kept.lines(*roll, "--steps", "4") == ["~\tconfig/app\ta: 3 → 1"]
    assert kept.lines("get", "config/app") == ['{"a": 1}']
    code, out, err = kept(*roll, "--steps", "6")
    assert (code, out) == (3, "")
    assert "the history knows of only 5 values of 'config/app' before the present one" in err
    assert kept.lines("log", "config/app", "--limit", "1")[0].endswith("\tudsbus config rollback")


def test_rollback_of_what_is_gone_or_was(kept: Command, file: Path) -> None:
    roll = ("config", "rollback", "config/app")
    assert "knows of no value of 'config/app'" in kept(*roll).err
    pushed(kept, file, "a = 1")
    code, _, err = kept(*roll)
    assert code == 3, "that there was nothing before is no value to go back to"
    assert "knows of no value" in err
    kept.lines("delete", "config/app")
    assert kept.lines(*roll) == ["+\tconfig/app\ta: 1"]
    kept.lines("delete", "config/app")
    pushed(kept, file, "a = 2")
    assert kept.lines(*roll) == ["~\tconfig/app\ta: 2 → 1"]


def test_rollback_to(kept: Command, file: Path) -> None:
    pushed(kept, file, "a = 1", "a = 2", "a = 3")
    revisions = [line.split("\t")[0] for line in kept.lines("log", "config/app")]
    roll = ("config", "rollback", "config/app")
    assert kept.lines(*roll, "--to", revisions[0]) == ["~\tconfig/app\ta: 3 → 1"]
    outcome = kept(*roll, "--to", revisions[0])
    assert outcome == (1, "", "udsbus: nothing has changed: config/app held it already\n")
    second = json.loads(kept.lines("log", "config/app", "--json")[1])["time"]
    moment = datetime.datetime.fromisoformat(second) + datetime.timedelta(milliseconds=1)
    assert kept.lines(*roll, "--to", moment.isoformat()) == ["~\tconfig/app\ta: 1 → 2"]
    for to, said in (
        ("1h", "the bus did not exist at that time"),
        ("999999d", "the bus did not exist at that time"),
        (f"{10**100}d", "the bus did not exist at that time"),
        ("1", "revision 1 was before the bus began"),
        (str(10**17), "has not been yet"),
    ):
        outcome = kept(*roll, "--to", to)
        assert outcome.code == 3
        assert said in outcome.err
    assert kept.lines("get", "config/app") == ['{"a": 2}']


def test_rollback_of_what_is_below(kept: Command, file: Path) -> None:
    kept.lines("set", "config/app/deep/er", "1")
    pushed(kept, file, "a = 1\nb = 1\n", "a = 2\nc = 1\n", split=True)
    kept.lines("set", "config/app/deep/er", "2")
    roll = ("config", "rollback", "config/app", "--split")
    assert sorted(kept.lines(*roll)) == [
        "+\tconfig/app/b\t1", "-\tconfig/app/c\t1", "~\tconfig/app/a\t2 → 1",
    ]  # fmt: skip
    assert kept.lines("keys", "config/app/**", "--values") == [
        "config/app/a\t1", "config/app/b\t1", "config/app/deep/er\t2",
    ]  # fmt: skip


def test_rollback_without_a_history(lonely: Command) -> None:
    with lonely.running("serve", "--durability", "none") as broker:
        broker.told("serving")
        lonely.lines("set", "k", "{}")
        for args in ([], ["--to", "0"], ["--to", "1h"], ["--split"]):
            code, out, err = lonely("config", "rollback", "k", *args)
            assert (code, out) == (3, "")
            assert "keeps no history" in err


# --- completion -----------------------------------------------------------------------------


def test_completion(command: Command, client: udsbus.Client) -> None:
    client.set_many({"config/app": 1, "config/web": 1})
    assert completed(command, "udsbus", "config", "pull", "config/") == ["config/app", "config/web"]
    assert completed(command, "udsbus", "config", "rollback", "config/w") == ["config/web"]
    words = ("udsbus", "config", "push", "x", "--key", "config/a")
    assert completed(command, *words) == ["config/app"]
    assert completed(command, "udsbus", "config", "p") == ["pull", "push"]
