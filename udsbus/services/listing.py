"""Which services there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ..client.requests import ClientInfo
from ..patterns import WORKER_KEYS
from .free import Taker, WorkerGone


class WorkerInfo(NamedTuple):
    """A process that serves."""

    pid: int
    client: str | None
    """The name of its client; None: it has none."""
    concurrency: int
    """Calls that it carries out at once."""
    free: int | None
    """How many of them it could begin now; None: this process cannot see that."""


class ServiceInfo(NamedTuple):
    """A service that can be called."""

    name: str
    methods: dict[str, tuple[str, str | None]]
    """Method → (its signature, the first line of its docstring). The method of a service that is
    one function is ""."""
    retry: int
    """How many other workers may be given a call whose worker has died."""
    workers: list[WorkerInfo]


def service_infos(
    found: Iterable[tuple[str, dict[str, Any]]], clients: Iterable[ClientInfo]
) -> list[ServiceInfo]:
    """From the keys of the workers."""
    names = {client.pid: client.name for client in clients}
    services: dict[str, ServiceInfo] = {}
    for key, about in found:
        name = key.removeprefix(WORKER_KEYS).rpartition("/")[0]
        if not is_of_worker(about):
            continue
        info = services.get(name)
        if info is None:
            info = services[name] = ServiceInfo(name, {}, about["retry"], [])
        info.methods.update(
            {method: (signature, doc) for method, (signature, doc) in about["methods"].items()}
        )
        pid, size = about["pid"], about["concurrency"]
        info.workers.append(WorkerInfo(pid, names.get(pid), size, _free(about["path"])))
    return [services[name] for name in sorted(services)]


def is_of_worker(about: Any) -> bool:
    """Whether it is what a worker tells of itself. Anybody can `offer` anything."""
    kinds = {"pid": int, "path": str, "retry": int, "concurrency": int, "methods": dict}
    return (
        isinstance(about, dict)
        and all(isinstance(about.get(name), kind) for name, kind in kinds.items())
        and "\0" not in about["path"]
        and all(_is_of_method(name, told) for name, told in about["methods"].items())
    )


def _is_of_method(name: Any, told: Any) -> bool:
    """Whether it is [signature, docstring or None]."""
    return (
        isinstance(name, str)
        and isinstance(told, list | tuple)
        and len(told) == 2
        and isinstance(told[0], str)
        and isinstance(told[1], str | None)
    )


def _free(path: str) -> int | None:
    try:
        taker = Taker(path + ".free")
    except (WorkerGone, OSError):
        return None
    try:
        return taker.waiting()
    finally:
        taker.close()
