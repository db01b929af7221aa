"""From a name like `module:app` to what is served."""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

from ..errors import InvalidRequest
from ..services.collection import Declared, Services


def named(app: str) -> tuple[str, str]:
    """The module, and the name in it; "": none is said. Raises InvalidRequest."""
    module_name, _, attribute = app.partition(":")
    if not module_name:
        raise InvalidRequest(f"{app!r} names no module; it is MODULE:NAME")
    if "/" in module_name or module_name.startswith(".") or module_name.endswith(".py"):
        hint = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise InvalidRequest(
            f"{app!r}: {module_name} is a file; the module is {hint}, as in "
            f"{hint}:{attribute or 'app'}. For a program that is asked over its stdin: "
            "--stdio -- COMMAND"
        )
    return module_name, attribute


def load(app: str, service: str | None, retry: int, concurrency: int) -> list[Declared]:
    """What `app` names: a `Services`, or a function, class or object, which is served as `service`
    (by default its own name).

    Raises InvalidRequest for a name that leads nowhere; and whatever the module raises.
    """
    module_name, attribute = named(app)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise InvalidRequest(
            f"{app!r}: there is no module {module_name} (looked for from the present directory on)"
        ) from None
    for part in (attribute or "app").split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise InvalidRequest(f"{app!r}: {module_name} has no {attribute or 'app'}") from None
    if isinstance(found, Services):
        if not found.declared:
            raise InvalidRequest(f"{app!r} declares no service")
        if service is not None or retry or concurrency != 1:
            names = ", ".join(declared.name for declared in found.declared)
            raise InvalidRequest(
                f"{app!r} declares its own services ({names}); --service, --retry and "
                "--concurrency are for a function, class or object"
            )
        return found.declared
    name = service or getattr(found, "__name__", None) or type(found).__name__.lower()
    if inspect.isclass(found) and service is None:
        name = name.lower()
    return [Declared(name, found, retry, concurrency)]
