"""Pictures and pages of results that are there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.measures.rivals import TOGETHER
from benchmarks.plots import draw
from benchmarks.plots.pictures import PICTURES
from benchmarks.plots.style import DARK, LIGHT
from benchmarks.results import REDIS, UDSBUS, Table

ROWS: dict[str, list[tuple[str, str]]] = {
    "latency": [(of, name) for of in ("set", "get") for name in ("p50", "p90", "p99", "p99.9")],
    "throughput": [
        (group, name) for group in ("1 process", "4 processes") for name in ("calls", "p99")
    ],
    "batches": [("pipeline of 1,000 set", "writes")],
    "values": [("16 B", "through"), ("1 MiB", "through")],
    "rivals": [
        (group, name)
        for group in ("memcached", "a file; udsbus from memory")
        for name in ("set, p50", "get, p50", TOGETHER)
    ],
    "calls": [("against lines", "p50"), ("against lists", "p50"), ("workers", "p50")],
    "locks": [
        ("acquire and release", "p50"),
        ("4 processes, each holds it 1 ms", "grants"),
        ("4 processes, each holds it 1 ms", "release to next, p50"),
    ],
    "fanout": [
        ("until a function is called", "p50"),
        ("1 watchers", "delivered"),
        ("10 watchers", "delivered"),
    ],
    "connections": [
        (group, name)
        for group in ("1 connection", "1,000 connections", "1,000 connections, against 100")
        for name in ("p50", "p99")
    ],
    "keys": [
        ("no key", "resident memory"),
        *(
            (group, name)
            for group in ("1,000 keys", "1,000,000 keys")
            for name in ("get, p50", "set, p50", "memory a key", "resident memory")
        ),
    ],
    "restart": [("1,000 keys", "start to first answer"), ("20,000 keys", "start to first answer")],
}
"""What the pictures need of each table."""


def results(*names: str, redis: float = 100.0, udsbus: float = 25.0) -> dict[str, Any]:
    """Of these tables, or of all."""
    tables = []
    for name in names or ROWS:
        table = Table(name, f"Title of {name}")
        for group, figure in ROWS[name]:
            for spread in (1.0, 1.25):
                table.row(group, figure, "µs").add(REDIS, redis * spread)
                table.row(group, figure, "µs").add(UDSBUS, udsbus * spread)
        tables.append(table.as_json())
    return {"facts": {"machine": "this one"}, "tables": tables, "broken": []}


def words(path: Path) -> list[str]:
    return [text.strip() for text in ElementTree.parse(path).getroot().itertext() if text.strip()]


def test_there_is_a_light_and_a_dark_picture_of_each(tmp_path: Path) -> None:
    assert draw(results()["tables"], tmp_path) == list(PICTURES)
    names = {f"{picture.name}{ending}.svg" for picture in PICTURES for ending in ("", "-dark")}
    assert {path.name for path in tmp_path.iterdir()} == names
    for picture in PICTURES:
        light, dark = (tmp_path / f"{picture.name}{ending}.svg" for ending in ("", "-dark"))
        assert words(light) == words(dark)
        for path, theme, other in ((light, LIGHT, DARK), (dark, DARK, LIGHT)):
            assert theme.text in path.read_text()
            assert other.text not in path.read_text()


def test_the_same_results_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("once", "again"):
        draw(results("latency", "rivals")["tables"], tmp_path / name)
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("udsbus", "set_and_get", "together"),
    [(25.0, "4.00×", "4.00× worse"), (400.0, "4.00× worse", "4.00×")],
)
def test_losses_beside_rivals_are_said(
    tmp_path: Path, udsbus: float, set_and_get: str, together: str
) -> None:
    draw(results("rivals", udsbus=udsbus)["tables"], tmp_path)
    assert words(tmp_path / "rivals.svg").count(set_and_get) == 4
    assert words(tmp_path / "rivals-together.svg").count(together) == 2


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    batches, values = results("batches", "values")["tables"]
    values["rows"] = []
    assert [picture.name for picture in draw([batches, values], tmp_path)] == ["batches"]
    assert {path.name for path in tmp_path.iterdir()} == {"batches.svg", "batches-dark.svg"}


def test_a_page_shows_the_pictures_of_an_earlier_run(tmp_path: Path) -> None:
    text = page_of(results("rivals", "keys"), tmp_path, "--plots", str(tmp_path / "plots"))
    for name, table in (("rivals", "rivals"), ("keys", "keys"), ("memory", "keys")):
        picture = next(one for one in PICTURES if one.name == name)
        shown = (
            f'<source media="(prefers-color-scheme: dark)" srcset="plots/{name}-dark.svg">'
            f'<img src="plots/{name}.svg" alt="{picture.title}">'
        )
        heading = text.index(f"## `{table}`")
        assert heading < text.index(shown) < text.index("| |", heading)


def test_a_page_without_pictures_names_none(tmp_path: Path) -> None:
    assert "<img" not in page_of(results(), tmp_path)


def page_of(found: dict[str, Any], directory: Path, *options: str) -> str:
    """What the command writes of results that it does not measure."""
    earlier, page = directory / "results.json", directory / "results.md"
    earlier.write_text(json.dumps(found))
    done = CliRunner().invoke(main, ["--from", str(earlier), "--markdown", str(page), *options])
    assert done.exit_code == 0, done.output
    return page.read_text()
