"""Replay the loop's decisions over simulated cities and real months, by several settings, and compare regret.

    python benchmarks/loop/measure.py
    python benchmarks/loop/measure.py --source ../shared/data --months 2021-01..2021-03,2022-01..2022-03

What decides is the code that decides in earnest: the rule, the gate, the trial, the refit. What is left out is what
does not decide: pipelines, registry, reports. So a city of 16 months takes a minute, and each model is fitted once for
all settings.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa

from tripcast.errors import ContractError
from tripcast.evaluation import gate
from tripcast.evaluation.scores import Batch, Evaluation, evaluate
from tripcast.jobs.judge import judged
from tripcast.jobs.months import load_valid_trips
from tripcast.jobs.refit import MAX_LOSS
from tripcast.jobs.train import refit, train
from tripcast.models import Model
from tripcast.models.model import Prediction
from tripcast.monitoring.quality import Expectation, measure
from tripcast.monitoring.rule import Rule, WindowResult, decide
from tripcast.monitoring.trial import DailySums, compare, judge
from tripcast.months import Month, parse_months
from tripcast.settings import Settings
from tripcast.taxi.slices import slice_trips
from tripcast.taxi.trips import Trips
from tripcast.taxi.ways import METERED, WAYS, ZONES_ONLY, as_asked

#: How fast streets are in each month of a city, as a factor of those of the first.
CITIES = {
    "no drift": lambda month: 1.0,
    "slow drift": lambda month: 0.98**month,
    "jump": lambda month: 1.0 if month < 6 else 0.85,
    "season": lambda month: 1 - 0.12 * math.sin(2 * math.pi * month / 12),
    "a bad month": lambda month: 0.85 if month == 6 else 1.0,
    "a blizzard": lambda month: 0.6 if month == 6 else 1.0,
    "drift and a blizzard": lambda month: 0.98**month * (0.6 if month == 6 else 1.0),
    "a data fault": lambda month: 1.0 if month < 7 else 0.85,
    "recurring faults": lambda month: 0.98**month,
}
#: Months whose data is broken.
FAULTS = {"a data fault": {6}, "recurring faults": {4, 7, 10, 13}}


@dataclass(frozen=True)
class Setting:
    """How the loop decides.

    Attributes:
        rule: The thresholds.
        at_once: Whether a proven gain rolls out at once; else every winner is tried for months.
        refits: Whether a winner learns from the month that it was judged on.
        way: In which way of asking the gate decides; it looks after the others, too.
    """

    rule: Rule = field(default_factory=Rule)
    at_once: bool = True
    refits: bool = True
    way: str = ZONES_ONLY


SETTINGS = {
    "default": Setting(),
    "any proven gain": Setting(Rule(min_gain=0.005, min_gain_aged=0.005)),
    "3.5 % proven": Setting(Rule(min_gain=0.035)),
    "3.5 %, without the refit": Setting(Rule(min_gain=0.035), refits=False),
    "3.5 %, judged by the meter": Setting(Rule(min_gain=0.035), way=METERED),
    "3.5 %, whether it has aged or not": Setting(Rule(min_gain=0.035, min_gain_aged=0.035)),
    "5 % proven": Setting(Rule(min_gain=0.05)),
    "after two bad months, then a trial": Setting(
        Rule(k=2, n=3, cool_down=1, min_gain=0.005, min_gain_aged=0.005), at_once=False, refits=False, way=METERED
    ),
}


class Past:
    """The months of a city, what was ever fitted to them, and what it predicts of them."""

    def __init__(self, months: list[str], trips: list[Trips | None]) -> None:
        self.months, self.trips = months, trips
        self._fitted: dict[tuple[int, ...], Model] = {}
        self._refitted: dict[tuple[tuple[int, ...], int], Model] = {}
        self._asked = [None if month is None else as_asked(month) for month in trips]
        self._predicted: dict[tuple[str, int, str], Prediction] = {}
        self._evaluated: dict[tuple[str, str, int, str], Evaluation] = {}

    def fitted(self, learned: tuple[int, ...]) -> Model:
        """A candidate."""
        if learned not in self._fitted:
            self._fitted[learned] = train("lightgbm", self._joined(learned), taxi="green", data={})
        return self._fitted[learned]

    def refitted(self, learned: tuple[int, ...], month: int) -> Model:
        """The candidate with the month that it was judged on, as ``tripcast.jobs.refit`` does it."""
        if (learned, month) not in self._refitted:
            winner, later = self.fitted(learned), self._known(month)
            kept = learned[1:] if len(learned) >= 3 else learned
            anew = refit(winner, self._joined((*kept, month)), later, data={})
            safe = self.rmse(anew, learned[-1]) <= (1 + MAX_LOSS) * self.rmse(winner, learned[-1])
            self._refitted[learned, month] = anew if safe else winner
        return self._refitted[learned, month]

    def predict(self, model: Model, month: int, way: str) -> Prediction:
        """What a model that was fitted here says of a month's trips."""
        key = (model.digest, month, way)
        if key not in self._predicted:
            asked = self._asked[month]
            assert asked is not None
            self._predicted[key] = model.predict(asked[way], way == METERED)
        return self._predicted[key]

    def evaluate(self, candidate: Model, champion: Model, month: int, way: str) -> Evaluation:
        """Both as the gate sees them."""
        key = (candidate.digest, champion.digest, month, way)
        if key not in self._evaluated:
            trips, asked = self._known(month), self._asked[month]
            assert trips.duration_minutes is not None
            assert asked is not None
            self._evaluated[key] = evaluate(
                [
                    Batch(
                        trips.duration_minutes,
                        trips.pickup_datetime,
                        slice_trips(asked[way]),
                        {"lightgbm": self.predict(candidate, month, way)},
                        self.predict(champion, month, way),
                    )
                ]
            )
        return self._evaluated[key]

    def score(self, model: Model, month: int, number: int) -> pa.Table:
        """What a version makes of a month, with the meter's miles, as monitoring judges it where nothing was logged."""
        trips = self._known(month)
        return judged(trips, np.full(len(trips), METERED), self.predict(model, month, METERED), version=number)

    def rmse(self, model: Model, month: int) -> float:
        """Root mean squared error with the meter's miles, minutes."""
        truth = self._known(month).duration_minutes
        assert truth is not None
        return float(np.sqrt(np.mean((self.predict(model, month, METERED).minutes - truth) ** 2)))

    def _known(self, month: int) -> Trips:
        trips = self.trips[month]
        assert trips is not None
        return trips

    def _joined(self, months: tuple[int, ...]) -> Trips:
        return Trips.joined([self._known(month) for month in months])


