"""report.html in a real browser: whole at desk and phone width, in light, dark and print, with nothing from outside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser.conftest import Report
from browser.devtools import Page

WIDTHS = (390, 768, 1280)
ON_PAGE = Path(__file__).with_name("on_page.js").read_text()


def ask(page: Page, question: str) -> object:
    return page.ask(f"(() => {{ {ON_PAGE}; return {question}; }})()")


@pytest.mark.parametrize("width", WIDTHS)
def test_it_loads_nothing_but_itself_and_the_console_stays_silent(page: Page, report: Report, width: int) -> None:
    page.open(report.html, width)

    assert page.requests() == [report.html.as_uri()]
    assert page.complaints() == []


def test_a_script_or_a_picture_from_outside_would_be_stopped_by_the_page_itself(page: Page, tmp_path, report) -> None:
    bad = tmp_path / "bad.html"
    extra = '<script>document.title = "ran"</script><img src="http://192.0.2.1/x.png"></body>'
    bad.write_text(report.html.read_text().replace("</body>", extra))
    page.open(bad, 1280)

    assert page.ask("document.title").startswith("Calibration report")
    assert len(page.complaints()) == 2
    assert all("Content Security Policy" in one for one in page.complaints())


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_sideways(page: Page, long_report: Report, width: int) -> None:
    page.open(long_report.html, width)

    assert page.ask("document.documentElement.scrollWidth") == width
    assert ask(page, "onPage.sticking()") == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "long_report"])
def test_every_repeat_of_every_metric_is_a_visible_mark(page: Page, width: int, name: str, request) -> None:
    shown: Report = request.getfixturevalue(name)
    page.open(shown.html, width)

    assert ask(page, "onPage.marks()") == [shown.repeats] * shown.metrics


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_in_a_strip_lies_over_another(page: Page, report: Report, width: int) -> None:
    page.open(report.html, width)

    assert ask(page, "onPage.clashes()") == []


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_its_ground(page: Page, report: Report, dark: bool) -> None:
    page.open(report.html, 1280, dark=dark)

    assert ask(page, "onPage.faint()") == []
    light = page.ask("getComputedStyle(document.body).backgroundColor")
    assert (light == "rgb(252, 252, 251)") is not dark


def test_pictures_and_sections_have_names_for_those_who_hear_the_page(page: Page, report: Report) -> None:
    page.open(report.html, 1280)
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if "role" in node]

    pictures = [name for role, name in named if role in ("image", "img")]
    assert sum(": repeats " in name for name in pictures) == report.metrics
    assert all(pictures)
    headings = [name for role, name in named if role == "heading"]
    assert headings[0] == "speech-v1" and "▲ Loosens CI: 4" in headings
    assert all(name for role, name in named if role in ("link", "heading", "table"))


@pytest.mark.parametrize("width", [390, 1280])
def test_what_loosens_is_seen_before_what_does_not(page: Page, report: Report, width: int) -> None:
    page.open(report.html, width)
    order = "['.banner .note', '.loud', '.calm', '#audit', '#stages'].map(one => document.querySelector(one)"
    tops = page.ask(f"{order}.getBoundingClientRect().top)")

    assert tops == sorted(tops)


def test_it_prints_on_a_few_pages_with_its_folded_parts_open(page: Page, report: Report) -> None:
    page.open(report.html, 1280)
    printed = page.print()

    assert printed.startswith(b"%PDF-")
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 10
    page.call("Emulation.setEmulatedMedia", media="print")
    folded = page.ask(
        "[...document.querySelectorAll('details')].filter(one => !one.lastElementChild.checkVisibility("
        "{contentVisibilityAuto: true})).length"
    )
    page.call("Emulation.setEmulatedMedia", media="")
    assert folded == 0
