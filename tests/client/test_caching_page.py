"""docs/caching.md: its example, and what it says of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from udsbus import CacheInfo
from udsbus.broker.versionpage import RECORDS_AHEAD
from udsbus.client.aio.methods import GIVE_WAY
from udsbus.limits import CACHE_BYTES, CACHE_ENTRIES, MIB, VERSION_RECORDS, VERSION_SLOTS
from udsbus.records import ROOM

PAGE = (Path(__file__).parent.parent.parent / "docs" / "caching.md").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the version page needs Linux")
def test_the_example_runs() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    said = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert said.stdout.startswith(b"CacheInfo(hits=2, misses=1, entries=1,")


def test_the_numbers() -> None:
    text = " ".join(PAGE.split())
    assert (
        f"up to {CACHE_ENTRIES:,} keys, absent ones among them, in about {CACHE_BYTES // MIB} MiB"
        in text
    )
    assert f"encoded form is above {CACHE_BYTES // 8 // 2 // MIB} MiB is not remembered" in text
    assert f"in {VERSION_SLOTS:,} words that the keys share, and {VERSION_RECORDS:,} places" in text
    assert f"together up to {ROOM} bytes" in text
    assert f"within the last {RECORDS_AHEAD} changes" in text
    assert f"each {GIVE_WAY}th does" in text


def test_each_field() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(CacheInfo._fields)
