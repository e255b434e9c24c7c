"""`tastemaker simulate`: raters of known tastes and manners vote through the API; does rater health find them out?"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from statistics import fmean
from uuid import uuid4

from app.client.client import Json, TastemakerClient
from app.client.tastes import TASTES, SimulatedRater, Taste, read_rgb
from app.domain.errors import InvalidSpecError

_LEASE = 20
_AT_ONCE = 8


@dataclass(frozen=True)
class SimulationPlan:
    """Who votes. Of the raters, the shares `flippers`, `leaning` and `lazy` are coin-flippers (half of whose answers
    are wrong), choose left on a third of the pairs without looking, or press the last key again on half of them."""

    taste: str = "bright"
    raters: int = 30
    votes: int = 3000
    error: float = 0.05
    flippers: float = 0.1
    leaning: float = 0.0
    lazy: float = 0.0
    gold: int = 0
    overlap: int = 1
    strategy: str = "uniform"
    seed: int = 0


@dataclass(frozen=True)
class SimulationSummary:
    """What the statistics say of raters whose manners are known.

    `auc` by kind of manners is the chance that a rater of that kind follows the others less (has a lower slope) than an
    attentive one; null where there is none of either.
    """

    campaign_id: str
    votes: int
    seconds: float
    auc: dict[str, float | None]
    slope: dict[str, float | None]
    weight: dict[str, float | None]
    alpha: float | None
    human_ceiling: float | None
    left_bias: float | None
    self_consistency: float | None
    verdict: list[str]

    def as_dict(self) -> Json:
        return asdict(self)


@dataclass(frozen=True)
class _Rater:
    user_id: str
    kind: str
    client: TastemakerClient
    opinion: SimulatedRater


def run_simulation(
    client: TastemakerClient, plan: SimulationPlan, checkpoint_ids: Sequence[str], *, report: Callable[[str], None]
) -> SimulationSummary:
    """Open a campaign on samples of these checkpoints, let the raters vote, and compare their health with the truth.

    Raises:
        InvalidSpecError: there is no such taste, or the shares add up to more than one.
        TastemakerError: the server refused something; the message is the server's.
    """
    if plan.taste not in TASTES:
        raise InvalidSpecError(f"There is no taste {plan.taste!r}; choose one of: {', '.join(TASTES)}.")
    if plan.flippers + plan.leaning + plan.lazy > 1:
        raise InvalidSpecError("The shares of coin-flippers, leaning and lazy raters add up to more than all raters.")
    taste = TASTES[plan.taste]
    name = f"simulated {plan.taste} {uuid4().hex[:6]}"
    campaign = client.create_campaign(
        name=name, question=taste.question, checkpoint_ids=list(checkpoint_ids), budget=plan.votes,
        overlap=plan.overlap, strategy=plan.strategy,
    )  # fmt: skip
    raters = [_make_rater(client, plan, taste, name, number, kind) for number, kind in enumerate(_kinds(plan))]
    client.add_raters(campaign["id"], [rater.user_id for rater in raters])
    if plan.gold:
        report(f"marking {_mark_gold(client, campaign['id'], checkpoint_ids, taste, plan.gold)} gold pairs")
    report(f"{len(raters)} raters give {plan.votes} votes")
    started = time.monotonic()
    votes = _vote(raters, campaign["id"], plan.votes)
    seconds = time.monotonic() - started
    for rater in raters:
        rater.client.close()
    return _summary(client.campaign_stats(campaign["id"]), raters, campaign["id"], votes, seconds)


def print_summary(summary: SimulationSummary, write: Callable[[str], None] = print) -> None:
    """The result for people."""
    write("")
    write(f"campaign             {summary.campaign_id}")
    write(f"votes                {summary.votes} in {summary.seconds:.0f} s")
    write(f"Krippendorff's alpha {_number(summary.alpha)}")
    write(f"human ceiling        {_number(summary.human_ceiling)}")
    write(f"left chosen          {_number(summary.left_bias)}")
    write(f"self-consistency     {_number(summary.self_consistency)}")
    write("")
    write(f"{'raters':<16}{'slope':>8}{'weight':>8}{'AUC':>8}")
    for kind, slope in summary.slope.items():
        found = _number(summary.auc.get(kind))
        write(f"{kind:<16}{_number(slope):>8}{_number(summary.weight[kind]):>8}{found:>8}")
    for sentence in summary.verdict:
        write(f"- {sentence}")


def _kinds(plan: SimulationPlan) -> list[str]:
    kinds = []
    for kind, share in (("flipper", plan.flippers), ("leaning", plan.leaning), ("lazy", plan.lazy)):
        kinds += [kind] * round(share * plan.raters)
    return (kinds + ["attentive"] * plan.raters)[: plan.raters]


def _make_rater(
    client: TastemakerClient, plan: SimulationPlan, taste: Taste, run: str, number: int, kind: str
) -> _Rater:
    user = client.create_user(f"{run} {number + 1} ({kind})", "rater")
    token = client.create_token(user["id"], name=run, role="rater")["token"]
    opinion = SimulatedRater(
        taste,
        error=0.5 if kind == "flipper" else plan.error,
        left_bias=1 / 3 if kind == "leaning" else 0.0,
        laziness=0.5 if kind == "lazy" else 0.0,
        seed=plan.seed * 1000 + number,
    )
    return _Rater(user["id"], kind, client.with_token(token), opinion)


def _mark_gold(
    client: TastemakerClient, campaign_id: str, checkpoint_ids: Sequence[str], taste: Taste, wanted: int
) -> int:
    """The pairs of the samples with the most and the least of the attribute. Returns how many there were."""
    samples = [sample for id in checkpoint_ids for sample in client.list_samples(id)]
    ranked = sorted(samples, key=lambda sample: taste.attribute(read_rgb(client.get_image(sample["links"]["image"]))))
    n = min(wanted, len(ranked) // 2)
    for worse, better in zip(ranked[:n], ranked[::-1][:n], strict=True):
        client.mark_gold(campaign_id, better["id"], worse["id"])
    return n


def _vote(raters: Sequence[_Rater], campaign_id: str, votes: int) -> int:
    """Every rater gives an equal share, some raters at the same time. Returns how many were given."""
    share, rest = divmod(votes, len(raters))
    shares = [share + (number < rest) for number in range(len(raters))]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return sum(pool.map(lambda rater, own: _vote_alone(rater, campaign_id, own), raters, shares))


def _vote_alone(rater: _Rater, campaign_id: str, votes: int) -> int:
    given = 0
    while given < votes:
        comparisons = rater.client.lease_comparisons(campaign_id, min(_LEASE, votes - given))
        if not comparisons:
            break
        for comparison in comparisons:
            left, right = (read_rgb(rater.client.get_image(comparison[side]["image"])) for side in ("left", "right"))
            choice = rater.opinion.choose(left, right)
            rater.client.vote(comparison["id"], choice.value, response_ms=rater.opinion.response_ms)
            given += 1
    return given


def _summary(stats: Json, raters: Sequence[_Rater], campaign_id: str, votes: int, seconds: float) -> SimulationSummary:
    kind_of = {rater.user_id: rater.kind for rater in raters}
    kinds = dict.fromkeys(kind_of.values())
    slopes: dict[str, list[float]] = {kind: [] for kind in kinds}
    weights: dict[str, list[float]] = {kind: [] for kind in kinds}
    for row in stats["raters"]:
        kind = kind_of[row["user_id"]]
        weights[kind].append(row["weight"])
        if row["slope"]["value"] is not None:
            slopes[kind].append(row["slope"]["value"])
    good = slopes.get("attentive", [])
    return SimulationSummary(
        campaign_id=campaign_id,
        votes=votes,
        seconds=round(seconds, 1),
        auc={kind: _auc(slopes[kind], good) for kind in kinds if kind != "attentive"},
        slope={kind: fmean(slopes[kind]) if slopes[kind] else None for kind in kinds},
        weight={kind: fmean(weights[kind]) if weights[kind] else None for kind in kinds},
        alpha=stats["agreement"]["value"],
        human_ceiling=stats["human_ceiling"]["value"],
        left_bias=stats["left_bias"]["value"],
        self_consistency=stats["self_consistency"]["value"],
        verdict=stats["verdict"],
    )


def _auc(low: Sequence[float], high: Sequence[float]) -> float | None:
    if not low or not high:
        return None
    return fmean(1.0 if a < b else 0.5 if a == b else 0.0 for a in low for b in high)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
