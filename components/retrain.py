"""The step that starts the training pipeline."""

from components.step import step


@step
def retrain(source: str, taxi: str, month: str, candidates: list[str], trials: int, rollout: float) -> str:
    """Start the training that a watched month calls for, as a run of its own; once.

    Args:
        source: Where months come from: `tlc`, `s3://bucket/prefix`, a folder or `simulated`.
        taxi: `green` or `yellow`.
        month: The month that was watched.
        candidates: The candidates to train, by name.
        trials: How many parameter sets `tuned` tries.
        rollout: Share of the riders that the winner is tried on, 0 to 1.

    Returns:
        What was started. Without Kubeflow Pipelines, nothing: `tripcast loop` trains in place.
    """
    from tripcast.jobs.respond import start_retraining

    return start_retraining(source, taxi, month, candidates, trials, rollout)
