"""The step that holds the months to the contract."""

from typing import List  # noqa: UP035 (kfp knows lists of artifacts only by this name)

from kfp.dsl import Dataset, Input, Markdown, Metrics, Output

from components.step import step


@step
def validate(
    months: Input[List[Dataset]],  # noqa: UP006
    rules: Input[Markdown],
    test: str,
    train_trips: Output[Dataset],
    test_trips: Output[Dataset],
    rejected: Output[Dataset],
    metrics: Output[Metrics],
    summary: Output[Markdown],
) -> None:
    """Set bad rows aside, each with its reason, and refuse bad months.

    Args:
        months: The ingested months.
        rules: What they have to keep, for the summary.
        test: The month to judge on; all others are for training.
        train_trips: Good trips of the training months, one parquet file a month, and `months.json`, which describes
            them.
        test_trips: Good trips of the test month, likewise.
        rejected: The rows set aside, with a `reason` column, one parquet file a month.
        metrics: Rows, kept and set aside, by month.
        summary: The same as a table to read, and the rules.
    """
    from pathlib import Path

    from tripcast.jobs.handover import write_months
    from tripcast.taxi import contract
    from tripcast.taxi.ingestion import Ingested

    ingested = sorted((Ingested.open(Path(month.path)) for month in months), key=lambda found: str(found.month) == test)
    *training, held_out = contract.validate(ingested, kept=Path(train_trips.path), rejected=Path(rejected.path))
    contract.move_test_month(held_out, Path(test_trips.path))
    write_months(Path(train_trips.path), [month.used("train") for month in training])
    write_months(Path(test_trips.path), [held_out.used("test")])
    for name, value in contract.metrics([*training, held_out]).items():
        metrics.log_metric(name, value)
    Path(summary.path).write_text(contract.summary([*training, held_out]) + "\n" + Path(rules.path).read_text())
