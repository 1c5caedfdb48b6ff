"""The one table that `make bench` prints: a line for each comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.race import Result


@dataclass(frozen=True)
class Line:
    """What was measured; empty texts where a column does not apply.

    met: whether a demand is met; None where there is none, or where it does not apply.
    """

    work: str
    ours: str = ""
    against: str = ""
    peer: str = ""
    ratio: str = ""
    demanded: str = ""
    outcome: str = ""
    met: bool | None = None

    def cells(self) -> tuple[str, ...]:
        verdict = {None: "", True: "yes", False: "NO"}[self.met]
        return (
            self.work, self.ours, self.against, self.peer,
            self.ratio, self.demanded, verdict, self.outcome,
        )  # fmt: skip


HEADER = ("work", "ours", "against", "peer", "ratio", "demanded", "met", "outcome")


def versus(
    work: str,
    ours: Result,
    name: str,
    peer: Result,
    outcome: str,
    demanded: float | None = None,
    share: float = 1.0,
) -> Line:
    """How many times faster we are.

    share: the part of our work that the peer did, where it ran on a sample.
    """
    measured = f"{ours.seconds:.2f} s"
    if peer.skipped:
        return Line(work, measured, name, "skipped", outcome=peer.skipped.splitlines()[-1][:90])
    ratio = peer.seconds / (ours.seconds * share)
    requested = "" if demanded is None else f">= {demanded:g} x"
    met = None if demanded is None else ratio >= demanded
    reported = f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.2f} x"
    return Line(work, measured, name, f"{peer.seconds:.2f} s", reported, requested, outcome, met)


def bound(work: str, value: float, unit: str, limit: float, outcome: str = "") -> Line:
    """A number that has an upper limit."""
    return Line(
        work, f"{value:.2f} {unit}", demanded=f"<= {limit:g} {unit}", outcome=outcome,
        met=value <= limit,
    )  # fmt: skip


def render(lines: Sequence[Line]) -> str:
    """The table as text; a work that several lines are about is named once."""
    rows = [HEADER, *(line.cells() for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown, before = [], ""
    for cells in (HEADER, tuple("-" * width for width in widths), *rows[1:]):
        first = "" if cells[0] == before else cells[0]
        before = cells[0]
        padded = zip((first, *cells[1:]), widths, strict=True)
        shown.append("  ".join(f"{cell:<{width}}" for cell, width in padded).rstrip())
    return "\n".join(shown)
