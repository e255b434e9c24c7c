"""Do the presets learn? Compressibility, incompressibility and a learned reward on the bundled model, on fixed seeds.

The learned reward is trained here, from simulated votes on samples of the base. Run, on a quiet machine:
    PYTHONPATH=. python benchmarks/learning.py --out benchmarks/results/learning
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from curves import Recorder, chart, conditions, learn, make_spec, sheet

from app.client.tastes import TASTES, SimulatedRater
from app.domain.bundled import BUNDLED
from app.domain.enums import Choice
from app.domain.presets import FINETUNE_PRESETS
from worker.ml.encoders import DEFAULT_ENCODER, load_encoder
from worker.ml.policy import load_policy
from worker.ml.preference import LabelledPair, PreferenceReward, image_features, train_reward_model
from worker.ml.progress import SilentMonitor
from worker.ml.rewards import Images, Reward, build_reward
from worker.ml.rollout import draw_samples

PRESETS = {
    "compressibility": "critters-compressibility",
    "incompressibility": "critters-incompressibility",
    "preference": "critters-quick",
}
UNITS = {"compressibility": "minus kB", "incompressibility": "kB", "preference": "standard deviations of the base"}
TASTE, ERROR = "warm", 0.05
RATED, VOTES = 128, 300
_RATED_SEED = 20_000


def evaluation(epochs: int, n: int) -> dict[str, int]:
    """The base, the middle and the end."""
    return {"every": max(1, (epochs + 1) // 2), "n": n, "seed": 650}


def rated_images(steps: int) -> Images:
    """Samples of the base that are neither trained on nor evaluated."""
    policy = load_policy(BUNDLED["critters-64"])
    seeds = range(_RATED_SEED, _RATED_SEED + RATED)
    return draw_samples(policy, seeds, steps=steps, eta=1.0, monitor=SilentMonitor(), batch_size=32)


def learned_reward(steps: int) -> tuple[Reward, dict[str, Any]]:
    """A reward model trained on the votes of one simulated rater, and how good it is."""
    images, encoder = rated_images(steps), load_encoder(DEFAULT_ENCODER)
    rater, rng = SimulatedRater(TASTES[TASTE], error=ERROR, seed=0), np.random.default_rng(0)
    pairs = []
    while len(pairs) < VOTES:
        left, right = (int(row) for row in rng.choice(RATED, 2, replace=False))
        choice = rater.choose(images[left], images[right])
        if choice in (Choice.LEFT, Choice.RIGHT, Choice.TIE) and choice.left_share is not None:
            pairs.append(LabelledPair(left, right, choice.left_share))
    features = image_features(encoder, images)
    head, report = train_reward_model(features, pairs, ensemble=5, seed=0, monitor=SilentMonitor())
    about = {"taste": TASTE, "error": ERROR, "votes": VOTES, "rated": RATED, "accuracy": report.accuracy}
    return PreferenceReward(encoder, head), {**about, "accuracy_interval": report.accuracy_interval}


def attribute(images: Images | None) -> dict[str, float]:
    """What the raters really like, which the run never saw: mean and standard error."""
    assert images is not None
    values = np.array([TASTES[TASTE].attribute(image) for image in images])
    return {"mean": float(values.mean()), "sem": float(values.std(ddof=1) / np.sqrt(len(values)))}


def run(name: str, *, n_eval: int, out: Path, epochs: int | None) -> dict[str, Any]:
    preset = FINETUNE_PRESETS[PRESETS[name]]
    length = epochs or int(preset["epochs"])
    fields: dict[str, Any] = {"preset": PRESETS[name], "epochs": length, "eval": evaluation(length, n_eval)}
    about: dict[str, Any] = {"preset": PRESETS[name], "unit": UNITS[name]}
    started = time.perf_counter()
    if name == "preference":
        reward, votes = learned_reward(int(preset["steps"]))
        about |= {"votes": votes, "seconds_votes": round(time.perf_counter() - started, 1)}
        fields["reward"] = {"name": "brightness"}  # names no reward model: the learned one is handed over below
    else:
        fields.setdefault("reward", {"name": f"jpeg_{name}"})
        spec = make_spec(fields)
        reward = build_reward(spec.reward, preference=_no_learned_reward)
    recorder = learn(name, make_spec(fields), reward)
    return {**about, **_result(recorder, name, out)}


def _result(recorder: Recorder, name: str, out: Path) -> dict[str, Any]:
    curve = recorder.curve
    assert recorder.first is not None
    assert recorder.last is not None
    sheet(np.concatenate([recorder.first[:16], recorder.last[:16]]), out.with_name(f"{out.name}_{name}.png"))
    result: dict[str, Any] = {"curve": asdict(curve), "gain_in_standard_errors": round(curve.standard_errors, 1)}
    if name == "preference":
        result["attribute"] = {"before": attribute(recorder.first), "after": attribute(recorder.last)}
    series = [(name, curve.evaluations, curve.means, curve.sems)]
    out.with_name(f"{out.name}_{name}.svg").write_text(chart(series, "network evaluations", UNITS[name]))
    return result


def _no_learned_reward(_: object, k: float) -> Reward:
    raise AssertionError("these rewards need no votes")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rewards", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--n-eval", type=int, default=64)
    parser.add_argument("--epochs", type=int, help="instead of the preset's, to try the benchmark itself")
    options = parser.parse_args(arguments)
    path = options.out.with_suffix(".json")
    results = json.loads(path.read_text()) if path.is_file() else {}
    for name in options.rewards:
        before = conditions()
        results[name] = {"conditions": before} | run(
            name, n_eval=options.n_eval, out=options.out, epochs=options.epochs
        )
        path.write_text(json.dumps(results, indent=1) + "\n")
        means = results[name]["curve"]["means"]
        print(f"{name}: {means[0]:.3f} -> {means[-1]:.3f}, {results[name]['gain_in_standard_errors']} standard errors")


if __name__ == "__main__":
    main()
