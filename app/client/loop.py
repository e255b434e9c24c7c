"""The proof: the whole loop through the REST API, with raters whose taste the system sees only in their votes."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any
from uuid import uuid4

from app.client.client import Json, TastemakerClient
from app.client.tastes import TASTES, Rgb, SimulatedRater, Taste, read_rgb
from app.domain.errors import InvalidSpecError, JobError
from app.domain.presets import FINETUNE_PRESETS

_POOL_SEED, _FIXED_SEED = 10_000, 20_000
_LEASE = 20


@dataclass(frozen=True)
class LoopPlan:
    """What the loop does. `pool` samples are drawn for rating; `fixed` seeds, which no rater of the reward model saw,
    measure the result; `blind` votes judge the finetuned checkpoint against its base on those."""

    taste: str
    votes: int = 300
    error: float = 0.05
    raters: int = 5
    preset: str = "critters-quick"
    base: str = "critters-64"
    seed: int = 0
    pool: int = 192
    fixed: int = 256
    blind: int = 250


@dataclass
class LoopSummary:
    """What came of it. Intervals are 95 %; `attribute_*` are `{mean, sem, n, unit}` over the same fixed seeds."""

    taste: str
    votes: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    attribute_before: Json
    attribute_after: Json
    win_rate: float
    win_rate_interval: tuple[float, float]
    base_checkpoint_id: str
    finetuned_checkpoint_id: str
    reward_model_id: str
    campaign_id: str
    blind_campaign_id: str
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> Json:
        return asdict(self)


@dataclass(frozen=True)
class _Rater:
    client: TastemakerClient
    opinion: SimulatedRater
    user_id: str


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)


def run_loop(client: TastemakerClient, plan: LoopPlan, *, report: Callable[[str], None]) -> LoopSummary:
    """Run the plan against a server; `report` gets a line a stage.

    Raises:
        InvalidSpecError: there is no such taste.
        TastemakerError: the server refused something, or a job failed; the message is the server's.
    """
    if plan.taste not in TASTES:
        raise InvalidSpecError(f"There is no taste {plan.taste!r}; choose one of: {', '.join(TASTES)}.")
    taste = TASTES[plan.taste]
    watch = _Stopwatch()
    run = f"{taste.name}-{uuid4().hex[:6]}"
    base = client.ensure_base(plan.base)
    raters = list(_make_raters(client, plan, taste, run))
    steps = _steps_of(client, plan)

    with watch.stage("draw"):
        report(f"drawing {plan.pool} samples of {plan.base} to rate")
        spec = {"checkpoint_id": base["id"], "n": plan.pool, "seed": _POOL_SEED + plan.seed, "steps": steps}
        client.wait_for_job(client.submit_job("sample", spec, name=f"{run}: samples to rate")["id"])
    with watch.stage("rate"):
        campaign = _campaign(client, raters, run, taste.question, [base["id"]], plan.votes)
        n_votes = _vote(raters, campaign["id"], plan.votes)
        report(f"{n_votes} votes by {len(raters)} raters with {plan.error:.0%} error, who prefer: {taste.title}")
    with watch.stage("reward_model"):
        job = client.submit_job(
            "reward_model", {"campaign_id": campaign["id"], "seed": plan.seed}, name=f"{run}: taste"
        )
        reward_model = client.get_reward_model(client.wait_for_job(job["id"])["result"]["reward_model_id"])
        report(f"held-out accuracy {_interval(reward_model['accuracy'], reward_model['accuracy_interval'])}")
    with watch.stage("finetune"):
        report(f"finetuning with the preset {plan.preset}")
        spec = {
            "checkpoint_id": base["id"],
            "preset": plan.preset,
            "reward": {"name": "preference", "reward_model_id": reward_model["id"]},
            "seed": plan.seed,
        }
        job = client.wait_for_job(client.submit_job("finetune", spec, name=f"{run}: finetune")["id"])
        tuned_id = str(job["result"]["checkpoint_id"])
    with watch.stage("measure"):
        report(f"drawing {plan.fixed} fixed seeds before and after")
        before, after = (_attribute(client, id, plan, steps, taste, run) for id in (base["id"], tuned_id))
    with watch.stage("blind_test"):
        blind = _blind_campaign(client, raters, run, taste.question, [base["id"], tuned_id], plan.blind)
        _vote(raters, blind["id"], plan.blind)
        win = _win_rate_of(client.campaign_stats(blind["id"]), tuned_id)
    for rater in raters:
        rater.client.close()
    return LoopSummary(
        taste=taste.name,
        votes=n_votes,
        accuracy=reward_model["accuracy"],
        accuracy_interval=_pair(reward_model["accuracy_interval"]),
        attribute_before=before,
        attribute_after=after,
        win_rate=win["win_rate"],
        win_rate_interval=_pair(win["interval"]),
        base_checkpoint_id=base["id"],
        finetuned_checkpoint_id=tuned_id,
        reward_model_id=reward_model["id"],
        campaign_id=campaign["id"],
        blind_campaign_id=blind["id"],
        seconds={**watch.seconds, "total": round(sum(watch.seconds.values()), 1)},
    )


def print_summary(summary: LoopSummary, write: Callable[[str], None] = print) -> None:
    """The result for people."""
    before, after = summary.attribute_before, summary.attribute_after
    write("")
    write(f"taste                {summary.taste}")
    write(f"votes                {summary.votes}")
    write(f"held-out accuracy    {_interval(summary.accuracy, summary.accuracy_interval)}")
    write(f"attribute before     {before['mean']:.4f} ± {before['sem']:.4f}  ({before['unit']}; n = {before['n']})")
    write(f"attribute after      {after['mean']:.4f} ± {after['sem']:.4f}")
    write(f"blind win rate       {_interval(summary.win_rate, summary.win_rate_interval)}")
    write(f"seconds              {', '.join(f'{stage} {value:.0f}' for stage, value in summary.seconds.items())}")


def _steps_of(client: TastemakerClient, plan: LoopPlan) -> int:
    """Samples are rated, trained and measured with the same number of denoising steps: the preset's."""
    preset = FINETUNE_PRESETS.get(plan.preset)
    if preset is None:
        raise InvalidSpecError(f"There is no preset {plan.preset!r}; choose one of: {', '.join(FINETUNE_PRESETS)}.")
    return int(preset.get("steps", 40))


