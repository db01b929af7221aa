"""Configuration files and the keys that hold what is in them: see docs/config.md.

[formats.py](formats.py) is the table of formats, with [reading.py](reading.py) and
[writing.py](writing.py); [files.py](files.py) says which file is which key;
[differences.py](differences.py) compares, [pushing.py](pushing.py) writes to the bus,
[following.py](following.py) does it at every save that [saves.py](saves.py) sees, which on Linux
[inotify.py](inotify.py) tells of; [pulling.py](pulling.py) writes files, and [past.py](past.py)
goes back. `udsbus config` is the command for it.
"""
