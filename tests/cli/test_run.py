"""`udsbus run`."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import udsbus
from tests.client.support import wait_for_end
from tests.harness import running_broker, wait_until

from .support import COMMAND, PATIENCE, Command, Running, is_one_complaint

PAGE = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
PYTHON = sys.executable
SHOW = 'echo "started ${V-none}"; exec sleep 60'
WATCH = ("run", "--watch", "c/*", "--debounce", "0.05", "--env")
"""Changes are reacted to soon; `c/v` is V."""
SLOW = """
trap 'echo asked' TERM
echo started $V
while :; do sleep 0.02; test -e end && exit 4; done
"""
COPY = """
trap 'echo "stopped $UDSBUS_COPY $V"; exit 0' TERM
case "$V" in bad|bad$UDSBUS_COPY) exit 5; esac
echo "started $UDSBUS_COPY $V $$"
while :; do sleep 0.02; done
"""


def is_gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


# --- values -----------------------------------------------------------------------------------


def variables(command: Command, *args: str) -> dict[str, str]:
    """What the command finds that was not in the environment before."""
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    (line,) = command.lines("run", *args, "--", PYTHON, "-c", script)
    found: dict[str, str] = json.loads(line)
    assert found.pop("UDSBUS_COPY") == "0"
    found.pop("LC_CTYPE", None)  # which Python sets for itself
    return {name: value for name, value in found.items() if name not in command.environ}


def test_values_as_variables(command: Command, client: udsbus.Client) -> None:
    app = {"db-url": "x y", "limits": {"max": 10, "on": True}, "2": "two", "raw": b"\xc3\xa9"}
    client.set_many({f"config/app/{key}": value for key, value in app.items()})
    client.set_many({"config/app": {"name": "it"}, "config/other": 1})
    expected = {
        "DB_URL": "x y", "LIMITS_MAX": "10", "LIMITS_ON": "true", "_2": "two", "RAW": "é",
        "NAME": "it",
    }  # fmt: skip
    assert variables(command, "--watch", "config/app/**", "--env") == expected
    prefixed = {f"MY_{name.removeprefix('_')}": value for name, value in expected.items()}
    assert variables(command, "--watch", "config/app/**", "--env-prefix", "MY_") == prefixed
    assert variables(command, "--watch", "config/app/**") == {}
    one = "config/app/db-url=url"
    assert variables(command, "--env-from", one) == {"url": "x y"}
    both = {"url": "x y", **expected}
    del both["DB_URL"], both["NAME"]
    assert variables(command, "--watch", "config/app/*", "--env", "--env-from", one) == both


ROWS = re.findall(r"^\| `(--\S.*?)` \| `(\S+)` \| `(.+?)` \| `(.+)` \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("options", "key", "value", "expected"), ROWS)
def test_the_table_of_names(
    command: Command, client: udsbus.Client, options: str, key: str, value: str, expected: str
) -> None:
    """That of docs/running.md."""
    client.set(key, json.loads(value))
    found = [f"{name}={text}" for name, text in variables(command, *shlex.split(options)).items()]
    assert sorted(found) == sorted(expected.split("`, `"))


def test_the_table_is_read() -> None:
    assert len(ROWS) == 7


def test_the_bus_is_told(command: Command, client: udsbus.Client) -> None:
    script = "import os; print(os.environ['UDSBUS_SOCKET'])"
    run = ("run", "--watch", "a", "--socket", client.address, "--", PYTHON, "-c", script)
    code, out, _ = command(*run, UDSBUS_SOCKET="/no/such")
    assert (code, out) == (0, f"{client.address}\n")


@pytest.mark.parametrize(
    ("keys", "options", "says"),
    [
        ({"c/x-y": 1, "c/x_y": 2}, ["--env"], "'c/x-y' and 'c/x_y' would both be X_Y"),
        ({"c/x": "a\0"}, ["--env"], "'c/x' cannot be the variable X: it holds a null byte"),
        ({"c/x": {"": 2}}, ["--env", "--watch", "c/x"], "'c/x' () cannot be a variable: its name"),
        ({"c/x": {10**5000: 2}}, ["--env"], "a name in 'c/x' cannot be told: "),
        ({"c/x": "a"}, ["--render", "/no/such=file"], "the template /no/such cannot be read"),
    ],
)
def test_values_that_cannot_be_given(
    command: Command, client: udsbus.Client, keys: dict[str, object], options: list[str], says: str
) -> None:
    client.set_many(keys)
    code, out, err = command("run", "--watch", "c/*", *options, "--", "echo", "started")
    assert (code, out) == (3, "")
    assert is_one_complaint(err)
    assert f"the command has not been started: {says}" in err
    assert command("run", "--watch", "c/*", "--", "echo", "it")[:2] == (0, "it\n")


def test_the_command_is_found_all_the_same(
    command: Command, client: udsbus.Client, tmp_path: Path
) -> None:
    """By the PATH of `udsbus run`, at the beginning, at a restart, and as a hook."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    for place, text in (("first", "echo first"), ("second", "echo second $PATH $1")):
        tool = tmp_path / place / "tool"
        tool.write_text(
            f"{text}\nexec {shutil.which('sleep')} 60\n"
        )  # nor does it say what runs it
        tool.chmod(0o700 if place == "second" else 0o600)
    found = {"PATH": f"{tmp_path}/first:{tmp_path}/second:{command.environ['PATH']}"}
    for reaction in ("restart", "hook=tool --hook"):
        client.set("c/path", "/of/values")
        args = (*WATCH, "--on-change", reaction, "--", "tool", "--begin")
        with command.running(*args, **found) as running:
            assert running.line() == "second /of/values --begin"
            client.set("c/path", f"{tmp_path}/first")
            told = "--begin" if reaction == "restart" else "--hook"
            assert running.line() == f"second {tmp_path}/first {told}"
    client.set("c/path", f"{tmp_path}/second")
    assert command("run", "--watch", "c/*", "--env", "--", "tool")[0] == 127


