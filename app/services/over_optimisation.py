"""The over-optimisation report of a checkpoint: everything that is known of its run beside the base, and a verdict."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from statistics import fmean, pstdev
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.adapters.blobs import BlobStore
from app.db.models import Checkpoint, Job
from app.db.queries import analyses as queries
from app.db.queries import pages as page_queries
from app.domain.documented import Documented
from app.domain.errors import ConflictError
from app.domain.estimates import Estimate
from app.domain.over_optimisation import Evidence, Verdict, judge
from app.domain.rewards import BUILT_IN_REWARDS, PREFERENCE
from app.domain.specs import FinetuneSpec, RewardTerm
from app.domain.tables import PairedRow, compare_on_paired_seeds
from app.services.analyses import load_document
from app.services.campaign_stats import CampaignStats, campaign_stats
from app.services.checkpoints import require_checkpoint

_FEWEST_SEEDS = 2


class MeanView(BaseModel):
    mean: float
    sem: float


class RewardComparison(Documented):
    """One reward of the checkpoint beside its base on the seeds that both have; the error is of paired differences."""

    name: str
    label: str
    optimised: bool
    base: MeanView
    checkpoint: MeanView
    difference: MeanView
    n: int


class EstimateView(BaseModel):
    value: float | None
    interval: tuple[float, float] | None
    n: int


class EpochEvidence(BaseModel):
    """One saved epoch of the run. `rewards` are changes from the base in standard deviations of the base's samples."""

    checkpoint_id: UUID
    epoch: int
    kl_nats: float | None
    diversity_ratio: float | None
    rewards: dict[str, float]
    win_rate: EstimateView | None


class OverOptimisationReport(Documented):
    """Did finetuning earn its reward, or exploit it?"""

    checkpoint_id: UUID
    base_id: UUID
    job_id: UUID
    verdict: Verdict | None
    """Empty where the optimised reward is not known of two seeds at both."""
    sentence: str
    alarms: list[str]
    rewards: list[RewardComparison]
    diversity: tuple[EstimateView, EstimateView] | None
    """Vendi score of the base and of the checkpoint."""
    near_copies: tuple[EstimateView, EstimateView] | None
    """Share of near copies among the base's samples and the checkpoint's; known from a diversity analysis."""
    diversity_analysis_id: UUID | None
    kl_nats: float | None
    max_kl_nats: float | None
    win_rate: EstimateView | None
    """How often people prefer the checkpoint to the base; ties count half."""
    epochs: list[EpochEvidence]


def report_of(session: Session, blobs: BlobStore, checkpoint_id: UUID) -> OverOptimisationReport:
    """The report of a checkpoint that a finetune made.

    Raises:
        NotFoundError: there is no such checkpoint.
        ConflictError: it is a base, or what it was finetuned from is gone.
    """
    checkpoint = require_checkpoint(session, checkpoint_id)
    job = session.get(Job, checkpoint.job_id) if checkpoint.job_id is not None else None
    base = session.get(Checkpoint, checkpoint.parent_id) if checkpoint.parent_id is not None else None
    if job is None or base is None:
        raise ConflictError(
            f"{checkpoint.name} was not made by a finetune here, so there is nothing that it optimised."
        )
    spec = FinetuneSpec.model_validate(job.spec)
    line = [base, *queries.epochs_beside(session, checkpoint)]
    if checkpoint.id not in {row.id for row in line}:
        line.append(checkpoint)
    labels = reward_labels(session)
    values = _values(session, line, spec.reward, labels, judged=checkpoint.id)
    along = _values(session, line, spec.reward, labels)  # the run's own few seeds, which every epoch was drawn on
    rows = {name: each.compare(base.id, checkpoint.id, checkpoint.name) for name, each in values.items()}
    known = {name: row for name, row in rows.items() if row is not None}
    optimised = next((name for name in known if values[name].optimised), None)
    diverse = _diversity(session, blobs, base, checkpoint, job)
    diversity, copies = diverse.pair(checkpoint), diverse.copies
    stats_of = cache(partial(campaign_stats, session))  # one campaign may show many epochs
    wins = {row.id: _win_rate(session, stats_of, base.id, row.id) for row in line[1:]}
    shared: dict[str, Any] = {
        "kl_nats": checkpoint.kl_nats,
        "max_kl_nats": spec.guard.max_kl_nats,
        "win_rate": wins[checkpoint.id],
    }
    reversed_terms = {term.key for term in spec.reward if term.weight < 0}
    held_out = [row for name, row in known.items() if name != optimised and name not in reversed_terms]
    verdict, sentence, alarms = _judge(known[optimised] if optimised else None, held_out, diversity, copies, shared)
    return OverOptimisationReport(
        checkpoint_id=checkpoint.id,
        base_id=base.id,
        job_id=job.id,
        verdict=verdict,
        sentence=sentence,
        alarms=alarms,
        rewards=[values[name].view(row) for name, row in known.items()],
        diversity=_pair_view(diversity),
        near_copies=_pair_view(copies),
        diversity_analysis_id=diverse.analysis_id,
        epochs=[_epoch(row, base, along, diverse, wins[row.id]) for row in line[1:] if row.epoch is not None],
        **{**shared, "win_rate": _estimate_view(shared["win_rate"])},
    )


