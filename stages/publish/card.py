"""The card of a release: a `README.md` that the hub, `datasets` and people read.

The card is a Jinja template (`card.md.jinja`), which a recipe replaces by one of its own
(`publish: {card: PATH}`). It may extend the shipped one and replace blocks of it:

    {% extends "card.md.jinja" %}
    {% block limits %}Answers are in British English.{% endblock %}

What a template sees is what `facts` returns, and the filters `code` and `block`, in which a
text of a row is a text, `quoted`, `json` and `num`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.errors import UserError
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.publication import Publish
from pipeline.store.store import Store
from schemas.release import Certificate, Release
from stages.publish import _facts, _published, _shards
from stages.publish._markdown import block, code, quoted
from stages.publish.citations import bibtex
from stages.publish.croissant import croissant
from stages.publish.licenses import Whole, terms, whole

__all__ = ["card", "croissant", "facts"]

TEMPLATE: Final = "card.md.jinja"
LANGUAGE_CODE: Final = re.compile("[a-z]{2,3}")
UNDETERMINED: Final = "und"
TRAINERS: Final = {
    "dpo": ("DPOTrainer", "DPOConfig"),
    "kto": ("KTOTrainer", "KTOConfig"),
    "reward": ("RewardTrainer", "RewardConfig"),
}
"""TRL's trainer of each form of pairs; conversations are for `SFTTrainer`."""


def card(
    store: Store,
    release: Release,
    snapshot: Snapshot,
    previous: Release | None,
    options: Publish,
) -> str:
    """The text of a release's card.

    Args:
        store: Where its artifacts are.
        release: The release.
        snapshot: Its rows.
        previous: The release before it; None for the first.
        options: The recipe's section `publish`: `card`, a template, and `to`.

    Raises:
        UserError: A template of the user's cannot be read or rendered, or what it gives has no
            front matter that the hub would take.
    """
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "block": block, "quoted": quoted}
    environment.filters |= {"json": as_json, "num": "{:,}".format}
    environment.globals["dropped_for"] = dropped_for
    path = options.file("card") or Path(__file__).with_name(TEMPLATE)
    values = facts(store, release, snapshot, previous, options)
    try:
        # Not by its name: a template of the user's may be called as the one that it extends.
        text = environment.from_string(path.read_text("utf-8")).render(values)
    except (TemplateError, OSError, UnicodeDecodeError) as error:
        raise _unusable(path, error) from None
    check_front_matter(text, str(path))
    return text


def _unusable(path: Path, error: Exception) -> UserError:
    line = getattr(error, "lineno", None)
    return UserError(
        "the card's template cannot be used",
        where=f"{path}:{line}" if line else str(path),
        why=f"{type(error).__name__}: {error}",
        hint=f"{Path(__file__).parent / TEMPLATE} is the shipped one, with all values",
    )


