"""What the tests that CPython has for its own classes need, to be run against ours."""

from __future__ import annotations

import itertools
import os
import unittest
from importlib import import_module
from typing import Any

import pytest

import udsbus
from udsbus import LocalBroker


def of_cpython(module: str) -> Any:
    """A module of CPython's own tests; skips the module that asks if there is none."""
    try:
        return import_module(f"test.{module}")
    except ImportError:  # Debian has it in a package of its own
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(
            "this Python comes without its own tests (Debian: apt install libpython3-testsuite)",
            allow_module_level=True,
        )


class OnABus(unittest.TestCase):
    """Each object that a test makes has a name of its own."""

    broker: LocalBroker
    client: udsbus.Client
    """Of the class whose tests run now, also for what has only `OnABus`."""
    names = itertools.count()

    @classmethod
    def setUpClass(cls) -> None:
        cls.broker = LocalBroker()
        cls.broker.__enter__()
        OnABus.client = cls.broker.connect()
        with cls.client.lock("first"):  # starts a thread, which the tests would take for a leak
            pass

    @classmethod
    def tearDownClass(cls) -> None:
        cls.client.close()
        cls.broker.__exit__(None, None, None)

    @classmethod
    def name(cls) -> str:
        return f"{cls.__name__}/{next(cls.names)}"
