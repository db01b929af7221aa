"""The versions. One place: the package, `hello` and pyproject.toml read them here."""

PROTOCOL_VERSION = 1
"""Of the wire protocol; a broker speaks one."""

__version__ = "0.1.0"
