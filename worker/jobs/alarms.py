"""Watches a finetune as it goes on: an alarm is a reward that rises while diversity, held-out rewards or votes fall."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import numpy as np
from jaxtyping import Float

from app.db.models import Checkpoint
from app.db.queries import alarms as queries
from app.db.queries import checkpoints as checkpoint_queries
from app.db.queries import samples as sample_queries
from app.db.queries.samples import Recipe
from app.domain.enums import EventKind
from app.domain.estimates import Estimate
from app.domain.over_optimisation import Evidence, Verdict, judge
from app.domain.ratings import win_rate
from app.domain.specs import FinetuneSpec, RewardTerm
from app.domain.tables import PairedRow, compare_on_paired_seeds
from worker.jobs.context import JobContext
from worker.ml.progress import Metric

BySeed = Mapping[int, float]

_ALARMING = (Verdict.IMPROVED_AT_A_COST, Verdict.OVER_OPTIMISED)


class AlarmWatch:
    """Judges every evaluated epoch beside the base on the same seeds, and logs an alarm when something new speaks
    against the run. What an earlier attempt has logged is not said again."""

    def __init__(self, context: JobContext, spec: FinetuneSpec, base: Checkpoint) -> None:
        self._context = context
        self._spec = spec
        self._base_id = base.id
        self._base: dict[str, BySeed] | None = None
        self._now: dict[str, BySeed] = {}
        self._base_diversity: float | None = None
        with context.database.reader() as session:
            start = context.job.inputs.get("since_seq", 0)
            known = queries.alarms(session, context.job.id, after=start)
            rows = checkpoint_queries.evaluated_epochs(session, context.job.id, after=start)
        self._witnesses = {witness for alarm in known for witness in alarm.get("witnesses", ())}
        self._alarmed = {alarm["epoch"] for alarm in known}
        self._epochs: set[int] = set()
        for row in rows:
            self._take_in(row["epoch"], row)

    def evaluated(self, epoch: int, seeds: Sequence[int], values: Mapping[str, Float[np.ndarray, " n"]]) -> None:
        """The rewards of the fixed seeds, by the name they are stored under, before the epoch's metrics come."""
        self._now = {
            name: dict(zip(seeds, (float(value) for value in column), strict=True)) for name, column in values.items()
        }
        if epoch == 0:
            self._base = self._now

    def reported(self, epoch: int, row: Mapping[str, Metric]) -> str | None:
        """An epoch's metrics. Returns the alarm's sentence where there is a new one."""
        if row.get("eval_reward_mean") is None:
            return None
        self._take_in(epoch, row)
        optimised = self._optimised(epoch) if epoch > 0 else None
        if optimised is None:
            return None
        report = judge(
            Evidence(
                optimised=optimised,
                held_out=self._held_out(epoch),
                diversity=self._diversity(row),
                win_rate=self._win_rate(),
            )
        )
        new = set(report.witnesses) - self._witnesses
        if report.verdict not in _ALARMING:
            return None
        self._alarmed.add(epoch)
        last_good = max((known for known in self._epochs if known < min(self._alarmed)), default=0)
        if not new:
            return None
        self._witnesses |= new
        payload = {
            "epoch": epoch,
            "verdict": report.verdict.value,
            "message": report.sentence,
            "alarms": report.alarms,
            "witnesses": list(report.witnesses),
            "last_good_epoch": last_good,
        }
        with self._context.fence.transaction() as session:
            self._context.fence.event(session, EventKind.ALARM, payload)
        self._context.monitor.log(f"Alarm at epoch {epoch}. {report.sentence}")
        return report.sentence

    def _take_in(self, epoch: int, row: Mapping[str, Metric]) -> None:
        self._epochs.add(epoch)
        diversity = row.get("diversity")
        if epoch == 0 and isinstance(diversity, float):
            self._base_diversity = diversity

    def _optimised(self, epoch: int) -> PairedRow | None:
        """What is optimised, as one number a seed: a reward in its own unit (its negative where the weight is), several
        in standard deviations of the base."""
        base, terms = self._base_values(), self._spec.reward
        if any(term.key not in base or term.key not in self._now for term in terms):
            return None
        name = " + ".join(_plain(term) for term in terms)
        if len(terms) == 1:
            sign = -1.0 if terms[0].weight < 0 else 1.0
            before, after = ({s: sign * v for s, v in side[terms[0].key].items()} for side in (base, self._now))
        else:
            before, after = {}, {}
            for term in terms:
                spread = float(np.std(list(base[term.key].values()))) or 1.0
                for side, total in ((base, before), (self._now, after)):
                    for seed, value in side[term.key].items():
                        total[seed] = total.get(seed, 0.0) + term.weight * value / spread
        return compare_on_paired_seeds(name, f"epoch {epoch}", before, after)

    def _held_out(self, epoch: int) -> list[PairedRow]:
        base = self._base_values()
        rows = [
            compare_on_paired_seeds(_plain(term), f"epoch {epoch}", base[term.key], self._now[term.key])
            for term in self._spec.guard.holdout_rewards
            if term.key in base and term.key in self._now
        ]
        return [row for row in rows if row is not None]

    def _diversity(self, row: Mapping[str, Metric]) -> tuple[Estimate, Estimate] | None:
        now, n = row.get("diversity"), self._spec.eval.n
        if not isinstance(now, float) or not self._base_diversity:
            return None
        return Estimate(self._base_diversity, None, n), Estimate(now, None, n)

    def _win_rate(self) -> Estimate | None:
        """How people voted on the newest of the run's checkpoints that they have seen beside the base."""
        with self._context.database.reader() as session:
            epochs = checkpoint_queries.epochs_by_checkpoint(session, self._context.job.id)
            duels = queries.duels_with_base(session, list(epochs), self._base_id) if epochs else []
        if not duels:
            return None
        newest = max({duel.checkpoint_id for duel in duels}, key=lambda id: epochs[id])
        met = [duel for duel in duels if duel.checkpoint_id == newest]
        rate = win_rate([duel.score for duel in met], [duel.rater_id for duel in met])
        return Estimate(rate.win_rate, rate.interval, rate.n)

    def _base_values(self) -> dict[str, BySeed]:
        """The base's rewards on the fixed seeds; those that an earlier attempt measured lie in the database."""
        if self._base is None:
            spec = self._spec
            seeds = range(spec.eval.seed, spec.eval.seed + spec.eval.n)
            recipe = Recipe(self._base_id, spec.steps, spec.eta)
            found: dict[str, BySeed] = {}
            with self._context.database.reader() as session:
                seed_of = {row.id: seed for seed, row in sample_queries.samples_by_seed(session, recipe, seeds).items()}
                for term in (*spec.reward, *spec.guard.holdout_rewards):
                    values = sample_queries.rewards_of(session, list(seed_of), term.key)
                    found[term.key] = {seed_of[id]: value for id, value in values.items()}
            self._base = found
        return self._base


def _plain(term: RewardTerm) -> str:
    return "the learned reward" if isinstance(term.reward_model_id, UUID) else term.name.replace("_", " ")
