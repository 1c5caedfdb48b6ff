"""Licenses of parts and of the whole: a table of answers, and what holds for all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.publish.licenses import alternatives, conflicts_of, hub_id, terms, whole

READINGS = [
    ("MIT", [{"MIT"}]),
    ("mit", [{"MIT"}]),
    ("MIT License", [{"MIT"}]),
    ("Apache License, Version 2.0", [{"Apache-2.0"}]),
    ("apache-2.0", [{"Apache-2.0"}]),
    ("MIT OR Apache-2.0", [{"Apache-2.0"}, {"MIT"}]),
    ("(MIT OR Apache-2.0) AND CC-BY-4.0", [{"Apache-2.0", "CC-BY-4.0"}, {"CC-BY-4.0", "MIT"}]),
    ("CC0-1.0 AND MIT", [{"CC0-1.0", "MIT"}]),
    ("CC BY-SA 3.0", [{"CC-BY-SA-3.0"}]),
    ("cc-by-nc-sa-4.0", [{"CC-BY-NC-SA-4.0"}]),
    (
        "Creative Commons Attribution-NonCommercial 4.0 International",
        [{"CC-BY-NC-4.0"}],
    ),
    ("odc-by", [{"ODC-By-1.0"}]),
    ("GPL-3.0", [{"GPL-3.0-only"}]),
    ("Apache-2.0 WITH LLVM-exception", [{"Apache-2.0 WITH LLVM-exception"}]),
    ("CC-BY", None),  # which version?
    ("research only", None),
    ("MIT AND", None),
    ("(MIT", None),
    ("see LICENSE OR MIT", None),
    ("unknown", None),
    ("", None),
    (None, None),
]

WHOLES = [
    (["MIT"], "mit", "MIT"),
    (["MIT", "Apache-2.0"], "other", "Apache-2.0 AND MIT"),
    (["MIT OR Apache-2.0", "MIT"], "mit", "MIT"),
    (["MIT", "CC-BY-SA-4.0"], "cc-by-sa-4.0", "CC-BY-SA-4.0"),
    (["CC BY-SA 3.0", "CC-BY-SA-4.0", "MIT"], "cc-by-sa-4.0", "CC-BY-SA-4.0"),
    (["MIT", "CC BY-NC 4.0"], "cc-by-nc-4.0", "CC-BY-NC-4.0"),
    (["CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-4.0"], "cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
    (["MIT OR CC-BY-SA-4.0", "CC-BY-NC-4.0"], "cc-by-nc-4.0", "CC-BY-NC-4.0"),
    (["CC-BY-SA-4.0", "GPL-3.0-or-later"], "gpl-3.0", "GPL-3.0-or-later"),
    (["ODC-By-1.0"], "odc-by", "ODC-By-1.0"),
    (["CC-BY-SA-2.5"], "other", "CC-BY-SA-2.5"),
    (["unknown"], "unknown", "unknown"),
    ([None, "MIT"], "other", "MIT AND unknown"),
    (["my own terms"], "other", "my own terms"),
    ([], "unknown", "unknown"),
]

CONFLICTS = [
    ["CC-BY-SA-4.0", "CC-BY-NC-4.0"],
    ["CC-BY-SA-3.0", "CC-BY-NC-SA-4.0"],
    ["GPL-3.0-only", "CC-BY-NC-4.0"],
    ["ODbL-1.0", "CC-BY-SA-4.0"],
    ["GPL-2.0-only", "GPL-3.0-only"],
    ["GPL-2.0-only", "Apache-2.0"],
    ["CC-BY-ND-4.0"],
    ["MIT AND CC-BY-NC-ND-4.0", "MIT"],
    ["CC-BY-SA-4.0 OR GPL-3.0-only", "CC-BY-NC-4.0"],
]

KNOWN = [
    "MIT", "Apache-2.0", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0",
    "CC-BY-NC-4.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "GPL-2.0-only",
    "GPL-2.0-or-later", "GPL-3.0-only", "AGPL-3.0-only", "ODbL-1.0", "ODC-By-1.0",
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), READINGS)
def test_a_license_is_read_as_what_it_means(
    text: str | None, expected: list[set[str]] | None
) -> None:
    choices = alternatives(text)
    assert choices == (None if expected is None else tuple(map(frozenset, expected)))


@pytest.mark.parametrize(("licenses", "id_", "name"), WHOLES)
def test_the_whole_has_the_license_that_follows(
    licenses: list[str | None], id_: str, name: str
) -> None:
    result = whole(licenses)
    assert (result.id, result.name, result.conflicts) == (id_, name, ())


@pytest.mark.parametrize("licenses", CONFLICTS)
def test_some_have_no_whole(licenses: list[str]) -> None:
    assert whole(licenses).conflicts
    assert whole(reversed(licenses)) == whole(licenses)


@given(st.lists(st.sampled_from(KNOWN), min_size=1, max_size=4))
def test_no_term_of_a_part_is_lost_in_the_whole(licenses: list[str]) -> None:
    result = whole(licenses)
    if result.conflicts:
        return
    parts = [terms(license) for license in licenses]
    governing = terms(result.name) if " AND " not in result.name else None
    if any(part.non_commercial for part in parts):
        assert governing
        assert governing.non_commercial
        assert "nc" in result.id
    if shared := {part.share_alike for part in parts} - {None}:
        assert governing
        assert governing.share_alike in shared
    assert bool(result.carried) == any(p.non_commercial or p.share_alike for p in parts)


@given(st.sets(st.sampled_from(KNOWN), min_size=1, max_size=4), st.sampled_from(KNOWN))
def test_a_part_more_never_mends_a_conflict(licenses: set[str], other: str) -> None:
    assert set(conflicts_of(licenses)) <= set(conflicts_of({*licenses, other}))


def test_ids_are_those_of_the_hub() -> None:
    for identifier in ("GPL-3.0-only", "AGPL-3.0-only", "CC-BY-NC-SA-4.0", "PDDL-1.0"):
        assert hub_id(identifier) != "other"
