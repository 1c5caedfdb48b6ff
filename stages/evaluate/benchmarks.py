"""Benchmarks, run by lm-evaluation-harness (EleutherAI, 0.4.13 or newer) on local task files.

FLAN: Finetuned Language Models Are Zero-Shot Learners (Wei et al. 2021, arXiv:2109.01652).

As in the paper: whole clusters of tasks are held out of training and reported by themselves. Ours:
`groups` names them.

OPT-IML: Scaling Language Model Instruction Meta Learning through the Lens of Generalization (Iyer
et al. 2022, arXiv:2212.12017).

As in the paper: three levels of generalisation (categories, tasks, instances that are held out), a
mean over tasks each. Ours: a level is a group of tasks.

Tülu 3: TÜLU 3: Pushing Frontiers in Open Language Model Post-Training (Lambert et al. 2024,
arXiv:2411.15124).

As in the paper: development tasks and unseen ones are reported by themselves. Ours: as groups.

INSTRUCTEVAL: INSTRUCTEVAL: Towards Holistic Evaluation of Instruction-Tuned Large Language Models
(Chia et al. 2023, arXiv:2306.04757).

As in the paper: knowledge by multiple choice with 5 shots, problems by generated answers, writing
by a judge (`evaluate.judge`). Ours: the prompts of tasks that are made of items.

Inherent limits: The Inherent Limits of Pretrained LLMs: The Unexpected Convergence of Instruction
Tuning and In-Context Learning Capabilities (Bigoulaeva et al. 2025, arXiv:2501.08716).

As in the paper: the base model with few-shot prompts is a column of its own. Ours: `base`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.models.counting import is_counting
from pipeline.stage import InputFiles, Items, Records, stage
from pipeline.types import Count, NonNegativeInt
from stages._benchmarks.contamination import contaminated as find_contaminated
from stages._benchmarks.layouts import HUMANEVAL, MMLU, item_tasks
from stages._benchmarks.run import Column, Settings, TaskResult, require_harness, run_task
from stages._benchmarks.scores import as_markdown, group_scores, task_scores
from stages._benchmarks.task_files import read_tasks


def input_files(options: SimpleNamespace) -> list[Path]:
    """The bundled files with the answers of MMLU and the tests of HumanEval: items lack them."""
    return [MMLU, HUMANEVAL]


def _check(options: SimpleNamespace) -> None:
    require_harness()
    if options.base is None and options.base_shots != 5:
        raise OptionError(
            "base_shots", f"must be left out without `base`, got {options.base_shots}"
        )


@stage(
    version=2,
    scope="set",
    reads={"training": ["messages", "tools"]},
    check=_check,
)
def benchmarks(
    ctx: Context,
    items: Items | None = None,
    examples: Items | None = None,
    training: Records | None = None,
    contaminated: Items | None = None,
    *,
    model: LanguageModel,
    base: LanguageModel | None = None,
    task_files: InputFiles = (),
    tasks: tuple[str, ...] = (),
    groups: dict[str, tuple[str, ...]] | None = None,
    num_shots: NonNegativeInt | None = None,
    base_shots: Count = 5,
    chat: bool = False,
    max_tokens: Count = 256,
    max_documents: Count | None = None,
    unsafe: bool = False,
    seed: int = 0,
) -> None:
    """Evaluate a model, and its base model, on benchmarks.

    Tasks are made of evaluation items whose layout is known (`tasks/` in the files has them, for
    the harness itself too), and read from task files of the harness. Each task with each model is
    durable once it has run: an interrupted evaluation goes on with the next one, and generated
    answers are in the journal. Choices are scored by the log-likelihood of their text; that needs
    an engine with the weights, as transformers is. Code is put through the item's tests, in a
    sandbox (HumanEval's pass@1).

    `benchmarks.json` and `benchmarks.md` have all scores with standard errors, with and without
    contaminated documents, the means of `groups`, and how often each answer letter is chosen;
    `documents.jsonl` has the score of every document.

    Args:
        items: Evaluation items, of `load.benchmarks`.
        examples: Items of the same benchmarks that few-shot examples are drawn from; by default the
            other items themselves.
        training: What the model was trained on: documents that share 13 words in a row with it
            count as contaminated.
        contaminated: Items that count as contaminated, whatever the rows say.
        model: The model under test.
        base: The model that it was trained from: its few-shot scores are a column of their own.
        task_files: Task files of the harness with all that they read: `TASKS/*` for a folder. Their
            data are local files of the kinds json, csv, parquet, text or arrow; functions that they
            name are run.
        tasks: Names of the tasks to run; by default all.
        groups: Tasks whose mean is reported, by name: levels that were held out of training
            (`category`, `task`, `instance`), or `development` and `unseen`.
        num_shots: Few-shot examples of each prompt; by default what each task says, and none for
            tasks made of items. No more than there are.
        base_shots: The same for the base model.
        chat: Whether what is generated answers a user's turn, rendered by the chat template,
            instead of continuing a text.
        max_tokens: Limit of a generated answer in tokens, for tasks made of items.
        max_documents: Documents of each task, at most, the first of them.
        unsafe: Run programs although nothing on this machine isolates them: limits alone then
            hold, and a program can read and delete what its user can.
        seed: Of the choice of few-shot examples; it enters the requests' keys.

    Raises:
        UserError: lm-evaluation-harness is missing, there is no task, or one cannot be run.

    Example:
        ```yaml
        scores:
          uses: evaluate.benchmarks
          needs: {items: exams, training: chosen}
          with: {model: tuned, base: base, groups: {unseen: [mmlu, gsm8k]}}
        ```

        >>> import polars as pl
        >>> from tempfile import mkdtemp
        >>> texts = [("question", "Which is a river?"), ("A", "Rhine"), ("B", "Rome"),
        ...          ("answer", "A")]
        >>> named = [{"name": name, "text": text} for name, text in texts]
        >>> items = pl.DataFrame({"id": ["i"], "benchmark": ["quiz"], "item": ["0"],
        ...                       "texts": [named]})
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> benchmarks(ctx, items, model=LanguageModel("data/models/tinylm"))
        >>> result = json.loads((ctx.files / "benchmarks.json").read_text())
        >>> list(result["columns"]["model"]["quiz"]["metrics"])
        ['acc', 'acc_norm']
    """
    require_harness()
    configs, left_out = _configs(ctx, items, examples, task_files, tasks, max_tokens)
    chosen_groups = _groups(groups or {}, configs)
    settings = Settings(chat, max_documents, seed, unsafe)
    if is_counting():  # likelihoods send no requests
        configs = {n: c for n, c in configs.items() if c.get("output_type") == "generate_until"}
    columns = {Column("model", num_shots): model}
    columns |= {Column("base", base_shots): base} if base is not None else {}
    results: dict[str, dict[str, TaskResult]] = {}
    for number, (column, language_model) in enumerate(columns.items()):
        engine = ctx.open(language_model)
        results[column.name] = {}
        for done, (name, config) in enumerate(configs.items()):
            ctx.progress(number * len(configs) + done, len(columns) * len(configs))
            results[column.name][name] = run_task(config, engine, column, settings, ctx.work)
    if is_counting():
        return
    documents = {name: result.docs for name, result in results["model"].items()}
    flagged = find_contaminated(documents, training, contaminated)
    scores = {
        column: {
            name: task_scores(result, {i for task, i in flagged if task == name})
            for name, result in of_tasks.items()
        }
        for column, of_tasks in results.items()
    }
    _write(ctx.files, results, flagged, {
        "tasks": list(configs),
        "columns": scores,
        "groups": {c: group_scores(s, chosen_groups) for c, s in scores.items() if chosen_groups},
        "left_out": left_out,
    })  # fmt: skip


def _configs(
    ctx: Context,
    items: Any,
    examples: Any,
    task_files: Sequence[str],
    names: Sequence[str],
    max_tokens: int,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The tasks by name, and which benchmarks have none."""
    from_items, left_out = item_tasks(items, examples) if items is not None else ([], {})
    folder = ctx.files / "tasks"
    folder.mkdir(exist_ok=True)
    for task in from_items:
        task.write(folder, max_tokens)
    own = read_tasks(sorted(folder.iterdir()))
    others = read_tasks([Path(file) for file in task_files])
    if both := sorted(own.keys() & others.keys()):
        raise UserError(f"a task file has the name of a benchmark of items: {', '.join(both)}")
    configs = own | others
    if unknown := sorted({*names} - configs.keys()):
        raise OptionError(
            *("tasks", f"must be names of tasks, got {', '.join(unknown)}"),
            hint=f"there are {', '.join(sorted(configs)) or 'none'}",
        )
    configs = {name: configs[name] for name in names or sorted(configs)}
    if not configs:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise UserError(
            "there is no task to run",
            why=why or "neither items nor task files hold one",
            hint="connect load.benchmarks to the edge items, or give task_files: TASKS/*",
        )
    return configs, left_out


def _groups(
    groups: Mapping[str, Sequence[str]], configs: Mapping[str, Any]
) -> Mapping[str, Sequence[str]]:
    for group, names in groups.items():
        if unknown := sorted({*names} - configs.keys()):
            raise OptionError(
                *("groups", f"must name tasks, got {', '.join(unknown)} in {group}"),
                hint=f"there are {', '.join(configs)}",
            )
    return groups


def _write(
    files: Path,
    results: Mapping[str, Mapping[str, TaskResult]],
    flagged: set[tuple[str, int]],
    summary: Mapping[str, Any],
) -> None:
    with (files / "documents.jsonl").open("w", encoding="utf-8") as lines:
        for column, of_tasks in results.items():
            for name, result in of_tasks.items():
                for document in result.docs:
                    own = {k: v for k, v in document.items() if k != "doc"}
                    own |= {"item": document["doc"].get("item")}
                    own |= {"contaminated": (name, document["doc_id"]) in flagged}
                    line = {"model": column, "task": name, **own}
                    lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    (files / "benchmarks.json").write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    (files / "benchmarks.md").write_text(as_markdown(summary), "utf-8")