def _make_raters(client: TastemakerClient, plan: LoopPlan, taste: Taste, run: str) -> Iterator[_Rater]:
    for number in range(plan.raters):
        user = client.create_user(f"simulated {run} {number + 1}", "rater")
        token = client.create_token(user["id"], name=run, role="rater")["token"]
        opinion = SimulatedRater(taste, error=plan.error, seed=plan.seed * 1000 + number)
        yield _Rater(client.with_token(token), opinion, user["id"])


def _campaign(
    client: TastemakerClient,
    raters: Sequence[_Rater],
    name: str,
    question: str,
    checkpoint_ids: list[str],
    budget: int,
    strategy: str = "uniform",
) -> Json:
    campaign = client.create_campaign(
        name=name, question=question, checkpoint_ids=checkpoint_ids, budget=budget, strategy=strategy
    )
    client.add_raters(campaign["id"], [rater.user_id for rater in raters])
    return campaign


def _blind_campaign(
    client: TastemakerClient, raters: Sequence[_Rater], run: str, question: str, ids: list[str], budget: int
) -> Json:
    return _campaign(client, raters, f"{run}: blind test", question, ids, budget, strategy="tournament")


def _vote(raters: Sequence[_Rater], campaign_id: str, votes: int) -> int:
    """Every rater gives an equal share of the votes, all at the same time. Returns how many were given."""
    share, rest = divmod(votes, len(raters))
    shares = [share + (number < rest) for number in range(len(raters))]
    with ThreadPoolExecutor(len(raters)) as pool:
        given = list(
            pool.map(lambda pair: _vote_alone(pair[0], campaign_id, pair[1]), zip(raters, shares, strict=True))
        )
    return sum(given)


def _vote_alone(rater: _Rater, campaign_id: str, votes: int) -> int:
    given = 0
    while given < votes:
        comparisons = rater.client.lease_comparisons(campaign_id, min(_LEASE, votes - given))
        if not comparisons:
            break
        for comparison in comparisons:
            shown = time.monotonic()
            left, right = (read_rgb(rater.client.get_image(comparison[side]["image"])) for side in ("left", "right"))
            choice = rater.opinion.choose(left, right)
            rater.client.vote(comparison["id"], choice.value, response_ms=round((time.monotonic() - shown) * 1000))
            given += 1
    return given


def _attribute(
    client: TastemakerClient, checkpoint_id: str, plan: LoopPlan, steps: int, taste: Taste, run: str
) -> Json:
    first = _FIXED_SEED + plan.seed
    spec = {"checkpoint_id": checkpoint_id, "n": plan.fixed, "seed": first, "steps": steps}
    client.wait_for_job(client.submit_job("sample", spec, name=f"{run}: fixed seeds")["id"])
    wanted = range(first, first + plan.fixed)
    values = [
        taste.attribute(_pixels(client, sample))
        for sample in client.list_samples(checkpoint_id)
        if sample["seed"] in wanted and sample["steps"] == steps
    ]
    if len(values) < plan.fixed:
        raise JobError(f"Only {len(values)} of {plan.fixed} fixed seeds of checkpoint {checkpoint_id} were drawn.")
    return {"mean": fmean(values), "sem": stdev(values) / math.sqrt(len(values)), "n": len(values), "unit": taste.unit}


def _pixels(client: TastemakerClient, sample: Json) -> Rgb:
    return read_rgb(client.get_image(sample["links"]["image"]))


def _win_rate_of(stats: Json, checkpoint_id: str) -> Json:
    """The win rate of this checkpoint, whichever side of the table it stands on."""
    for row in stats["win_rates"]:
        if row["a"] == checkpoint_id:
            return dict(row)
        if row["b"] == checkpoint_id:
            low, high = row["interval"]
            return {**row, "win_rate": 1 - row["win_rate"], "interval": [1 - high, 1 - low]}
    raise JobError("The blind test has no votes on the finetuned checkpoint.")


def _pair(interval: Sequence[Any]) -> tuple[float, float]:
    low, high = interval
    return float(low), float(high)


def _interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
