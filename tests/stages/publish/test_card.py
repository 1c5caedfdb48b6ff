"""The card: front matter that the hub and `datasets` take, numbers that are those of the release,
and rows that stay data."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, DatasetCardData
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.errors import UserError
from stages.publish import _facts
from stages.publish._shards import repository
from stages.publish.card import license_fields
from stages.publish.licenses import whole
from tests.stages.publish.conftest import HOSTILE, HOSTILE_NAME
from tests.support.publishing import Released, conversations, pool, released

MARKDOWN = MarkdownIt("commonmark").enable("table")


def front(text: str) -> dict[str, Any]:
    """The front matter, by the hub's own client and by a plain reader of YAML."""
    data = DatasetCard(text).data
    assert isinstance(data, DatasetCardData)
    (_, plain, _) = text.split("---\n", 2)
    assert yaml.safe_load(plain) == data.to_dict()
    return data.to_dict()


def tables(text: str) -> list[list[list[str]]]:
    """The cells of all tables, as rendered, without the marks of code."""
    result: list[list[list[str]]] = []
    for token in MARKDOWN.parse(body(text)):
        if token.type == "table_open":
            result.append([])
        elif token.type == "tr_open":
            result[-1].append([])
        elif token.type == "inline" and result and token.level == 5 - (token.level == 4):
            result[-1][-1].append(token.content.strip("`"))
    return result


def body(text: str) -> str:
    return text.split("---\n", 2)[2]


def test_the_front_matter_says_all_that_the_hub_shows(curated: Released) -> None:
    fields = front(curated.card())
    assert fields["license"] == "other"
    assert fields["license_name"] == "apache-2.0-and-cc-by-4.0"
    assert fields["language"] == ["en"]
    assert fields["size_categories"] == ["n<1K"]
    assert fields["task_categories"] == ["text-generation"]
    assert "synthetic" not in fields["tags"]
    assert "instruction-tuning" in fields["tags"]
    assert fields["configs"][0]["config_name"] == "default"


