"""Which files have been saved: real files, and what the system really tells of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import TextIO

import pytest

from udsbus.config.inotify import Inotify
from udsbus.config.saves import Nothing, Notices, Saved, Watchfiles, saves

PATIENCE = 20.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    directory.mkdir()
    for name in ("a", "b"):
        (directory / name).write_text("1")
    return directory


class Saves:
    """What is told, as the names of files."""

    def __init__(self, *paths: Path, notices: Notices | None = None) -> None:
        self.said: list[str] = []
        self.iterator = saves([str(path) for path in paths], self.said.append, notices)
        assert self.next() == {path.name for path in paths}
        assert self.rest() == set()

    def next(self) -> set[str]:
        """The names of those that are saved next."""
        until = monotonic() + PATIENCE
        while monotonic() < until:
            if saved := next(self.iterator).files:
                return {os.path.basename(path) for path in saved}
        raise AssertionError("no save was seen")

    def rest(self) -> set[str]:
        """What else is told of now: none, but that the system may tell of one save twice. After
        that it has watched for a while, so that it sees what does not change how a file looks."""
        found: set[str] = set()
        quiet = 0
        while quiet < 2:
            saved = next(self.iterator).files
            quiet = 0 if saved else quiet + 1
            found |= {os.path.basename(path) for path in saved}
        return found


class Deaf(Nothing):
    """So that the files are only looked at."""


KINDS: dict[str, Callable[[], Notices | None]] = {
    "the best": lambda: None, "watchfiles": Watchfiles, "none": Deaf,
}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def seen(directory: Path, kind: str) -> Iterator[Saves]:
    one = Saves(directory / "a", directory / "b", notices=KINDS[kind]())
    with closing(one.iterator):
        yield one
    assert one.said == []


def write(path: Path) -> None:
    path.write_text("2")


def rename_over(path: Path) -> None:
    new = path.with_name("new")
    new.write_text("1")
    new.replace(path)


def rename_away_and_write(path: Path) -> None:
    """As vim does it with `backupcopy=no`."""
    path.rename(path.with_name("a~"))
    path.write_text("2")


def touch(path: Path) -> None:
    os.utime(path)


def write_the_same(path: Path) -> None:
    """Of the same length, at once: a file system's clock may not tell it from the one before."""
    before = path.stat()
    path.write_text("1")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("save", [write, rename_over, rename_away_and_write, touch, write_the_same])
def test_a_save(seen: Saves, kind: str, directory: Path, save: Callable[[Path], None]) -> None:
    if kind == "none" and save is write_the_same:
        pytest.skip("nothing of it can be seen")
    for _ in range(2):
        save(directory / "a")
        assert seen.next() == {"a"}
    assert seen.rest() <= {"a"}


def test_what_is_removed_and_comes_back(seen: Saves, directory: Path) -> None:
    (directory / "a").unlink()
    assert seen.next() == {"a"}
    (directory / "a").write_text("1")
    assert seen.next() == {"a"}


def test_other_files_are_nothing(seen: Saves, directory: Path) -> None:
    (directory / "c").write_text("1")
    (directory / "a~").write_text("1")
    (directory / "b").write_text("2")
    assert seen.next() == {"b"}


def test_what_is_saved_before_it_watches(directory: Path) -> None:
    with closing(saves([str(directory / "a")], print)) as iterator:
        assert len(next(iterator).files) == 1
        write(directory / "a")
        assert len(next(iterator).files) == 1


def test_the_directory_is_another(seen: Saves, kind: str, directory: Path) -> None:
    directory.rename(directory.with_name("old"))
    directory.mkdir()
    for name in ("a", "b"):
        (directory / name).write_text("3")
    found = seen.next()
    while found != {"a", "b"}:
        found |= seen.next()
    seen.rest()
    (write if kind == "none" else write_the_same)(directory / "a")
    assert seen.next() == {"a"}, "it looks into the new one"


def test_there_is_no_directory_for_a_while(seen: Saves, directory: Path) -> None:
    shutil.rmtree(directory)
    found = seen.next()
    while found != {"a", "b"}:
        found |= seen.next()
    seen.rest()
    directory.mkdir()
    write(directory / "a")
    assert seen.next() == {"a"}