def reward_labels(session: Session) -> dict[str, str]:
    """Rewards' stored names in words: built-in ones by their titles, learned ones by their model's name."""
    titles = {reward.name: f"{reward.title} ({reward.unit})" for reward in BUILT_IN_REWARDS}
    learned = {f"{PREFERENCE}:{row.id}": f"Learned: {row.name}" for row in page_queries.reward_models(session)}
    return titles | learned


class _Values:
    """One reward along a line of checkpoints, by seed, and what it is called."""

    def __init__(self, name: str, label: str, *, optimised: bool, by_checkpoint: Mapping[UUID, Mapping[int, float]]):
        self.name, self.label, self.optimised, self.by_checkpoint = name, label, optimised, by_checkpoint

    def compare(self, base_id: UUID, checkpoint_id: UUID, name: str) -> PairedRow | None:
        found = self.by_checkpoint
        return compare_on_paired_seeds(self.label, name, found.get(base_id, {}), found.get(checkpoint_id, {}))

    def change(self, base_id: UUID, checkpoint_id: UUID) -> float | None:
        """In standard deviations of the base's samples; None where it is not known."""
        base, now = self.by_checkpoint.get(base_id, {}), self.by_checkpoint.get(checkpoint_id, {})
        seeds = base.keys() & now.keys()
        if len(seeds) < _FEWEST_SEEDS or not (spread := pstdev(base[seed] for seed in seeds)):
            return None
        return fmean(now[seed] - base[seed] for seed in seeds) / spread

    def view(self, row: PairedRow) -> RewardComparison:
        means = {part: MeanView(**vars(getattr(row, part))) for part in ("base", "difference")}
        return RewardComparison(
            name=self.name, label=self.label, optimised=self.optimised, checkpoint=MeanView(**vars(row.finetuned)),
            n=row.n, **means,
        )  # fmt: skip


def _values(
    session: Session,
    line: Sequence[Checkpoint],
    terms: Sequence[RewardTerm],
    labels: Mapping[str, str],
    *,
    judged: UUID | None = None,
) -> dict[str, _Values]:
    """Every reward that the base and another of the line have in common: on the recipe that the base and the `judged`
    checkpoint have the most samples of, else on the one that the most of the line shares."""
    base_id, ids = line[0].id, [row.id for row in line]
    recipes: dict[str, dict[tuple[int, float], dict[UUID, int]]] = defaultdict(lambda: defaultdict(dict))
    for name, id, steps, eta, n in queries.measured_recipes(session, ids):
        recipes[name][steps, eta][id] = n
    optimised = {term.key for term in terms}
    found: dict[str, _Values] = {}
    for name, by_recipe in recipes.items():
        shared = [
            (0 if judged is None else min(at[base_id], at.get(judged, 0)), len(at), sum(at.values()), recipe)
            for recipe, at in by_recipe.items()
            if base_id in at and len(at) > 1
        ]
        if not shared:
            continue
        steps, eta = max(shared)[-1]
        rows = queries.rewards_by_seed(session, ids, name=name, steps=steps, eta=eta)
        label = labels.get(name, name.replace("_", " "))
        found[name] = _Values(name, label, optimised=name in optimised, by_checkpoint=rows)
    is_itself = len(terms) == 1 and terms[0].weight >= 0
    return found if is_itself else _with_sum(found, base_id, terms)


def _with_sum(found: dict[str, _Values], base_id: UUID, terms: Sequence[RewardTerm]) -> dict[str, _Values]:
    """What a weighted run optimised is the sum, each reward standardised on the base (the negative of a single one in
    its own unit); its parts are shown beside it."""
    parts = [(found[term.key], term.weight) for term in terms if term.key in found]
    if len(parts) < len(terms):
        return found
    scales = []
    for part, _ in parts:
        base = list(part.by_checkpoint[base_id].values())
        scales.append((fmean(base), pstdev(base) or math.inf) if len(terms) > 1 else (0.0, abs(terms[0].weight)))
    summed: dict[UUID, dict[int, float]] = {}
    for id in parts[0][0].by_checkpoint:
        seeds = set.intersection(*(set(part.by_checkpoint[id]) for part, _ in parts))
        summed[id] = {
            seed: sum(
                weight * (part.by_checkpoint[id][seed] - mean) / spread
                for (part, weight), (mean, spread) in zip(parts, scales, strict=True)
            )
            for seed in seeds
        }
    label = "Weighted sum of " if len(parts) > 1 else "Negative of "
    label += " + ".join(part.label for part, _ in parts)
    return {"weighted_sum": _Values("weighted_sum", label, optimised=True, by_checkpoint=summed), **found}


