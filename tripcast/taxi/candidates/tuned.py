"""The boosted trees with parameters found by a search: Optuna's tree-structured Parzen estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tripcast.models.model import Search
from tripcast.taxi.candidates.boosted import DEFAULTS, Boosted, load
from tripcast.taxi.candidates.lightgbm import fit
from tripcast.taxi.trips import Trips

if TYPE_CHECKING:
    import optuna

#: Of the search: the same trips and number of trials try the same parameters.
_SEED = 42

__all__ = ["fit", "fit_holdout", "load"]


def fit_holdout(earlier: Trips, later: Trips, search: Search) -> tuple[Boosted, dict[str, Any]]:
    """Fit to the earlier trips with the parameters that do best on the later ones.

    The first trial is that of the defaults, and only a better one takes its place.
    """
    import optuna

    from tripcast.taxi.candidates.boosting import HoldoutFit

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rehearsal = HoldoutFit.of(earlier, later)
    predictors: dict[int, Boosted] = {}

    def objective(trial: optuna.Trial) -> float:
        predictors[trial.number], rmse = rehearsal.run(_suggest(trial))
        return rmse

    def finished(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        for number in predictors.keys() - {study.best_trial.number}:
            del predictors[number]
        if search.on_trial and trial.value is not None:
            search.on_trial(trial.number, trial.params, trial.value)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=_SEED))
    study.enqueue_trial(DEFAULTS)
    study.optimize(objective, n_trials=search.trials, callbacks=[finished])
    best = predictors[study.best_trial.number]
    return best, {**study.best_params, **best.chosen()}


def _suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "rounds": trial.suggest_int("rounds", 50, 500, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.15, log=True),
        "num_leaves": trial.suggest_int("num_leaves", 15, 255, log=True),
        "min_child_samples": trial.suggest_int("min_child_samples", 10, 300, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.1, 100.0, log=True),
    }
