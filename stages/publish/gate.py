"""The gate of a publication: what a release must be before anything of it is sent.

Each rule is a function over the published rows and the graph that they came through; what it
finds names rows and the next command. The options are `publish: {gate: ...}` of the recipe
(`pipeline/recipe/publication.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import polars as pl

from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.publication import Gate, Level, Publish
from pipeline.releases.findings import Finding
from pipeline.stage import BASE_COLUMNS, DataKind
from pipeline.store.store import Store
from schemas.release import Release
from stages._common.takedown import read_takedown, taken_down
from stages._privacy.scan import KINDS, Kind, masked, scan
from stages.publish._held_out import held_out_rows
from stages.publish._published import options_of, passed, published
from stages.publish.licenses import alternatives, whole

_SENT: Final = ("messages", "prompt", "chosen", "rejected", "text", "tools")
"""Columns of rows that exports write."""


@dataclass(frozen=True)
class Gated:
    """A release at the gate.

    Attributes:
        store: The store.
        release: The release.
        snapshot: Its stages.
        options: Its section `publish`.
    """

    store: Store
    release: Release
    snapshot: Snapshot
    options: Publish

    @property
    def gate(self) -> Gate:
        """The options of the gate."""
        return self.options.gate

    @cached_property
    def rows(self) -> pl.DataFrame:
        """The published rows: `id`, what exports write of them, `origins` and `parents`."""
        frames = [self._sent(stage.name) for stage in published(self.snapshot)]
        return pl.concat(frames, how="diagonal").unique("id", maintain_order=True)

    def _sent(self, name: str) -> pl.DataFrame:
        stage = self.snapshot.stages[name]
        kind = stage.kind or DataKind.RECORDS
        options = options_of(stage.artifact) if stage.artifact else {}
        further = options.get("columns")
        columns = [*_SENT, "origins", "parents", *(further if isinstance(further, list) else [])]
        known = {*BASE_COLUMNS[kind], *(stage.view.columns if stage.view else ())}
        present = stage.view.columns if stage.view else ()
        return self.snapshot.rows(name, columns=[c for c in columns if c in known and c in present])

    def finding(
        self,
        level: Level | str,
        rule: str,
        message: str,
        rows: Sequence[str] = (),
        hint: str | None = None,
    ) -> Iterator[Finding]:
        """A finding of some level; none where it is to be ignored.

        Args:
            level: refuse, warn or ignore.
            rule: What was checked.
            message: The fact.
            rows: Ids, of which the first are named.
            hint: The next command.
        """
        if level == "ignore":
            return
        shown = tuple(rows[: self.gate.examples])
        yield Finding("warn" if level == "warn" else "refuse", rule, message, shown, hint)


def check(store: Store, release: Release, snapshot: Snapshot, options: Publish) -> list[Finding]:
    """What stands against publishing a release, and what whoever publishes it should know.

    Args:
        store: The store.
        release: The release.
        snapshot: Its stages, with their artifacts.
        options: Its section `publish`: see `pipeline.releases.options.publication_of`.

    Returns:
        The findings, those that refuse first. Nothing may be sent where there is such a one.

    Raises:
        UserError: An artifact or the take-down list cannot be read.
    """
    gated = Gated(store, release, snapshot, options)
    findings = [finding for rule in RULES for finding in rule(gated)]
    return sorted(findings, key=lambda finding: finding.level != "refuse")


def _count(number: int, noun: str = "row") -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def _licenses(gated: Gated) -> Iterator[Finding]:
    """Licenses that are not known or not allowed, those that have no whole, and the whole's."""
    rows = gated.rows
    if "origins" not in rows.columns:
        return
    stated = pl.col("origins").list.eval(pl.element().struct.field("license").fill_null(""))
    by_row = rows.select("id", license=stated.list.unique()).explode("license")
    by_row = by_row.with_columns(pl.col("license").fill_null("")).sort("license", "id")
    names = by_row["license"].unique(maintain_order=True).to_list()
    for name in names:
        ids = by_row.filter(pl.col("license") == name)["id"].to_list()
        yield from _license(gated, name, ids)
    result = whole(names)
    for why in result.conflicts:
        concerned = [n for n in names if any(i in why for c in alternatives(n) or () for i in c)]
        ids = by_row.filter(pl.col("license").is_in(concerned))["id"].to_list()
        hint = f"leave out the stages that load what is under one of {', '.join(concerned)}"
        yield from gated.finding(gated.gate.incompatible_licenses, "licenses", why, ids, hint)
    if result.carried and not result.conflicts:
        message = f"the whole is under {result.name}: {'; '.join(result.carried)}"
        yield from gated.finding("warn", "licenses", message)


