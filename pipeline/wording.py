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


def byte_size(count: int) -> str:
    """A number of bytes as people read it.

    Example:
        >>> byte_size(1_234_567), byte_size(999)
        ('1.2 MB', '999 bytes')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} byte{'s' * (count != 1)}"
