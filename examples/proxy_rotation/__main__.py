"""A proxy whose upstream rotates while it runs. From a checkout of udsbus:

    pip install -e ".[examples]"
    python -m examples.proxy_rotation

It starts a bus, proxy.py with three worker processes, and three small HTTP servers; moves the
upstream from one to the next, by mistake to nowhere, and back; and shows who answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import httpx
from proxy import Proxy

import udsbus

from .plugin import RotatingUpstream
from .rotation import CURRENT, WORKERS, roll_back, rotate
from .servers import serving

PROXY = [
    "--hostname=127.0.0.1",
    "--port=0",  # any free one
    "--num-workers=3",
    "--num-acceptors=2",
    "--local-executor=0",  # else the acceptors do the work, and take up a connection 25 ms late
    "--log-level=WARNING",
]


def main() -> None:
    with udsbus.LocalBroker() as broker:
        os.environ["UDSBUS_SOCKET"] = broker.address  # for the plugin; the workers inherit it
        with (
            Proxy(PROXY, plugins=[RotatingUpstream]) as proxy,  # forks: before there are threads
            serving("A", "B", "C") as servers,
            broker.connect(name="rotator") as bus,
            httpx.Client(proxy=f"http://127.0.0.1:{proxy.flags.port}", trust_env=False) as web,
        ):
            demonstrate(bus, servers, lambda: web.get("http://service.example/").text)


def demonstrate(bus: udsbus.Client, servers: dict[str, str], ask: Callable[[], str]) -> None:
    bus.on_change(CURRENT, log_change)

    for name, address in servers.items():
        rotate(bus, address)
        print(f"rotated to {name}: answered by {ask()}{ask()}{ask()}{ask()}")
    roll_back(bus)
    print(f"rolled back:  answered by {ask()}{ask()}{ask()}{ask()}")

    with bus.watch(f"{WORKERS}/*", initial=True) as reports:
        bus.set(CURRENT, "127.0.0.1:eighty")  # not by way of rotate(), which would refuse it
        print(f"a mistake:    answered by {ask()}{ask()}{ask()}{ask()}")
        while report := reports.get(timeout=10):
            if isinstance(report, udsbus.Change) and report.value["trouble"]:
                break  # it is reported
    for key, state in bus.items(f"{WORKERS}/*"):
        print(f"{key}: {state}")


def log_change(change: udsbus.Change) -> None:
    print(f"    [revision {change.revision}] {change.key} {change.kind}: {change.value!r}")


if __name__ == "__main__":
    main()
