"""Which file is which key, and how one is replaced."""

from __future__ import annotations

import os
import re
import stat
import sys
import threading
from pathlib import Path

import pytest

from udsbus.config.files import Source, key_of, replace, sources
from udsbus.config.formats import FORMATS, UnreadableFile
from udsbus.errors import AccessDenied, InvalidRequest


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("app.toml", "config/app"), ("/etc/x/app.YAML", "config/app"), (".env", "config/env"),
        ("prod.env", "config/prod"), (".env.local", "config/env.local"), ("a.b.json", "config/a.b"),
        ("app.conf", "config/app.conf"), (".toml", "config/toml"),
    ],
)  # fmt: skip
def test_the_key_of_a_file(path: str, key: str) -> None:
    assert key_of(path) == key


@pytest.mark.parametrize("path", ["-", "...", "a*.toml", os.fsdecode(b"\xff.toml")])
def test_names_of_which_no_key_is_made(path: str) -> None:
    with pytest.raises(UnreadableFile, match="use --key"):
        key_of(path)


def test_what_does_not_go_together() -> None:
    for paths, key, said in (
        (["a.toml", "b.toml"], "k", "--key is for one file"),
        (["a.toml", "x/a.json"], None, "a.toml and x/a.json would both be 'config/a'"),
        (["a.conf"], None, "a.conf: its name does not say in which format it is: use --format"),
    ):
        with pytest.raises(UnreadableFile, match=said):
            sources(paths, key=key, form=None, split=False)
    with pytest.raises(AccessDenied):
        sources(["a.toml"], key="$sys/x", form=None, split=False)
    with pytest.raises(InvalidRequest):
        sources(["a.toml"], key="a//b", form=None, split=False)


def test_a_key_for_each_entry(tmp_path: Path) -> None:
    path = tmp_path / "app.json"
    path.write_text('{"a": 1, "b c": {"d": 2}}')
    [source] = sources([str(path)], key=None, form=None, split=True)
    assert source.pattern == "config/app/*"
    assert source.values() == {"config/app/a": 1, "config/app/b c": {"d": 2}}
    for name in ("", "a/b", "*"):
        path.write_text(f'{{"{name}": 1}}')
        with pytest.raises(UnreadableFile, match=f"with --split '{re.escape(name)}' would be a"):
            source.values()
    path.write_text("1: x")
    with pytest.raises(UnreadableFile, match="with --split 1 would be"):
        source._replace(form=FORMATS["yaml"]).values()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(UnreadableFile, match="cannot be read: "):
            Source(str(path), "k", FORMATS["toml"]).values()


def test_a_file_is_replaced(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace(str(tmp_path / "new"), b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    file = tmp_path / "file"
    file.write_bytes(b"before")
    file.chmod(0o604)
    (tmp_path / "link").symlink_to("file")
    with file.open("rb") as opened:
        replace(str(tmp_path / "link"), b"after")
        assert opened.read() == b"before", "who reads the old one reads all of it"
    assert (tmp_path / "link").is_symlink()
    assert file.read_bytes() == b"after"
    assert stat.S_IMODE(file.stat().st_mode) == 0o604
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link", "new"]


def test_who_reads_finds_the_old_or_the_new(tmp_path: Path) -> None:
    file = tmp_path / "file"
    contents = {bytes([letter]) * 100_000 for letter in b"abc"}
    replace(str(file), b"a" * 100_000)
    found: set[bytes] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            found.add(file.read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(30):
            for content in sorted(contents):
                replace(str(file), content)
    finally:
        ended.set()
        thread.join()
    assert found <= contents


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be written: No such file or directory"):
        replace(str(tmp_path / "none" / "file"), b"")
    (tmp_path / "directory").mkdir()
    with pytest.raises(InvalidRequest, match="cannot be written: Is a directory"):
        replace(str(tmp_path / "directory"), b"")
    assert [each.name for each in tmp_path.iterdir()] == ["directory"]


def test_what_is_no_regular_file_stays_what_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    thread.start()
    replace(str(pipe), b"content")
    thread.join()
    assert found == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_name_of_a_descriptor_is_no_file(tmp_path: Path) -> None:
    """What it is of is neither replaced nor begun anew."""
    file = tmp_path / "file"
    file.write_bytes(b"before ")
    number = file.stat().st_ino
    with file.open("ab") as opened:
        descriptor = opened.fileno()
        own = f"/dev/fd/{descriptor}"
        with pytest.raises(InvalidRequest, match="cannot be written: Bad file descriptor"):
            replace(own, b"to what nobody has given us")
        os.set_inheritable(descriptor, True)
        (tmp_path / "link").symlink_to(own)
        (tmp_path / "again").symlink_to("link")
        paths = (own, f"/proc/self/fd/{descriptor}", f"/proc/{os.getpid()}/fd/{descriptor}")
        for path in (*paths, str(tmp_path / "again")):
            replace(path, b"x")
    assert file.read_bytes() == b"before xxxx"
    assert file.stat().st_ino == number
    with pytest.raises(InvalidRequest, match="cannot be written: Bad file descriptor"):
        replace(own, b"")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InvalidRequest, match="cannot be written: Too many levels"):
        replace(str(tmp_path / "circle"), b"")
