"""The release: a small immutable file that names everything a published data set was made of.

`releases/<name>/<version>/release.json` of a store. It holds no absolute path, and no time but
that of its making. Rows lie in the artifacts that it names, which no `gc` removes.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from typing_extensions import TypedDict

from schemas.manifest import Counts

FORMAT: Final = 1
"""Version of `release.json`; another one is refused."""


class ReleaseRecipe(TypedDict):
    """The recipe that made a release.

    Attributes:
        name: Its name.
        text: The file as it was, comments included.
        sha256: Hash of the text in UTF-8, 64 hex digits.
        digest: Stands for what the recipe says: its stages and models with the profile and the
            overrides applied. Comments, prices and budgets are no part of it.
        profile: The profile that was applied.
        overrides: What `--set` changed after it.
    """

    name: str
    text: str
    sha256: str
    digest: str
    profile: str | None
    overrides: list[str]


class ReleaseStage(TypedDict):
    """One stage of the recipe, with its artifact.

    Attributes:
        name: Its name in the recipe.
        uses: The stage's full name, such as `score.loss`.
        version: The stage's version.
        fingerprint: The key of its artifact.
        digest: Stands for the kept rows and the files of the artifact.
        makes: "rows" of its own, "columns" for the rows of its first input, or "files" alone.
        kind: What its rows are (`DataKind`); None where it makes files alone.
        first: The stage on its first edge; None without.
        needs: The stages on each edge.
        counts: Rows by what became of them.
        columns: A digest for `id` and each stored column of the kept rows.
        parts: What the fingerprint is a digest of: options, models, files, inputs.
        incomplete: Whether rows failed that could be tried again.
    """

    name: str
    uses: str
    version: int
    fingerprint: str
    digest: str
    makes: Literal["rows", "columns", "files"]
    kind: str | None
    first: str | None
    needs: dict[str, list[str]]
    counts: Counts
    columns: dict[str, str]
    parts: dict[str, Any]
    incomplete: bool


class ReleaseFile(TypedDict):
    """One file of an `export.*` stage.

    Attributes:
        stage: The stage's name in the recipe.
        path: Its path below the artifact's `files/`.
        bytes: Its size.
        sha256: Hash of its content, 64 hex digits.
        rows: Its rows, where it is Parquet.
    """

    stage: str
    path: str
    bytes: int
    sha256: str
    rows: int | None


class ReleaseModel(TypedDict):
    """A model that a stage used.

    Attributes:
        stage: The stage's name in the recipe.
        option: Its option.
        identity: What entered the fingerprint: name with revision, or digest of the weights.
    """

    stage: str
    option: str
    identity: Any


class CertifiedBenchmark(TypedDict):
    """A benchmark that rows were compared with.

    Attributes:
        items: Its items.
        digest: Of their sorted ids.
        stages: The stages that compared rows with it.
        bypassed_by: The stages at which published rows came in that passed none of these.
    """

    items: int
    digest: str
    stages: list[str]
    bypassed_by: list[str]


class CertifiedStage(TypedDict):
    """A stage that dropped contaminated rows on the way to the published ones.

    Attributes:
        name: Its name in the recipe.
        uses: The stage's full name, such as `decontaminate.ngram`.
        version: The stage's version.
        options: Its method and other options.
        rows: Rows that it compared.
        convicted: Rows that it dropped, by benchmark.
        failed: Rows that it could not compare, which are not published either.
        unseen: What it did not compare, one sentence each.
    """

    name: str
    uses: str
    version: int
    options: dict[str, Any]
    rows: int
    convicted: dict[str, int]
    failed: int
    unseen: list[str]


class ConvictedPair(TypedDict):
    """A row that was dropped and the item for which it was, for a person to judge.

    Attributes:
        stage: The stage that convicted it.
        row: The id of the row.
        benchmark: The benchmark.
        item: The benchmark's own key of the item.
        overlap: What the stage measured; None where it says none.
        row_text: The turn, cut, without secrets.
        item_text: The item's text, cut.
    """

    stage: str
    row: str
    benchmark: str
    item: str
    overlap: float | None
    row_text: str
    item_text: str


class Certificate(TypedDict):
    """What a release was decontaminated against.

    Attributes:
        complete: Whether every published row was compared with every benchmark.
        benchmarks: The benchmarks by name.
        stages: The stages that compared, in the order of the graph.
        sample: Convicted pairs, drawn by `seed`.
        seed: The seed of the draw.
        measured: What `decontaminate.certificate` stages measured, by stage.
    """

    complete: bool
    benchmarks: dict[str, CertifiedBenchmark]
    stages: list[CertifiedStage]
    sample: list[ConvictedPair]
    seed: int
    measured: dict[str, Any]


class Release(TypedDict):
    """What `release.json` holds.

    Attributes:
        format: `FORMAT` of whoever wrote it.
        name: The release's name.
        version: "MAJOR.MINOR".
        parent: The version before it, None for the first.
        created: When it was made: ISO 8601, UTC, to the second.
        recipe: The recipe.
        schema: Version of the schema of rows.
        stages: All stages, each after those that it needs.
        published: The stages whose rows the files hold: `export.*` stages, of several over the
            same rows the one that keeps most; without exports, the last stage with rows.
        files: The files of its `export.*` stages.
        counts: The whole funnel to the published rows; reasons are "stage: reason".
        licenses: Published rows under each license; "unknown" for those that state none. A row
            with several origins counts under each of their licenses.
        models: The models that its stages used.
        journal: Digest of the keys of all answers that rows name; None where they name none.
        certificate: What was decontaminated against what; None without such stages.
        libraries: Versions of the libraries that computed it.
    """

    format: int
    name: str
    version: str
    parent: str | None
    created: str
    recipe: ReleaseRecipe
    schema: int
    stages: list[ReleaseStage]
    published: list[str]
    files: list[ReleaseFile]
    counts: Counts
    licenses: dict[str, int]
    models: list[ReleaseModel]
    journal: str | None
    certificate: Certificate | None
    libraries: dict[str, str]
