"""The GPU tests share the tiny policy and the recorders of the numerical unit tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "ml"))