def test_two_of_one_name_can_be_given_others(command: Command, client: udsbus.Client) -> None:
    client.set_many({"c/x-y": 1, "c/x_y": 2})
    found = variables(command, "--watch", "c/*", "--env", "--env-from", "c/x-y=FIRST")
    assert found == {"FIRST": "1", "X_Y": "2"}


# --- ends ---------------------------------------------------------------------------------------


def test_its_exit_code(command: Command, client: udsbus.Client, tmp_path: Path) -> None:
    run = ("run", "--watch", "a", "--")
    assert command(*run, "sh", "-c", "exit 7")[0] == 7
    assert command(*run, "sh", "-c", "kill -KILL $$")[0] == 128 + signal.SIGKILL
    code, _, err = command(*run, "no-such-command")
    assert (code, "no-such-command: there is no such command" in err) == (127, True)
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o700)
    code, out, err = command(*run, str(script))
    assert (code, out, err) == (127, "", f"udsbus: {script}: No such file or directory\n")
    script.write_text("exit $1\n")
    assert command(*run, str(script), "6")[0] == 6, "as a shell runs it"


def test_wrong_usage(command: Command, client: udsbus.Client) -> None:
    for args, says in (
        (["--", "true"], "nothing to follow: give --watch"),
        (["--watch", "a"], "missing argument"),
        (["--watch", "a", "--on-change", "reload", "--", "true"], "'reload' is none of restart"),
        (["--watch", "a", "--on-change", "signal=HOP", "--", "true"], "there is no signal 'HOP'"),
        (["--watch", "a", "--on-change", "hook=", "--", "true"], "is none of restart"),
        (["--watch", "a", "--on-change", "hook='", "--", "true"], "is no command"),
        (["--env-from", "a=b=2", "--", "true"], "is not like KEY=NAME"),
        (["--env-from", "a=X", "--env-from", "b=X", "--", "true"], "is given twice"),
        (["--watch", "a", "--env-prefix", "1", "--", "true"], "name begins with '1'"),
        (["--watch", "a", "--render", "x", "--", "true"], "is not like TEMPLATE=FILE"),
    ):
        code, out, err = command("run", *args)
        assert (code, out) == (2, "")
        assert is_one_complaint(err)
        assert says in err.lower() or says in err, err
    assert command("run", "--watch", "a//b", "--", "true")[0] == 3


