"""Handler of `analyze`: one JSON document with everything that a page shows, and the images that it names, as blobs.

The document holds no times and no ids of runs: the same spec gives the same bytes, hence the same hash.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sqlalchemy.orm import Session
from threadpoolctl import threadpool_limits

from app.db.models import Checkpoint
from app.db.queries import samples as queries
from app.db.queries.samples import Recipe
from app.domain.enums import AnalysisKind
from app.domain.errors import JobCancelledError
from app.domain.ratings import proportion
from app.domain.specs import AnalyzeSpec
from worker.jobs.context import JobContext, Record
from worker.jobs.drawing import draw_missing, load_checkpoint, open_for_drawing
from worker.jobs.embeddings import cached_chunks
from worker.jobs.images import encode_png, load_images
from worker.jobs.invert import invert
from worker.jobs.rewards import rewards_by_key
from worker.ml.analysis.classes import class_shares, merged_share
from worker.ml.analysis.copies import copy_threshold, count_copies
from worker.ml.analysis.embedding_map import Method, map_embeddings, spread_ratio
from worker.ml.analysis.reward_trajectory import RewardTrajectories, Strip, choose_states, trace_rewards
from worker.ml.diversity import bootstrap_interval, mean_pairwise_distance, vendi_score
from worker.ml.rewards import RewardHost
from worker.ml.rewards.age import AGE_CLASSES, classes_between, load_classifier

_DRAWING = 0.8  # share of the progress that drawing the samples stands for, where the analysis needs samples
_CHUNK = 64  # images that are decoded at once
_METHODS: tuple[Method, ...] = ("pca", "tsne")


@dataclass(frozen=True)
class _Drawn:
    """A checkpoint and its sample of every seed, in the order of the seeds."""

    checkpoint: Checkpoint
    sha256s: list[str]


def run(context: JobContext) -> Record:
    spec = AnalyzeSpec.model_validate(context.job.spec)
    checkpoints = [load_checkpoint(context, checkpoint_id) for checkpoint_id in spec.checkpoint_ids]
    document = {
        "kind": spec.kind.value,
        "spec": spec.model_dump(mode="json"),
        "checkpoints": [{"id": str(checkpoint.id), "name": checkpoint.name} for checkpoint in checkpoints],
        "seeds": _seeds(spec),
        **_ANALYSES[spec.kind](context, spec, checkpoints),
    }
    blob = json.dumps(document, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()
    sha256 = context.blobs.put(blob)

    def record(session: Session) -> dict[str, Any]:
        return {"kind": spec.kind.value, "analysis_sha256": sha256}

    return record


def _reward_trajectory(context: JobContext, spec: AnalyzeSpec, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    rewards = rewards_by_key(context, spec.rewards)
    traced = []
    for position, checkpoint in enumerate(checkpoints):
        traces = trace_rewards(
            open_for_drawing(context, checkpoint),
            _seeds(spec),
            rewards,
            steps=spec.steps,
            eta=spec.eta,
            states=choose_states(spec.steps, spec.states),
            monitor=context.monitor,
            batch_size=context.settings.sample_batch_size,
            fraction=(position / len(checkpoints), (position + 1) / len(checkpoints)),
        )
        traced.append(
            {
                "states": traces.states,
                "timesteps": traces.timesteps,
                "rewards": {name: _trajectories(context, along) for name, along in traces.rewards.items()},
            }
        )
    return {"trajectories": traced}


def _trajectories(context: JobContext, along: RewardTrajectories) -> dict[str, Any]:
    return {
        "noisy": {"mean": along.noisy.mean(axis=0).tolist(), "values": along.noisy.tolist()},
        "denoised": {"mean": along.denoised.mean(axis=0).tolist(), "values": along.denoised.tolist()},
        **{rank: _strip(context, strip) for rank, strip in along.strips.items()},
    }


def _strip(context: JobContext, strip: Strip) -> dict[str, Any]:
    return {
        "seed": strip.seed,
        "reward": strip.reward,
        "noisy": [context.blobs.put(encode_png(image)) for image in strip.noisy],
        "denoised": [context.blobs.put(encode_png(image)) for image in strip.denoised],
    }


def _embedding_map(context: JobContext, spec: AnalyzeSpec, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    drawn = _draw(context, spec, checkpoints)
    embeddings = _embed(context, spec, drawn, fraction=(_DRAWING, 0.85))
    rewards = _rewards(context, spec, drawn, fraction=(0.85, 0.9))
    base, *others = embeddings
    maps: list[dict[str, Any]] = []
    for checkpoint, finetuned in zip(checkpoints[1:], others, strict=True):
        context.monitor.progress(0.9 + 0.1 * len(maps) / len(others), stage=f"Mapping {checkpoint.name}")
        _stop_if_asked(context)
        laid_out = {method: map_embeddings(base, finetuned, method=method, seed=spec.seed) for method in _METHODS}
        maps.append(
            {
                "checkpoint_id": str(checkpoint.id),
                "spread_ratio": spread_ratio(base, finetuned),
                **{
                    method: {
                        "base": points.base.tolist(),
                        "finetuned": points.finetuned.tolist(),
                        "explained_variance": points.explained_variance,
                    }
                    for method, points in laid_out.items()
                },
            }
        )
    return {"images": [each.sha256s for each in drawn], "rewards": rewards, "maps": maps}


def _rewards(
    context: JobContext, spec: AnalyzeSpec, drawn: Sequence[_Drawn], *, fraction: tuple[float, float]
) -> dict[str, list[list[float]]]:
    """Every reward of every checkpoint's samples."""
    rewards = rewards_by_key(context, spec.rewards)
    start, end = fraction
    share = (end - start) / max(1, len(rewards) * len(drawn))
    scored: dict[str, list[list[float]]] = {name: [] for name in rewards}
    for name, reward in rewards.items():
        for each in drawn:
            part = (start, start + share)
            values = _over(context, each.sha256s, reward, stage=f"Scoring {each.checkpoint.name}", fraction=part)
            scored[name].append(values.tolist())
            start += share
    return scored


