"""The release. One place: the package, the broker's `hello` and pyproject.toml read it here."""

__version__ = "0.1.0"
