"""The step that fits one candidate."""

from kfp.dsl import Dataset, Input, Model, Output

from components.step import step


@step
def train(candidate: str, taxi: str, trials: int, workers: int, trips: Input[Dataset], model: Output[Model]) -> None:
    """Fit one candidate on the training months, and calibrate its prediction interval on their last trips.

    Args:
        candidate: Which one: `linear`, `lightgbm` or `tuned`.
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        trials: How many parameter sets a search tries; candidates that do not search ignore it.
        workers: How many pods, or processes of this machine, train together; `linear` needs no help.
        trips: Good trips of the training months.
        model: The model folder, in open formats; metadata: the candidate, and how many seconds its training took.
    """
    from pathlib import Path

    from tripcast.jobs.handover import Trained, read_months, to_metadata
    from tripcast.jobs.train import train_from_files

    data = {month.month: month.digest for month in read_months(Path(trips.path))}
    seconds = train_from_files(
        candidate, Path(trips.path), Path(model.path), taxi=taxi, data=data, trials=trials, workers=workers
    )
    model.metadata.update(to_metadata(Trained(candidate, seconds)))
