"""Numbers as messages and tables write them."""

from __future__ import annotations

from decimal import Decimal


def amount(value: float, digits: int = 4) -> str:
    """A number as plain decimals, never with an exponent.

    Args:
        value: The number.
        digits: How many of its digits count.

    Example:
        >>> amount(3.6e-05), amount(0.25), amount(1234567.0), amount(20)
        ('0.000036', '0.25', '1,235,000', '20')
    """
    return f"{Decimal(f'{value:.{digits}g}'):,f}"


def counted(number: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "request"), counted(1200, "request")
        ('1 request', '1,200 requests')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"
