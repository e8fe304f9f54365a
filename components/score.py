"""The step that predicts the trips of a month."""

from kfp.dsl import Dataset, Input, Output

from components.step import step


@step
def score(taxi: str, version: int, month: str, records: Input[Dataset], scores: Output[Dataset]) -> None:
    """Predict every trip of a month whose time and zones are known, and keep the predictions in the artifact store.

    Args:
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        version: The version of the registered model.
        month: The month, as `2021-01`.
        records: The ingested month.
        scores: The predictions, as parquet in parts; metadata: the version, how many trips were predicted and how many
            not, by reason, the RMSE in minutes where the truth is known, and where the predictions are kept.
    """
    from pathlib import Path

    from tripcast.jobs.handover import to_metadata
    from tripcast.jobs.score import score
    from tripcast.months import Month
    from tripcast.registry.registry import Registry
    from tripcast.settings import Settings
    from tripcast.storage.store import open_store
    from tripcast.taxi import model_name

    settings = Settings.load()
    registry, store = Registry(model_name(taxi), settings), open_store(settings.artifacts)
    scored = score(registry, version, Month.parse(month), Path(records.path), Path(scores.path), store)
    scores.metadata.update(to_metadata(scored))
