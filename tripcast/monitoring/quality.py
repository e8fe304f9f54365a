"""Monitoring: how good the predictions of a window were, now that the trips have ended, by version and arm.

The predictions are the logged ones, joined with the true durations by their id, or, where nothing was logged, those
that the served version makes of the window's trips. Either way they become one table, ``judged_schema``, on which
everything is measured.

Each measure comes with its confidence interval, see ``tripcast.evaluation.confidence``.

Months differ in how hard their trips are to predict. Green taxis made shorter trips in 2022 than in 2021, and a model
of 2021 had a lower RMSE on them although it had aged. So the RMSE is held against what was to be expected *of such
trips*: the squared error that the version had on its test month, by predicted duration, averaged over the window's
predictions (indirect standardisation, which gives a ratio of observed to expected).

Source:
    Breslow & Day (1987), Statistical Methods in Cancer Research II, chapter 2 (indirect standardisation).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tripcast.errors import ContractError
from tripcast.evaluation import confidence
from tripcast.evaluation.confidence import Measure

if TYPE_CHECKING:
    import pyarrow as pa

    from tripcast.models import Model, Prediction
    from tripcast.taxi.trips import Trips

Floats = npt.NDArray[np.float64]

#: Groups of predicted durations in which the expected error is known: a month has hundreds of trips in each.
_GROUPS = 20

#: Trips predicted at a time: bounds the memory of their features.
_BATCH_TRIPS = 1 << 17


def judged_schema() -> pa.Schema:
    """A prediction and its truth.

    - ``prediction_id``: as logged; null where nothing was logged.
    - ``version``, ``arm``: which version answered, and whether as champion or challenger.
    - ``pickup_datetime``: New York local time.
    - ``predicted_minutes``, ``lower_minutes``, ``upper_minutes``: the answer.
    - ``true_minutes``: how long the trip took.
    """
    import pyarrow as pa

    return pa.schema(
        {
            "prediction_id": pa.string(),
            "version": pa.int32(),
            "arm": pa.string(),
            "pickup_datetime": pa.timestamp("us"),
            "predicted_minutes": pa.float64(),
            "lower_minutes": pa.float64(),
            "upper_minutes": pa.float64(),
            "true_minutes": pa.float64(),
        }
    )


@dataclass(frozen=True)
class Joined:
    """Logged predictions with their truth.

    Attributes:
        rows: Those that have one, in ``judged_schema``, in the order of the truth.
        unjudged: Logged predictions without a truth: the trip was not made, or is not known yet.
        unknown: Truths whose id was never logged.
        ambiguous: Truths whose id another truth has, too: none of them is used.
        out_of_bounds: Truths that no trip can have had, by the contract: a meter that ran on is no error of the model.
    """

    rows: pa.Table
    unjudged: int
    unknown: int
    ambiguous: int
    out_of_bounds: int


@dataclass(frozen=True)
class Expectation:
    """The error to expect of a version asked in one way, from trips on which it was judged before it served.

    Attributes:
        up_to: (k - 1,) rising, where one group of predicted minutes ends and the next begins.
        squared_error: (k,) mean squared error of each group, square minutes.
    """

    up_to: Sequence[float]
    squared_error: Sequence[float]

    @classmethod
    def of(cls, rows: pa.Table) -> Expectation:
        """Learn from predictions of one version whose truth is known.

        Args:
            rows: In ``judged_schema``.

        Raises:
            ContractError: If there are none.
        """
        if not len(rows):
            raise ContractError("There are no judged predictions to learn from what to expect: choose another month.")
        predicted, truth = rows["predicted_minutes"].to_numpy(), rows["true_minutes"].to_numpy()
        ends = [part[-1] for part in np.array_split(np.sort(predicted), min(_GROUPS, len(rows)))]
        up_to = np.unique(ends)[:-1]
        group = np.searchsorted(up_to, predicted)
        return cls(up_to.tolist(), (np.bincount(group, (predicted - truth) ** 2) / np.bincount(group)).tolist())

    def rmse(self, predicted: Floats) -> float:
        """The root mean squared error to expect of predictions, minutes.

        Args:
            predicted: (n,) predicted minutes, at least one.
        """
        of_each = np.asarray(self.squared_error)[np.searchsorted(self.up_to, predicted)]
        return math.sqrt(of_each.mean())


def write_expectations(expectations: Mapping[str, Expectation]) -> str:
    """What to expect of a version in each way of asking, as JSON: a few hundred characters each."""
    return json.dumps(
        {
            way: {name: [round(value, 4) for value in values] for name, values in asdict(expectation).items()}
            for way, expectation in expectations.items()
        }
    )


def read_expectations(text: str, only_way: str) -> dict[str, Expectation]:
    """Read what ``write_expectations`` wrote.

    Args:
        text: The JSON.
        only_way: The way that versions of before the ways were judged in; their text has one expectation, unnamed.

    Returns:
        By way.

    Raises:
        TypeError: If an entry is missing or unknown.
        ValueError: If it is not JSON.
    """
    entries = json.loads(text)
    if "up_to" in entries:
        entries = {only_way: entries}
    return {way: Expectation(**entry) for way, entry in entries.items()}


@dataclass(frozen=True)
class Quality:
    """How good the predictions of one version were as one arm.

    Attributes:
        version: The registry's number.
        arm: ``champion`` or ``challenger``.
        trips: Number of trips.
        days: Number of days on which they began.
        rmse: Root mean squared error, minutes.
        expected_rmse: What was to be expected of the version on these trips, minutes; None where that is not known.
        mae: Mean absolute error, minutes.
        bias: Mean of prediction minus truth, minutes: positive where trips are predicted too long.
        interval_coverage: Share of trips that ended within their prediction interval.
    """

    version: int
    arm: str
    trips: int
    days: int
    rmse: Measure
    expected_rmse: float | None
    mae: Measure
    bias: Measure
    interval_coverage: Measure

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


def join(log: pa.Table, truth: pa.Table, bounds: tuple[float, float]) -> Joined:
    """Join logged predictions with true durations.

    Args:
        log: As ``tripcast.serving.prediction_log.prediction_schema``; only the columns of ``judged_schema`` are read.
        truth: ``prediction_id``, string, and ``duration_minutes``, float64; rows with a null in either have no truth.
        bounds: The least and the most minutes that a true duration may have, those of the contract.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    truth = truth.select(["prediction_id", "duration_minutes"]).drop_null()
    ids = truth["prediction_id"].combine_chunks()
    counted = ids.value_counts()
    repeated = pc.filter(counted.field("values"), pc.greater(counted.field("counts"), 1))
    once = pc.invert(pc.is_in(ids, repeated))
    place = pc.index_in(ids, log["prediction_id"].combine_chunks())
    least, most = bounds
    minutes = truth["duration_minutes"].combine_chunks()
    bounded = pc.and_(pc.greater_equal(minutes, least), pc.less_equal(minutes, most))  # which NaN never is
    known = pc.and_(once, pc.is_valid(place))
    usable = pc.and_(known, bounded)
    place = place.filter(usable)
    answers = log.select(
        ["prediction_id", "version", "arm", "pickup_datetime", "duration_minutes", "lower_minutes", "upper_minutes"]
    ).take(place)
    rows = pa.table([*answers.columns, truth["duration_minutes"].filter(usable)], schema=judged_schema())
    return Joined(
        rows,
        unjudged=len(log) - known.true_count,
        unknown=once.true_count - known.true_count,
        ambiguous=len(ids) - once.true_count,
        out_of_bounds=known.true_count - len(rows),
    )


