"""The models that come with the package, by the name under which they are registered."""

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]  # `app` and `worker` lie side by side, in a checkout as when installed

BUNDLED: dict[str, Path] = {"critters-64": _ROOT / "worker" / "ml" / "pretrained" / "critters-64"}
