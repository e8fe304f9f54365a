"""The step that brings one month of trip records in."""

from kfp.dsl import Dataset, Input, Markdown, Output

from components.step import step


@step
def ingest(source: str, taxi: str, month: str, revision: str, rules: Input[Markdown], records: Output[Dataset]) -> None:
    """Read one month from its source into typed records, and snapshot them under their content hash.

    Args:
        source: Where months come from: `tlc`, `s3://bucket/prefix`, a folder or `simulated`.
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        month: The month, as `2021-01`.
        revision: The revision of the month that the source announced; the step fails if it has changed since.
        rules: What a month has to keep, for the lineage of its records.
        records: All records of the month as typed parquet; metadata: month, rows, sha256, location.
    """
    from pathlib import Path

    from tripcast.jobs.handover import to_metadata
    from tripcast.months import Month
    from tripcast.settings import Settings
    from tripcast.storage.store import open_store
    from tripcast.taxi.ingestion import ingest

    settings = Settings.load()
    ingested = ingest(
        source,
        taxi,
        Month.parse(month),
        revision=revision,
        output=Path(records.path),
        downloads=settings.downloads,
        store=open_store(settings.artifacts),
    )
    records.metadata.update(to_metadata(ingested.to_dict()))
