"""What may follow from an ended attempt, as types, and how one is known for another's like."""

from __future__ import annotations

from dataclasses import dataclass, field

from tune_mcp.errors import Code
from tune_mcp.observe.observation import AttemptVerdict
from tune_mcp.session.state import Halt


@dataclass(frozen=True)
class Keep:
    """Every stage is strict. ``reason`` notes a failed assertion, a threshold's or another one, or a red teardown."""

    reason: str = ""


Likeness = tuple[str, ...]
"""By what an attempt is recognised that ended as another one did: how, then what failed or is missing."""


@dataclass(frozen=True)
class Again:
    """An infrastructure failure. Nothing is concluded from an attempt that did not start or was disturbed
    (``became``): it is not charged.

    A second attempt of the same ``likeness`` is no accident; empty for what is tried again whatever it was.
    ``cause`` names what failed: a signature, a signal, an exception; also where, for a signal of somebody else and for
    what had measured something. It is empty for what is tried again whatever it was. ``how`` says in what attempts of
    one cause are alike beside it, ``remedy`` what to do about it.
    """

    reason: str
    became: AttemptVerdict = AttemptVerdict.RETRIED
    likeness: Likeness = field(default=(), compare=False)
    cause: str = field(default="", compare=False)
    how: str = field(default="", compare=False)
    remedy: str = field(default="", compare=False)

    @property
    def charged(self) -> bool:
        """Whether it uses up one of the repeat's tries."""
        return self.became is AttemptVerdict.RETRIED


@dataclass(frozen=True)
class Stop:
    """The run halts: nothing else starts until a person has fixed the cause and calls resume_run.

    ``quarantined``: what was measured is not as planned, so nothing of it stays in the live set.
    """

    halt: Halt
    quarantined: bool


Verdict = Keep | Again | Stop


def seen(likeness: Likeness, earlier: tuple[Verdict, ...]) -> bool:
    """Whether an earlier attempt ended alike."""
    return any(isinstance(one, Again) and one.likeness == likeness for one in earlier)


def once(reason: str, likeness: Likeness, earlier: tuple[Verdict, ...], next_step: str) -> Again | Stop:
    """Tried again once: where an earlier attempt ended alike, a further one would, too."""
    if seen(likeness, earlier):
        return stop("XPY-06", f"{reason}; twice, so this is no accident", next_step)
    return Again(reason, likeness=likeness)


def stop(
    rule: str, message: str, next_step: str, code: str = Code.HALT_UNRESOLVED, *, quarantined: bool = False
) -> Stop:
    """A halt that names its rule, what happened and what to do."""
    return Stop(Halt(code=str(code), rule=rule, message=message, next=next_step), quarantined)
