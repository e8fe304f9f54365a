"""The step that writes down what a month has to keep."""

from kfp.dsl import Markdown, Output

from components.step import step


@step
def specify(taxi: str, rules: Output[Markdown]) -> None:
    """Write down the data contract that months are held to.

    Args:
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        rules: For which reasons a row is set aside or flagged, and when a month is refused.
    """
    from pathlib import Path

    from tripcast.taxi.contract import describe

    Path(rules.path).write_text(describe(taxi))
