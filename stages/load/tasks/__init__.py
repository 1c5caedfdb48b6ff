"""Labelled data sets as instructions: each row under a template of its task.

- `flan`: FLAN's templates, some inverted; OPT-IML and chains of thought too (see `flan.py`);
- `flan_collection`: the Flan Collection's four formats (see `flan.py`);
- `t0`: promptsource's templates (see `t0.py`);
- `natural_instructions`: Super-NaturalInstructions' task files (see `natural_instructions.py`);
- `meta_tuning`: labels in words as yes/no questions (see `meta_tuning.py`);
- `feedback`: ratings of all kinds on one scale (see `flan.py`).

No model is asked. Every choice is drawn from the seed and the row itself, so that rows that are
added, left out or moved change nothing of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.stage import Edges, InputFiles, Records, stage
from schemas.records import RECORD_COLUMNS
from stages.load._rows.accepted import accept, read_accepted
from stages.load._rows.merging import merge_duplicates
from stages.load._rows.output import VERDICT, OutputRow, to_frames
from stages.load.tasks.drawing import Draws, texts_key
from stages.load.tasks.flan import Feedback, Flan
from stages.load.tasks.holding_out import SHARED, TRAIN, HeldOut, splits_of
from stages.load.tasks.natural_instructions import NaturalInstructions
from stages.load.tasks.output import (
    ADDS,
    FEEDBACK,
    SPLIT,
    Place,
    TemplateCounts,
    build,
    dropped_row,
    failed_row,
    is_failed,
    kept_row,
    size_of,
    with_licenses,
)
from stages.load.tasks.plans import Method, Plan, plans, positions_of, read_tasks
from stages.load.tasks.rendering import Drop, InvalidRow, Row, RowContext
from stages.load.tasks.row_choice import HELD_OUT_ROW, MAX_EXAMPLES, choose

HELD_OUT_TEXT: Final = "held_out_text"
_SHOWN_FINDINGS: Final = 10


def input_files(options: SimpleNamespace) -> list[Path]:
    """The files that the lists name: they count by content, as the lists do.

    Args:
        options: `path` and `method`.
    """
    if isinstance(options.method, NaturalInstructions) or not options.path:
        return []
    try:
        tasks = read_tasks(options)
    except UserError:
        return []  # `check` reports it
    files = [path for task in tasks for path in (*task.files, task.templates) if path]  # type: ignore[union-attr]
    return sorted(set(files))


def preview(options: SimpleNamespace) -> list[str]:
    """The tasks, and what the linter says of their templates.

    Args:
        options: The stage's.
    """
    lines = []
    for plan in plans(options):
        count = len(plan.renderer.templates)
        lines.append(f"{plan.task.name} ({plan.task.cluster}): {count} templates")
        lines += [f"  {finding}" for finding in plan.findings]
    return lines


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    columns = dict(ADDS)
    columns |= FEEDBACK if isinstance(options.method, Feedback) else {}
    return columns | (SPLIT if options.held_out else {})


def _check(options: SimpleNamespace) -> None:
    """Whether all can be read, and the linter accepts the templates."""
    if len(options.tokenizer) > 1:
        raise OptionError("tokenizer", f"must be one file, got {len(options.tokenizer)}")
    ready = plans(options)
    splits_of([plan.task for plan in ready], options.held_out)
    findings = [finding for plan in ready for finding in plan.findings]
    if findings and options.lint == "refuse":
        shown = [str(finding) for finding in dict.fromkeys(findings)]
        more = len(shown) - _SHOWN_FINDINGS
        why = "\n    ".join(shown[:_SHOWN_FINDINGS] + [f"and {more} more"] * (more > 0))
        raise UserError(
            f"templates must be free of faults, got {len(shown)}",
            why=why,
            hint="mend them, or lint: report uses what can be rendered and reports the rest",
        )
    read_accepted(options.accepted)


@stage(version=2, scope="set", adds=_adds, files=True, check=_check)
def tasks(
    ctx: Context,
    *,
    path: InputFiles,
    method: Method = Flan(),
    held_out: HeldOut | None = None,
    lint: Literal["refuse", "report"] = "refuse",
    tokenizer: InputFiles = (),
    seed: int = 0,
    accepted: InputFiles = (),
    source: str,
    license: str,
) -> Records:
    """Load labelled data sets as instructions: a row for each position and template.

    Adds `task`, `template`, `format` (`zero_shot` or `few_shot`, then `options`, `cot` and
    `inverted` where that is so; the encoding of natural_instructions; `yes_no`), `options` (null
    where any text may be the answer), `answer` (one of them; the target is it, its name in the
    list, or a text with it), `cluster` and `num_shots`; with held_out also `split` (`train`,
    `held_out_cluster`, `held_out_task`, `held_out_row`); with feedback also `feedback` (0 to 1).
    Writes `templates.json`: for each template, how many rows it gave and lost for what reason,
    and what the linter says of it.

    Labels may be whole numbers, counted from 0, or names. Dropped: `not_applicable` (the template
    gives no prompt and target for this row), `empty_target`, `empty_prompt`, `unresolved_field`
    (the row has no value for a field of the template), `answer_not_in_options` (a label of -1 is
    none), `too_long` (never cut), `over_cap` (beyond `max_rows`), `shared_dataset`,
    `held_out_text` (a held-out task asks of the same texts), `duplicate`.
    A row that is no object, is broken, or has a value that its task's list does not allow has
    failed, with `error`, `file` and `line`.

    Args:
        path: Lists of tasks (`task_list.py` says what they may hold); with
            natural_instructions, task files as the authors publish them.
        method: flan, flan_collection, t0, natural_instructions, meta_tuning or feedback, each with
            its own options.
        held_out: What is not trained on: clusters, tasks, and rows of the other tasks. The rows
            are all there; `split` says which they are.
        lint: What faults of templates do (a brace or `|||` that is left, a letter that has lost
            its backslash, a field or answer that no row has): `refuse` them, or `report` them in
            `plan` and `templates.json` and leave out templates that cannot be rendered.
        tokenizer: A tokenizer.json, by which budgets count; by default a token is four bytes.
        seed: Of all that is drawn.
        accepted: Failed rows that are accepted, as `gristmill cat RECIPE STAGE --failed -o
            FILE.jsonl` writes them: file, line and error.
        source: Where the rows come from; it stands in `origins`.
        license: On what terms they come, where a task's list does not say; it stands in `origins`.

    Raises:
        UserError: A file cannot be read at all.

    Example:
        ```yaml
        tasks:
          uses: load.tasks
          with:
            path: data/tasks/tasks.yaml
            method: {name: flan, max_rows: 30000}
            held_out: {clusters: [inference]}
            source: our-tasks
            license: Apache-2.0
        ```

        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> _ = (folder / "list.yaml").write_text(
        ...     "tasks: {mood: {data: mood.csv, templates: t.jsonl, options: [bad, good]}}")
        >>> _ = (folder / "mood.csv").write_text("text,label\\nSo fine!,1\\nOh.,-1\\n")
        >>> _ = (folder / "t.jsonl").write_text(
        ...     '{"task": "mood", "input_pattern": "{text} Is it so?\\\\n{options_}", '
        ...     '"target_pattern": "{answer}"}')
        >>> ctx = Context.scratch(folder)
        >>> rows = tasks(ctx, path=(str(folder / "list.yaml"),), source="here", license="MIT")
        >>> [turn["content"] for turn in rows["messages"][0]]
        ['So fine! Is it so?\\nOptions:\\n- bad\\n- good', 'good']
        >>> rows["drop_reason"].to_list()
        [None, 'answer_not_in_options']
    """
    options = SimpleNamespace(path=path, method=method, tokenizer=tokenizer)
    ready = plans(options)
    splits = splits_of([plan.task for plan in ready], held_out)
    counts = _counts(ready)
    held = _held_texts(ctx, ready, splits)
    rows = (
        row
        for plan in ready
        for row in _rows_of(ctx, plan, method, held_out, splits[plan.task.name], seed, counts, held)
    )
    frames = to_frames(rows, build, size_of)
    frame = pl.concat(merge_duplicates(frames, source, license, ctx.work))
    (ctx.files / "templates.json").write_text(counts.text(), "utf-8")
    schema: dict[Any, Any] = {
        **RECORD_COLUMNS,
        **_adds(SimpleNamespace(method=method, held_out=held_out), {}),
    }
    schema |= VERDICT
    frame = with_licenses(frame).select(list(schema)).cast(schema)
    return accept(frame, read_accepted(accepted))


def _counts(ready: tuple[Plan, ...]) -> TemplateCounts:
    counts = TemplateCounts()
    for task, renderer, findings in ready:
        for template in (*renderer.templates, *(finding.template for finding in findings)):
            counts.add_template(task.name, *template)
        for finding in findings:
            counts.add_finding(task.name, finding.template.name, finding.what)
    return counts


def _rows_of(
    ctx: Context,
    plan: Plan,
    method: Method,
    held_out: HeldOut | None,
    split: str,
    seed: int,
    counts: TemplateCounts,
    held: Set[bytes],
) -> Iterator[OutputRow]:
    """The output rows of one task; nothing is trained on or shown that a held-out task asks of."""
    task = plan.task
    held = held if split == TRAIN else frozenset()
    formats = getattr(method, "formats", None)
    choice = choose(
        *(task.name, plan.inputs, positions_of(ctx, task), seed),
        is_first=getattr(method, "sampling", "random") == "first",
        held_out=held_out if split == TRAIN else None,
        num_examples=MAX_EXAMPLES if formats and formats.shots[1] else 0,
    )
    examples = tuple(e for e in choice.examples if not _is_held(held, plan, e.row))
    number = -1
    for file, (line, row, error) in positions_of(ctx, task):
        place = Place(task.name, task.cluster, task.license, file, line)
        is_object = isinstance(row, dict)
        number += is_object
        error = choice.errors.get(number) if is_object else error or "a row must be an object"
        rank = int(choice.places[number]) if is_object else 0
        if error:
            yield failed_row(error, place)
        elif _is_held(held, plan, row):
            yield dropped_row(Drop(HELD_OUT_TEXT, "", {}), place)
        elif split == SHARED or rank >= method.max_rows:
            reason = SHARED if split == SHARED else "over_cap"
            yield dropped_row(Drop(reason, "", {}), place)
        else:
            draws = Draws(seed, choice.key(number))
            # Rows that are held out have no place: without one, all would be under one template.
            place_of_row = rank if rank >= 0 else draws.number("place")
            context = RowContext(draws, place_of_row, examples)
            row_split = HELD_OUT_ROW if rank < 0 else split
            yield from _rendered(plan, row, context, place, row_split, counts)


def _held_texts(ctx: Context, ready: tuple[Plan, ...], splits: Mapping[str, str]) -> Set[bytes]:
    """What the rows of held-out tasks ask of: copies of a data set have other names and files."""
    keys = {
        texts_key(plan.inputs(row))
        for plan in ready
        if splits[plan.task.name] not in (TRAIN, SHARED)
        for _, (_, row, _) in positions_of(ctx, plan.task)
        if isinstance(row, dict)
    }
    return keys - {b""}


def _is_held(held: Set[bytes], plan: Plan, row: Any) -> bool:
    return bool(held) and isinstance(row, dict) and texts_key(plan.inputs(row)) in held


def _rendered(
    plan: Plan, row: Row, context: RowContext, place: Place, split: str, counts: TemplateCounts
) -> Iterator[OutputRow]:
    """The output rows of one row."""
    try:
        results = list(plan.renderer.render(row, context))
    except InvalidRow as invalid:
        yield failed_row(str(invalid), place)
        return
    for result in results:
        if isinstance(result, Drop):
            output = dropped_row(result, place)
        else:
            output = kept_row(result, row, place, split)
        if not is_failed(output):
            counts.count(plan.task.name, result)
        yield output
