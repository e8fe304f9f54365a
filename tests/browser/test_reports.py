"""The reports in a real browser: on a desktop, on a telephone, on paper, in light and in dark."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.unit.test_reports_replay import STORY
from tripcast.evaluation.confidence import Measure
from tripcast.monitoring.quality import JoinCounts, Quality
from tripcast.monitoring.rule import WindowResult, decide
from tripcast.reports.monitoring import MonitoringContext, monitoring_report
from tripcast.reports.replay import replay_page

ADDRESS = "https://mlflow.example/#/" + "0123456789abcdef" * 20


def watched() -> str:
    """A report with a long address in every place that takes one."""
    history = [
        WindowResult(f"2021-0{month}", 1, 5.0, Measure(6.0, 5.9, 6.1), Measure(0.6, 0.59, 0.61))
        for month in range(4, 8)
    ]
    history.append(WindowResult("2021-08", 1, data_problem=f"2021-08 from {ADDRESS} is broken."))
    error = Measure(12.34, 12.12, 12.56)
    quality = [
        Quality(1, arm, 12_345, 31, error, 5.0, error, error, history[0].interval_coverage, ()) for arm in ("a", "b")
    ]
    context = MonitoringContext(
        "green", ADDRESS, "now", decide(history), history, quality, joined=JoinCounts(1, 2, 3, 4, 5)
    )
    return monitoring_report(context)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """The address of each page."""
    folder = tmp_path_factory.mktemp("reports")
    addresses = {}
    for name, text in (("monitoring", watched()), ("replay", replay_page(STORY))):
        file = folder / f"{name}.html"
        file.write_text(text, encoding="utf-8")
        addresses[name] = file.as_uri()
    return addresses


@pytest.fixture
def reader(browser: Browser) -> Iterator[Page]:
    """A tab that shows files."""
    with browser.new_context() as context:
        yield context.new_page()


@pytest.mark.parametrize("name", ["monitoring", "replay"])
@pytest.mark.parametrize(
    ("width", "media"), [(1280, "screen"), (390, "screen"), (320, "screen"), (703, "print")], ids=str
)
def test_a_page_is_no_wider_than_its_screen_or_its_paper(reader, pages, name, width, media):
    reader.set_viewport_size({"width": width, "height": 900})
    reader.emulate_media(media=media)
    reader.goto(pages[name])
    assert reader.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("name", ["monitoring", "replay"])
def test_no_table_is_cut_off_on_a_desktop(reader, pages, name):
    reader.set_viewport_size({"width": 1280, "height": 900})
    reader.goto(pages[name])
    tables = reader.locator(".scroll").evaluate_all("cards => cards.map(card => [card.scrollWidth, card.clientWidth])")
    assert tables
    assert all(content <= room for content, room in tables)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_take_on_the_colours_of_the_page(reader, pages, scheme):
    reader.emulate_media(color_scheme=scheme)
    reader.goto(pages["monitoring"])
    colour = "element => getComputedStyle(element).fill"
    text = reader.locator("figure svg text").first.evaluate(colour)
    assert text == reader.evaluate(
        """() => {
            const probe = document.body.appendChild(document.createElement('i'));
            probe.style.color = 'var(--muted)';
            return getComputedStyle(probe).color;
        }"""
    )


def test_the_replay_s_picture_is_drawn_for_the_width_of_the_screen(reader, pages):
    reader.goto(pages["replay"])
    for width, shown, hidden in ((1280, "wide", "narrow"), (390, "narrow", "wide")):
        reader.set_viewport_size({"width": width, "height": 900})
        expect(reader.locator(f".{shown} svg")).to_be_visible()
        expect(reader.locator(f".{hidden} svg")).to_be_hidden()
        size = reader.locator(f".{shown} text").first.evaluate("text => text.getBoundingClientRect().height")
        assert 9 <= size <= 24  # pixels: to be read without a glass