@pytest.mark.parametrize("name", ["curated", "several", "hostile"])
def test_dataset_info_is_what_datasets_finds(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Of the bare files, without a card; and what loads with the card in place is the same."""
    import datasets

    release: Released = request.getfixturevalue(name)
    folder = release.written(tmp_path / "published")
    fields = front((folder / "README.md").read_text("utf-8"))
    infos = fields["dataset_info"]
    infos = infos if isinstance(infos, list) else [infos]
    assert [i["config_name"] for i in infos] == [c["config_name"] for c in fields["configs"]]
    for info, config in zip(infos, fields["configs"], strict=True):
        files = {f["split"]: str(folder / f["path"]) for f in config["data_files"]}
        bare = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "bare"))
        stated = datasets.Features._from_yaml_list(info["features"])
        with_card = datasets.load_dataset(
            str(folder), info["config_name"], cache_dir=str(tmp_path / "cache")
        )
        assert set(bare) == set(with_card) == {split["name"] for split in info["splits"]}
        for split in info["splits"]:
            for loaded in (bare[split["name"]], with_card[split["name"]]):
                assert loaded.features == stated
                assert len(loaded) == split["num_examples"]
        assert info["download_size"] == sum(
            path.stat().st_size for f in config["data_files"] for path in folder.glob(f["path"])
        )


def test_objects_within_rows_are_of_the_feature_json(several: Released) -> None:
    infos = {i["config_name"]: i for i in front(several.card())["dataset_info"]}
    columns = {f["name"]: f for f in infos["shards"]["features"]}
    assert columns["tools"] == {"name": "tools", "list": "json"}
    assert "json" in str(columns["messages"])


def test_of_several_exports_those_of_one_format_are_configs(several: Released) -> None:
    """`datasets` reads one format from a repository: JSON Lines lie beside the Parquet."""
    text = several.card()
    configs = front(text)["configs"]
    assert {c["config_name"] for c in configs} == {"shards", "preferences"}
    assert "other programs than `datasets`, of stage `lines`" in text
    assert [c.get("default", False) for c in configs] == [True, False]
    assert configs[0]["data_files"][0]["path"].startswith(f"{configs[0]['config_name']}/data/")


def test_the_funnel_is_that_of_the_release(curated: Released) -> None:
    shown = tables(curated.card())
    (funnel,) = [t for t in shown if t[0][2:4] == ["in", "created"]]
    stages = {s["name"]: s["counts"] for s in curated.release["stages"]}
    assert {row[0] for row in funnel[1:]} == set(stages) - {"exams", "certified"}
    for name, _, *numbers in funnel[1:]:
        read, created, kept, dropped, failed = (int(n.replace(",", "")) for n in numbers)
        counts = stages[name]
        assert (read, created, kept, failed) == tuple(
            counts[key] for key in ("in", "created", "kept", "failed")
        )
        assert read + created == kept + dropped + failed
    (reasons,) = [t for t in shown if t[0][0] == "dropped by"]
    stated = {f"{stage}: {reason}": int(n.replace(",", "")) for stage, reason, n in reasons[1:]}
    assert stated == curated.release["counts"]["dropped"]
    (sources,) = [t for t in shown if t[0][0] == "source"]
    rows = {licence: int(n.replace(",", "")) for _, licence, n in sources[1:]}
    assert rows == curated.release["licenses"]


def test_methods_are_cited_and_the_recipe_is_there(curated: Released) -> None:
    text = curated.card()
    assert "@misc{broder1997," in text
    assert "@misc{wang2022" not in text  # a format that load.records reads is no method
    assert curated.release["recipe"]["text"] in text
    assert '"budget": 60' in text


def test_the_certificate_shows_what_was_dropped_for_what(curated: Released) -> None:
    text = curated.card()
    shown = tables(text)
    (compared,) = [t for t in shown if t[0][0] == "benchmark"]
    assert compared[1][:4] == ["mt_bench", "80", "clean", "3"]
    (measured,) = [t for t in shown if t[0][0] == "measured by"]
    after = {row[2]: row[3:] for row in measured[1:]}
    assert after["gpt3-13"] == ["3", "0"]
    certificate = curated.release["certificate"]
    assert certificate is not None
    assert len(certificate["sample"]) == 3
    assert all(f"row `{pair['row']}`" in text for pair in certificate["sample"])
    assert "no evaluation benchmark" not in text


class Elements(HTMLParser):
    """The elements and links of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.links |= {value or "" for name, value in attrs if name in ("href", "src")}


def test_nothing_of_a_row_is_markup(hostile: Released) -> None:
    text = hostile.card()
    elements = Elements(MARKDOWN.render(body(text)))
    plain = {"h1", "h2", "p", "ul", "li", "code", "pre", "a", "strong"}
    assert elements.names <= plain | {"table", "thead", "tbody", "tr", "th", "td"}
    assert not [link for link in elements.links if not link.startswith("https://arxiv.org/")]
    headings = [line for line in MARKDOWN.render(body(text)).splitlines() if "<h" in line]
    assert len(headings) == len(re.findall(r"^##? (?!a? ?heading|d$)", body(text), re.MULTILINE))
    for table in tables(text):
        assert len({len(row) for row in table}) == 1
    assert front(text)["license"] == "other"
    assert re.fullmatch("[a-z0-9.-]+", front(text)["license_name"])
    assert "49" not in text.split("## Samples")[1].split("## Differences")[0]


def test_hostile_rows_are_shown_whole(hostile: Released) -> None:
    everything = _facts.samples(hostile.snapshot, hostile.release, len(HOSTILE))
    shown = {turn["text"] for row in everything for turn in row["turns"]}
    assert shown == set(HOSTILE)
    assert everything[0]["sources"] == [HOSTILE_NAME]


def test_a_recipe_replaces_blocks_of_the_template(curated: Released, tmp_path: Path) -> None:
    template = tmp_path / "card.md.jinja"  # the name of the one that it extends
    block = "{% block limits %}Ask {{ release.name | code }}.{% endblock %}"
    template.write_text('{% extends "card.md.jinja" %}' + block)
    text = curated.card(card=str(template))
    assert front(text) == front(curated.card())
    assert "Ask `chat`." in text
    assert "nobody verified" not in text


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ front }}{% if %}", "TemplateSyntaxError"),
        ("{{ front }}\n{{ absent.name }}", "UndefinedError"),
        ("# No front matter", "front matter"),
        ("---\npretty_name: x\n---\n", "license"),
        ("---\n- a\n---\n", "front matter"),
        ("{{ front }}{{ ''.__class__.__mro__ }}", "SecurityError"),
        ('{% include "/etc/passwd" %}', "TemplateNotFound"),
    ],
)
def test_a_template_that_cannot_be_used(
    template: str, why: str, curated: Released, tmp_path: Path
) -> None:
    path = tmp_path / "mine.md.jinja"
    path.write_text(template)
    with pytest.raises(UserError) as error:
        curated.card(card=str(path))
    assert why in str(error.value)
    assert "mine.md.jinja" in str(error.value)