def _diversity(context: JobContext, spec: AnalyzeSpec, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    drawn = _draw(context, spec, checkpoints)
    embeddings = _embed(context, spec, drawn, fraction=(_DRAWING, 0.9))
    threshold = copy_threshold(embeddings[0])
    measured: list[dict[str, Any]] = []
    for checkpoint, rows in zip(checkpoints, embeddings, strict=True):
        context.monitor.progress(0.9 + 0.1 * len(measured) / len(drawn), stage=f"Measuring {checkpoint.name}")
        _stop_if_asked(context)
        measured.append(
            {
                "vendi": _with_interval(rows, vendi_score, spec.seed),
                "mean_pairwise_distance": _with_interval(rows, mean_pairwise_distance, spec.seed),
                "near_copies": dataclasses.asdict(proportion(count_copies(rows, threshold), len(rows))),
            }
        )
    return {"copy_threshold": threshold, "diversity": measured}


def _with_interval(
    rows: Float[np.ndarray, "n d"], statistic: Callable[[Float[np.ndarray, "n d"]], float], seed: int
) -> dict[str, Any]:
    """A statistic with its 95 % interval, repeatable for a seed."""
    with threadpool_limits(limits=1, user_api="blas"):
        interval = bootstrap_interval(rows, statistic, rng=np.random.default_rng(seed))
        return {"value": statistic(rows), "interval": interval}


def _age_distribution(context: JobContext, spec: AnalyzeSpec, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    classifier = load_classifier(RewardHost(context.settings.weights_dir, context.device, context.monitor.log))
    distributions: list[dict[str, Any]] = []
    share = (1 - _DRAWING) / len(checkpoints)
    for position, each in enumerate(_draw(context, spec, checkpoints)):
        part = (_DRAWING + position * share, _DRAWING + (position + 1) * share)
        judged = cached_chunks(
            context, classifier.name, classifier.logits, each.sha256s, stage=f"Judging {each.checkpoint.name}",
            fraction=part,
        )  # fmt: skip
        shares = class_shares(np.concatenate([logits for _, logits in judged]), AGE_CLASSES)
        groups = (
            merged_share(shares, "under 30", classes_between(0, 29)),
            merged_share(shares, "50 and over", classes_between(50, None)),
        )
        distributions.append(
            {
                "classes": [dataclasses.asdict(share) for share in shares],
                "groups": [dataclasses.asdict(share) for share in groups],
            }
        )
    return {"distributions": distributions}


_Analysis = Callable[[JobContext, AnalyzeSpec, Sequence[Checkpoint]], dict[str, Any]]
_ANALYSES: dict[AnalysisKind, _Analysis] = {
    AnalysisKind.REWARD_TRAJECTORY: _reward_trajectory,
    AnalysisKind.EMBEDDING_MAP: _embedding_map,
    AnalysisKind.DIVERSITY: _diversity,
    AnalysisKind.AGE_DISTRIBUTION: _age_distribution,
    AnalysisKind.INVERSION: invert,
}


def _seeds(spec: AnalyzeSpec) -> list[int]:
    return list(range(spec.seed, spec.seed + spec.n))


def _draw(context: JobContext, spec: AnalyzeSpec, checkpoints: Sequence[Checkpoint]) -> list[_Drawn]:
    """The samples of every checkpoint on the same seeds; those that exist are used again."""
    drawn = []
    for position, checkpoint in enumerate(checkpoints):
        recipe = Recipe(checkpoint.id, spec.steps, spec.eta)
        share = _DRAWING / len(checkpoints)
        draw_missing(context, checkpoint, recipe, _seeds(spec), fraction=(position * share, (position + 1) * share))
        with context.database.reader() as session:
            by_seed = queries.samples_by_seed(session, recipe, _seeds(spec))
        drawn.append(_Drawn(checkpoint, [by_seed[seed].sha256 for seed in _seeds(spec)]))
    return drawn


def _embed(
    context: JobContext, spec: AnalyzeSpec, drawn: Sequence[_Drawn], *, fraction: tuple[float, float]
) -> list[Float[np.ndarray, "n d"]]:
    """Embeddings of every checkpoint's samples."""
    from worker.ml.encoders import load_encoder  # open_clip takes seconds to import; not all analyses need it

    name = spec.encoder or context.settings.encoder
    encoder = load_encoder(name, device=context.device, weights_dir=context.settings.weights_dir)
    start, end = fraction
    share = (end - start) / len(drawn)
    embeddings = []
    for position, each in enumerate(drawn):
        part = (start + position * share, start + (position + 1) * share)
        chunks = cached_chunks(context, encoder.name, encoder.encode, each.sha256s, fraction=part)
        embeddings.append(np.concatenate([rows for _, rows in chunks]))
    return embeddings


def _over(
    context: JobContext,
    sha256s: Sequence[str],
    measure: Callable[[np.ndarray], np.ndarray],
    *,
    stage: str,
    fraction: tuple[float, float],
) -> Float[np.ndarray, "n ..."]:
    """`measure` of the stored images, some at a time, in order."""
    start, end = fraction
    parts = []
    for first in range(0, len(sha256s), _CHUNK):
        _stop_if_asked(context)
        done = first / len(sha256s)
        context.monitor.progress(start + (end - start) * done, stage=f"{stage}: {first} of {len(sha256s)}")
        parts.append(measure(load_images(context.blobs, list(sha256s[first : first + _CHUNK]))))
    return np.concatenate(parts)


def _stop_if_asked(context: JobContext) -> None:
    if context.monitor.should_stop():
        raise JobCancelledError("Cancelled; the samples that were drawn are kept.")
