"""The replay page: what it says of months that went well, badly, or not at all."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests.unit.test_reports import HOSTILE, Page
from tripcast.errors import InvalidRequest
from tripcast.monitoring.rule import Rule
from tripcast.reports import Event, Replay, ReplayMonth, replay_page


def month(key, system=5.0, once=5.0, notebook=7.0, *events, version=1, challenger=None, share=0.0, trips=1000):
    return ReplayMonth(
        key, system, once, notebook, version, challenger, share, trips, [Event(*each) for each in events]
    )


STORY = Replay(
    subject="green taxi",
    source="a folder",
    train_months=["2021-01", "2021-02"],
    test_month="2021-03",
    rollout_share=0.1,
    rule=Rule(),
    months=[
        month("2021-04"),
        month("2021-05", 6.0, 6.0, 8.0, ("alert", "RMSE of version 1 is too high."), trips=3000),
        month("2021-06", 6.0, 6.0, 8.0, ("retrain", "It is too high again."), ("challenge", "Version 2 is tried.")),
        month("2021-07", None, None, None, ("data", "2021-07 is broken."), challenger=2, share=0.1, trips=0),
        month("2022-01", 5.0, 6.5, None, ("promote", "Version 2 is better."), version=2),
        month("2022-02", 4.8, 6.0, 8.5, ("refuse", "No candidate is better."), version=2),
    ],
)


@pytest.fixture(scope="module")
def story():
    text = replay_page(STORY)
    return text, Page(text)


def ending(*last, events=(("retrain", "It begins."), ("promote", "Version 2 is better."))):
    return replace(
        STORY, months=[month("2021-04", 5.0, 5.0, 7.0, *events), month("2021-05", *last, version=2)]
    ).headline


def test_the_headline_says_what_retraining_brought(story):
    assert STORY.headline == (
        "Retraining kept the RMSE at 4.80 minutes in 2022-02; trained once, the model would be at 6.00, 25% worse."
    )
    assert f"<h1>{STORY.headline}</h1>" in story[0]


def test_the_headline_admits_that_retraining_did_not_help():
    assert ending(6.0, 4.8) == (
        "Retraining did not help: in 2021-05 the RMSE was 6.00 minutes, and that of the model trained once 4.80, "
        "20% better."
    )


def test_the_headline_does_not_make_a_gain_of_a_trifle():
    assert ending(5.0, 5.02) == (
        "Retraining made no difference in the end: in 2021-05 the RMSE was 5.00 minutes, with it or without."
    )


def test_the_headline_says_that_nothing_was_promoted_or_called_for():
    assert ending(5.0, 5.0, events=[("retrain", "It begins."), ("refuse", "It is worse.")]) == (
        "Retraining promoted no model up to 2021-05: the RMSE was 5.00 minutes, and that of the model trained once "
        "5.00."
    )
    assert ending(5.0, 5.0, events=[]) == "Nothing called for retraining: in 2021-05 the RMSE was 5.00 minutes."


def test_the_headline_rests_on_the_last_month_that_was_judged():
    assert ending(None, None).startswith("Retraining made no difference in the end: in 2021-04")
    unjudged = replace(STORY, months=[month("2021-04", None, None, None)])
    assert unjudged.headline == "No month could be judged, so nothing can be said about retraining."
    assert unjudged.headline in Page(replay_page(unjudged)).text


def test_the_error_of_all_months_weighs_them_by_their_trips(story):
    # Over the months in which all three are known: squares of 5, 6, 6, 4.8 at 1, 3, 1, 1 thousand trips.
    assert "with retraining 5.66 min" in story[1].text
    assert "trained once 5.85 min" in story[1].text
    assert "notebook 7.93 min" in story[1].text


def test_what_happened_is_counted(story):
    assert "1 × data broken, 1 × alert, 1 × retraining, 1 × promotion, 1 × refusal" in story[1].text  # noqa: RUF001


def test_every_month_is_in_the_table_with_its_events(story):
    page = story[1]
    for row in (
        "2021-04 1,000 5.00 5.00 7.00 version 1 –",  # noqa: RUF001
        "2021-05 3,000 6.00 6.00 8.00 version 1 – alert RMSE of version 1 is too high.",  # noqa: RUF001
        "retraining It is too high again. challenger Version 2 is tried.",
        "2021-07 0 – – – version 1 version 2, 10% of riders data broken 2021-07 is broken.",  # noqa: RUF001
        "2022-01 1,000 5.00 6.50 – version 2 – promotion Version 2 is better.",  # noqa: RUF001
        "2022-02 1,000 4.80 6.00 8.50 version 2 – refusal No candidate is better.",  # noqa: RUF001
    ):
        assert row in page.text, row


def test_the_rule_and_the_rollout_are_written_out(story):
    page = story[1]
    assert "so are at least 2 of the last 3 that the same version served" in page.text
    assert "tried on 10% of the riders before it answers all of them" in page.text
    assert "first version trained on 2021-01, 2021-02, judged on 2021-03" in page.text


def drawings(page):
    return [
        ElementTree.fromstring(drawing.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1))
        for drawing in page.drawings
    ]


def test_the_picture_is_there_for_wide_and_for_narrow_screens(story):
    wide, narrow = drawings(story[1])
    assert wide.attrib["aria-label"] == narrow.attrib["aria-label"]
    assert "2022-01 with retraining 5.00, trained once 6.50; 2022-02" in wide.attrib["aria-label"]
    assert "2021-07" not in wide.attrib["aria-label"]
    for drawing in (wide, narrow):
        texts = [text.text for text in drawing.iter("text")]
        for part in ("with retraining", "trained once", "notebook", "version", "alert", "retraining", "promotion"):
            assert part in texts
        assert "withdrawal" not in texts  # no lane for what never happened
        assert "⋯" in texts  # the months that were left out


def test_no_picture_refers_to_a_part_of_the_other(story):
    wide, narrow = story[1].drawings
    for drawing in (wide, narrow):
        wanted = set(re.findall(r'href="#([^"]+)"', drawing)) | set(re.findall(r"url\(#([^)]+)\)", drawing))
        assert wanted
        assert wanted <= set(re.findall(r'id="([^"]+)"', drawing))
    identities = [
        {each for each in re.findall(r'id="(m\w+|p\w{6,})"', drawing) if "_" not in each} for drawing in (wide, narrow)
    ]
    assert identities[0]
    assert not identities[0] & identities[1]


def test_a_line_stops_where_a_month_is_missing(story):
    (wide, _) = story[1].drawings
    lines = re.findall(r'<path d="([^"]+)"[^>]*stroke: var\(--series-1\)', wide)
    assert next(line.count("M") for line in lines if "L" in line) == 2


def test_three_years_of_months_are_drawn():
    keys = [f"{year}-{each:02d}" for year in (2021, 2022, 2023) for each in range(1, 13)]
    page = Page(replay_page(replace(STORY, months=[month(key) for key in keys])))
    wide, narrow = ([text.text for text in drawing.iter("text")] for drawing in drawings(page))
    assert {"2021", "2022", "2023"} <= set(wide)
    assert 3 <= sum(text in {"Jan", "Apr", "May", "Jul", "Sep", "Oct"} for text in narrow) <= 18


def test_months_that_are_none_are_refused():
    with pytest.raises(InvalidRequest, match="'June' is not a month"):
        replay_page(replace(STORY, months=[month("June")]))


def test_what_comes_from_outside_is_text_and_nothing_else():
    hostile = replace(
        STORY,
        subject=HOSTILE,
        source=HOSTILE,
        train_months=[HOSTILE],
        months=[month("2021-04", 5, 5, 5, ("alert", HOSTILE))],
    )
    page = Page(replay_page(hostile))
    assert page.text.count(HOSTILE) >= 3
    assert not [tag for tag, attributes in page.elements if tag in {"img", "script"} or "onerror" in attributes]


def test_the_page_asks_for_nothing_from_outside(story):
    text, page = story
    assert not {"script", "link", "iframe", "object", "embed", "img"} & {tag for tag, _ in page.elements}
    assert not re.search(r'(?:src|xlink:href)="(?!#)', text)
    assert "default-src 'none'" in text
    assert not re.search("#0[1-5]0[1-5]0[1-6]", text)
    assert len(text.encode()) < 500_000
