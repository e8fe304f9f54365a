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

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tripcast.errors import ContractError
from tripcast.evaluation import confidence
from tripcast.evaluation.confidence import Measure

Floats = npt.NDArray[np.float64]

#: Groups of predicted durations in which the expected error is known: a month has hundreds of trips in each.
_GROUPS = 20


def judged_schema() -> pa.Schema:
    """A prediction and its truth.

    - ``prediction_id``: as logged; null where nothing was logged.
    - ``version``, ``arm``: which version answered, and whether as champion or challenger.
    - ``way``: in which way it was asked, by what was known of the trip.
    - ``pickup_datetime``: New York local time.
    - ``predicted_minutes``, ``lower_minutes``, ``upper_minutes``: the answer.
    - ``true_minutes``: how long the trip took.
    """
    return pa.schema(
        {
            "prediction_id": pa.string(),
            "version": pa.int32(),
            "arm": pa.string(),
            "way": pa.string(),
            "pickup_datetime": pa.timestamp("us"),
            "predicted_minutes": pa.float64(),
            "lower_minutes": pa.float64(),
            "upper_minutes": pa.float64(),
            "true_minutes": pa.float64(),
        }
    )


@dataclass(frozen=True)
class JoinCounts:
    """How logged predictions and true durations found each other.

    Attributes:
        judged: Logged predictions whose truth is known.
        unjudged: Logged predictions without a truth: the trip was not made, or is not known yet.
        unknown: Truths whose id was never logged.
        ambiguous: Truths whose id another truth has, too: none of them is used.
        out_of_bounds: Truths that no trip can have had, by the contract: a meter that ran on is no error of the model.
    """

    judged: int
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
        return math.sqrt(self.squares(predicted).mean())

    def squares(self, predicted: Floats) -> Floats:
        """The squared error to expect of each prediction, square minutes, (n,)."""
        of_each: Floats = np.asarray(self.squared_error)[np.searchsorted(self.up_to, predicted)]
        return of_each


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
class WayQuality:
    """How good the predictions of one version were as one arm, asked in one way.

    Attributes:
        way: The way.
        trips: Number of trips.
        rmse: Root mean squared error, minutes.
        expected_rmse: What was to be expected of it, asked in this way, on these trips; None where that is not known.
        mae: Mean absolute error, minutes.
        interval_coverage: Share of trips that ended within their prediction interval.
    """

    way: str
    trips: int
    rmse: Measure
    expected_rmse: float | None
    mae: Measure
    interval_coverage: Measure


