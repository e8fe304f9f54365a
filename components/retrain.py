"""The step that starts the training pipeline."""

from components.step import step


@step
def retrain(
    source: str,
    taxi: str,
    month: str,
    candidates: list[str],
    trials: int,
    rollout: float,
    canary_minutes: float,
    approval: bool,
) -> str:
    """Start the training that a watched month calls for, as a run of its own; once.

    Args:
        source: Where months come from: `tlc`, `s3://bucket/prefix`, a folder or `simulated`.
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        month: The month that was watched.
        candidates: The candidates to train, by name.
        trials: How many parameter sets `tuned` tries.
        rollout: Share of the riders, 0 to 1, on whom a winner is tried whose gain may be chance.
        canary_minutes: How long a winner whose gain is proven answers a few riders first.
        approval: Whether a winner waits for a person before it serves.

    Returns:
        What was started. Without Kubeflow Pipelines, nothing: `tripcast loop` trains in place.
    """
    from tripcast.jobs.respond import LoopOptions, start_retraining

    options = LoopOptions(
        source,
        taxi,
        candidates=candidates,
        trials=trials,
        rollout=rollout,
        canary_minutes=canary_minutes,
        approval=approval,
    )
    return start_retraining(options, month)
