"""Boosted trees that predict: a booster for each way of asking.

A distance says so much that trees grown with it hardly look at anything else. So one booster looks at the distance as
the meter shows it. One has learned from plans, which are somewhat wrong, and says that more miles never mean fewer
minutes; of a meter's reading that is not so, for one that is far too short is a broken meter's. And one looks at zones
and time alone, and answers those who know no distance. Where trips are recorded without a distance the first booster is
such a one, and answers everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tripcast.models.booster import Booster
from tripcast.taxi.features import FEATURES, MILES_FEATURES, USUAL_MILES, FeatureTables
from tripcast.taxi.interval_groups import group_of, groups_of
from tripcast.taxi.trips import LONGEST_MINUTES, SHORTEST_MINUTES, Trip, Trips
from tripcast.taxi.ways import METERED, PLANNED, ZONES_ONLY, way_of, ways_of

Floats = npt.NDArray[np.float64]

#: The parameters of the booster of metered distances, which a search may change: the number of rounds, and others by
#: LightGBM's names. The rounds are not found by early stopping: the later trips are few and behind the traffic to come,
#: and would stop it too soon. Twice as many at half of LightGBM's default step of 0.1 gain 0.5 % of the error.
DEFAULTS: dict[str, Any] = {
    "rounds": 200,
    "learning_rate": 0.05,
    "num_leaves": 127,
    "min_child_samples": 50,
    "feature_fraction": 0.5,
    "lambda_l2": 5.0,
}

#: What the trees look at, by way; every feature is a byte a trip. The minutes for a distance are the distance on
#: another scale, which trees cannot tell apart; and where the meter is known, an estimate for the usual distance leads
#: them astray.
COLUMNS = {
    ZONES_ONLY: tuple(name for name in FEATURES if name not in (*MILES_FEATURES, "usual_minutes")),
    PLANNED: tuple(name for name in FEATURES if name not in ("usual_minutes", "minutes_for_miles")),
    METERED: tuple(name for name in FEATURES if name not in ("usual_minutes", "usual_estimate")),
}

#: The parameters of the ways that riders ask in: there is less to learn, so fewer and smaller trees do. By those of
#: plans more miles never mean fewer minutes: for given zones and a given time, all that is said of the distance rises
#: with it.
_FEWER: dict[str, Any] = {**DEFAULTS, "learning_rate": 0.15, "num_leaves": 63, "feature_fraction": 0.7}
ASKED: dict[str, dict[str, Any]] = {
    ZONES_ONLY: {**_FEWER, "rounds": 40},
    PLANNED: {
        **_FEWER,
        "rounds": 60,
        "monotone_constraints": [int(name in MILES_FEATURES) for name in COLUMNS[PLANNED]],
    },
}

#: Fewer trips than this are predicted by one thread: starting others would take longer than the work. More are by as
#: many as ``OMP_NUM_THREADS`` allows.
_ALONE = 10_000

#: The file of each way's booster, and the parameter that has its level.
_FILES = {METERED: "booster.txt", PLANNED: "planned_booster.txt", ZONES_ONLY: "zones_booster.txt"}
LEVELS = {METERED: "level", PLANNED: "planned_level", ZONES_ONLY: "zones_level"}


@dataclass(frozen=True)
class Boosted:
    """A booster for each way of asking, with the tables that their features come from.

    Attributes:
        tables: Compute the features.
        boosters: Predict minutes from them, by way; they share a row. One may stand for several ways.
        levels: Factors on their predictions, by way.
    """

    tables: FeatureTables
    boosters: Mapping[str, Booster]
    levels: Mapping[str, float]

    def predict(self, trips: Trips, metered: bool = False) -> Floats:
        """Durations in minutes, (n,), within the contract's 1 to 60."""
        rows = self.tables(trips)
        threads = 1 if len(trips) < _ALONE else 0
        if metered:
            minutes = self.levels[METERED] * self.boosters[METERED].predict(rows, threads)
        else:
            minutes, ways = np.empty(len(trips)), ways_of(trips, metered)
            for way in (ZONES_ONLY, PLANNED):
                asked = ways == way
                minutes[asked] = self.levels[way] * self.boosters[way].predict(rows[asked], threads)
        return np.clip(minutes, SHORTEST_MINUTES, LONGEST_MINUTES)

    def predict_one(self, trip: Trip, metered: bool = False) -> tuple[float, str]:
        """The duration of one trip in minutes, as ``predict`` computes it, and its interval group.

        For one thread: there is one row.
        """
        way = METERED if metered else way_of(trip.trip_distance_miles, metered)
        booster = self.boosters[way]
        self.tables.write_row(booster.row, trip)
        minutes = self.levels[way] * booster.predict_row()
        if minutes < SHORTEST_MINUTES:
            minutes = float(SHORTEST_MINUTES)
        elif minutes > LONGEST_MINUTES:
            minutes = float(LONGEST_MINUTES)
        return minutes, group_of(trip, metered, booster.row[USUAL_MILES])

    def groups(self, trips: Trips, metered: bool) -> npt.NDArray[np.str_]:
        """The interval group of each trip, (n,)."""
        return groups_of(trips, metered, self.tables.usual_miles(trips))

    def contributions(self, trip: Trip) -> Floats:
        """How many minutes each feature adds to the prediction of a trip that has not begun yet, (24,).

        The last is the mean prediction, and all add up to what is predicted before it is kept within bounds.
        """
        way = way_of(trip.trip_distance_miles, metered=False)
        minutes: Floats = self.levels[way] * self.boosters[way].contributions(self.tables(Trips.of([trip])))[0]
        return minutes

    def files(self) -> dict[str, bytes]:
        """The boosters in their native text, and the tables."""
        metered = self.boosters[METERED]
        own = {
            name: self.boosters[way].text
            for way, name in _FILES.items()
            if way == METERED or self.boosters[way] is not metered
        }
        return {**own, **self.tables.files()}

    def chosen(self) -> dict[str, float]:
        """The levels as parameters."""
        return {LEVELS[way]: level for way, level in self.levels.items()}


def boosters(trees: Mapping[str, bytes]) -> dict[str, Booster]:
    """Boosters that share a row, that of metered distances first; it answers where a way has none of its own."""
    metered = Booster(trees[METERED], FEATURES)
    others = {way: Booster(text, FEATURES, shares=metered) for way, text in trees.items() if way != METERED}
    return {**dict.fromkeys(_FILES, metered), **others}


def load(files: Mapping[str, bytes], parameters: Mapping[str, Any]) -> Boosted:
    """Read the boosters and the tables.

    Where a way has no booster of its own, as in models of earlier versions, that of metered distances answers.

    Raises:
        KeyError: If one is missing.
        ValueError: If one cannot be read.
    """
    found = {way: files[name] for way, name in _FILES.items() if name in files or way == METERED}
    level = parameters[LEVELS[METERED]]
    return Boosted(
        FeatureTables.load(files),
        boosters(found),
        {way: parameters.get(name, level) for way, name in LEVELS.items()},
    )
