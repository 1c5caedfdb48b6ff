"""Schedules that call `refresh`: a crontab line, a systemd timer, a GitHub workflow.

Each is a text to be put in its place, complete: with absolute paths where the scheduler knows
no folder, and with nothing of the environment but what the scheduler gives. Minute and hour
follow from the recipe's name, so that many data sets do not refresh at the same moment.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import jinja2

from pipeline import ROOT
from pipeline.errors import UserError

Every = Literal["hourly", "daily", "weekly", "monthly"]
FORMS: Final = ("cron", "systemd", "github")

TEMPLATES: Final = Path(__file__).parent / "schedules"
NIGHT: Final = 5
"""Refreshes begin in the hours before this one, when machines are idle."""


@dataclass(frozen=True)
class Moment:
    """When a recipe is refreshed.

    Attributes:
        every: How often.
        minute: Of the hour.
        hour: Of the day; without meaning for hourly ones.
        weekday: 0 (Sunday) to 6; of weekly ones.
    """

    every: Every
    minute: int
    hour: int
    weekday: int

    @classmethod
    def of(cls, recipe: str, every: Every) -> Moment:
        """The moment of a recipe: the same one each time it is asked for.

        Args:
            recipe: The recipe's name.
            every: How often.
        """
        digest = hashlib.blake2b(recipe.encode(), digest_size=3).digest()
        return cls(every, digest[0] % 60, digest[1] % NIGHT, digest[2] % 7)

    @property
    def cron(self) -> str:
        """The five fields of a crontab.

        Example:
            >>> Moment("weekly", 12, 3, 0).cron, Moment("monthly", 12, 3, 0).cron
            ('12 3 * * 0', '12 3 1 * *')
        """
        day = "1" if self.every == "monthly" else "*"
        weekday = str(self.weekday) if self.every == "weekly" else "*"
        hour = "*" if self.every == "hourly" else str(self.hour)
        return f"{self.minute} {hour} {day} * {weekday}"

    @property
    def calendar(self) -> str:
        """The same for `OnCalendar=` of systemd.

        Example:
            >>> Moment("weekly", 12, 3, 0).calendar, Moment("hourly", 12, 3, 0).calendar
            ('Sun *-*-* 03:12:00', '*-*-* *:12:00')
        """
        names = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
        weekday = f"{names[self.weekday]} " if self.every == "weekly" else ""
        day = "01" if self.every == "monthly" else "*"
        hour = "*" if self.every == "hourly" else f"{self.hour:02}"
        return f"{weekday}*-*-{day} {hour}:{self.minute:02}:00"


def schedule(form: str, recipe: str, words: Sequence[str], moment: Moment) -> str:
    """The text of a schedule.

    Args:
        form: One of `FORMS`.
        recipe: The recipe's name.
        words: What follows `refresh` on the command line.
        moment: When.

    Raises:
        UserError: A word holds what a schedule cannot.
    """
    if unfit := [word for word in words if re.search(r"[\r\n]|\$\{\{", word)]:
        what = f"a schedule must be without line breaks and ${{{{, got {unfit[0]!r}"
        raise UserError(what, hint="write it into the recipe, or into a profile of it")
    line = shlex.join([sys.executable, "-m", "pipeline", "refresh", *words])
    folder = shlex.quote(str(ROOT))
    if form == "cron":
        # Cron takes an unescaped % for a line break, and mails what is printed.
        command = f"cd {folder} && {line}".replace("%", r"\%")
        return f"{moment.cron} {command}\n"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        variable_start_string="[[",
        variable_end_string="]]",
    )
    template = {"systemd": "refresh.service", "github": "refresh.yml"}[form]
    return environment.get_template(f"{template}.jinja").render(
        # It becomes the name of units and workflows.
        name=re.sub(r"[^A-Za-z0-9_.-]+", "-", recipe),
        moment=moment,
        # For systemd, % and $ begin what it replaces.
        folder=str(ROOT).replace("%", "%%"),
        command=line.replace("%", "%%").replace("$", "$$"),
        words=shlex.join(words),
    )