def test_a_template_that_is_not_there(curated: Released, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        curated.card(card=str(tmp_path / "absent.jinja"))


def test_differences_from_the_version_before(tmp_path: Path) -> None:
    texts = [f"question {i} about {'x' * i}" for i in range(8)]
    shards = {"uses": "export.parquet", "needs": "pool"}
    path = conversations(tmp_path / "rows.jsonl", texts)
    first = released(tmp_path, {"pool": pool(path), "shards": shards})
    assert "This is the first version." in first.card()
    conversations(path, [*texts[2:], "another question"])
    second = released(
        tmp_path, {"pool": pool(path), "shards": {**shards, "with": {"rows_per_shard": 3}}}
    )
    text = second.card(first.release)
    assert "7 rows after 8 in version 1.0: 1 added, 2 removed, 0 with another answer." in text
    (changed,) = [t for t in tables(text) if t[0] == ["stage", "what changed"]]
    assert changed[1:] == [["pool", "options path"], ["shards", "options rows_per_shard"]]


def test_a_release_without_rows_or_files_has_a_card(tmp_path: Path) -> None:
    path = conversations(tmp_path / "rows.jsonl", ["one", "two"])
    bare = released(tmp_path / "bare", {"pool": pool(path)})
    assert "2 conversations" in bare.card()
    assert "configs" not in front(bare.card())
    question = {"messages": [{"role": "user", "content": "Why?"}]}  # without an answer: dropped
    path.write_text(json.dumps(question) + "\n", "utf-8")
    stages = {"pool": pool(path), "shards": {"uses": "export.parquet", "needs": "pool"}}
    text = released(tmp_path / "none", stages).card()
    assert "0 conversations" in text
    assert front(text)["size_categories"] == ["n<1K"]
    assert "dataset_info" not in front(text)


STATED = st.sampled_from(
    ["MIT", "Apache-2.0", "CC-BY-4.0", "CC BY-SA 3.0", "cc-by-nc-4.0", "CC-BY-SA-2.0", "GPL-3.0",
     "ODC-By", "MIT OR Apache-2.0", "Public domain", "LicenseRef-mine", "unknown", "", "see README",
     "CC-BY-ND-4.0", "<b>mine</b>: yes", "Ω", "OFL-1.1-RFN", "CC0-1.0"]
)  # fmt: skip


@given(st.lists(STATED | st.text(max_size=12), min_size=1, max_size=4))
def test_the_license_of_any_mixture_is_one_that_the_hub_takes(stated: list[str]) -> None:
    """https://huggingface.co/docs/hub/repositories-licenses: `other` needs a name and a link."""
    fields = license_fields(whole(stated))
    text = f"---\n{yaml.safe_dump(fields)}---\n"
    assert DatasetCard(text).data.to_dict() == fields
    if fields["license"] == "other":
        assert re.fullmatch(r"[a-z0-9.-]+", fields["license_name"])
        assert fields["license_link"] == "README.md" or re.fullmatch(
            r"https://spdx\.org/licenses/[A-Za-z0-9.-]+\.html", fields["license_link"]
        )
    else:
        assert fields.keys() == {"license"}
        assert re.fullmatch(r"[a-z0-9.-]+", fields["license"])


def test_rows_without_their_secrets_are_not_synthetic(tmp_path: Path) -> None:
    """And what a model wrote stays so when an address is taken out of it."""
    texts = [f"Write to ada{i}@analytical.org about number {i}." for i in range(6)]
    path = conversations(tmp_path / "rows.jsonl", texts)
    stages = {
        "pool": pool(path),
        "clean": {"uses": "rewrite.redact", "needs": ["pool"]},
        "shards": {"uses": "export.parquet", "needs": "clean"},
    }
    release = released(tmp_path, stages)
    fields = front(release.card())
    assert "synthetic" not in fields["tags"]
    assert fields["language_creators"] == ["found"]
    assert "ada0@analytical" not in release.card()
    rows = release.snapshot.rows("shards")
    assert rows["redacted"].list.len().min() == 1
    before = release.snapshot.rows("pool")["id"]
    assert set(_facts.ids_before_redaction(rows)) == set(before)


@pytest.mark.proof
def test_the_verdict_of_an_ablation_stands_in_the_card(tmp_path: Path) -> None:
    subjects = ("rivers", "hills", "birds", "ores", "kings", "ships", "roots", "coins")
    paths = {
        name: conversations(tmp_path / f"{name}.jsonl", [f"{verb} {noun} at length."
                                                        for noun in subjects])
        for name, verb in (("rows", "Describe all"), ("unseen", "Never draw one of"))
    }  # fmt: skip
    short = {"num_seeds": 2, "num_tokens": 256, "max_length": 128, "gradient_accumulation_steps": 2}
    stages = {
        "pool": pool(paths["rows"]),
        "unseen": pool(paths["unseen"], source="unseen"),
        "chosen": {"uses": "select.random", "needs": "pool", "with": {"budget": 5}},
        "shards": {"uses": "export.parquet", "needs": "chosen"},
    }
    assert "Whether choosing helped" not in released(tmp_path / "without", stages).card()
    helped = {"pool": "pool", "selected": "chosen", "eval_rows": "unseen"}
    stages["helped"] = {"uses": "report.ablation", "needs": helped, "with": {"model": "m", **short}}
    model = {"engine": "transformers", "model": "data/models/tinylm"}
    release = released(tmp_path / "with", stages, models={"m": model})
    (ablation,) = _facts.ablations(release.snapshot)
    (entry,) = ablation["comparisons"]
    shown = [t for t in tables(release.card()) if t[0][:2] == ["stage", "compared with"]]
    verdicts = {"lower": "better", "higher": "worse"}
    assert shown == [[shown[0][0], [
        "helped", "random", f"{entry['difference']:+.4f}",
        "{:+.4f} to {:+.4f}".format(*entry["over_rows"]),
        "{:+.4f} to {:+.4f}".format(*entry["over_trainings"]),
        verdicts.get(entry["verdict"], "not distinguishable"),
    ]]]  # fmt: skip


def test_a_link_to_arxiv_in_a_row_is_no_link_of_the_card(tmp_path: Path) -> None:
    path = conversations(tmp_path / "rows.jsonl", ["See https://arxiv.org/abs/1234.56789 there."])
    stages = {"pool": pool(path), "shards": {"uses": "export.parquet", "needs": "pool"}}
    text = released(tmp_path, stages).card()
    assert "56789" in text
    assert not re.search(r"arxiv\.org/\w+/1234", text)


def test_where_it_is_loaded_from(curated: Released) -> None:
    text = curated.card(to="hf://me/data")
    assert 'load_dataset("me/data", revision="1.0")' in text
    assert repository("hf://me/data@1") is None
    assert 'load_dataset("path/to/this/folder")' in curated.card()