def test_a_template_is_not_written_over(
    lonely: Command, command: Command, client: udsbus.Client, tmp_path: Path
) -> None:
    """Before anything is done: there need not even be a broker."""
    client.set("c/v", 1)
    (tmp_path / "a").write_text("$v")
    (tmp_path / "b").write_text("b")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "hard").hardlink_to(tmp_path / "a")
    (tmp_path / "new").symlink_to("made later")
    a, b = f"{tmp_path}/a", f"{tmp_path}/b"
    for renders in (
        [f"{a}={a}"], [f"{a}={tmp_path}/./a"], [f"{a}={tmp_path}/link"], [f"{tmp_path}/link={a}"],
        [f"{a}={tmp_path}/hard"], [f"{a}={b}", f"{b}={tmp_path}/c"],
        [f"{b}={tmp_path}/c", f"{a}={b}"],
        [f"{a}={tmp_path}/new", f"{tmp_path}/made later={b}"],
    ):  # fmt: skip
        args = [word for render in renders for word in ("--render", render)]
        for each in (lonely, command):
            code, out, err = each("run", "--watch", "c/*", *args, "--", "echo", "started")
            assert (code, out) == (2, ""), renders
            assert is_one_complaint(err)
            assert " would be written over the template " in err
    assert (tmp_path / "a").read_text() == "$v"
    assert (tmp_path / "b").read_text() == "b"


def test_no_broker(lonely: Command) -> None:
    code, out, err = lonely("run", "--watch", "a", "--", "echo", "started")
    assert (code, out) == (69, "")
    assert is_one_complaint(err)


def test_signals_are_passed_on(command: Command, client: udsbus.Client) -> None:
    """To the whole group of the command."""
    for name, code in (("USR1", 5), ("HUP", 6)):
        script = f"trap 'echo told; exit {code}' {name}; echo ready; while :; do sleep 0.02; done"
        with command.running("run", "--watch", "a", "--", "sh", "-c", script) as running:
            assert running.line() == "ready"
            assert running.signal(signal.Signals[f"SIG{name}"]) == code
            assert running.rest() == "told\n"
    script = "trap - INT; echo ready; while :; do sleep 0.02; done"
    for number, code in (("TERM", 128 + signal.SIGTERM), ("INT", -signal.SIGINT)):
        with command.running("run", "--watch", "a", "--", "sh", "-c", script) as running:
            assert running.line() == "ready"
            assert running.signal(signal.Signals[f"SIG{number}"]) == code
            assert running.rest("stderr") == ""


def test_what_is_left_of_the_group_is_ended(command: Command, client: udsbus.Client) -> None:
    script = "sleep 60 & echo $!; (trap '' TERM; exec sleep 60) & echo $!; exit 3"
    args = ("run", "--watch", "a", "--grace", "0.2", "--", "sh", "-c", script)
    code, out, err = command(*args)
    assert (code, err) == (3, "")
    for pid in map(int, out.split()):
        assert is_gone(pid)


def test_the_command_dies_with_it(command: Command, client: udsbus.Client) -> None:
    args = ("run", "--watch", "a", "--copies", "2", "--", "sh", "-c", "echo $$; exec sleep 60")
    with command.running(*args) as running:
        pids = [int(running.line()) for _ in range(2)]
        running.process.kill()
        for pid in pids:
            wait_for_end(pid)


# --- restarts -----------------------------------------------------------------------------------


