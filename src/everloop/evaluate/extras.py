"""Libraries that only evaluation needs, loaded when they are."""

from __future__ import annotations

import importlib
from typing import Any

from everloop.errors import EverloopError


def load(module: str) -> Any:
    """Imports a module of the `evaluate` extra. Raises EverloopError naming the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EverloopError(
            f"Evaluation needs {module.partition('.')[0]}, which is not installed. "
            'Install it with: pip install "everloop[evaluate]"'
        ) from error
