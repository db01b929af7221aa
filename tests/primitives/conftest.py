from __future__ import annotations

from tests.client.conftest import bus, client

__all__ = ["bus", "client"]
