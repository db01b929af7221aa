"""Folds what is closed in a state directory: the process of `durability.fold_beside`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import sys

from ..errors import Error
from .folding import NICE, Retention, fold

with contextlib.suppress(OSError):
    os.nice(NICE)
path, retention = sys.argv[1:]
fields = json.loads(retention)
fields[2] = tuple((pattern, seconds) for pattern, seconds in fields[2])
try:
    fold(path, Retention(*fields))
except (OSError, sqlite3.Error, Error) as error:
    logging.error("the journal in %s cannot be folded: %s", path, error)
    sys.exit(1)
