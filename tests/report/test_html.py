from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks nesting, and collects texts, references and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.labels: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in ("href", "src", "srcset", "data", "action", "poster", "xlink:href"):
                self.references.append(value)
            elif name == "id":
                self.ids.append(value)
            elif name == "aria-label":
                self.labels.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open, self.getpos())
        self.open.pop()

    def handle_data(self, data) -> None:
        self.texts.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


def test_the_page_is_well_formed_and_loads_nothing_from_anywhere(case) -> None:
    html = case.html()
    page = read(html)
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?:|expression\(", html)
    assert html.lstrip().lower().startswith("<!doctype html>")


def test_every_link_leads_to_a_place_on_the_page_and_ids_are_unique(case) -> None:
    page = read(case.html())
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_every_text_is_escaped(workshop, remeasure) -> None:
    nasty = "<script>alert('x')</script> & {{ 7*7 }}"
    case = workshop.make(titles={"tts_wer": nasty})
    remeasure(case, "test_asr_ci", 3, nasty, "<i>me</i>")
    html = case.html()
    assert "<script" not in html and "<i>me" not in html
    assert "".join(read(html).texts).count(nasty) == 2


@pytest.mark.rule("RPT-01")
def test_commit_dirt_and_environment_are_the_banner(workshop) -> None:
    html = workshop.make(dirty=True).html()
    banner = html.split("<main>")[0]
    assert workshop.make(stamp="20260424T050000Z").plan.calibration_git_sha in banner
    assert "dirty tree" in banner and "2× NVIDIA H20" in banner and "the same in every repeat" in banner


def test_each_metric_has_a_strip_with_every_repeat_and_the_thresholds_in_words(case) -> None:
    html = case.html()
    page = read(html)
    assert len(re.findall(r'<circle class="dot[^>]*><title>repeat', html)) == 9 * 5
    described = [label for label in page.labels if ": repeats " in label]
    assert len(described) == 9
    wer = next(label for label in described if label.startswith("Corpus WER"))
    assert "present 1.22" in wer and "to write 1.31" in wer and "CI limit then 1.64" in wer


def test_what_loosens_comes_before_what_tightens_and_says_so_in_words(case) -> None:
    html = case.html()
    change = html.split('id="change"')[1].split("</section>")[0]
    assert change.index("▲ Loosens CI: 4") < change.index("Tightens, stays, or is unknown: 5")
    effects = re.findall(r'class="effect (\w+)"><span aria-hidden="true">(.)</span> (\w+)', html)
    assert effects
    assert all(kind == word for kind, _, word in effects)


def test_a_page_of_a_docs_stage_alone_is_whole(workshop) -> None:
    page = read(workshop.make(stages=("docs_tts",)).html())
    assert any("There are no thresholds" in text for text in page.texts)


@pytest.mark.parametrize("repeats", [1, 2, 15])
def test_any_number_of_repeats_fits(workshop, values, repeats: int) -> None:
    longer = {key: [row[k % 5] for k in range(repeats)] for key, row in values.items()}
    html = workshop.make(values=longer, repeats=repeats).html()
    read(html)
    assert len(re.findall(r'<circle class="dot[^>]*><title>repeat', html)) == 9 * repeats
