"""`udsbus locks` and `udsbus lock`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import udsbus
from tests.client.support import Task
from tests.harness import wait_until

from .support import PATIENCE, Command

PYTHON = sys.executable


def waits(client: udsbus.Client, lock: str) -> bool:
    return any(each.waiting for each in client.locks(lock))


def test_who_holds_and_who_waits(command: Command, client: udsbus.Client) -> None:
    assert command("locks")[:2] == (1, "")
    with udsbus.connect(client.address, name="the other") as other:
        client.semaphore("s", 3).acquire()
        with other.lock("a/b"):
            task = Task(lambda: client.lock("a/b").acquire(timeout=PATIENCE))
            wait_until(lambda: waits(other, "a/b"), "it to wait")
            rows = [line.split("\t") for line in command.lines("locks")]
            assert [row[:5] for row in rows] == [
                ["a/b", "holds", other.session, str(os.getpid()), "the other"],
                ["a/b", "waits", client.session, str(os.getpid()), ""],
                ["s", "shares", client.session, str(os.getpid()), ""],
            ]
            assert rows[0][5] == str(threading.get_native_id())
            (found,) = [json.loads(line) for line in command.lines("locks", "a/**", "--json")]
            assert found["holders"][0]["session"] == other.session
            assert found["waiting"][0]["session"] == client.session
        assert task.result()


def test_a_circle(command: Command, client: udsbus.Client) -> None:
    assert command("locks", "--graph")[:2] == (1, "")
    with udsbus.connect(client.address, name="the other") as other:
        ready = threading.Barrier(2)

        def cross(mine: udsbus.Client, first: str, second: str) -> None:
            mine.lock(first).acquire()
            ready.wait(PATIENCE)
            mine.lock(second).acquire(timeout=PATIENCE)

        tasks = [Task(lambda: cross(client, "a", "b")), Task(lambda: cross(other, "b", "a"))]
        wait_until(lambda: waits(other, "a") and waits(other, "b"), "both to wait")
        lines = command.lines("locks", "--graph")
        assert len(lines) == 3
        assert any("the other" in line and "holds b and waits for a" in line for line in lines)
        client.lock("a").release()
        tasks[1].result()
        other.lock("b").release()
        tasks[0].result()
        for each, lock in ((other, "a"), (client, "b")):
            each.lock(lock).release()


def test_a_command_that_holds_a_lock(command: Command, client: udsbus.Client) -> None:
    script = "import os, udsbus; c = udsbus.connect(); t = int(os.environ['UDSBUS_LOCK_TOKEN']);"
    script += "print(c.lock('a').locked(), c.set('k', 1, fence=t) > t); raise SystemExit(7)"
    code, out, err = command("lock", "a", "--", PYTHON, "-c", script)
    assert (code, out, err) == (7, "True True\n", "")
    assert client.locks("a") == []
    assert client.get("k") == 1


def test_its_exit_code(command: Command, client: udsbus.Client, tmp_path: Path) -> None:
    assert command("lock", "a", "--", "sh", "-c", "kill -KILL $$")[0] == 128 + signal.SIGKILL
    code, _, err = command("lock", "a", "--", "no-such-command")
    assert (code, "no-such-command: there is no such command" in err) == (127, True)
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    code, _, err = command("lock", "a", "--", str(script))
    assert (code, f"{script}: this cannot be run" in err) == (126, True)
    script.chmod(0o700)
    code, _, err = command("lock", "a", "--", str(script))
    assert (code, str(script) in err) == (127, True)
    script.write_text("exit $1\n")
    assert command("lock", "a", "--", str(script), "6")[0] == 6, "as a shell runs it"
    assert command("lock", "a")[0] == 2
    assert command("lock", "$a", "--", "true")[0] == 3


def test_not_to_be_had(command: Command, client: udsbus.Client) -> None:
    with client.lock("a"):
        for options in (["--no-wait"], ["--timeout", "0.1"], ["--no-wait", "--shared"]):
            code, out, err = command("lock", *options, "a", "--", "echo", "mine")
            assert (code, out) == (4, "")
            assert "a is held by somebody else" in err
    with client.rwlock("a").read:
        code, out, err = command("lock", "--shared", "a", "--", "echo", "-1")
        assert (code, out, err) == (0, "-1\n", "")


def test_signals_are_passed_on(command: Command, client: udsbus.Client) -> None:
    """To the whole group of the command."""
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: (print('told', flush=True), sys.exit(5)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with command.running("lock", "a", "--", PYTHON, "-c", script) as running:
        assert running.line("stdout") == "ready"
        assert running.signal(signal.SIGUSR1) == 5
    with command.running("lock", "a", "--", "sh", "-c", "echo ready; sleep 60 & wait") as running:
        assert running.line("stdout") == "ready"
        assert running.signal(signal.SIGTERM) == 128 + signal.SIGTERM
    assert client.locks("a") == []


def test_the_next_waits_until_the_command_has_ended(
    command: Command, client: udsbus.Client
) -> None:
    """Although it was kicked, and the command does not care for SIGTERM."""
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"
        "print(os.getpid(), flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    with command.running("lock", "a", "--", PYTHON, "-c", script) as running:
        pid = int(running.line("stdout"))
        task = Task(lambda: (client.lock("a").acquire(), os.path.exists(f"/proc/{pid}")))
        wait_until(lambda: waits(client, "a"), "it to wait")
        command.lines("kick", client.lock_holders("a")[0].session)
        assert running.line("stdout") == "told"
        assert task.result() == (True, False)
        running.told("a was lost while the command ran, which has been stopped")
        assert running.process.wait(PATIENCE) == 3
    client.lock("a").release()


def test_the_command_dies_with_it(command: Command, client: udsbus.Client) -> None:
    with command.running("lock", "a", "--", "sh", "-c", "echo $$; exec sleep 60") as running:
        pid = int(running.line("stdout"))
        running.process.kill()
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the command to die")
        assert client.lock("a").acquire(timeout=PATIENCE)
    client.lock("a").release()


def test_a_kick_while_it_waits_costs_the_place(command: Command, client: udsbus.Client) -> None:
    lock = client.lock("a")
    lock.acquire()
    with command.running("lock", "a", "--", "echo", "mine") as running:
        wait_until(lambda: waits(client, "a"), "it to wait")
        (waiter,) = client.locks("a")[0].waiting
        client.kick(waiter.session)
        wait_until(
            lambda: [one.ticket for one in client.locks("a")[0].waiting] > [waiter.ticket],
            "it to wait again",
        )
        lock.release()
        assert running.line("stdout") == "mine"
        assert running.process.wait(PATIENCE) == 0


def test_a_command_that_is_stopped_for_a_while(command: Command, client: udsbus.Client) -> None:
    with command.running("lock", "a", "--", "sh", "-c", "echo $$; sleep 0.1; exit 5") as running:
        pid = int(running.line("stdout"))
        os.kill(pid, signal.SIGSTOP)
        assert client.lock("a").locked()
        os.kill(pid, signal.SIGCONT)
        assert running.process.wait(PATIENCE) == 5


def test_on_a_terminal(command: Command, client: udsbus.Client) -> None:
    """The command has it, so that Ctrl-C is for the command alone."""
    script = "try: input('name? ')\nexcept KeyboardInterrupt: print('stopped'); raise SystemExit(9)"
    with command.terminal("lock", "a", "--", PYTHON, "-c", script) as terminal:
        terminal.expect_exact("name? ")
        terminal.sendintr()
        terminal.expect_exact("stopped")
        terminal.wait()
        assert terminal.exitstatus == 9


def test_in_a_shell(command: Command, client: udsbus.Client) -> None:
    """Pipes, job control and Ctrl-C are as with any other command."""
    lock = f"{PYTHON} -m udsbus lock"
    with command.shell() as shell:
        shell.sendline(f"{lock} a -- echo data | (read x; read y </dev/tty; echo $x-$y)")
        shell.sendline("typed")
        shell.expect_exact("data-typed")
        shell.sendline(f"echo data | {lock} a -- sh -c 'read x; read y </dev/tty; echo $x=$y'")
        shell.sendline("typed")
        shell.expect_exact("data=typed")
        shell.sendline(f"{lock} a -- sh -c 'echo begun; sleep 1; echo ended'")
        shell.expect_exact("\r\nbegun")
        shell.sendcontrol("z")
        shell.expect_exact("Stopped")
        assert client.lock("a").locked()
        shell.sendline("bg; echo still; wait; echo over")
        shell.expect_exact("\r\nended")
        shell.expect_exact("over")
        shell.sendline(f"for i in 1 2; do echo turn-$i; {lock} a -- sleep 60; done")
        shell.expect_exact("\r\nturn-1")
        wait_until(lambda: client.lock("a").locked(), "it to hold the lock")
        shell.sendintr()
        shell.sendline("echo $?-left")
        shell.expect_exact("130-left")
        assert "turn-2" not in shell.before
