"""Handler of `reward_model`: a frozen label snapshot and cached embeddings become a reward model."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from jaxtyping import Float
from sqlalchemy.orm import Session

from app.db.models import RewardModel
from app.db.queries import learning as queries
from app.db.queries import samples as sample_queries
from app.domain import uncertainty
from app.domain.enums import Choice
from app.domain.errors import CorruptDataError, JobError
from app.domain.specs import RewardModelSpec, RewardTerm
from worker.jobs.context import JobContext, Record
from worker.jobs.embeddings import cached_chunks
from worker.jobs.monitor import PartMonitor
from worker.ml.encoders import Encoder, load_encoder
from worker.ml.image_features import join_features
from worker.ml.preference import LabelledPair, colour_features, reward_posterior, train_reward_model

_MAX_REFERENCE_SAMPLES = 2000
"""Samples of the campaign's checkpoints that are embedded beside the rated ones: they shape the features and the
reference set, and they get a reward, by which undecided pairs are found."""

_CHUNK = 64  # images that are embedded and committed at once
_EMBEDDING = 0.7  # share of the job's progress that embedding stands for


def run(context: JobContext) -> Record:
    spec = RewardModelSpec.model_validate(context.job.spec)
    snapshot_id = UUID(context.job.inputs["snapshot_id"])
    with context.database.reader() as session:
        snapshot = queries.get_snapshot(session, snapshot_id)
        checkpoint_ids = queries.campaign_checkpoint_ids(session, spec.campaign_id)
        reference = sample_queries.samples_of_checkpoints(session, checkpoint_ids, limit=_MAX_REFERENCE_SAMPLES)
    if snapshot is None:
        raise JobError("The label snapshot does not exist any more; submit the job anew.")
    votes = _read_votes(context.blobs.get(snapshot.sha256))
    if not votes:
        raise JobError("The campaign has no votes yet; rate some pairs first.")
    sha256_of_sample = {sample.id: sample.sha256 for sample in reference}
    for vote in votes:
        sha256_of_sample[UUID(vote["left_sample_id"])] = vote["left_sha256"]
        sha256_of_sample[UUID(vote["right_sample_id"])] = vote["right_sha256"]
    row_of = {sha256: row for row, sha256 in enumerate(dict.fromkeys(sha256_of_sample.values()))}

    encoder_name = spec.encoder or context.settings.encoder
    encoder = load_encoder(encoder_name, device=context.device, weights_dir=context.settings.weights_dir)
    features = _features(context, encoder, list(row_of))
    monitor = PartMonitor(context.monitor, _EMBEDDING, 1.0)
    pairs = _fitted_pairs(votes, row_of)
    head, report = train_reward_model(features, pairs, ensemble=spec.ensemble, seed=spec.seed, monitor=monitor)
    sketches = uncertainty.encode(*reward_posterior(features, pairs))
    shown = [sample for sample in reference if sample.sha256 in row_of]
    blob_sha256 = context.blobs.put(head.to_bytes())
    rewards = head.mean(features)
    model_id = uuid4()
    low, high = report.accuracy_interval or (None, None)

    def record(session: Session) -> dict[str, Any]:
        session.add(
            RewardModel(
                id=model_id,
                job_id=context.job.id,
                campaign_id=spec.campaign_id,
                snapshot_id=snapshot_id,
                name=context.job.name,
                encoder=encoder_name,
                blob_sha256=blob_sha256,
                n_labels=report.n_labels,
                accuracy=report.accuracy,
                accuracy_low=low,
                accuracy_high=high,
                human_ceiling=report.human_ceiling,
                ece=report.ece,
                report=dataclasses.asdict(report),
                created_at=context.clock.now(),
            )
        )
        session.flush()
        name = RewardTerm(name="preference", reward_model_id=model_id).key
        by_sample = {sample_id: float(rewards[row_of[sha256]]) for sample_id, sha256 in sha256_of_sample.items()}
        sample_queries.record_rewards(session, name, by_sample)
        vectors = [(sample.id, sketches[row_of[sample.sha256]]) for sample in shown]
        queries.replace_sketches(session, spec.campaign_id, vectors)
        return {
            "reward_model_id": str(model_id),
            "n_labels": report.n_labels,
            "accuracy": report.accuracy,
            "accuracy_interval": report.accuracy_interval,
        }

    return record


def _read_votes(blob: bytes) -> list[dict[str, Any]]:
    """One vote a line.

    Raises:
        CorruptDataError: a line is no vote.
    """
    try:
        return [json.loads(line) for line in blob.splitlines()]
    except ValueError as error:
        raise CorruptDataError(f"The label snapshot is not JSON lines: {error}") from error


def _fitted_pairs(votes: Iterable[Mapping[str, Any]], row_of: Mapping[str, int]) -> list[LabelledPair]:
    """Votes that say something about which side is better; both_bad and skip do not."""
    pairs = []
    for vote in votes:
        left_share = Choice(vote["choice"]).left_share
        if left_share is not None:
            left, right = row_of[vote["left_sha256"]], row_of[vote["right_sha256"]]
            weight = float(vote.get("weight", 1.0))  # snapshots of before weighed every vote alike
            pairs.append(LabelledPair(left, right, left_share, weight, vote["rater"], vote["is_random"]))
    return pairs


def _features(context: JobContext, encoder: Encoder, sha256s: list[str]) -> Float[np.ndarray, "n d"]:
    """Colour features and embedding of every image."""
    chunks = cached_chunks(context, encoder.name, encoder.encode, sha256s, fraction=(0.0, _EMBEDDING))
    return np.concatenate([join_features(colour_features(images), embeddings) for images, embeddings in chunks])
