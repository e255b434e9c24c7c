"""The guard: ends a run that drifts too far from the reference or loses its diversity, and says why."""

from app.domain.specs import GuardSpec


def breach(spec: GuardSpec, *, kl_nats: float, diversity_ratio: float | None) -> str | None:
    """Why the run must stop, or None while it is within its bounds.

    Args:
        kl_nats: KL of the policy's trajectories to the reference policy's.
        diversity_ratio: diversity of the evaluation samples over the base's; None where it is not measured.
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
    return None