def _license(gated: Gated, name: str, ids: Sequence[str]) -> Iterator[Finding]:
    """What is wrong with one license: it is not known, or not allowed."""
    allowed, choices = gated.gate.licenses, alternatives(name)
    if name in allowed:
        return
    if choices is None:
        message = f"{_count(len(ids))} with a license that is not known: {name or 'none stated'}"
        hint = "state an SPDX id at the stage that loads them: with: {license: Apache-2.0}"
        yield from gated.finding(gated.gate.unknown_license, "licenses", message, ids, hint)
        return
    known = {i for text in allowed for choice in alternatives(text) or () for i in choice}
    if allowed and not any(choice <= known for choice in choices):
        message = f"{_count(len(ids))} under {name}, which gate.licenses does not allow"
        hint = "add it to publish.gate.licenses, or leave out the stage that loads them"
        yield from gated.finding("refuse", "licenses", message, ids, hint)


def _privacy(gated: Gated) -> Iterator[Finding]:
    """Secrets and personal data in what is sent."""
    gate = gated.gate
    levels: dict[Kind, tuple[Level, str]] = {
        kind: (gate.personal, "personal") for kind in KINDS if kind not in ("key", "password")
    }
    levels |= {"key": (gate.secrets, "secrets"), "password": (gate.passwords, "passwords")}
    kinds = [kind for kind in KINDS if levels[kind][0] != "ignore"]
    if not kinds:
        return
    columns = [c for c in gated.rows.columns if c not in ("origins", "parents")]
    findings = scan(gated.rows.select(columns), kinds, gate.phone_regions)
    named = findings.with_columns(id=gated.rows["id"].gather(findings["row"]))
    for (kind, name), some in named.group_by("kind", "name", maintain_order=True):
        level, rule = levels[kind]
        ids = some["id"].unique(maintain_order=True).to_list()
        first = some.row(0, named=True)
        place = f"{first['place']} of {first['id']}"
        example = f"the first is {masked(first['value'])} in {place}"
        what = name if kind in ("key", name) else f"{kind} ({name})"
        message = f"{what} in {_count(len(ids))}; {example}"
        hint = f"tag.secrets drops such rows (drop: [{kind}]), rewrite.redact takes them out"
        yield from gated.finding(level, rule, message, ids, hint)


def _certificate(gated: Gated) -> Iterator[Finding]:
    """No certificate, or one that does not cover all published rows."""
    if not gated.gate.certificate:
        return
    certificate = gated.release["certificate"]
    off = "or say so: publish: {gate: {certificate: false}}"
    if not certificate or not certificate["benchmarks"]:
        message = "there is no decontamination certificate: no published row was compared"
        hint = f"a stage decontaminate.ngram before the last choice, then release again; {off}"
        yield from gated.finding("refuse", "certificate", message, (), hint)
        return
    for name, benchmark in certificate["benchmarks"].items():
        if entries := benchmark["bypassed_by"]:
            message = f"rows of {', '.join(entries)} were not compared with {name}"
            hint = f"move {' and '.join(benchmark['stages'])} behind where they join; {off}"
            ids = _ids_from(gated.snapshot, gated.rows["id"], entries)
            yield from gated.finding("refuse", "certificate", message, ids, hint)


def _ids_from(snapshot: Snapshot, ids: pl.Series, entries: Sequence[str]) -> list[str]:
    """The published rows that came in at some stages."""
    views = [view for name in entries if (view := snapshot.stages[name].view)]
    came = [view.read([])["id"] for view in views]
    return ids.filter(ids.is_in(pl.concat(came).implode())).to_list() if came else []


def _failed(gated: Gated) -> Iterator[Finding]:
    """Rows that failed in a stage on the way to the published ones."""
    for stage in passed(gated.snapshot):
        if stage.artifact is None or not stage.artifact.manifest["counts"]["failed"]:
            continue
        failed = stage.artifact.read("failed")
        rows = [
            row["id"] or f"{row['file']}:{row['line']}"
            for row in failed.head(gated.gate.examples).iter_rows(named=True)
        ]
        message = f"{_count(len(failed))} failed in {stage.name}"
        hint = gated.snapshot.command("cat", stage.name, "--failed")
        level = gated.gate.failed_rows
        yield from gated.finding(level, "failed", message, rows, f"{hint}; then run again")


