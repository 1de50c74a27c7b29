"""The engine of our own: a model in a child process, stepped for many requests at once."""

from everloop.engine.native.engine import NativeEngine
from everloop.engine.native.options import NativeOptions

__all__ = ["NativeEngine", "NativeOptions"]
