"""Templates and files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from udsbus.running.naming import Unusable, Value
from udsbus.running.rendering import Rendering, put, rendered

FOUND = {"DB_URL": Value("x\udcff", "'db-url'"), "mine": Value("m", "'k'"), "_2": Value("2", "'2'")}


def filled(tmp_path: Path, text: str) -> bytes:
    template = tmp_path / "template"
    template.write_bytes(text.encode())
    return rendered(Rendering(template, tmp_path / "file"), FOUND)


def test_names_in_any_case(tmp_path: Path) -> None:
    assert filled(tmp_path, "é $db_url $DB_URL ${mine}${_2} $$") == "é x\udcff x\udcff m2 $".encode(
        "utf-8", "surrogateescape"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("$port", r"no key gives a value for \$port in .*template"),
        ("a\n$ b", r"template: no name behind the \$ at line 2, col 1; \$\$ stands"),
    ],
)
def test_what_is_wrong_with_it(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Unusable, match=says):
        filled(tmp_path, text)


def test_a_template_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"the template .*none cannot be read: No such file"):
        rendered(Rendering(tmp_path / "none", tmp_path / "file"), FOUND)


def test_a_file_is_new_or_replaced_or_left(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert put(file, b"a")
    before = file.stat()
    assert stat.S_IMODE(before.st_mode) == 0o600
    assert not put(file, b"a")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    file.chmod(0o640)
    with file.open("rb") as reader:
        assert put(file, b"b")
        assert reader.read() == b"a", "whoever reads it has one of them whole"
    assert file.read_bytes() == b"b"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    for content in (b"a", b"b"):
        assert put(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_bytes() == content


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="none/file cannot be written: No such file"):
        put(tmp_path / "none" / "file", b"a")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Unusable, match="fifo is no file"):
        put(tmp_path / "fifo", b"a")
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