def test_a_restart_with_what_is_there_then(command: Command, client: udsbus.Client) -> None:
    with command.running(*WATCH, "--", "sh", "-c", SHOW) as running:
        assert running.line() == "started none"
        client.set("c/v", 1)
        assert running.line() == "started 1"
        client.set("c/v", "two")
        assert running.line() == "started two"
        client.delete("c/v")
        assert running.line() == "started none"
        assert running.signal(signal.SIGTERM) == 128 + signal.SIGTERM
        assert running.rest("stderr") == ""


def test_a_person_is_told_what_is_done(command: Command, client: udsbus.Client) -> None:
    """On a terminal; else it would stand between what the command itself says."""
    with command.terminal(*WATCH, "--", "sh", "-c", SHOW) as running:
        running.expect(r"no key matches c/\* yet")
        running.expect("started none")
        client.set("c/v", 1)
        running.expect("c/v has changed: restart")
        running.expect("started 1")


def test_changes_one_after_the_other_are_one(command: Command, client: udsbus.Client) -> None:
    run = ("run", "--watch", "c/*", "--env", "--debounce", "1", "--", "sh", "-c", SHOW)
    with command.running(*run) as running:
        assert running.line() == "started none"
        with client.pipeline() as pipeline:
            for number in range(10):
                pipeline.set("c/v", number)
        assert running.line() == "started 9"


def test_the_old_is_gone_before_the_new_begins(command: Command, client: udsbus.Client) -> None:
    """With all of its group, and though it does not care for SIGTERM."""
    script = "trap '' TERM; sleep 60 & echo $$ $!; while :; do sleep 0.02; done"
    with command.running(*WATCH, "--grace", "0.2", "--", "sh", "-c", script) as running:
        pids = [int(pid) for pid in running.line().split()]
        for value in range(3):
            client.set("c/v", value)
            before, pids = pids, [int(pid) for pid in running.line().split()]
            assert all(map(is_gone, before))
            assert not any(map(is_gone, pids))


def test_all_of_its_group_is_asked_to_end(command: Command, client: udsbus.Client) -> None:
    script = "(trap 'echo inner; exit' TERM; while :; do sleep 0.02; done) & echo outer; wait"
    with command.running(*WATCH, "--", "sh", "-c", script) as running:
        assert running.line() == "outer"
        client.set("c/v", 1)
        assert running.line() == "inner"
        assert running.line() == "outer"


def test_who_is_about_to_end_is_not_restarted(
    command: Command, client: udsbus.Client, tmp_path: Path
) -> None:
    script = f"cd {tmp_path}; {SLOW}"
    with command.running(*WATCH, "--grace", "0.1", "--", "sh", "-c", script) as running:
        assert running.line() == "started"
        running.process.terminate()
        assert running.line() == "asked"
        client.set("c/v", 1)
        assert running.process.stdout is not None
        assert not select.select([running.process.stdout], [], [], 0.7)[0], "a restart takes 0.2 s"
        (tmp_path / "end").touch()
        assert running.end() == 4
        assert running.rest() == ""


def test_the_others_are_asked_to_end_once(
    command: Command, client: udsbus.Client, tmp_path: Path
) -> None:
    quick = "trap 'exit 9' TERM; echo started; while :; do sleep 0.02; done"
    script = f"cd {tmp_path}; test $UDSBUS_COPY = 0 && {{ {quick}; }}; {SLOW}"
    args = ("--copies", "2", "--", "sh", "-c", script)
    with command.running(*WATCH, *args) as running:
        assert [running.line() for _ in range(2)] == ["started"] * 2
        running.process.terminate()
        assert running.line() == "asked"
        wait_until(lambda: len(children(running.process.pid)) == 1, "the first to end")
        (tmp_path / "end").touch()
        assert running.end() == 9
        assert running.rest() == ""