def test_links_to_what_changes_at_once(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        for name in ("a", "b"):
            (tmp_path / version / name).write_text(version)
    (tmp_path / "data").symlink_to("1")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(f"data/{name}")
    seen = Saves(tmp_path / "a", tmp_path / "b")
    with closing(seen.iterator):
        (tmp_path / "data.new").symlink_to("2")
        (tmp_path / "data.new").replace(tmp_path / "data")
        assert seen.next() == {"a", "b"}
        seen.rest()
        write_the_same(tmp_path / "2" / "a")
        assert seen.next() == {"a"}, "it looks where the links lead now"


# --- what is being written --------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify")


@pytest.fixture
def best(directory: Path) -> Iterator[Saves]:
    one = Saves(directory / "a", directory / "b")
    with closing(one.iterator):
        yield one
    assert one.said == []


def half(path: Path) -> TextIO:
    """Somebody has begun to write."""
    file = path.open("w")
    file.write("2")
    file.flush()
    return file


@linux
def test_what_is_being_written_is_not_saved_yet(best: Saves, directory: Path) -> None:
    with half(directory / "a") as file:
        assert best.rest() == set()
        assert next(best.iterator) == Saved(set(), {str(directory / "a")})
        write(directory / "b")
        assert best.next() == {"b"}, "it holds up no other"
        file.write("3")
        file.flush()
        assert best.rest() == set()
    assert best.next() == {"a"}
    assert next(best.iterator).writing == set()


@linux
def test_what_was_renamed_before_it_was_closed(best: Saves, directory: Path) -> None:
    with half(directory / "new"):
        (directory / "new").replace(directory / "a")
        assert best.rest() == set()
    assert best.next() == {"a"}


@linux
def test_what_is_written_behind_a_link(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("etc")
    (tmp_path / "a").symlink_to("link/a")
    seen = Saves(tmp_path / "a")
    with closing(seen.iterator):
        with half(directory / "a"):
            assert seen.rest() == set()
        assert seen.next() == {"a"}


@linux
def test_its_directory_is_another_before_it_is_closed(best: Saves, directory: Path) -> None:
    with half(directory / "a"):
        assert best.rest() == set()
        old = directory.with_name("old")
        directory.rename(old)
        directory.mkdir()
        write(directory / "a")
        write(directory / "b")
        found = best.next()
        while found != {"a", "b"}:
            found |= best.next()


@linux
def test_one_that_is_not_closed_is_not_waited_for_for_ever(
    best: Saves, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udsbus.config.inotify.OPEN_MOST_SECONDS", 2.0)
    with half(directory / "a"):
        assert not next(best.iterator).files
        assert best.next() == {"a"}
    assert best.next() == {"a"}
    os.truncate(directory / "a", 0)  # which nobody has to close
    assert best.next() == {"a"}


# --- where nothing is told --------------------------------------------------------------------


@linux
def test_there_is_no_room_for_a_while(directory: Path) -> None:
    """This user's inotify instances are all taken."""
    taken: list[Inotify] = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(Inotify())
        seen = Saves(directory / "a", directory / "b")
        with closing(seen.iterator):
            for _ in range(2):
                write(directory / "a")
                assert seen.next() == {"a"}
                rename_over(directory / "b")
                assert seen.next() == {"b"}
            assert seen.said == [
                "inotify has no room for another watch (Too many open files): the files are looked "
                "at once a second"
            ]
            while taken:
                taken.pop().close()
            seen.rest()
            write_the_same(directory / "a")
            assert seen.next() == {"a"}, "it is told again"
            assert len(seen.said) == 1
    finally:
        for one in taken:
            one.close()


def test_without_the_extra() -> None:
    script = (
        "import sys; sys.modules['watchfiles'] = None\n"
        "from udsbus.config.saves import saves\n"
        "from udsbus.errors import MissingExtra\n"
        "sys.platform = 'darwin'\n"
        "try: next(saves([], print))\n"
        "except MissingExtra as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "--watch needs the package watchfiles: pip install 'udsbus[config]'\n"
