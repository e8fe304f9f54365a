"""The step that judges the candidates, and the champion with them."""

from typing import List  # noqa: UP035 (kfp knows lists of artifacts only by this name)

from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from components.step import step


@step
def evaluate(
    taxi: str,
    pipeline_run: str,
    models: Input[List[Model]],  # noqa: UP006
    train_trips: Input[Dataset],
    test_trips: Input[Dataset],
    proven_gain: float,
    trial_share: float,
    refit: bool,
    approval: bool,
    winner: Output[Model],
    metrics: Output[Metrics],
    report: Output[HTML],
    summary: Output[Markdown],
    decision: Output[Artifact],
) -> bool:
    """Score every candidate and the champion on the same later month, decide by the gate, and track it all in MLflow.

    Args:
        taxi: Whose trips: `green`, `yellow`, `fhvhv` or `fhv`.
        pipeline_run: Identity of this pipeline run; its MLflow run is found by it.
        models: The candidates.
        train_trips: Good trips of the training months, which monitoring is to compare later ones with.
        test_trips: Good trips of the test month.
        proven_gain: The reduction of RMSE that the whole confidence interval has to show, as a share of the champion's.
        trial_share: Of the riders, 0 to 1, for the trial of a winner whose gain may be chance; 0 refuses it.
        refit: Whether a winner that is rolled out learns from the test month, too, where that is safe.
        approval: Whether a winner waits for a person before it serves.
        winner: The best candidate's model folder; metadata: its MLflow run, the reason of the decision, and the tags of
            the version to be.
        metrics: The winner's errors in minutes, and its gain over the champion.
        report: The whole evaluation with pictures.
        summary: The decision and the candidates side by side.
        decision: The decision and every figure behind it, as JSON.

    Returns:
        Whether the winner is to be registered, and to answer riders.
    """
    from pathlib import Path

    from tripcast.jobs.evaluate import Candidate, renew_expectation, select, track
    from tripcast.jobs.handover import Trained, from_metadata, to_metadata
    from tripcast.jobs.refit import learn_latest

    candidates = [Candidate.open(Path(model.path), from_metadata(Trained, model.metadata)) for model in models]
    selection = select(
        taxi,
        pipeline_run,
        candidates,
        train_trips=Path(train_trips.path),
        test_trips=Path(test_trips.path),
        proven_gain=proven_gain,
        tries=trial_share > 0,
        approval=approval,
    )
    if refit:
        selection = learn_latest(selection, Path(train_trips.path), Path(test_trips.path))
    tracked = track(selection, report=Path(report.path), summary=Path(summary.path), document=Path(decision.path))
    renew_expectation(selection)
    winner.metadata.update(to_metadata(selection.hand_on_winner(Path(winner.path), tracked)))
    for name, value in selection.metrics.items():
        metrics.log_metric(name, value)
    return selection.rolls_out
