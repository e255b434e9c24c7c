"""Named finetune settings. `critters-quick` is tuned by measurement on two CPU cores; the others are the thesis's."""

from typing import Any

FINETUNE_PRESETS: dict[str, dict[str, Any]] = {
    "critters-quick": {
        "epochs": 6,
        "samples_per_epoch": 64,
        "steps": 20,
        "objective": "is",
        "lr": {"peak": 2e-4},
        "updates_per_epoch": 4,
        "batch_size": 64,
        "timestep_fraction": 0.5,
        "advantage": {"baseline": "mean", "clip": 5.0},
        "eval": {"every": 1, "n": 16, "seed": 650},
    },
}
