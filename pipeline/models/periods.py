"""Calendar periods of budgets, in UTC."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Literal

Period = Literal["day", "week", "month"]


def period_start(per: Period, today: date) -> date:
    """The first day of a calendar period.

    Args:
        per: The period.
        today: A day in it.

    Example:
        >>> [str(period_start(per, date(2026, 7, 2))) for per in ("day", "week", "month")]
        ['2026-07-02', '2026-06-29', '2026-07-01']
    """
    if per == "month":
        return today.replace(day=1)
    return today - timedelta(days=today.weekday() if per == "week" else 0)


def period_end(per: Period, today: date) -> date:
    """The first day of the next calendar period; see `period_start`.

    Example:
        >>> [str(period_end(per, date(2026, 12, 31))) for per in ("day", "week", "month")]
        ['2027-01-01', '2027-01-04', '2027-01-01']
    """
    start = period_start(per, today)
    days = {"day": 1, "week": 7, "month": 32}[per]
    return period_start(per, start + timedelta(days=days))
