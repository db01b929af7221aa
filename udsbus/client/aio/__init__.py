"""The async client, on asyncio and trio.

`batches.py`, `client.py`, `holding.py` and `methods.py` are also the source of the sync client's
modules of the same names (`client.py`: of `sync.py`), see tools/twins.py.
"""