def live(past: Past, setting: Setting, delay: int) -> dict[str, float]:
    """Go through the months; returns regret and what happened."""
    line = [past.fitted((0,))]  # champions: each undone by taking it away
    reference, challenger = line[0], None
    expected = {0: {METERED: Expectation.of(past.score(line[0], 1, 0))}}
    numbers = {id(line[0]): 0}
    history: list[WindowResult] = []
    trials, judged_first = [], set()
    counts = dict.fromkeys(("promotions", "false", "refusals", "relapses", "trainings"), 0)
    squared = {"system": 0.0, "reference": 0.0, "once": 0.0}
    pending: list[tuple[Model, Model]] = []  # promotions that are not judged yet

    def promote(model: Model, winner: Model, month: int) -> None:
        nonlocal challenger
        numbers[id(model)] = len(numbers)
        expected[numbers[id(model)]] = {METERED: Expectation.of(past.score(winner, month, 0))}
        pending.append((model, line[-1]))
        line.append(model)
        challenger = None
        counts["promotions"] += 1

    def turn(month: int) -> None:
        nonlocal reference, challenger
        number = numbers[id(line[-1])]
        if past.trips[month] is None:
            history.append(WindowResult(past.months[month], number, data_problem="broken"))
            return
        sound = [each for each in range(month) if past.trips[each] is not None]
        learned = tuple(sound[-3:])
        reference = past.fitted(learned)
        answers = past.score(line[-1], month, number)
        (quality,) = measure(answers, expected)
        history.append(
            WindowResult(past.months[month], number, quality.expected_rmse, quality.rmse, quality.interval_coverage)
        )
        if len(line) > 1:
            sums = DailySums.of(answers, past.score(line[-2], month, 0))
            if compare(number, 0, sums, first=number not in judged_first).relapse:
                line.pop()
                counts["relapses"] += 1
            judged_first.add(number)
        if challenger:
            sums = DailySums.of(past.score(challenger, month, 0), past.score(line[-1], month, 0))
            trials.append(judge(numbers[id(challenger)], numbers[id(line[-1])], sums, trials, setting.rule))
            if trials[-1].verdict == "promote":
                promote(challenger, challenger, month)
            elif trials[-1].verdict == "withdraw":
                challenger = None
        decision = decide(history, setting.rule)
        if decision.action != "retrain":
            return
        counts["trainings"] += 1
        history[-1] = replace(history[-1], retrained=True)
        candidate = past.fitted(learned)
        gain = decision.min_gain
        asked = replace(gate.DEFAULT_RULE, min_gain=gain, proven_gain=gain if setting.at_once else 0.0)
        found = {way: past.evaluate(candidate, line[-1], month, way) for way in WAYS}
        verdict = gate.decide(found.pop(setting.way), found, rule=asked)
        if verdict.promote and setting.at_once:
            promote(past.refitted(learned, month) if setting.refits else candidate, candidate, month)
        elif (verdict.promote or verdict.may_be_chance) and challenger is None:
            challenger = candidate
            numbers.setdefault(id(candidate), len(numbers))
        else:
            counts["refusals"] += 1

    turned, tried = 2, 0.1
    for month in range(2, len(past.months)):
        begins = Month.parse(past.months[month])
        while turned < month and _months_between(Month.parse(past.months[turned]), begins) > delay:
            turn(turned)
            turned += 1
        trips = past.trips[month]
        if trips is None:
            continue
        error = past.rmse(line[-1], month) ** 2
        for model, before in pending:
            counts["false"] += past.rmse(model, month) > past.rmse(before, month)
        pending.clear()
        if challenger:
            error += tried * (past.rmse(challenger, month) ** 2 - error)
        for name, value in (
            ("system", error),
            ("reference", past.rmse(reference, month) ** 2),
            ("once", past.rmse(past.fitted((0,)), month) ** 2),
        ):
            squared[name] += len(trips) * value
    regret = math.sqrt(squared["system"] / squared["reference"]) - 1
    once = math.sqrt(squared["once"] / squared["reference"]) - 1
    return {"regret": regret, "once": once, **counts}


