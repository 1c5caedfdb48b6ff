"""The tool calls of a conversation: how many, of which tools, and what is wrong with them.

A call is answered by a tool's turn before the next turn of the user or answer of the
assistant. Results may come in another order than their calls; they are paired by their ids, and
where a call or a result has none by the tool's name, else by their order. What may be wrong:

- `unanswered_call`: a call without a result. A conversation may end with calls: they are what a
  model is trained on (`last_call`);
- `orphan_result`: a tool's turn that answers no call;
- `unknown_tool`: a tool is called that is not defined; only where tools are;
- `invalid_arguments`: they are no JSON object, or not one of the tool's JSON schema;
- `unpaired_ids`: a result whose id is that of no open call, a second result for one call, or
  two open calls of one id. An id may occur again once its call is answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from pipeline.types import NonEmpty
from schemas.records import num_tool_calls
from schemas.turns import have_more
from stages._common.option_types import Distinct
from stages._common.verdicts import evidence_json
from stages.tag._tool_definitions import invalid_arguments, tool_definitions

Fault = Literal[
    "unanswered_call", "orphan_result", "unknown_tool", "invalid_arguments", "unpaired_ids"
]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)

_ADDS: Final = {
    "tool_calls": pl.Int32(),
    "tool_results": pl.Int32(),
    "tools_defined": pl.Int32(),
    "tools_used": pl.List(pl.String()),
    "tool_faults": pl.List(pl.String()),
}


class FaultyTurn(NamedTuple):
    """Something wrong in a conversation.

    Attributes:
        turn: The number of the turn, from 1.
        call: The number of the call within its turn, from 1; 0 for a result.
        fault: What is wrong.
        tool: The tool's name.
        id: The id of the call or the result.
        why: What is wrong, in words.
    """

    turn: int
    call: int
    fault: Fault
    tool: str | None
    id: str | None
    why: str


class _Call(NamedTuple):
    turn: int
    number: int
    id: str | None
    name: str | None

    def faulty(self, fault: Fault, why: str) -> FaultyTurn:
        return FaultyTurn(self.turn, self.number, fault, self.name, self.id, why)


@stage(version=1, scope="row", reads=["messages", "tools"], adds=_ADDS)
def tools(
    ctx: Context,
    rows: Records,
    *,
    decide: bool = False,
    faults: Annotated[tuple[Fault, ...], NonEmpty, Distinct] = FAULTS,
    last_call: Literal["allowed", "unanswered"] = "allowed",
) -> pl.DataFrame:
    """Count the tool calls of each conversation, and check them.

    Args:
        rows: Conversations.
        decide: Drop rows with a fault, for the first one in the order of their turns. The
            evidence has its `turn` and `call` (numbers from 1; no call for a tool's turn), the
            tool's name, the id and why.
        faults: Which faults are searched for; see the head of the module.
        last_call: What the calls are with which a conversation ends: allowed, or an
            `unanswered_call`.

    Returns:
        `tool_calls` and `tool_results`, how many; `tools_defined`, how many, null where the
        column `tools` is no JSON; `tools_used`, the names of the tools that are called, sorted,
        each once; `tool_faults`, the kinds of faults, sorted, each once. A parameter schema that
        is no JSON schema is not checked against.

    Example:
        ```yaml
        checked:
          uses: tag.tools
          needs: pool
          with: {decide: true, faults: [unanswered_call, orphan_result, unpaired_ids]}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> call = {"id": "1", "name": "add", "arguments": '{"a": 1, "b": 2}'}
        >>> messages = [
        ...     {"role": "user", "content": "1 + 2?"},
        ...     {"role": "assistant", "content": None, "tool_calls": [call]},
        ...     {"role": "assistant", "content": "3"},
        ... ]
        >>> rows = pl.DataFrame({"messages": [messages], "tools": [None]})
        >>> tags = tools(Context.scratch(Path(mkdtemp())), rows, decide=True)
        >>> tags.select("tool_calls", "tools_used", "drop_reason").row(0)
        (1, ['add'], 'unanswered_call')
    """
    is_result = pl.element().struct.field("role") == "tool"
    results = pl.col("messages").list.eval(is_result).list.sum().fill_null(0)
    counts = rows.select(
        num_tool_calls().fill_null(0).cast(pl.Int32).alias("tool_calls"),
        results.cast(pl.Int32).alias("tool_results"),
        pl.Series(
            "tools_defined", [tool_definitions(t).num_tools for t in rows["tools"]], pl.Int32
        ),
    )
    used: list[list[str]] = [[]] * len(rows)
    faulty: list[list[FaultyTurn]] = [[]] * len(rows)
    # A loop, over the rows that call or answer alone.
    concerned = have_more(rows["messages"], ["tool_calls"]) | (counts["tool_results"] > 0)
    for row in concerned.arg_true():
        messages = rows["messages"][row].to_list()
        used[row] = sorted({c["name"] for m in messages for c in _calls(m) if c["name"]})
        every = faults_of(messages, rows["tools"][row], allow_last=last_call == "allowed")
        faulty[row] = [fault for fault in every if fault.fault in faults]
    kinds = [sorted({fault.fault for fault in some}) for some in faulty]
    tagged = counts.with_columns(
        pl.Series("tools_used", used, _ADDS["tools_used"]),
        pl.Series("tool_faults", kinds, _ADDS["tool_faults"]),
    )
    return tagged.with_columns(_verdict(faulty)) if decide else tagged


def _verdict(faulty: Sequence[Sequence[FaultyTurn]]) -> tuple[pl.Series, pl.Series]:
    reasons = [some[0].fault if some else None for some in faulty]
    evidence = [evidence_json(_evidence(some[0])) if some else None for some in faulty]
    return (
        pl.Series("drop_reason", reasons, pl.String),
        pl.Series("evidence", evidence, pl.String),
    )


def _evidence(fault: FaultyTurn) -> dict[str, Any]:
    values = {name: getattr(fault, name) for name in ("turn", "call", "tool", "id", "why")}
    return {name: value for name, value in values.items() if value}


def _calls(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return message.get("tool_calls") or ()


def faults_of(
    messages: Sequence[Mapping[str, Any]], tools: str | None, *, allow_last: bool = True
) -> list[FaultyTurn]:
    """What is wrong with the calls and results of a conversation, in the order of the turns.

    Args:
        messages: The turns.
        tools: The definitions of the tools, as JSON text.
        allow_last: Whether calls in the last turn need no result.

    Example:
        >>> result = {"role": "tool", "content": "3", "tool_call_id": "1"}
        >>> [fault.fault for fault in faults_of([result], None)]
        ['orphan_result']
    """
    every = [*_wrong_calls(messages, tools), *_unpaired(messages, allow_last)]
    return sorted(every, key=itemgetter(0, 1))


def _numbered(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[_Call, str | None]]:
    """Every call with its arguments."""
    for turn, message in enumerate(messages, 1):
        for number, call in enumerate(_calls(message), 1):
            yield _Call(turn, number, call.get("id"), call.get("name")), call.get("arguments")


def _wrong_calls(messages: Sequence[Mapping[str, Any]], tools: str | None) -> Iterator[FaultyTurn]:
    """Calls of unknown tools or with invalid arguments."""
    schemas = tool_definitions(tools).schemas
    for call, arguments in _numbered(messages):
        if schemas and call.name not in schemas:
            names = ", ".join(schemas)
            yield call.faulty("unknown_tool", f"the tools are {names:.200}")
        elif why := invalid_arguments(arguments, schemas.get(call.name or "", "{}")):
            yield call.faulty("invalid_arguments", why)


def _unpaired(messages: Sequence[Mapping[str, Any]], allow_last: bool) -> Iterator[FaultyTurn]:
    """Calls and results that do not belong together.

    Calls are open until results follow and then another turn of the user or the assistant does;
    calls of consecutive turns are open together.
    """
    calls: list[_Call] = []
    results: list[tuple[int, Mapping[str, Any]]] = []
    of_turn: dict[int, list[_Call]] = {}
    for call, _ in _numbered(messages):
        of_turn.setdefault(call.turn, []).append(call)
    for turn, message in enumerate(messages, 1):
        if message["role"] == "tool":
            results.append((turn, message))
            continue
        if message["role"] == "system":
            continue
        if results or turn not in of_turn:
            yield from _paired(calls, results)
            calls, results = [], []
        calls = calls + of_turn.get(turn, [])
    for fault in _paired(calls, results):
        if results or not allow_last or fault.fault != "unanswered_call":
            yield fault


def _paired(
    calls: Sequence[_Call], results: Sequence[tuple[int, Mapping[str, Any]]]
) -> Iterator[FaultyTurn]:
    """Pair the results with the open calls, those with equal ids first."""
    open_calls, answered = list(calls), set[str]()
    ids = [call.id for call in calls if call.id is not None]
    for number, call in enumerate(calls):
        if call.id is not None and call.id in [c.id for c in calls[:number]]:
            yield call.faulty("unpaired_ids", "two calls that are open together have this id")
    rest = []
    for turn, result in results:
        same = (call for call in open_calls if call.id is not None)
        match = next((call for call in same if call.id == result.get("tool_call_id")), None)
        if match is None:
            rest.append((turn, result))
        else:
            open_calls.remove(match)
            answered.add(match.id or "")
    for turn, result in rest:
        yield from _paired_otherwise(turn, result, open_calls, ids, answered)
    for call in open_calls:
        yield call.faulty("unanswered_call", "no tool's turn answers it")


def _paired_otherwise(
    turn: int,
    result: Mapping[str, Any],
    open_calls: list[_Call],
    ids: Sequence[str],
    answered: set[str],
) -> Iterator[FaultyTurn]:
    """A result that has no id, or not that of an open call: by the tool's name or the order."""
    id_, name = result.get("tool_call_id"), result.get("name")

    def faulty(fault: Fault, why: str) -> FaultyTurn:
        return FaultyTurn(turn, 0, fault, name, id_, why)

    if id_ is not None and id_ in answered:
        yield faulty("unpaired_ids", "the call of this id has a result already")
        return
    # Two ids that differ contradict each other; a call without an id may be meant.
    candidates = [c for c in open_calls if id_ is None or c.id is None] or open_calls
    named = [call for call in candidates if name is not None and call.name == name]
    match = next(iter(named if name is not None else candidates), None)
    if match is None:
        yield faulty("orphan_result", "no open call is answered by it")
        return
    open_calls.remove(match)
    if id_ is not None and match.id is not None:
        yield faulty("unpaired_ids", f"the open calls have the ids {', '.join(ids):.200}")