def test_what_changes_while_the_old_one_ends(
    command: Command, client: udsbus.Client, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    script = "trap 'echo ending; read x <fifo; exit 0' TERM; echo started $V;"
    script += "while :; do sleep 0.02; done"
    client.set("c/v", "a")
    args = ("--", "sh", "-c", f"cd {tmp_path}; {script}")
    with command.running(*WATCH, *args) as running:
        assert running.line() == "started a"
        for value in "bc":
            client.set("c/v", value)
            if value == "b":
                assert running.line() == "ending"
        (tmp_path / "fifo").write_text("\n")
        while (line := running.line()) != "started c":
            if line == "ending":
                (tmp_path / "fifo").write_text("\n")


def test_a_value_that_cannot_be_given_is_left_out(command: Command, client: udsbus.Client) -> None:
    client.set("c/v", "a")
    with command.running(*WATCH, "--", "sh", "-c", SHOW) as running:
        assert running.line() == "started a"
        client.set("c/v", "\0")
        running.told(
            "'c/v' cannot be the variable V: it holds a null byte; until that has changed, "
        )
        client.set("c/v", "b")
        assert running.line() == "started b"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"": 2}, r"'v' \(\) cannot be a variable: its name would be empty"),
        ({10**5000: 2}, "a name in 'v' cannot be told: "),
    ],
)
def test_names_that_cannot_be_given_are_left_out(
    command: Command, client: udsbus.Client, value: object, says: str
) -> None:
    args = ("run", "--watch", "v", "--debounce", "0.05", "--env", "--", "sh", "-c", SHOW)
    with command.running(*args) as running:
        assert running.line() == "started none"
        client.set("v", value)
        running.told(f"{says}.*; until that has changed, the command goes on with what it had")
        client.set("v", "b")
        assert running.line() == "started b"


