"""Commands that run while something is so: that a lock is held (`gated.py`), or what the bus says
(`supervisor.py`), with the values of keys as variables (`naming.py`) or in files (`rendering.py`).
"""
