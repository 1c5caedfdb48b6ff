"""Secrets and personal data in a conversation: keys, passwords, e-mails, phone numbers and more.

What the gate of a publication looks for (`publish: {gate: ...}`), as columns of a stage. All of
a turn is searched: content, reasoning, names, calls with their arguments, results of tools, and
beside the turns the definitions of the tools and the source's own fields.

- `key`: by betterleaks and detect-secrets (`stages/_privacy/keys.py`);
- `password`: by the word before it. In lessons about code that mostly is no secret, so it is not
  looked for unless it is named;
- `email`, `phone`, `card`, `iban`, `ip`: by patterns whose matches are verified
  (`stages/_privacy/personal.py`). Names and addresses of persons need a model: not claimed.

No column and no evidence holds what was found, but its first characters at most. To take the
secrets out instead of the rows, which makes other records with other ids: `rewrite.redact`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import Pairs, Records, stage
from pipeline.types import PhoneRegions
from stages._common.option_types import Distinct
from stages._common.verdicts import evidence_json
from stages._privacy.scan import DEFAULT_KINDS, SECRETS, Kind, Kinds, masked, scan

_ADDS: Final = {
    "secrets": pl.List(pl.String()),
    "num_secrets": pl.Int32(),
    "personal": pl.List(pl.String()),
    "num_personal": pl.Int32(),
}


def _check(options: SimpleNamespace) -> None:
    if unsought := [kind for kind in options.drop if kind not in options.kinds]:
        what = f"must be among `kinds` ({', '.join(options.kinds)}), got {', '.join(unsought)}"
        raise OptionError("drop", what, hint=f"kinds: [{', '.join((*options.kinds, *unsought))}]")


@stage(version=1, scope="row", reads=["messages", "tools", "extra"], adds=_ADDS, check=_check)
def secrets(
    ctx: Context,
    rows: Records | Pairs,
    *,
    kinds: Kinds = DEFAULT_KINDS,
    drop: Annotated[tuple[Kind, ...], Distinct] = (),
    phone_regions: PhoneRegions = ("US",),
) -> pl.DataFrame:
    """Tag what each row holds of secrets and personal data, and drop rows for it.

    Args:
        rows: Conversations, or pairs of which all turns are searched.
        kinds: What is looked for: key, password, email, phone, card, iban, ip.
        drop: The kinds for which a row is dropped, as `secret` or `personal_data`: of those
            that are looked for. Evidence: `kind`, `name` (whose key), `place`, `turn` (from 0)
            and `masked`, and how many more there are.
        phone_regions: Countries whose national way to write phone numbers counts, such as US,
            GB or DE; those with a + always do.

    Returns:
        `secrets`, whose keys (`github-pat`, `stripe-access-token`, `generic-password`), sorted,
        each once, and `num_secrets`, how many places hold one; `personal` (`email`, `phone`, ...)
        and `num_personal`.

    Example:
        ```yaml
        clean:
          uses: tag.secrets
          needs: pool
          with: {drop: [key], phone_regions: [US, GB]}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> text = "My token is ghp_" + "a1B2c3D4e5F6" * 3
        >>> messages = [{"role": "user", "content": text}]
        >>> rows = pl.DataFrame({"messages": [messages], "tools": [None], "extra": [None]})
        >>> tags = secrets(Context.scratch(Path(mkdtemp())), rows, drop=("key",))
        >>> tags.select("secrets", "drop_reason").row(0)
        (['github-pat'], 'secret')
    """
    findings = scan(rows.drop("id", strict=False), kinds, phone_regions)
    is_secret = pl.col("kind").is_in(SECRETS)
    tags = pl.DataFrame({"row": pl.int_range(len(rows), dtype=pl.Int64, eager=True)})
    for column, of_kind in (("secrets", is_secret), ("personal", ~is_secret)):
        by_row = findings.filter(of_kind).group_by("row")
        counted = by_row.agg(
            pl.col("name").unique().sort().alias(column),
            pl.len().cast(pl.Int32).alias(f"num_{column}"),
        )
        tags = tags.join(counted, on="row", how="left", maintain_order="left")
    empty = pl.lit([], pl.List(pl.String))
    tags = tags.select(
        pl.col(name).fill_null(empty if isinstance(kind, pl.List) else 0)
        for name, kind in _ADDS.items()
    )
    return tags.with_columns(_verdicts(len(rows), findings, drop)) if drop else tags


def _verdicts(height: int, findings: pl.DataFrame, drop: tuple[Kind, ...]) -> list[pl.Series]:
    """`drop_reason` and `evidence`. A loop, over the rows that are dropped alone."""
    reasons: list[str | None] = [None] * height
    evidence: list[str | None] = [None] * height
    by_row = findings.filter(pl.col("kind").is_in(drop)).group_by("row", maintain_order=True)
    for (row,), some in by_row:
        # Secrets first: they are the graver reason.
        ordered = some.sort(~pl.col("kind").is_in(SECRETS), maintain_order=True)
        first = ordered.row(0, named=True)
        cause = {key: first[key] for key in ("kind", "name", "place", "turn")}
        cause["masked"] = masked(first["value"])
        cause |= {"more": len(some) - 1} if len(some) > 1 else {}
        position = int(str(row))
        reasons[position] = "secret" if first["kind"] in SECRETS else "personal_data"
        evidence[position] = evidence_json({k: v for k, v in cause.items() if v is not None})
    return [
        pl.Series("drop_reason", reasons, pl.String),
        pl.Series("evidence", evidence, pl.String),
    ]
