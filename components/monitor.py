"""The step that watches a window."""

from kfp.dsl import HTML, Artifact, Markdown, Metrics, Output

from components.step import step


@step
def monitor(
    source: str,
    taxi: str,
    month: str,
    rule: dict,  # type: ignore[type-arg]
    training_months: int,
    metrics: Output[Metrics],
    report: Output[HTML],
    summary: Output[Markdown],
    record: Output[Artifact],
) -> str:
    """Measure how good the predictions of a month were and how far its trips have drifted, and decide by the rule.

    Args:
        source: Where months come from: `tlc`, `s3://bucket/prefix`, a folder or `simulated`.
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        month: The month, as `2021-06`, or `next`.
        rule: Thresholds of the rule that differ from its own, by name.
        training_months: On how many months, at most, to train anew.
        metrics: Error by arm in minutes, and drift.
        report: The whole window with pictures.
        summary: The decision and the headline figures.
        record: The decision and every figure behind it, as JSON.

    Returns:
        The month that was watched; empty if the next one is not published yet.
    """
    from pathlib import Path

    from tripcast.jobs.monitor import watch, write_record
    from tripcast.monitoring.rule import Rule

    pages = {"report": Path(report.path), "summary": Path(summary.path)}
    window = watch(source, taxi, month, rule=Rule.from_dict(rule), training_months=training_months, **pages)
    for name, value in write_record(window, Path(record.path)).items():
        metrics.log_metric(name, value)
    return window.month if window else ""
