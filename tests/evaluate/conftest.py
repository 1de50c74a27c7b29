"""The small real model of the engine's tests."""

from tests.engine.conftest import model_dir

__all__ = ["model_dir"]
