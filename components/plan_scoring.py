"""The first step of a scoring run: is this possible, with which version, and what exactly is to be read?"""

from components.step import step


@step
def plan_scoring(source: str, taxi: str, months: str, model: str) -> list[dict]:  # type: ignore[type-arg]
    """Check what is asked for before any work is done, settle the model's version, and find the months.

    Args:
        source: Where months come from: `tlc`, `s3://bucket/prefix`, a folder or `simulated`.
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        months: Months to score, for example `2021-01..2021-03`.
        model: The version of the registered model: its number, or an alias such as `champion`.

    Returns:
        One item a month: the `month`, the `revision` in which the source has it now, and the `version`, which is the
        same for all months even if the alias moves meanwhile.
    """
    from tripcast.jobs.score import plan_scoring

    return plan_scoring(source, taxi, months, model)
