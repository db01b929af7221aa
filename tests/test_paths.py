from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from udsbus import paths
from udsbus.errors import AccessDenied, InvalidRequest
from udsbus.paths import (
    default_address,
    default_state,
    ensure_private_directory,
    resolve_address,
)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of mode 0700 that belongs to another user."""
    directory = tmp_path / "theirs"
    directory.mkdir(0o700)
    if os.getuid() == 0:
        os.chown(directory, 12345, -1)
    else:
        ours = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: ours + 1)
    return directory


# --- which address --------------------------------------------------------------------------


def test_the_variable_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UDSBUS_SOCKET", "/somewhere/bus.sock")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_address() == "/somewhere/bus.sock"


def test_then_the_runtime_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UDSBUS_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_address() == f"{tmp_path}/udsbus/default.sock"


@pytest.mark.parametrize("runtime", [None, "", "/does/not/exist"])
def test_then_a_directory_of_our_own_in_tmp(
    monkeypatch: pytest.MonkeyPatch, runtime: str | None
) -> None:
    monkeypatch.setenv("UDSBUS_SOCKET", "")
    if runtime is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert default_address() == f"/tmp/udsbus-{os.getuid()}/default.sock"


def test_an_argument_wins_and_becomes_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UDSBUS_SOCKET", "/somewhere/bus.sock")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    assert resolve_address("/run/a.sock") == "/run/a.sock"
    assert resolve_address(Path("/run/a.sock")) == "/run/a.sock"
    assert resolve_address("~/a.sock") == "/home/me/a.sock"
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    assert resolve_address("a.sock") == "/here/a.sock"
    assert resolve_address(None) == "/somewhere/bus.sock"


def test_a_path_that_is_too_long_for_the_kernel_is_refused() -> None:
    longest = "/" + "a" * (paths.SUN_PATH_BYTES - 1)
    assert resolve_address(longest) == longest
    with pytest.raises(InvalidRequest, match=f"is {paths.SUN_PATH_BYTES + 1} bytes long") as caught:
        resolve_address(longest + "a")
    assert "UDSBUS_SOCKET" in str(caught.value)
    with pytest.raises(InvalidRequest, match="bytes long"):
        resolve_address("/" + "é" * (paths.SUN_PATH_BYTES // 2 + 1))


@pytest.mark.parametrize("path", ["/run/a\0b.sock", "\0abstract"])
def test_a_path_with_a_nul_is_refused(path: str) -> None:
    """The kernel takes it as the end of the path."""
    with pytest.raises(InvalidRequest):
        resolve_address(path)


def test_what_stands_beside_the_socket() -> None:
    assert paths.lock_path("/run/a.sock") == "/run/a.sock.lock"
    assert paths.log_path("/run/a.sock") == "/run/a.sock.log"


# --- whose directory ------------------------------------------------------------------------


def test_a_directory_is_made_private(tmp_path: Path) -> None:
    ensure_private_directory(str(tmp_path / "bus"))
    assert mode_of(tmp_path / "bus") == 0o700
    ensure_private_directory(str(tmp_path / "bus"))


def test_every_directory_that_is_made_is_private(tmp_path: Path) -> None:
    """Who can write to the one above can put another in the place of the private one."""
    before = os.umask(0)
    try:
        ensure_private_directory(str(tmp_path / "above" / "bus"))
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "above" / "bus") == 0o700
    assert mode_of(tmp_path / "above") & 0o022 == 0


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750])
def test_a_directory_that_only_we_can_write_to_will_do(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "bus"
    directory.mkdir()
    directory.chmod(mode)
    ensure_private_directory(str(directory))
    assert mode_of(directory) == mode


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "bus"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(AccessDenied, match=f"run: chmod go-w {directory}"):
        ensure_private_directory(str(directory))


def test_a_sticky_directory_will_do(tmp_path: Path) -> None:
    directory = tmp_path / "like-tmp"
    directory.mkdir()
    directory.chmod(0o1777)
    ensure_private_directory(str(directory))


def test_tmp_itself_will_do() -> None:
    ensure_private_directory("/tmp")


def test_another_users_directory_is_refused(elsewhere: Path) -> None:
    with pytest.raises(AccessDenied, match="belongs to uid"):
        ensure_private_directory(str(elsewhere))


def test_another_users_directory_is_refused_even_if_it_is_sticky(elsewhere: Path) -> None:
    """Sticky keeps the others from removing our files, but not the owner of the directory. So
    whoever is first to make /tmp/udsbus-UID, with mode 1777, could replace the socket."""
    elsewhere.chmod(0o1777)
    with pytest.raises(AccessDenied, match="belongs to uid"):
        ensure_private_directory(str(elsewhere))


def test_each_address_has_a_state_directory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    first, second = default_state("/run/a/default.sock"), default_state("/run/b/default.sock")
    assert first != second
    assert first == default_state("/run/a/default.sock")
    assert first.startswith("/somewhere/udsbus/default-")


@pytest.mark.parametrize("home", [None, "", "relative/place"])
def test_state_without_a_place_for_it(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    """The XDG specification has a default, and says that a relative path is invalid."""
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_STATE_HOME")
    if home is not None:
        monkeypatch.setenv("XDG_STATE_HOME", home)
    assert default_state("/run/x.sock").startswith("/home/somebody/.local/state/udsbus/x-")