def test_all_variables_together_are_too_many(command: Command, client: udsbus.Client) -> None:
    args = ("run", "--watch", "c/*", "--debounce", "0.05", "--env", "--", "sh", "-c", SHOW)
    many = {
        f"c/{number}": "x" * 120_000 for number in range(os.sysconf("SC_ARG_MAX") // 120_000 + 1)
    }
    with command.running(*args) as running:
        assert running.line() == "started none"
        client.set_many(many)
        running.told("the system takes no environment of so many; until that has changed")
        with client.transaction() as transaction:
            for key in many:
                transaction.delete(key)
            transaction.set("c/v", "b")
        assert running.line() == "started b"


def test_a_variable_of_no_name_is_not_handed_on(command: Command, client: udsbus.Client) -> None:
    run = [*COMMAND, "run", "--watch", "v", "--", "echo", "it"]
    done = subprocess.run(["env", "=x", *run], env=command.environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "it\n", "")


# --- copies -------------------------------------------------------------------------------------


def starts(running: Running) -> dict[str, int]:
    """Which copies have been started, with their pids."""
    found = {}
    for _ in range(2):
        word, copy, _, pid = running.line().split()
        assert word == "started"
        found[copy] = int(pid)
    return found


def test_copies_are_restarted_one_after_the_other(command: Command, client: udsbus.Client) -> None:
    client.set("c/v", "a")
    args = ("--copies", "2", "--settle", "0.2", "--", "sh", "-c", COPY)
    with command.running(*WATCH, *args) as running:
        assert starts(running).keys() == {"0", "1"}
        for before, value in ("ab", "bc"):
            client.set("c/v", value)
            for copy in "01":
                assert running.line() == f"stopped {copy} {before}"
                assert running.line().startswith(f"started {copy} {value} ")


def test_the_next_is_stopped_when_the_new_one_has_settled(
    command: Command, client: udsbus.Client
) -> None:
    """Which takes longer than this test, so the new one that is killed has not."""
    client.set("c/v", "a")
    args = ("--copies", "2", "--settle", "60", "--", "sh", "-c", COPY)
    with command.running(*WATCH, *args) as running:
        pids = starts(running)
        client.set("c/v", "b")
        assert running.line() == "stopped 0 a"
        os.kill(int(running.line().split()[-1]), signal.SIGKILL)
        running.told(r"copy 0 ended within 60 s of its restart \(killed by signal 9\)")
        assert not is_gone(pids["1"])
        assert running.signal(signal.SIGTERM) == 0
        assert running.rest() == "stopped 1 a\n"


def test_a_new_copy_that_ends_at_once_stops_that(command: Command, client: udsbus.Client) -> None:
    client.set("c/v", "a")
    args = ("--copies", "2", "--settle", "0.5", "--", "sh", "-c", COPY)
    with command.running(*WATCH, *args) as running:
        pids = starts(running)
        client.set("c/v", "bad")
        assert running.line() == "stopped 0 a"
        running.told(r"copy 0 ended within 0.5 s of its restart \(exit code 5\): it stays down")
        assert not is_gone(pids["1"])
        client.set("c/v", "bad1")
        assert running.line().startswith("started 0 bad1 ")
        assert running.line() == "stopped 1 a"
        running.told("copy 1 ended within 0.5 s of its restart")
        client.set("c/v", "c")
        assert running.line().startswith("started 1 c "), "the one that is down comes first"
        assert running.line() == "stopped 0 bad1"
        assert running.line().startswith("started 0 c ")


def test_the_end_of_one_is_the_end_of_all(command: Command, client: udsbus.Client) -> None:
    client.set("c/v", "a")
    with command.running(*WATCH, "--copies", "2", "--", "sh", "-c", COPY) as running:
        os.kill(starts(running)["1"], signal.SIGKILL)
        assert running.end() == 128 + signal.SIGKILL
        assert running.rest() == "stopped 0 a\n"
    with command.running(*WATCH, "--copies", "2", "--", "sh", "-c", COPY) as running:
        starts(running)
        assert running.signal(signal.SIGTERM) == 0
        assert sorted(running.rest().splitlines()) == ["stopped 0 a", "stopped 1 a"]


# --- other reactions ----------------------------------------------------------------------------


def test_a_signal_to_the_command_alone(
    command: Command, client: udsbus.Client, tmp_path: Path
) -> None:
    """When the file is there already."""
    (tmp_path / "template").write_text("v is $v\n")
    script = "sleep 60 & child=$!; trap 'cat file; kill -0 $child && echo both' HUP;"
    script += f"cd {tmp_path}; cat file; while :; do sleep 0.02; done"
    client.set("c/v", "a")
    files = f"{tmp_path}/template={tmp_path}/file"
    for name in ("HUP", "SIGHUP", "1"):
        args = ("--on-change", f"signal={name}", "--render", files, "--", "sh", "-c", script)
        with command.running(*WATCH, *args) as running:
            assert running.line() == "v is a"
            client.set("c/v", "b")
            assert running.line() == "v is b"
            assert running.line() == "both"
            client.set("c/v", "a")
            assert running.line() == "v is a"


def test_a_hook(command: Command, client: udsbus.Client) -> None:
    client.set_many({"c/v": "a", "c/w": 1})
    hook = "sh -c 'echo $V $UDSBUS_CHANGED; cat'"
    with command.running(*WATCH, "--on-change", f"hook={hook}", "--", "sh", "-c", SHOW) as running:
        assert running.line() == "started a"
        with client.transaction() as t:
            written = t.set("c/v", {"x": 1})
            t.delete("c/w")
        assert running.line() == "c/v c/w"
        assert json.loads(running.line()) == {
            "revision": written.value, "kind": "updated", "key": "c/v", "value": {"x": 1}
        }  # fmt: skip
        assert json.loads(running.line()) == {"kind": "deleted", "key": "c/w"}
        client.set("c/v", "b")
        assert running.line() == "b c/v"


def test_a_hook_that_fails(command: Command, client: udsbus.Client) -> None:
    client.set("c/v", "5")
    args = ("--on-change", "hook=sh -c 'exit $V'", "--", "sh", "-c", SHOW)
    with command.running(*WATCH, *args) as running:
        assert running.line() == "started 5"
        for value in (6, 7):
            client.set("c/v", value)
            running.told(rf"the hook sh failed \(exit code {value}\)")
        assert running.signal(signal.SIGTERM) == 128 + signal.SIGTERM
        assert running.rest() == ""
    with command.running(*WATCH, "--on-change", "hook=no-such", "--", "sh", "-c", SHOW) as running:
        assert running.line() == "started 7"
        client.set("c/v", 8)
        running.told("the hook cannot be run: no-such: No such file or directory")


def test_a_hook_ends_with_the_command(command: Command, client: udsbus.Client) -> None:
    args = ("--on-change", "hook=sh -c 'echo $$; exec sleep 60'", "--", "sh", "-c", SHOW)
    with command.running(*WATCH, *args) as running:
        assert running.line() == "started none"
        client.set("c/v", 1)
        hook = int(running.line())
        (command_pid,) = children(running.process.pid) - {hook}
        os.kill(command_pid, signal.SIGUSR1)
        assert running.end() == 128 + signal.SIGUSR1
        assert is_gone(hook)


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_only_files(command: Command, client: udsbus.Client, tmp_path: Path) -> None:
    (tmp_path / "template").write_text("$v $$")
    client.set("c/v", "a")
    render = f"{tmp_path}/template={tmp_path}/file"
    args = ("--on-change", "none", "--render", render, "--", "sh", "-c", SHOW)
    with command.running(*WATCH, *args) as running:
        assert running.line() == "started a"
        assert (tmp_path / "file").read_text() == "a $"
        client.set("c/v", "b")
        wait_until(lambda: (tmp_path / "file").read_text() == "b $", "the file")
        client.delete("c/v")
        running.told(r"no key gives a value for \$v in .*template; until that has changed")
        assert (tmp_path / "file").read_text() == "b $"
        assert running.signal(signal.SIGTERM) == 128 + signal.SIGTERM
        assert running.rest() == ""


# --- the bus ------------------------------------------------------------------------------------


def test_a_bus_that_goes_and_comes(address: str) -> None:
    """The command runs on; what is there then is compared with what was."""
    command = Command(address)
    args = ("--on-change", "hook=sh -c 'echo $UDSBUS_CHANGED'", "--", "sh", "-c", SHOW)
    with running_broker(address) as broker:
        with udsbus.connect(address) as client:
            client.set_many({"c/v": "a", "c/w": 1})
        with command.running(*WATCH, *args) as running:
            assert running.line() == "started a"
            broker.kill()
            running.told("; the command runs on")
            with running_broker(address):
                assert running.line() == "c/v c/w", "they are gone"
                with udsbus.connect(address) as client:
                    client.set("c/x", 1)
                assert running.line() == "c/x"
            assert running.signal(signal.SIGTERM) == 128 + signal.SIGTERM


# --- terminals ----------------------------------------------------------------------------------


def test_in_a_shell(command: Command, client: udsbus.Client) -> None:
    """Ctrl-Z holds up the command too, and Ctrl-C ends it, and the loop around it."""
    run = f"{PYTHON} -m udsbus run --watch c --"
    with command.shell() as shell:
        shell.sendline(f"{run} sh -c 'echo pid-$$; exec sleep 60'")
        shell.expect(r"\r\npid-(\d+)\r\n")
        pid = int(shell.match[1])
        shell.sendcontrol("z")
        shell.expect_exact("Stopped")
        wait_until(lambda: state(pid) == "T", "it to be held up")
        shell.sendline("fg")
        wait_until(lambda: state(pid) == "S", "it to go on")
        shell.sendintr()
        shell.sendline("echo $?-left")
        shell.expect_exact("130-left")
        assert is_gone(pid)
        shell.sendline(f"for i in 1 2; do {run} sh -c 'echo turn-1; exec sleep 60'; done")
        shell.expect_exact("\r\nturn-1")
        shell.sendintr()
        shell.sendline("echo $?-ended")
        shell.expect_exact("130-ended")
        assert "\r\nturn-" not in shell.before
        shell.sendline(f"echo data | {run} sh -c 'read x; echo $x=$x'; {run} cat; echo ov''er")
        shell.expect_exact("data=data")
        shell.expect_exact("over", timeout=PATIENCE)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
