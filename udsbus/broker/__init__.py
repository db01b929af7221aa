"""The turn, connections, and everything else where the wire and the engine meet."""

from .pair import Inherited
from .server import Broker, Settings, run

__all__ = ["Broker", "Inherited", "Settings", "run"]
