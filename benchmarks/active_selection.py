"""How many votes the uncertainty strategy saves: held-out accuracy against votes, beside uniform picking.

Samples of the bundled model, the embedded encoder, simulated tastes with 5 % error, the product's own features, fit,
sketches and ranking. Images are split in halves: pairs are picked within one, accuracy is measured on random pairs of
the other against the taste itself. The model is refitted every `--batch` votes; 20 % of the votes stay random.
`python -m benchmarks.active_selection [--images FILE.npz] [--json]`; the drawing (20 steps) is kept in FILE.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from app.client.tastes import TASTES, Taste
from app.domain import pairing, uncertainty
from worker.ml import bradley_terry, pretrained
from worker.ml.block_components import block_components
from worker.ml.encoders import load_encoder
from worker.ml.image_features import feature_blocks
from worker.ml.policy import load_policy
from worker.ml.preference import _COMPONENTS, image_features
from worker.ml.progress import SilentMonitor
from worker.ml.rollout import draw_samples

FIRST_SEED, STEPS = 50_000, 20
AT = (100, 150, 200, 250, 300, 350, 400)
START = 50
ERROR = 0.05


def load_images(path: Path, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(images, features), drawn and encoded once."""
    if not path.exists():
        policy = load_policy(Path(pretrained.__file__).parent / "critters-64")
        seeds = range(FIRST_SEED, FIRST_SEED + n)
        images = draw_samples(policy, seeds, steps=STEPS, eta=1.0, monitor=SilentMonitor(), batch_size=32)
        features = image_features(load_encoder("efficientnet-lite0"), images)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=images, features=features)
    stored = np.load(path)
    return stored["images"][:n], stored["features"][:n]


class Campaign:
    """One simulated campaign of one taste: votes on the first half of the images, tests on the second."""

    def __init__(self, taste: Taste, attribute: np.ndarray, z: np.ndarray, widths: tuple[int, ...], seed: int) -> None:
        self.taste, self.attribute, self.z, self.widths = taste, attribute, z, widths
        self.half = len(z) // 2
        self.rng = np.random.default_rng(seed)

    def run(self, strategy: str, batch: int) -> dict[int, float]:
        pairs = self.random_pairs(START)
        votes = self.vote(pairs)
        curve = {}
        while True:
            posterior = self.fit(pairs, votes)
            if len(votes) in AT:
                curve[len(votes)] = self.accuracy(posterior)
            if len(votes) >= AT[-1]:
                return curve
            new = self.random_pairs(batch) if strategy == "uniform" else self.telling_pairs(posterior, batch)
            pairs, votes = np.concatenate([pairs, new]), np.concatenate([votes, self.vote(new)])

    def random_pairs(self, n: int) -> np.ndarray:
        first = self.rng.integers(0, self.half, n)
        return np.stack([first, (first + 1 + self.rng.integers(0, self.half - 1, n)) % self.half], axis=1)

    def telling_pairs(self, posterior: bradley_terry.Posterior, n: int) -> np.ndarray:
        """What `pair_selection` does on what the worker publishes."""
        rated = self.z[: self.half]
        sketches = uncertainty.decode(uncertainty.encode(rated @ posterior.mean, rated @ posterior.root))
        chosen = []
        for _ in range(n):
            if self.rng.random() < pairing.RANDOM_SHARE:
                chosen.append(self.random_pairs(1)[0])
                continue
            pool = self.random_pairs(pairing.UNCERTAINTY_CANDIDATES)
            gain = uncertainty.information(sketches[pool[:, 0]], sketches[pool[:, 1]])
            chosen.append(pool[int(gain.argmax())])
        return np.stack(chosen)

    def vote(self, pairs: np.ndarray) -> np.ndarray:
        difference = self.attribute[pairs[:, 0]] - self.attribute[pairs[:, 1]]
        tie = np.abs(difference) < self.taste.indifference
        errs = self.rng.random(len(pairs)) < ERROR
        return np.where(tie, 0.5, ((difference > 0) != errs).astype(float))

    def fit(self, pairs: np.ndarray, votes: np.ndarray) -> bradley_terry.Posterior:
        differences = self.z[pairs[:, 0]] - self.z[pairs[:, 1]]
        return bradley_terry.fit_block_scales(differences, votes, np.ones(len(votes)), self.widths)[1]

    def accuracy(self, posterior: bradley_terry.Posterior) -> float:
        """Share of the same 4000 random pairs of unseen images, ties left out, on which the taste is met."""
        rng = np.random.default_rng(99)
        n = len(self.z) - self.half
        first = rng.integers(0, n, 4000)
        second = (first + 1 + rng.integers(0, n - 1, 4000)) % n
        first, second = first + self.half, second + self.half
        truth = self.attribute[first] - self.attribute[second]
        told = np.abs(truth) >= self.taste.indifference
        reward = self.z @ posterior.mean
        return float((np.sign(reward[first] - reward[second]) == np.sign(truth))[told].mean())


def measure(images: np.ndarray, features: np.ndarray, tastes: list[str], seeds: int, batch: int) -> list[dict]:
    components = block_components(features, feature_blocks(features.shape[1]), keep=_COMPONENTS)
    rows = []
    for name in tastes:
        taste = TASTES[name]
        attribute = np.array([taste.attribute(image) for image in images])
        for strategy in ("uniform", "uncertainty"):
            curves = [
                Campaign(taste, attribute, components.values, components.widths, seed).run(strategy, batch)
                for seed in range(seeds)
            ]
            mean = {n: float(np.mean([curve[n] for curve in curves])) for n in AT}
            sem = {n: float(np.std([curve[n] for curve in curves], ddof=1) / np.sqrt(seeds)) for n in AT}
            rows.append({"taste": name, "strategy": strategy, "accuracy": mean, "sem": sem})
            print(f"{name:8}{strategy:14}" + "".join(f"{mean[n]:>9.4f}" for n in AT), flush=True)
    return rows


def mean_over_tastes(rows: list[dict], strategy: str) -> dict[int, float]:
    own = [row["accuracy"] for row in rows if row["strategy"] == strategy]
    return {n: float(np.mean([row[n] for row in own])) for n in AT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=Path("data/benchmarks/active_selection.npz"))
    parser.add_argument("--n", type=int, default=1024, help="images to draw")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=25, help="votes between two fits")
    parser.add_argument("--taste", action="append", choices=list(TASTES))
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    options = parser.parse_args()
    images, features = load_images(options.images, options.n)
    started = time.monotonic()
    print(f"{'taste':8}{'strategy':14}" + "".join(f"{n:>9}" for n in AT))
    rows = measure(images, features, options.taste or list(TASTES), options.seeds, options.batch)
    summary = {strategy: mean_over_tastes(rows, strategy) for strategy in ("uniform", "uncertainty")}
    for strategy, mean in summary.items():
        print(f"{'mean':8}{strategy:14}" + "".join(f"{mean[n]:>9.4f}" for n in AT))
    goal = summary["uniform"][400]
    reached = next((n for n in AT if summary["uncertainty"][n] >= goal), None)
    print(f"400 uniform votes: {goal:.4f}; uncertainty reaches that with {reached} votes or fewer")
    if options.json:
        result = {"n_images": len(images), "seeds": options.seeds, "batch": options.batch, "error": ERROR, "rows": rows}
        print(json.dumps(result | {"mean": summary, "reached_at": reached, "seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main()
