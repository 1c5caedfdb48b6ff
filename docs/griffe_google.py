"""What griffe does not read in this tree's docstrings by itself, for `docs/mkdocs.yml`.

`Example:`, as Google's style guide writes it, is a section of examples, and a class marked
with `option_group` or `kind` is a dataclass: its fields are the parameters of its constructor.
"""

from __future__ import annotations

import re
from typing import Any, Final

import griffe

_EXAMPLE: Final = re.compile(r"^( *)Example:$", re.MULTILINE)
_DATACLASS: Final = griffe.ExprCall(
    function=griffe.ExprName("dataclasses.dataclass"),
    arguments=[griffe.ExprKeyword("kw_only", "True")],
)
_MAKE_DATACLASSES: Final = {
    "pipeline.types.option_group",
    "stages._constraints.constraint.kind",
}


class Google(griffe.Extension):
    """Makes both known to griffe's own parser and extensions, which run afterwards."""

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **_: Any) -> None:
        """Called for every object, once it is read."""
        if isinstance(obj, griffe.Alias):
            return
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
        for decorator in obj.decorators if isinstance(obj, griffe.Class) else ():
            if decorator.callable_path in _MAKE_DATACLASSES:
                decorator.value = _DATACLASS
