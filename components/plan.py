"""The first step of a training run: is this possible, and what exactly is to be read?"""

from components.step import step


@step
def plan(source: str, taxi: str, train: str, test: str, candidates: list[str]) -> list[dict]:  # type: ignore[type-arg]
    """Check what is asked for before any work is done, and find the months at their source.

    Args:
        source: Where months come from: `tlc`, `s3://bucket/prefix`, a folder or `simulated`.
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        train: Months to train on, for example `2021-01..2021-02`.
        test: The later month to judge on, for example `2021-03`.
        candidates: The candidates to train, by name.

    Returns:
        One item a month: the `month`, and the `revision` in which the source has it now. A later step is repeated when
        the revision changes, and can be skipped when it does not.
    """
    from tripcast.jobs.plan import plan

    return plan(source, taxi, train, test, candidates)
