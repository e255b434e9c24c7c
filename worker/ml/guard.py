"""The guard: ends a run that drifts too far, loses its diversity or pays with other rewards, and says why."""

from collections.abc import Mapping

from app.domain.specs import GuardSpec


def breach(
    spec: GuardSpec,
    *,
    kl_nats: float,
    diversity_ratio: float | None = None,
    holdout_drops: Mapping[str, float] | None = None,
) -> str | None:
    """Why the run must stop, or None while it is within its bounds.

    Args:
        kl_nats: KL of the policy's trajectories to the reference policy's, over the trained transitions.
        diversity_ratio: diversity of the evaluation samples over the base's; None where it is not measured.
        holdout_drops: by how many of the base's standard deviations each held-out reward fell on the fixed seeds.
    """
    if spec.max_kl_nats is not None and kl_nats > spec.max_kl_nats:
        return f"the KL to the reference policy reached {kl_nats:.4g} nats, above the budget of {spec.max_kl_nats:.4g}"
    if (
        spec.min_diversity_ratio is not None
        and diversity_ratio is not None
        and diversity_ratio < spec.min_diversity_ratio
    ):
        return (
            f"diversity fell to {diversity_ratio:.2f} of the base's, below the bound of {spec.min_diversity_ratio:.2f}"
        )
    if spec.max_holdout_drop is not None and holdout_drops:
        worst = max(holdout_drops, key=lambda name: holdout_drops[name])
        if holdout_drops[worst] > spec.max_holdout_drop:
            return (
                f"the held-out reward {worst!r} fell by {holdout_drops[worst]:.2f} of the base's standard deviations, "
                f"more than the bound of {spec.max_holdout_drop:.2f}"
            )
    return None
