"""The register: every rule that tune-mcp keeps, in one line, with how and where it is kept (``rules.yaml``)."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter


class How(StrEnum):
    """In which way a rule is kept."""

    ENFORCED = "enforced"
    AUTOMATIC = "automatic"
    REFERENCE = "reference"
    PROMPT = "prompt"

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return {
            How.ENFORCED: "An attempt to break it is refused or stopped.",
            How.AUTOMATIC: "The product always does it; there is nothing to refuse.",
            How.REFERENCE: "A fact that configuration, a prompt or a page holds.",
            How.PROMPT: "No server can enforce it: a prompt says it, and what the server notices is named.",
        }[self]


class Rule(BaseModel):
    """One rule. ``where`` is the file that keeps it; ``notices`` what the server sees when a prompt is not obeyed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    how: How
    where: str
    notices: str = ""


@cache
def register() -> dict[str, Rule]:
    """Every rule by its id, in the order of the areas."""
    text = Path(__file__).with_name("rules.yaml").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, Rule]).validate_python(yaml.safe_load(text))


def table() -> str:
    """The register as markdown, as ``tune://rules`` and docs/reference/rules.md show it."""
    rules = register()
    kinds = [f"- {how}, {sum(rule.how is how for rule in rules.values())} rules: {how.meaning}\n" for how in How]
    rows = [f"| {name} | {_sentence(rule)} | {rule.how}: `{rule.where}` |\n" for name, rule in rules.items()]
    return "".join([*kinds, "\n| rule | in one line | how it is kept |\n|---|---|---|\n", *rows])


def _sentence(rule: Rule) -> str:
    return f"{rule.rule} The server notices: {rule.notices}" if rule.notices else rule.rule
