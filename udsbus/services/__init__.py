"""Calls: programs that ask one another for work, and workers that do it.

A worker has a socket of its own, and whoever calls it connects to that: a call is two messages
between two processes, and none through the broker. What the broker knows is who there is
(engine/services.py): it is asked when that has changed, which a word in the version page tells.

    finding.py    which workers there are, and which of them is free
    calling.py    the way of a call: find, take, ask, and what to do when the worker dies
    asking.py     one call over one connection
    offered.py    the functions that are served, and whether arguments fit them
    worker.py     the process that serves; aio/worker.py for coroutine functions
    failures.py   exceptions on their way
"""
