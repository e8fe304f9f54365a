import base64
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from tripcast.evaluation.gate import decide
from tripcast.evaluation.scores import Batch, evaluate
from tripcast.months import MonthUsed
from tripcast.reports.training import TrainingContext, training_report, training_summary
from tripcast.taxi.slices import slice_trips
from tripcast.taxi.trips import Trips

HOSTILE = '"><img src=x onerror=y> $x$ | *y*'

CONTEXT = TrainingContext(
    subject="green taxi",
    source="a folder",
    months=[
        MonthUsed("2021-01", "train", "a folder", 76_518, 73_908, "9f86d081884c7d659a2feaa0c55ad015"),
        MonthUsed("2021-02", "test", "a folder", 64_572, 61_921, "3fdba35f04dc8c462986c992bcf87554"),
    ],
    created="2021-03-01 04:05 UTC",
    champion="version 3",
    parameters={"lightgbm": {"num_leaves": 63, "rounds": 400}, "linear": {}, "seed": 7},
    versions={"tripcast": "0.1.0", "commit": "46bea35"},
    run_url="https://mlflow.example/#/runs/1",
)


@dataclass(frozen=True)
class StandIn:
    minutes: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class Page(HTMLParser):
    """A page taken apart: its elements, its text, and its pictures as they stand in it."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.text = ""
        self.drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text = " ".join([self.text, *data.split()])


def parsed(drawing):
    """A picture as XML."""
    return ElementTree.fromstring(drawing.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1))


def check_self_contained(text, page, most_bytes):
    """A page asks for nothing from elsewhere, is small enough to send, and has no stand-in for a colour left."""
    wanted = {
        value
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in {"src", "srcset", "href", "xlink:href", "action", "data", "poster"} and tag != "a"
    }
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in wanted)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    assert not re.search("#0[1-5]0[1-5]0[1-6]", text)
    assert len(text.encode()) < most_bytes


def judged(**names):
    """A month of 5,000 trips, and candidates by the spread of their errors in minutes."""
    random = np.random.default_rng(0)
    trips = Trips(
        np.datetime64("2021-02-01", "us") + random.integers(0, 28 * 86_400, 5000).astype("timedelta64[s]"),
        random.choice([7, 41, 74, 95, 138, 166], 5000).astype(np.int16),
        random.choice([7, 41, 74, 95, 138, 166], 5000).astype(np.int16),
        random.gamma(2, 2, 5000),
        random.uniform(1, 60, 5000),
    )

    def predicting(spread):
        minutes = trips.duration_minutes + random.normal(0, spread, 5000)
        return StandIn(minutes, minutes - 1.28 * spread, minutes + 1.28 * spread)

    predictions = {name: predicting(spread) for name, spread in names.items()}
    champion = predictions.pop("champion", None)
    return evaluate([Batch(trips.duration_minutes, trips.pickup_datetime, slice_trips(trips), predictions, champion)])


@pytest.fixture(scope="module")
def promoted():
    evaluation = judged(lightgbm=4.0, linear=7.0, wild=np.nan, champion=5.0)
    decision = decide(evaluation)
    text = training_report(evaluation, decision, CONTEXT)
    return evaluation, decision, text, Page(text)


@pytest.fixture(scope="module")
def hostile():
    evaluation = judged(**{HOSTILE: 30.0, "second": 31.0})
    decision = decide(evaluation)
    context = replace(CONTEXT, source=HOSTILE, champion=HOSTILE, versions={HOSTILE: HOSTILE}, run_url="javascript:1")
    text = training_report(evaluation, decision, context)
    return evaluation, decision, text, Page(text)


def test_the_decision_stands_at_the_top(promoted):
    _, decision, _, page = promoted
    assert decision.verdict == "promoted"
    assert page.text.index(decision.sentence) < page.text.index("Why")


def test_every_check_is_there_with_its_outcome(promoted):
    _, decision, _, page = promoted
    for check in decision.reasons:
        assert check.sentence in page.text
    assert all(check.sentence in page.text for checks in decision.passed_over.values() for check in checks)
    outcomes = [attributes["aria-label"] for _, attributes in page.elements if attributes.get("class") == "sign"]
    assert outcomes == ["passed"] * len(decision.reasons) + ["failed"]  # the disqualified candidate's


def test_every_model_s_figures_are_there(promoted):
    evaluation, _, _, page = promoted
    for scores in [*evaluation.candidates.values(), evaluation.champion]:
        for figure in (f"{scores.rmse:.3f}", f"{scores.mae:.3f}", f"{scores.r2:.3f}", f"{scores.p90_error:.2f}"):
            assert figure in page.text
        assert f"{scores.interval_coverage:.1%}" in page.text
    difference = evaluation.candidates["lightgbm"].difference
    assert f"{difference.low:+.3f} to {difference.high:+.3f}".replace("-", "\N{MINUS SIGN}") in page.text
    assert evaluation.disqualified["wild"] in page.text


def test_every_slice_s_figures_are_there(promoted):
    evaluation, _, _, page = promoted
    for part, before in zip(evaluation.candidates["lightgbm"].slices, evaluation.champion.slices, strict=True):
        row = rf" {re.escape(part.label)} {part.trips:,} {part.rmse:.2f} .* {before.rmse:.2f} "
        assert re.search(row, page.text), part


def test_the_data_and_the_run_are_there(promoted):
    page = promoted[3]
    assert " 2021-01 train 76,518 73,908 96.6% 9f86d081884c " in page.text
    assert " 2021-02 test 64,572 61,921 95.9% 3fdba35f04dc " in page.text
    assert "num_leaves 63, rounds 400" in page.text
    assert "46bea35" in page.text
    assert "version 3" in page.text
    assert ("a", "https://mlflow.example/#/runs/1") in [
        (tag, attributes.get("href")) for tag, attributes in page.elements
    ]


def test_every_picture_is_a_drawing_with_words_for_those_who_cannot_see_it(promoted):
    evaluation, _, _, page = promoted
    titles = re.findall(r"<figcaption><h3>(.*?)</h3>", promoted[2])
    assert titles == [
        "Error of each model",
        "Difference to the champion",
        "Predicted against actual: lightgbm",
        "Predicted against actual: champion",
        "Error by hour",
        "Error by weekday",
        "Error by borough",
        "Error by distance",
        "Error by airport",
        "Interval coverage",
        "Interval width",
    ]
    assert len(page.drawings) == len(titles)
    for drawing in page.drawings:
        picture = parsed(drawing)
        assert len(picture.findall(".//path")) >= 3
        assert len(picture.findall(".//text")) >= 5
        assert len(picture.attrib["aria-label"]) > 30
        assert "var(--ink)" in drawing
    assert f"lightgbm {evaluation.candidates['lightgbm'].rmse:.2f}" in page.drawings[0]


def test_predicted_against_actual_is_a_picture_of_the_trips(promoted):
    evaluation, _, _, page = promoted
    (png,) = re.findall(r'href="data:image/png;base64,([^"]+)"', page.drawings[2])
    pixels = imread(BytesIO(base64.b64decode(png)))
    density = evaluation.candidates["lightgbm"].density
    assert pixels.shape == (60, 60, 4)
    assert np.count_nonzero(pixels[..., 3]) == np.count_nonzero(density)
    assert len(np.unique(pixels[..., 3])) > 10


def test_the_page_asks_for_nothing_from_outside(promoted):
    check_self_contained(*promoted[2:], most_bytes=1_500_000)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in promoted[2]


def test_a_page_without_champion_compares_the_best_two(hostile):
    _, decision, text, page = hostile
    assert decision.verdict == "refused"
    assert "Difference to the champion</h3>" not in text
    assert "second" in page.text
    assert len(page.drawings) == 10


def test_what_comes_from_outside_is_text_and_nothing_else(hostile):
    page = hostile[3]
    assert HOSTILE in page.text
    assert not [tag for tag, attributes in page.elements if tag == "img" or "onerror" in attributes]
    assert not [attributes for tag, attributes in page.elements if tag == "a"]  # no web address, no link
    for drawing in page.drawings:
        parsed(drawing)


def test_a_run_whose_candidates_cannot_be_judged_is_reported_without_pictures():
    evaluation = judged(wild=np.nan)
    page = Page(training_report(evaluation, decide(evaluation), CONTEXT))
    assert "Nothing is promoted: no candidate can be judged." in page.text
    assert evaluation.disqualified["wild"] in page.text
    assert page.drawings == []


def test_the_summary_has_the_decision_the_candidates_and_the_checks(promoted):
    evaluation, decision, _, _ = promoted
    lines = training_summary(evaluation, decision, CONTEXT).splitlines()
    scores = evaluation.candidates["lightgbm"]
    assert lines[0] == f"## {decision.sentence}"
    assert lines[2] == "Green taxi, trained on 2021-01, judged on 5,000 trips of 2021-02."
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| model")]
    assert [row.split(" | ")[0] for row in rows] == ["| lightgbm", "| champion", "| linear"]
    assert rows[0].startswith(f"| lightgbm | {scores.rmse:.3f} | {scores.mae:.3f} | {scores.r2:.3f} |")
    for check in decision.reasons:
        assert f"- ✓ {check.name}: {check.sentence}" in lines
    assert f"- ✗ predictions: {evaluation.disqualified['wild']}" in lines


def test_the_summary_s_table_survives_a_hostile_name(hostile):
    evaluation, decision, _, _ = hostile
    summary = training_summary(evaluation, decision, CONTEXT)
    assert "<img" not in summary
    rows = [line for line in summary.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}
