"""The recipe's modules are scripts, not part of the package: put their folder on the path."""

from __future__ import annotations

import sys
from pathlib import Path

RECIPE = Path(__file__).parents[2] / "recipes" / "everloop-small"
sys.path.insert(0, str(RECIPE))
