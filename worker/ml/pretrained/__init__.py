"""Checkpoints that ship with the package, as `diffusers` folders (safetensors) with a model card each."""

from pathlib import Path

BUNDLED: dict[str, Path] = {"critters-64": Path(__file__).parent / "critters-64"}
"""Name -> folder."""