def score(model: Model, trips: Trips, *, version: int, arm: str = "champion") -> pa.Table:
    """What a version makes of trips whose durations are known, where nothing was logged.

    Args:
        model: The served model.
        trips: The window's trips, with durations.
        version: The model's number in the registry.
        arm: As what it served.

    Returns:
        A row for each trip, in ``judged_schema``.

    Raises:
        ValueError: If the trips have no durations.
    """
    import pyarrow as pa

    parts = (trips[start : start + _BATCH_TRIPS] for start in range(0, len(trips), _BATCH_TRIPS))
    answered = [judged(part, model.predict(part, metered=True), version=version, arm=arm) for part in parts]
    return pa.concat_tables([judged_schema().empty_table(), *answered])


def judged(trips: Trips, prediction: Prediction, *, version: int, arm: str = "champion") -> pa.Table:
    """Predictions beside the true durations of their trips.

    Args:
        trips: The trips, with durations.
        prediction: What was predicted for them.
        version: By which version.
        arm: As what it served.

    Returns:
        A row for each trip, in ``judged_schema``.

    Raises:
        ValueError: If the trips have no durations.
    """
    import pyarrow as pa

    if trips.duration_minutes is None:
        raise ValueError("The trips to judge on have no durations.")
    n = len(trips)
    columns = [
        pa.nulls(n, pa.string()),
        pa.repeat(pa.scalar(version, pa.int32()), n),
        pa.repeat(pa.scalar(arm), n),
        trips.pickup_datetime,
        prediction.minutes,
        prediction.lower,
        prediction.upper,
        trips.duration_minutes,
    ]
    return pa.table(columns, schema=judged_schema())


