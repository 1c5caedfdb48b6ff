"""What an interface has no word for."""

from __future__ import annotations


class UnsupportedError(Exception):
    """A part of a request for which an interface has nothing, so that it cannot be sent.

    Args:
        parameter: The part, by its name here; see `refusals.PARAMETERS`.
    """

    def __init__(self, parameter: str) -> None:
        super().__init__(f"the interface has no {parameter}")
        self.parameter = parameter