@dataclass(frozen=True)
class Quality:
    """How good the predictions of one version were as one arm.

    Attributes:
        version: The registry's number.
        arm: ``champion`` or ``challenger``.
        trips: Number of trips.
        days: Number of days on which they began.
        rmse: Root mean squared error, minutes.
        expected_rmse: What was to be expected of the version on these trips, each asked in its way, minutes; None where
            that is not known.
        mae: Mean absolute error, minutes.
        bias: Mean of prediction minus truth, minutes: positive where trips are predicted too long.
        interval_coverage: Share of trips that ended within their prediction interval.
        ways: The same by the way in which trips were asked for, in alphabetical order.
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
    ways: tuple[WayQuality, ...]


def join(log: pa.Table, truth: pa.Table, bounds: tuple[float, float]) -> tuple[pa.Table, JoinCounts]:
    """Join logged predictions with true durations.

    Args:
        log: As ``tripcast.serving.prediction_table.prediction_schema``; only the columns of ``judged_schema`` are read.
        truth: ``prediction_id``, string, and ``duration_minutes``, float64; rows with a null in either have no truth.
        bounds: The least and the most minutes that a true duration may have, those of the contract.

    Returns:
        The predictions whose truth is known, in ``judged_schema`` and in the order of the truth; and what the others
        lack.
    """
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
        [
            *("prediction_id", "version", "arm", "way", "pickup_datetime"),
            *("duration_minutes", "lower_minutes", "upper_minutes"),
        ]
    ).take(place)
    rows = pa.table([*answers.columns, truth["duration_minutes"].filter(usable)], schema=judged_schema())
    return rows, JoinCounts(
        judged=len(rows),
        unjudged=len(log) - known.true_count,
        unknown=once.true_count - known.true_count,
        ambiguous=len(ids) - once.true_count,
        out_of_bounds=known.true_count - len(rows),
    )


def measure(rows: pa.Table, expected: Mapping[int, Mapping[str, Expectation]] | None = None) -> tuple[Quality, ...]:
    """Measure how good predictions were, by version and arm.

    Args:
        rows: In ``judged_schema``.
        expected: What to expect of each version, by its number, in each way, as far as that is known.

    Returns:
        In the order of versions, then arms; empty if there are no rows.

    Raises:
        ContractError: If a row has no finite number of minutes.
    """
    predicted, lower, upper, truth = (
        rows[name].to_numpy() for name in ("predicted_minutes", "lower_minutes", "upper_minutes", "true_minutes")
    )
    unusable = np.count_nonzero(~np.isfinite(predicted + lower + upper + truth))
    if unusable:
        raise ContractError(
            f"{unusable:,} of {len(rows):,} predictions to judge have no finite number of minutes. "
            "Look for them in the prediction log or in the month's trips, and leave them out."
        )
    versions, (arms, arm), (ways, way) = rows["version"].to_numpy(), _codes(rows["arm"]), _codes(rows["way"])
    answerer = versions.astype(np.int64) * len(arms) + arm
    expected = expected or {}
    to_expect = np.full(len(rows), np.nan)
    for version in np.unique(versions).tolist():
        for number, name in enumerate(ways):
            if known := expected.get(version, {}).get(name):
                members = (versions == version) & (way == number)
                to_expect[members] = known.squares(predicted[members])
    day = rows["pickup_datetime"].to_numpy().astype("datetime64[D]")
    error = predicted - truth
    quantities = {
        "squared": error**2,
        "absolute": np.abs(error),
        "bias": error,
        "covered": (lower <= truth) & (truth <= upper),
        "expected": to_expect,
    }
    by_answerer = _by_group(answerer, day, quantities)
    by_way = _by_group(answerer * len(ways) + way, day, quantities)
    return tuple(
        Quality(
            version=key // len(arms),
            arm=arms[key % len(arms)],
            trips=group.trips,
            days=int(np.count_nonzero(group.count)),
            rmse=group.rmse,
            expected_rmse=group.expected_rmse,
            mae=group.mean("absolute"),
            bias=group.mean("bias"),
            interval_coverage=group.mean("covered"),
            ways=tuple(
                WayQuality(
                    ways[of_way % len(ways)],
                    part.trips,
                    part.rmse,
                    part.expected_rmse,
                    part.mean("absolute"),
                    part.mean("covered"),
                )
                for of_way, part in by_way.items()
                if of_way // len(ways) == key
            ),
        )
        for key, group in by_answerer.items()
    )


@dataclass(frozen=True)
class _Group:
    """Some rows: how many there are of each day, (days,), and each quantity's sums over them, (days,)."""

    count: Floats
    sums: Mapping[str, Floats]

    @property
    def trips(self) -> int:
        return int(self.count.sum())

    @property
    def rmse(self) -> Measure:
        return confidence.rmse(self.sums["squared"], self.count)

    @property
    def expected_rmse(self) -> float | None:
        mean = self.sums["expected"].sum() / self.count.sum()
        return math.sqrt(mean) if np.isfinite(mean) else None

    def mean(self, quantity: str) -> Measure:
        return confidence.mean(self.sums[quantity], self.count)


def _by_group(
    key: npt.NDArray[np.int64], day: npt.NDArray[np.datetime64], quantities: Mapping[str, npt.NDArray[np.generic]]
) -> dict[int, _Group]:
    """Sum quantities over the rows of each key and day; by key, rising."""
    keys, group = np.unique(key, return_inverse=True)
    days, day_of = np.unique(day, return_inverse=True)
    cell, shape = group * len(days) + day_of, (len(keys), len(days))

    def sums(values: npt.NDArray[np.generic] | None) -> Floats:
        return np.bincount(cell, values, minlength=len(keys) * len(days)).reshape(shape).astype(np.float64)

    count, summed = sums(None), {name: sums(values) for name, values in quantities.items()}
    return {
        number: _Group(count[row], {name: values[row] for name, values in summed.items()})
        for row, number in enumerate(keys.tolist())
    }


def _codes(names: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct names in alphabetical order, and which of them each row has, (n,)."""
    coded = names.combine_chunks().dictionary_encode()
    distinct = np.array(coded.dictionary.to_pylist(), np.str_)
    rank = np.argsort(np.argsort(distinct))
    return sorted(distinct.tolist()), rank[coded.indices.to_numpy()].astype(np.int64)
