"""The monitoring pipeline: a month of truth in, a decision out, and carried out."""

from dataclasses import asdict

from kfp import dsl

from components.follow_up import follow_up
from components.monitor import monitor
from components.respond import respond
from components.retrain import retrain
from pipelines.policy import RUN, apply_policy
from tripcast.monitoring.rule import DEFAULT_RULE


@dsl.pipeline(name="monitoring", pipeline_config=RUN)
def monitoring(
    source: str = "tlc",
    taxi: str = "green",
    month: str = "next",
    rule: dict = asdict(DEFAULT_RULE),  # type: ignore[type-arg] # noqa: B008 (kfp reads it as a default)
    training_months: int = 3,
    candidates: list[str] = ["linear", "lightgbm"],  # noqa: B006 (kfp reads it as a default, and copies it)
    trials: int = 20,
    rollout: float = 0.1,
    canary_minutes: float = 2.0,
    approval: bool = False,
) -> None:
    """Watch a month, decide by the rule, and carry that out: alert, end a trial, undo a promotion, train a candidate.

    Args:
        source: Where months come from: `tlc` (the publisher), `s3://bucket/prefix`, a folder or `simulated`.
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        month: The month to watch, for example `2021-06`; `next` is the first published one not watched yet.
        rule: The thresholds of the rule, by name.
        training_months: On how many months, at most, to train anew.
        candidates: Which models to train anew: `linear`, `lightgbm`, `tuned`.
        trials: How many parameter sets `tuned` tries.
        rollout: Share of the riders, 0 to 1, on whom a winner is tried whose gain may be chance.
        canary_minutes: How long a winner whose gain is proven answers a few riders before it becomes the champion.
        approval: Whether a winner waits for a person before it serves: `tripcast approve`, or `tripcast reject`.
    """
    followed_up = follow_up(taxi=taxi)
    watched = monitor(source=source, taxi=taxi, month=month, rule=rule, training_months=training_months)
    # Conditions on the one value that a step returns: kfp's local runner takes any other for false.
    with dsl.If(watched.outputs["Output"] != "", name="watched"):
        responded = respond(taxi=taxi, month=watched.outputs["Output"])
        with dsl.If(responded.output == True, name="learning"):  # noqa: E712 (kfp builds the condition from it)
            retrained = retrain(
                source=source,
                taxi=taxi,
                month=watched.outputs["Output"],
                candidates=candidates,
                trials=trials,
                rollout=rollout,
                canary_minutes=canary_minutes,
                approval=approval,
            )
    apply_policy(followed_up, watched, responded, retrained)
