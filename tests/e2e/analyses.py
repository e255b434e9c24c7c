"""Finished analyses for the browser tests' world: documents as the jobs leave them, over the world's own images."""

import math
from random import Random
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.db.models import Checkpoint, Job, Sample, Upload
from app.domain.enums import AnalysisKind

_STATES = [0, 5, 10, 15, 18, 20]
_TIMESTEPS = [950, 700, 450, 200, 50, None]


def _share(name: str, n: int, of: int = 300) -> dict[str, Any]:
    share, z2 = n / of, 1.96**2 / of
    middle, half = share + z2 / 2, math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    low, high = ((middle + sign * half) / (1 + z2) for sign in (-1, 1))
    return {"name": name, "share": share, "low": max(0.0, low), "high": high}


class AnalysisDocuments:
    """Puts documents into the blob store."""

    def __init__(self, session: Session, blobs: BlobStore, rng: Random) -> None:
        self._session, self._blobs, self._rng = session, blobs, rng

    def finish(self, job: Job, checkpoints: list[Checkpoint], body: dict[str, Any]) -> UUID:
        """Make `body` the result of an analysis."""
        kind = AnalysisKind(job.spec["kind"])
        document = {
            "kind": kind.value,
            "spec": job.spec,
            "checkpoints": [{"id": str(row.id), "name": row.name} for row in checkpoints],
            "seeds": list(range(job.spec["seed"], job.spec["seed"] + job.spec["n"])),
            **body,
        }
        job.result = {"kind": kind.value, "analysis_sha256": self._blobs.put_json(document)}
        return job.id

    def trajectories(self, images: list[Sample], n: int) -> dict[str, Any]:
        """Rewards that are decided late in x_t and early in x_0_pred."""
        final = [self._rng.gauss(0.53, 0.07) for _ in range(n)]
        noisy, denoised = (
            [
                [0.5 + (value - 0.5) * (step / 20) ** power + self._rng.gauss(0, 0.004) for step in _STATES[:-1]]
                + [value]
                for value in final
            ]
            for power in (3.0, 0.6)
        )
        ranks = {"best": final.index(max(final)), "worst": final.index(min(final))}
        along: dict[str, Any] = {
            name: {"mean": [sum(column) / n for column in zip(*rows, strict=True)], "values": rows}
            for name, rows in (("noisy", noisy), ("denoised", denoised))
        }
        for rank, row in ranks.items():
            shown = [images[(row + step) % len(images)].sha256 for step in _STATES]
            along[rank] = {"seed": 650 + row, "reward": final[row], "noisy": shown, "denoised": shown}
        return {"trajectories": [{"states": _STATES, "timesteps": _TIMESTEPS, "rewards": {"brightness": along}}]}

    def map(self, before: list[Sample], after: list[Sample]) -> dict[str, Any]:
        n = len(before)
        base = [(self._rng.gauss(0, 1), self._rng.gauss(0, 1)) for _ in range(n)]
        tuned = [(0.6 * x + 1.4 + self._rng.gauss(0, 0.1), 0.6 * y + 0.5) for x, y in base]
        plane = {"base": [list(point) for point in base], "finetuned": [list(point) for point in tuned]}
        reward = [[0.5 + 0.1 * x for x, _ in points] for points in (base, tuned)]
        return {
            "images": [[row.sha256 for row in rows] for rows in (before, after)],
            "rewards": {"brightness": reward},
            "maps": [
                {
                    "spread_ratio": 0.71,
                    "pca": {**plane, "explained_variance": [0.31, 0.12]},
                    "tsne": {**plane, "explained_variance": None},
                }
            ],
        }

    def diversity(self, n_checkpoints: int, n: int) -> dict[str, Any]:
        rows = []
        for place in range(n_checkpoints):
            vendi = 11.6 * math.exp(-0.06 * place)
            copies = 0.01 + 0.012 * place
            rows.append(
                {
                    "vendi": {"value": vendi, "interval": [vendi - 0.4, vendi + 0.4]},
                    "mean_pairwise_distance": {"value": 0.4 - 0.02 * place, "interval": [0.39 - 0.02 * place, 0.41]},
                    "near_copies": {"value": copies, "interval": [copies * 0.5, copies * 1.8], "n": n},
                }
            )
        return {"copy_threshold": 0.087, "diversity": rows}

    def ages(self) -> dict[str, Any]:
        """Two checkpoints' shares of nine classes among 300 samples, with Wilson's intervals; the second is older."""
        names = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
        counts = ((6, 12, 21, 126, 78, 33, 15, 6, 3), (0, 3, 9, 48, 72, 75, 54, 27, 12))
        return {
            "distributions": [
                {
                    "classes": [_share(name, n) for name, n in zip(names, row, strict=True)],
                    "groups": [_share("under 30", sum(row[:4])), _share("50 and over", sum(row[6:]))],
                }
                for row in counts
            ]
        }

    def inversion(self, images: list[Sample]) -> dict[str, Any]:
        results = [
            {"skip": skip, "image": images[place].sha256, "psnr": 19.4 + 3.1 * place if place < 5 else None}
            for place, skip in enumerate((0, 8, 16, 24, 32, 40))
        ]
        return {
            "inversions": [
                {
                    "image": images[0].sha256, "noise": images[7].sha256, "noise_skip": 0, "noise_mean": 0.014,
                    "noise_std": 0.981, "results": results,
                }
            ]
        }  # fmt: skip

    def upload(self, sample: Sample) -> Upload:
        row = Upload(sha256=sample.sha256, width=sample.width, height=sample.height, created_at=sample.created_at)
        self._session.add(row)
        self._session.flush()
        return row
