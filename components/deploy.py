"""The step that lets a new version serve."""

from kfp.dsl import Artifact, Input

from components.step import step


@step
def deploy(
    taxi: str, version: int, decision: Input[Artifact], share: float, trial_share: float, canary_minutes: float
) -> str:
    """Roll a version out, and wait until the prediction service says that it serves it.

    Args:
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        version: The version of the registered model.
        decision: What the evaluation decided: whether the version's gain is proven, or may be chance, and whether the
            version waits for a person's approval.
        share: Of the riders, 0 to 1. The whole makes it the champion; less makes it the challenger beside the champion.
        trial_share: The same, of a version whose gain may be chance.
        canary_minutes: How long a new champion answers a few riders first, while the service's health is watched.

    Returns:
        What serves now, as a sentence.
    """
    from pathlib import Path

    from tripcast.jobs.deploy import roll_out
    from tripcast.registry.registry import Registry
    from tripcast.settings import Settings
    from tripcast.taxi import model_name

    registry = Registry(model_name(taxi), Settings.load())
    shares = {"share": share, "trial_share": trial_share}
    return roll_out(registry, version, Path(decision.path), **shares, canary_minutes=canary_minutes)