def measure(rows: pa.Table, expected: Mapping[int, Expectation] | None = None) -> tuple[Quality, ...]:
    """Measure how good predictions were, by version and arm.

    Args:
        rows: In ``judged_schema``.
        expected: What to expect of each version, by its number, as far as that is known.

    Returns:
        In the order of versions, then arms; empty if there are no rows.

    Raises:
        ContractError: If a row has no finite number of minutes.
    """
    day = rows["pickup_datetime"].to_numpy().astype("datetime64[D]")
    predicted, lower, upper, truth = (
        rows[name].to_numpy() for name in ("predicted_minutes", "lower_minutes", "upper_minutes", "true_minutes")
    )
    unusable = np.count_nonzero(~np.isfinite(predicted + lower + upper + truth))
    if unusable:
        raise ContractError(
            f"{unusable:,} of {len(rows):,} predictions to judge have no finite number of minutes. "
            "Look for them in the prediction log or in the month's trips, and leave them out."
        )
    expected = expected or {}
    answerers, answerer = _group_by_version_and_arm(rows)
    days, day_of = np.unique(day, return_inverse=True)
    cell = answerer * len(days) + day_of

    def sums(values: npt.NDArray[np.generic] | None) -> Floats:
        """Of a quantity, or the number of trips: (answerers, days)."""
        cells = np.bincount(cell, values, minlength=len(answerers) * len(days))
        return cells.reshape(len(answerers), len(days)).astype(np.float64)

    error = predicted - truth
    trips, bias, squared, covered = sums(None), sums(error), sums(error**2), sums((lower <= truth) & (truth <= upper))
    absolute = sums(np.abs(error))
    return tuple(
        Quality(
            version=version,
            arm=arm,
            trips=int(trips[row].sum()),
            days=int(np.count_nonzero(trips[row])),
            rmse=confidence.rmse(squared[row], trips[row]),
            expected_rmse=expected[version].rmse(predicted[answerer == row]) if version in expected else None,
            mae=confidence.mean(absolute[row], trips[row]),
            bias=confidence.mean(bias[row], trips[row]),
            interval_coverage=confidence.mean(covered[row], trips[row]),
        )
        for row, (version, arm) in enumerate(answerers)
    )


def _group_by_version_and_arm(rows: pa.Table) -> tuple[list[tuple[int, str]], npt.NDArray[np.intp]]:
    """Each version and arm there is, in order; and the place in that of each row's, (n,)."""
    arms = rows["arm"].combine_chunks().dictionary_encode()
    names = np.array(arms.dictionary.to_pylist(), np.str_)
    rank = np.argsort(np.argsort(names))
    key = rows["version"].to_numpy().astype(np.int64) * max(len(names), 1) + rank[arms.indices.to_numpy()]
    keys, place = np.unique(key, return_inverse=True)
    names.sort()
    return [(int(key // len(names)), str(names[key % len(names)])) for key in keys], place