def _held_out(gated: Gated) -> Iterator[Finding]:
    """Rows that are, or are near, rows that the recipe holds out."""
    for step, why, ids in held_out_rows(gated.snapshot, gated.rows, gated.gate.held_out):
        message = f"{_count(len(ids))} {why} of {step}, which is held out"
        hint = f"select.except, with {step} on the edge except and match: near, before the choice"
        yield from gated.finding("refuse", "held_out", message, ids, hint)


def _takedown(gated: Gated) -> Iterator[Finding]:
    """Rows on the take-down list, or made from such rows anywhere in the graph.

    What is sent are the published rows, and the convicted ones that the certificate shows.
    """
    path = gated.options.file("takedown")
    if path is None:
        return
    takedown = read_takedown([path])
    tables = [gated.rows.select("id")]
    for artifact in gated.snapshot.artifacts.values():
        for part in ("kept", "dropped"):
            columns = {"id", "origins", "parents"} & set(artifact.columns(part))
            if len(columns) > 1 and "id" in columns:
                tables.append(artifact.read(part, sorted(columns)))
    certificate = gated.release["certificate"]
    shown = [pair["row"] for pair in certificate["sample"]] if certificate else []
    sent = pl.concat([gated.rows["id"], pl.Series("id", shown, pl.String)]).to_frame()
    causes = taken_down(tables, takedown).join(sent, on="id", how="semi")
    if len(causes):
        named = ", ".join(causes["by"].unique().sort().head(gated.gate.examples))
        message = f"{_count(len(causes))} on the take-down list, or made from such: {named}"
        hint = f"select.takedown behind the stages that load: with: {{path: {path}}}"
        yield from gated.finding("refuse", "takedown", message, causes["id"].to_list(), hint)


def _sources(gated: Gated) -> Iterator[Finding]:
    """Rows of which nobody says where they come from."""
    if "origins" not in gated.rows.columns:
        return
    source = pl.element().struct.field("source").fill_null("")
    named = pl.col("origins").list.eval(source != "").list.any().fill_null(False)
    ids = gated.rows.filter(~named)["id"].to_list()
    if ids:
        message = f"{_count(len(ids))} without the name of a source"
        hint = "with: {source: NAME} at the stage that loads or makes them"
        yield from gated.finding("refuse", "sources", message, ids, hint)


def _size(gated: Gated) -> Iterator[Finding]:
    """Too few or too many rows or bytes."""
    gate, release = gated.gate, gated.release
    rows, files = release["counts"]["kept"], release["files"]
    total = sum(file["bytes"] for file in files)
    limits: list[tuple[bool, str, str]] = [
        (rows < gate.min_rows, f"it has {_count(rows)}", f"min_rows is {gate.min_rows:,}"),
        (
            gate.max_rows is not None and rows > gate.max_rows,
            f"it has {_count(rows)}",
            f"max_rows is {gate.max_rows or 0:,}",
        ),
        (
            gate.max_bytes is not None and total > gate.max_bytes,
            f"its files have {_count(total, 'byte')}",
            f"max_bytes is {gate.max_bytes or 0:,}",
        ),
        (not files, "it has no files to publish", "a recipe needs a stage export.*"),
    ]
    limits += [
        (
            gate.max_file_bytes is not None and file["bytes"] > gate.max_file_bytes,
            f"{file['path']} has {_count(file['bytes'], 'byte')}",
            f"max_file_bytes is {gate.max_file_bytes or 0:,}; export.parquet has rows_per_shard",
        )
        for file in files
    ]
    for is_wrong, fact, limit in limits:
        if is_wrong:
            yield from gated.finding("refuse", "size", f"{fact}: {limit}")


Rule = Callable[[Gated], Iterator[Finding]]
RULES: Final[tuple[Rule, ...]] = (
    _licenses,
    _privacy,
    _certificate,
    _failed,
    _held_out,
    _takedown,
    _sources,
    _size,
)


def takedown(store: Store, release: Release, snapshot: Snapshot, options: Publish) -> list[Finding]:
    """What the take-down list alone says about a release: nothing, where it has no such row.

    Args:
        store: The store.
        release: The release.
        snapshot: Its stages, with their artifacts.
        options: The section `publish`.

    Raises:
        UserError: An artifact or the list cannot be read.
    """
    return list(_takedown(Gated(store, release, snapshot, options)))
