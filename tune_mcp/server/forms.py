"""What ``apply`` asks a person through the client: the forms, and what their answers mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field, create_model

from tune_mcp.contract.apply import STANDING, Decision, Otherwise

if TYPE_CHECKING:
    from tune_mcp.apply.plan import Row

FORMS = 7
"""How many forms the metrics are asked in at most; up to that number each has one of its own."""


def standing(word: str) -> Otherwise | None:
    """The word that stands for every question, None for any other."""
    return word if word in STANDING else None


class Agreement(BaseModel):
    """The first question: which mode. A person may choose less than was proposed."""

    mode: Literal["report", "smart", "full"] = Field(
        default="report", description="report: touch nothing; smart: ask for each doubtful metric; full: write all"
    )
    otherwise: Literal["as the call says", "ask", "keep", "apply"] = Field(
        default="as the call says",
        description="your answer to every single question: ask each one, keep all present values, or apply all",
    )

    def word(self, called: str) -> Otherwise | None:
        """The standing word that the person agreed to, None when each question is asked."""
        return standing(called if self.otherwise == "as the call says" else self.otherwise)


class Failures(BaseModel):
    """The question about tests that fail for no threshold's sake."""

    choice: Literal["leave", "write"] = Field(default="leave", description="leave: write nothing")


class Form(BaseModel):
    """What every form about metrics has; the client is shown the fields alone."""

    about: ClassVar[tuple[Row, ...]] = ()
    """The metrics, in the order of the questions."""


class Choice(Form):
    """The form for one metric."""

    choice: Literal["keep", "apply", "custom"] = Field(default="keep", description="keep the present value by default")
    value: str = Field(default="", description="only with custom: the number to write, as it should appear in the file")


def form_for(rows: Sequence[Row]) -> type[Form]:
    """The form for some metrics: one choice each, one field for all numbers of the person's own."""
    if len(rows) == 1:
        made = create_model("Choice", __base__=Choice)
    else:
        fields: dict[str, Any] = {
            f"choice_{number}": (
                Literal["keep", "apply", "custom"],
                Field(default="keep", title=f"{number}: {'/'.join(row.key)}", description=f"question {number}"),
            )
            for number, row in enumerate(rows, 1)
        }
        text = "only with custom: the numbers to write, each after its question's number, such as 1=0.75 3=1.5"
        made = create_model("Choices", __base__=Form, **fields, value=(str, Field(default="", description=text)))
    made.about = tuple(rows)
    return made


_NUMBERED = re.compile(r"(\d+)\s*=\s*([^\s,;=]+)[\s,;]*")


def decisions_of(form: Form) -> list[Decision]:
    """What the person chose in one form. Numbers that are not clear in every point stay as a text that is refused."""
    given: dict[str, Any] = form.model_dump()
    text: str = given["value"]
    if isinstance(form, Choice):
        choices: dict[int, Any] = {1: form.choice}
        values = {1: text}
    else:
        choices = {number: given[f"choice_{number}"] for number in range(1, len(form.about) + 1)}
        named = [(int(number), value) for number, value in _NUMBERED.findall(text)]
        custom = [number for number, choice in choices.items() if choice == "custom"]
        values = dict(named)
        if custom != sorted(number for number, _ in named) or _NUMBERED.sub("", text).strip():
            unclear = {*custom, *values} & {*choices} or {1}
            choices |= dict.fromkeys(unclear, "custom")
            values = dict.fromkeys(unclear, f"{text} (of which question?)")
    return [
        Decision(
            stage_key=row.stage_key,
            metric_key=row.metric_key,
            choice=choices[number],
            value=values[number] if choices[number] == "custom" else None,
        )
        for number, row in enumerate(form.about, 1)
    ]