def _months_between(earlier: Month, later: Month) -> int:
    return 12 * (later.year - earlier.year) + later.month - earlier.month


def run(city: tuple[str, int], *, months: int, trips: int) -> dict[str, object]:
    """All settings over one simulated city."""
    name, seed = city
    span = [str(month) for month in parse_months("2021-01..2023-12")][:months]
    loaded: list[Trips | None] = []
    for place, month in enumerate(span):
        fault = f"&bad_rows={month}..{month}" if place in FAULTS.get(name, ()) else ""
        speed = f"&slower_streets={month}..{month}:{CITIES[name](place):.4f}"
        loaded.append(_load(f"simulated?trips={trips}&seed={seed}{speed}{fault}", month))
    return {"city": name, "seed": seed, "found": _all(Past(span, loaded))}


def run_real(source: str, months: str) -> dict[str, object]:
    """All settings over published months."""
    span = [str(month) for month in parse_months(months)]
    return {"city": months, "seed": 0, "found": _all(Past(span, [_load(source, month) for month in span]))}


def _all(past: Past) -> dict[str, dict[str, float]]:
    return {f"{name}|{delay}": live(past, setting, delay) for delay in (0, 2) for name, setting in SETTINGS.items()}


def _load(source: str, month: str) -> Trips | None:
    try:
        return load_valid_trips(source, "green", Month.parse(month), Settings.load())[1]
    except ContractError:
        return None


def report(results: list[dict[str, object]]) -> None:
    """Print the tables."""
    for delay in (0, 2):
        print(f"\nPublished {delay} months after\n")
        print("| setting | regret, mean | worst | promotions | false | relapses | trainings |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for name in SETTINGS:
            found = [result["found"][f"{name}|{delay}"] for result in results]  # type: ignore[index]
            sums = {key: sum(each[key] for each in found) for key in found[0]}
            regrets = [each["regret"] for each in found]
            counts = " | ".join(str(sums[key]) for key in ("promotions", "false", "relapses", "trainings"))
            print(f"| {name} | {np.mean(regrets):+.1%} | {max(regrets):+.1%} | {counts} |")
    print("\n| city, seed | once | default | promotions | two months late | promotions |")
    print("|---|--:|--:|--:|--:|--:|")
    for result in results:
        now, late = (result["found"][f"default|{delay}"] for delay in (0, 2))  # type: ignore[index]
        print(
            f"| {result['city']}, {result['seed']} | {now['once']:+.1%} | {now['regret']:+.1%} | {now['promotions']} | "
            f"{late['regret']:+.1%} | {late['promotions']} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="Cities of each kind.")
    parser.add_argument("--months", help="How many months a city has (16), or which published ones.")
    parser.add_argument("--trips", type=int, default=5000, help="Records of a simulated month.")
    parser.add_argument("--source", help="Where published months come from; simulated cities if none.")
    parser.add_argument("--cities", default=",".join(CITIES), help="Which simulated cities.")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="Where everything found is written, too.")
    given = parser.parse_args()
    if given.source:
        results = [run_real(given.source, given.months)]
    else:
        cities = [(name, seed) for name in given.cities.split(",") for seed in range(7, 7 + given.seeds)]
        lived = partial(run, months=int(given.months or 16), trips=given.trips)
        with ProcessPoolExecutor(given.processes) as pool:
            results = list(pool.map(lived, cities))
    if given.json:
        with open(given.json, "w") as file:
            json.dump(results, file, indent=1)
    report(results)


if __name__ == "__main__":
    main()
