"""Folds what is closed in a state directory: the process of `durability.fold_beside`."""

from __future__ import annotations

import json
import logging
import sqlite3
import sys

from ..errors import Error
from .directory import list_segments
from .folding import AT_ONCE, BACKLOG, Retention, fold, give_way

path, retention = sys.argv[1:]
if len(list_segments(path)) <= BACKLOG:
    give_way()
fields = json.loads(retention)
fields[2] = tuple((pattern, seconds) for pattern, seconds in fields[2])
try:
    fold(path, Retention(*fields), most=AT_ONCE)
except (OSError, sqlite3.Error, Error) as error:
    logging.error("the journal in %s cannot be folded: %s", path, error)
    sys.exit(1)
