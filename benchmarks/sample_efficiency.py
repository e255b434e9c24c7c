"""Reward against network evaluations: objectives, baselines, shaping, SDE window, credit by tile; several seeds each.

All variants of one reward share samples, steps, updates and learning rate. Run:
    PYTHONPATH=. python benchmarks/sample_efficiency.py --out benchmarks/results/sample_efficiency
Runs that are already in the output are kept, so an interrupted benchmark goes on.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from curves import Curve, chart, conditions, learn, make_spec

from worker.ml.rewards import build_reward

COMMON: dict[str, Any] = {
    "steps": 10,
    "samples_per_epoch": 64,
    "updates_per_epoch": 6,
    "batch_size": 32,
    "timestep_fraction": 0.5,
    "clip_nats": 20.0,
    "adam_eps": 3e-4,
    "lr": {"peak": 7e-5},
    "epochs": 3,
    "shaping": False,
}
JPEG: dict[str, Any] = {
    "objective": "sf",
    "adam_beta1": 0.0,
    "adam_eps": 0.1,
    "max_grad_norm": 0.02,
    "lr": {"peak": 0.05},
    "updates_per_epoch": 2,
}
WINDOW: dict[str, Any] = {"sde_window": {"start": 0, "length": 8}}
TILES: dict[str, Any] = {**JPEG, **WINDOW, "credit": "tiles"}
VARIANTS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "brightness": {
        "SF": {"objective": "sf"},
        "IS": {},
        "IS, leave one out": {"advantage": {"baseline": "leave_one_out"}},
        "IS, shaping": {"shaping": True},
        "IS, SDE window": {"sde_window": {"start": 0, "length": 7}},
        "IS, tiles": {"credit": "tiles"},
    },
    "jpeg_compressibility": {
        "SF, SDE window": {**JPEG, **WINDOW},
        "SF, SDE window, shaping": {**JPEG, **WINDOW, "shaping": True},
        "SF, SDE window, tiles": {**TILES, "advantage": {"per_step": True}},
        "SF, SDE window, tiles, shaping": {**TILES, "shaping": True, "advantage": {"per_step": True}},
        "SF, SDE window, tiles, shaping, mirror": {
            **TILES,
            "shaping": True,
            "advantage": {"per_step": True, "mirror": 1},
        },
    },
}


def run(reward: str, variant: str, seed: int, *, n_eval: int) -> Curve:
    fields = {
        **COMMON,
        **VARIANTS[reward][variant],
        "reward": {"name": reward},
        "seed": seed,
        "eval": {"every": COMMON["epochs"], "n": n_eval, "seed": 650},
    }
    spec = make_spec(fields)
    return learn(f"{reward} · {variant} · seed {seed}", spec, build_reward(spec.reward, preference=_none)).curve


def _none(_: object, k: float) -> Any:
    raise AssertionError("no learned reward here")


def summary(curves: Sequence[Curve]) -> dict[str, float]:
    """Mean over seeds of the gain, with its standard error, and the evaluations that it took."""
    gains = np.array([curve.gain for curve in curves])
    return {
        "gain": float(gains.mean()),
        "sem": float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0,
        "evaluations": curves[0].evaluations[-1],
    }


def table(found: Mapping[str, Mapping[str, Sequence[Curve]]]) -> str:
    """Markdown."""
    lines = [
        "| reward | variant | network evaluations | gain (mean ± standard error over seeds) | seeds |",
        "|---|---|---|---|---|",
    ]
    for reward, variants in found.items():
        for variant, curves in variants.items():
            row = summary(curves)
            gain = f"{row['gain']:.4f} ± {row['sem']:.4f}"
            lines.append(f"| {reward} | {variant} | {row['evaluations']:,.0f} | {gain} | {len(curves)} |")
    return "\n".join(lines) + "\n"


def write(found: Mapping[str, Mapping[str, Sequence[Curve]]], out: Path) -> None:
    data = {
        "conditions": conditions(),
        "common": COMMON,
        "variants": {reward: dict(variants) for reward, variants in VARIANTS.items()},
        "runs": {r: {v: [asdict(curve) for curve in curves] for v, curves in vs.items()} for r, vs in found.items()},
    }
    out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(found))
    for reward, variants in found.items():
        series = []
        for variant, curves in variants.items():
            values = np.array([curve.means for curve in curves])
            error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.zeros(values.shape[1])
            series.append((variant, curves[0].evaluations, values.mean(axis=0).tolist(), error.tolist()))
        out.with_name(f"{out.name}_{reward}.svg").write_text(chart(series, "network evaluations", reward))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n-eval", type=int, default=24)
    parser.add_argument("--rewards", nargs="+", default=list(VARIANTS))
    parser.add_argument("--variants", nargs="+", help="only these; all by default")
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, list[Curve]]] = {}
    path = options.out.with_suffix(".json")
    if path.is_file():
        stored = json.loads(path.read_text())["runs"]
        found = {r: {v: [Curve(**curve) for curve in curves] for v, curves in vs.items()} for r, vs in stored.items()}
    for seed in range(options.seeds):
        for reward in options.rewards:
            for variant in options.variants or VARIANTS[reward]:
                curves = found.setdefault(reward, {}).setdefault(variant, [])
                if len(curves) <= seed:
                    curves.append(run(reward, variant, seed, n_eval=options.n_eval))
                    write(found, options.out)
    print(table(found))


if __name__ == "__main__":
    main()