def _judge(
    optimised: PairedRow | None,
    held_out: Sequence[PairedRow],
    diversity: tuple[Estimate, Estimate] | None,
    copies: tuple[Estimate, Estimate] | None,
    shared: Mapping[str, Any],
) -> tuple[Verdict | None, str, list[str]]:
    if optimised is None:
        return None, (
            "The reward that was optimised is not known of at least two seeds at both the base and "
            "this checkpoint. Evaluate both."
        ), []  # fmt: skip
    report = judge(Evidence(optimised=optimised, held_out=held_out, diversity=diversity, copies=copies, **shared))
    return report.verdict, report.sentence, report.alarms


@dataclass(frozen=True)
class _Diversities:
    """Vendi scores of the base and of checkpoints that were measured the same way."""

    base: Estimate | None = None
    by_checkpoint: Mapping[UUID, Estimate] = field(default_factory=dict)
    copies: tuple[Estimate, Estimate] | None = None
    analysis_id: UUID | None = None

    def pair(self, checkpoint: Checkpoint) -> tuple[Estimate, Estimate] | None:
        """None unless both are known. The run's own scores, on the run's seeds, stand in where no analysis has them."""
        now = self.by_checkpoint.get(checkpoint.id)
        if now is None and self.analysis_id is None and checkpoint.diversity is not None:
            now = Estimate(checkpoint.diversity, None, 0)
        return None if self.base is None or now is None else (self.base, now)


def _diversity(session: Session, blobs: BlobStore, base: Checkpoint, checkpoint: Checkpoint, run: Job) -> _Diversities:
    """From the newest diversity analysis of both; without one, what the run reported of its fixed seeds."""
    job = queries.newest_diversity(session, base.id, checkpoint.id)
    if job is None:
        reported = (queries.base_metrics(session, run.id) or {}).get("diversity")
        return _Diversities(base=Estimate(reported, None, 0) if reported else None)
    document = load_document(blobs, job.result["analysis_sha256"])
    n = len(document["seeds"])
    ids = [UUID(id) for id in job.spec["checkpoint_ids"]]
    rows = dict(zip(ids, document["diversity"], strict=True))
    vendi = {id: Estimate(row["vendi"]["value"], _interval(row["vendi"]), n) for id, row in rows.items()}
    before, after = (rows[id]["near_copies"] for id in (base.id, checkpoint.id))
    return _Diversities(
        base=vendi[base.id],
        by_checkpoint=vendi,
        copies=(
            Estimate(before["value"], _interval(before), before["n"]),
            Estimate(after["value"], _interval(after), after["n"]),
        ),
        analysis_id=job.id,
    )


def _interval(found: Mapping[str, Any]) -> tuple[float, float]:
    low, high = found["interval"]
    return low, high


def _win_rate(
    session: Session, stats_of: Callable[[UUID], CampaignStats], base_id: UUID, checkpoint_id: UUID
) -> Estimate | None:
    """From the campaign with the most votes between the two; None where nobody was asked."""
    best: Estimate | None = None
    for campaign_id in queries.campaigns_between(session, base_id, checkpoint_id):
        for row in stats_of(campaign_id).win_rates:
            if {row.a, row.b} != {base_id, checkpoint_id} or row.win_rate is None or row.interval is None:
                continue
            low, high = row.interval
            found = (
                Estimate(row.win_rate, (low, high), row.n)
                if row.a == checkpoint_id
                else Estimate(1 - row.win_rate, (1 - high, 1 - low), row.n)
            )
            if best is None or found.n > best.n:
                best = found
    return best


def _epoch(
    row: Checkpoint,
    base: Checkpoint,
    values: Mapping[str, _Values],
    diverse: _Diversities,
    win_rate: Estimate | None,
) -> EpochEvidence:
    assert row.epoch is not None
    changes = {name: each.change(base.id, row.id) for name, each in values.items()}
    pair = diverse.pair(row)
    ratio = pair[1].value / pair[0].value if pair and pair[1].value is not None and pair[0].value else None
    return EpochEvidence(
        checkpoint_id=row.id,
        epoch=row.epoch,
        kl_nats=row.kl_nats,
        diversity_ratio=ratio,
        rewards={name: change for name, change in changes.items() if change is not None},
        win_rate=_estimate_view(win_rate),
    )


def _estimate_view(estimate: Estimate | None) -> EstimateView | None:
    return None if estimate is None else EstimateView(**vars(estimate))


def _pair_view(pair: tuple[Estimate, Estimate] | None) -> tuple[EstimateView, EstimateView] | None:
    return None if pair is None else (EstimateView(**vars(pair[0])), EstimateView(**vars(pair[1])))