def check_front_matter(text: str, where: str) -> None:
    """Refuse a card whose front matter the hub's own client does not take.

    Args:
        text: The card.
        where: Its template, for the message.

    Raises:
        UserError: It has none, or lacks what the hub shows and filters by.
    """
    from huggingface_hub import DatasetCard

    hint = "a template begins with {{ front }}, which holds all of it"
    try:
        data: Any = DatasetCard(text).data
    except (ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        what = "the card's front matter is not valid"
        raise UserError(what, where=where, why=reason, hint=hint) from None
    if missing := [name for name in ("license", "size_categories") if not data.get(name)]:
        what = f"the card's front matter must have {' and '.join(missing)}"
        raise UserError(what, where=where, hint=hint)


def facts(
    store: Store,
    release: Release,
    snapshot: Snapshot,
    previous: Release | None,
    options: Publish,
) -> dict[str, Any]:
    """What a template sees.

    Args:
        store: Where the artifacts are.
        release: The release.
        snapshot: Its rows.
        previous: The release before it; None for the first.
        options: The recipe's section `publish`.

    Returns:
        `front`, the front matter between its lines of dashes; `release`; `num_rows`; `what` a
        row is; `configs`, of which `loadable` are those that `datasets` reads; `sources`,
        `languages` and `license` of the whole; `written`, the rows of each generator;
        `methods`, all stages that the rows need, of which they `passed` some; `later`, the
        other stages; `models`; `reasons` of dropped rows; `chosen`, the stages that chose;
        `ablations`, which compare what was chosen with other rows;
        `samples`; `changes` (None for the first release); `load_arguments`; `trainer` (None
        where TRL does not read the files); `command`, `bibtex` and `limits`.
    """
    columns = ["origins", "language", "parents", "redacted"]
    rows = _facts.published_rows(snapshot, release, columns)
    through = _facts.upstream(release)
    names = {stage["name"] for stage in through}
    methods = _facts.methods(through)
    configs = _shards.configs(store, release)
    passed = {stage.name for stage in _published.passed(snapshot)}
    later = _facts.methods([s for s in release["stages"] if s["name"] not in names])
    values: dict[str, Any] = {
        "release": release,
        "num_rows": len(rows),
        "what": "preference pairs" if _is_pairs(release) else "conversations",
        "configs": configs,
        "loadable": _shards.loadable(configs),
        "sources": _facts.sources(rows),
        "languages": _facts.languages(rows),
        "written": _facts.written(snapshot, release, _facts.ids_before_redaction(rows)),
        "ablations": _facts.ablations(snapshot),
        "methods": methods,
        "models": [
            {**model, "name": _facts.model_name(model["identity"])} for model in release["models"]
        ],
        "later": later,
        "passed": [method for method in methods if method["name"] in passed],
        "chosen": [m for m in methods if m["uses"].startswith(_facts.CHOOSING)],
        "samples": _facts.samples(snapshot, release),
        "changes": _changes(store, release, snapshot, previous),
        "license": whole(release["licenses"]),
        "trainer": _trainer(release),
        "command": _command(release),
        "bibtex": bibtex(paper for m in methods for paper in m["papers"]),
    }
    values["reasons"] = _reasons(values["passed"])
    values["limits"] = limits(values)
    values["load_arguments"] = _load_arguments(values, options.to)
    return values | {"front": front_matter(values)}


def _changes(
    store: Store, release: Release, snapshot: Snapshot, previous: Release | None
) -> dict[str, Any] | None:
    if previous is None:
        return None
    return _facts.changes(release, previous, (snapshot, Snapshot.of_release(store, previous)))


def _reasons(methods: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Dropped rows by stage and reason, of each stage the most frequent reason first."""
    return [
        {"stage": method["name"], "reason": reason, "rows": count}
        for method in methods
        for reason, count in sorted(method["counts"]["dropped"].items(), key=lambda i: -i[1])
    ]


def _load_arguments(values: Mapping[str, Any], to: str | None) -> str:
    """The arguments of `load_dataset` for where the release is published."""
    name = _shards.repository(to)
    arguments = [json.dumps(name or "path/to/this/folder")]
    first = next(iter(values["loadable"]), None)
    if first is not None and first.name != _shards.DEFAULT:
        arguments.append(json.dumps(first.name))
    if name:
        arguments.append(f"revision={json.dumps(values['release']['version'])}")
    return ", ".join(arguments)


def _is_pairs(release: Release) -> bool:
    kinds = {stage["name"]: stage["kind"] for stage in release["stages"]}
    return {kinds[name] for name in release["published"]} == {"pairs"}


def _trainer(release: Release) -> tuple[str, str] | None:
    """TRL's trainer for the first export; None for a form that TRL does not read."""
    exports = [s for s in release["stages"] if s["uses"].startswith("export.")]
    if not exports or exports[0]["uses"] == "export.jsonl":
        return None
    form = exports[0]["parts"].get("options", {}).get("form", "")
    return TRAINERS.get(form, ("SFTTrainer", "SFTConfig"))


def _command(release: Release) -> str:
    """The command that computes the release again from the recipe in the card."""
    recipe = release["recipe"]
    words = ["gristmill", "run", f"{recipe['name']}.yaml"]
    words += ["--profile", recipe["profile"]] if recipe["profile"] else []
    words += [word for change in recipe["overrides"] for word in ("--set", change)]
    return shlex.join(words)


def front_matter(values: Mapping[str, Any]) -> str:
    """The YAML at the head of a card, with its lines of dashes.

    Args:
        values: What `facts` gathers.
    """
    release, configs = values["release"], values["loadable"]
    infos = [_shards.dataset_info(config) for config in configs]
    fields = {
        "pretty_name": release["name"],
        **license_fields(values["license"]),
        "language": common_languages(values["languages"], values["num_rows"]),
        "size_categories": [_shards.size_category(values["num_rows"])],
        "task_categories": ["text-generation"],
        "source_datasets": source_datasets(release),
        "language_creators": _creators(values),
        "tags": _tags(values),
        "configs": [_shards.as_yaml(c, i == 0) for i, c in enumerate(configs)],
        "dataset_info": infos[0] if len(infos) == 1 else infos,
    }
    known = {name: value for name, value in fields.items() if value}
    text = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=10**6)
    return f"---\n{text}---"


def license_fields(license_: Whole) -> dict[str, str]:
    """The license of the whole in the front matter: an id of the hub, or `other` with a name.

    The hub shows `other` as a link: to the text of a license that has an SPDX id, else to the
    card, which names the license of every source.

    Args:
        license_: The license of the whole.

    >>> license_fields(whole(["MIT"])), license_fields(whole(["MIT", "Apache-2.0"]))["license_name"]
    ({'license': 'mit'}, 'apache-2.0-and-mit')
    >>> license_fields(whole(["CC-BY-SA-2.0"]))["license_link"]
    'https://spdx.org/licenses/CC-BY-SA-2.0.html'
    """
    if license_.id != "other":
        return {"license": license_.id}
    # The hub takes an id here, in small letters and without spaces.
    name = re.sub(r"[^a-z0-9.]+", "-", license_.name.lower()).strip("-.")
    has_id = re.fullmatch(r"[A-Za-z0-9.-]+", license_.name) and terms(license_.name).known
    has_text = has_id and not license_.name.startswith("LicenseRef-")
    link = f"https://spdx.org/licenses/{license_.name}.html" if has_text else "README.md"
    return {"license": "other", "license_name": name or "mixed", "license_link": link}


def common_languages(languages: Sequence[Mapping[str, Any]], num_rows: int) -> list[str]:
    """The codes of the languages of at least 1% of the rows, most rows first.

    Args:
        languages: What `_facts.languages` counted.
        num_rows: All rows.
    """
    least = _facts.COMMON_LANGUAGE * num_rows
    codes = [entry["language"] for entry in languages if entry["rows"] >= least]
    return [name for name in codes if LANGUAGE_CODE.fullmatch(name) and name != UNDETERMINED]


def source_datasets(release: Release) -> list[str]:
    """The data sets of the hub that the rows were loaded from.

    Args:
        release: The release.
    """
    loads = [s for s in _facts.upstream(release) if s["uses"].startswith("load.")]
    names = [s["parts"].get("options", {}).get("dataset") for s in loads]
    return sorted({n for n in names if isinstance(n, str) and _shards.repository(f"hf://{n}")})


def _creators(values: Mapping[str, Any]) -> list[str]:
    num_written = sum(entry["rows"] for entry in values["written"])
    is_mixed = num_written < values["num_rows"]
    return (["found"] if is_mixed else []) + (["machine-generated"] if num_written else [])


def _tags(values: Mapping[str, Any]) -> list[str]:
    is_pairs = _is_pairs(values["release"])
    tags = ["gristmill", "preference" if is_pairs else "instruction-tuning"]
    return tags + (["synthetic"] if any(entry["rows"] for entry in values["written"]) else [])


def limits(values: Mapping[str, Any]) -> list[str]:
    """What a reader must not take for granted, a sentence each.

    Args:
        values: What `facts` gathers.
    """
    release: Release = values["release"]
    said = ["Licences are those that the recipe states for each source; nobody verified them."]
    if num_written := sum(entry["rows"] for entry in values["written"]):
        said.append(
            f"{num_written:,} rows were written by language models. They may be wrong, and the "
            "terms of these models may apply to them."
        )
    if release["certificate"] is None:
        said.append("No evaluation benchmark was searched for: test items may be among the rows.")
    else:
        said.append("Only the benchmarks of the certificate were searched for.")
    if values["languages"]:
        said.append("Languages were guessed from the texts.")
    else:
        said.append("The languages of the rows were not determined.")
    said.append("Names of persons were not searched for.")
    return said


def dropped_for(certificate: Certificate, benchmark: str) -> int:
    """The rows that were dropped for overlapping with a benchmark.

    Args:
        certificate: The certificate.
        benchmark: The benchmark's name.
    """
    return sum(stage["convicted"].get(benchmark, 0) for stage in certificate["stages"])


def as_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON text.

    Args:
        value: A JSON value.
        indent: Spaces for each level, on lines of their own; None for one line.
    """
    return json.dumps(value, ensure_ascii=False, indent=indent)
