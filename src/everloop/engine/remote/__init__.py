"""The engine that is somebody else's: any OpenAI-compatible server by its URL."""

from everloop.engine.remote.engine import RemoteEngine
from everloop.engine.remote.http import RemoteOptions

__all__ = ["RemoteEngine", "RemoteOptions"]
