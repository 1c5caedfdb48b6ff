"""An exported journal rebuilds the data set elsewhere, byte for byte, without the model."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.models import Decoding, LanguageModel, Request
from pipeline.models.engines.journaled import JournaledEngine
from pipeline.models.identity import folder_digest
from pipeline.models.journal.export import export, import_entries, stats, verify
from pipeline.models.journal.journal import Journal, JournalEntry
from pipeline.recipe.recipe import Recipe
from pipeline.store.file_hashes import FileDigests
from tests.pipeline.models.test_journal import ROOT
from tests.support.journals import max_answers
from tests.support.running import called, contents, run

SEEDS = ROOT / "data/seeds/self_instruct_seed_tasks.jsonl"
BOOK = ROOT / "data/samples/rust_book.jsonl.gz"


MODEL = {"engine": "transformers", "model": "data/models/tinylm", "id": "tiny-1"}


def recipe(model: dict[str, Any]) -> Recipe:
    """The quickstart's generating stages, on few rows."""
    common = {"model": "m", "source": "s"}
    invented = {
        **{"num_rows": 1, "max_requests": 1, "requests_per_round": 1},
        "method": {
            **{"name": "self-instruct", "num_shots": 3, "max_tokens": 24, "temperature": 1.0},
            **{"on_length": "keep_complete", "capitalize": "first"},
            "instances": {"name": "turns", "max_tokens": 12},
        },
    }
    reversed_ = {
        "max_tokens": 12,
        "method": {
            **{"name": "humback", "max_passages": 3, "passage_characters": [200, 300]},
            "curation": {"name": "text", "max_tokens": 12, "min_score": None},
        },
    }
    seeds = {"path": str(SEEDS), "source": "seeds", "license": "Apache-2.0"}
    book = {"path": str(BOOK), "source": "book", "license": "MIT OR Apache-2.0"}
    stages = {
        "seeds": {"uses": "load.records", "with": seeds},
        "documents": {"uses": "load.documents", "with": book},
        "invented": {
            "uses": "generate.self_instruct",
            "needs": "seeds",
            "with": {**common, **invented},
        },
        "reversed": {
            "uses": "generate.backtranslate",
            "needs": "documents",
            "with": {**common, **reversed_},
        },
    }
    return Recipe.of("handed", stages, {"m": model})


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the real model has generated."""
    store = tmp_path_factory.mktemp("generated")
    run(recipe(MODEL), store)
    return store


def test_an_exported_journal_rebuilds_the_data_set_without_the_weights(
    tmp_path: Path, generated: Path
) -> None:
    count = export(Journal(generated / "journal"), tmp_path / "j.jsonl.gz")
    assert count > 4
    bare, other = tmp_path / "bare", tmp_path / "other"
    bare.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"):
        shutil.copy(ROOT / "data/models/tinylm" / name, bare)
    assert import_entries(Journal(other / "journal"), tmp_path / "j.jsonl.gz") == (count, 0)
    replayed = recipe({"engine": "replay", "model": str(bare), "id": "tiny-1"})
    run(replayed, other)
    assert contents(other, replayed) == contents(generated, recipe(MODEL))
    assert max_answers(Journal(other / "journal")) == 1


def test_a_miss_names_the_request(tmp_path: Path) -> None:
    replayed = recipe({**MODEL, "engine": "replay"})
    with pytest.raises(
        UserError, match=r"no answer to the request [0-9a-f]{32} \(\d+ are"
    ) as error:
        run(replayed, tmp_path)
    assert "its prompt begins" in str(error.value.why)


def test_there_and_back_is_the_same(tmp_path: Path, generated: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    one = Journal(generated / "journal")
    count = export(one, first)
    other = Journal(tmp_path / "j")
    import_entries(other, first)
    export(other, second)
    assert first.read_bytes() == second.read_bytes()
    assert import_entries(other, first) == (0, count)
    assert max_answers(other) == 1, "an import is no second answer"
    assert verify(one) == verify(other) == count
    assert list(stats(one)["models"]) == list(stats(other)["models"])
    total = stats(one)["models"][0]
    assert total["requests"] == count
    assert total["completion_tokens"] > 0


def test_corrupt_entries_are_refused_with_their_line(tmp_path: Path, generated: Path) -> None:
    good = tmp_path / "good.jsonl"
    export(Journal(generated / "journal"), good)
    line = json.loads(good.read_text().splitlines()[0])
    wrong = {
        "not a journal entry": "{",
        "key does not match the request": json.dumps(line | {"key": "0" * 32}),
        "response cannot be read": json.dumps(line | {"response": {"text": 3}}),
    }
    for message, text in wrong.items():
        bad = tmp_path / "bad.jsonl"
        bad.write_text(json.dumps(line) + "\n" + text + "\n")
        with pytest.raises(UserError, match=message) as error:
            import_entries(Journal(tmp_path / "j"), bad)
        assert error.value.where == f"{bad}:2"
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(good.read_bytes())[:-40])
    for path in (cut, tmp_path / "nowhere.jsonl"):
        with pytest.raises(UserError, match="cannot be read"):
            import_entries(Journal(tmp_path / "j"), path)


def test_a_changed_request_is_detected(tmp_path: Path, generated: Path) -> None:
    journal = Journal(tmp_path / "journal")
    export(Journal(generated / "journal"), tmp_path / "j.jsonl.gz")
    import_entries(journal, tmp_path / "j.jsonl.gz")
    verify(journal)
    journal._connection.execute(
        "UPDATE responses SET request = replace(request, '\"seed\":0', '\"seed\":7') "
        "WHERE key = (SELECT min(key) FROM responses)"
    )
    with pytest.raises(UserError, match="has 1 problem"):
        verify(journal)


def test_the_command_line(tmp_path: Path, generated: Path) -> None:
    store, file = str(tmp_path / "store"), str(tmp_path / "j.jsonl.gz")
    for call, expected in (
        (("stats", "--store", str(generated)), "prompt tokens"),
        (("verify", "--store", str(generated)), "all of them complete"),
        (("export", file, "--store", str(generated)), "entries written"),
        (("import", file, "--store", store), "0 existed before"),
    ):
        done = called("journal", *call)
        assert done.returncode == Exit.DONE, done.stderr
        assert expected in done.stdout
    counts = json.loads(called("journal", "stats", "--json", "--store", store).stdout)
    assert counts["requests"] == Journal(generated / "journal").count()
    empty = called("journal", "stats", "--store", str(tmp_path / "nothing"))
    assert empty.returncode == Exit.MISTAKE
    assert "no journal" in empty.stderr


def test_entries_before_a_corrupt_one_are_imported(tmp_path: Path, generated: Path) -> None:
    """However many lines are committed at a time: a truncated file is as good as its lines."""
    complete = tmp_path / "complete.jsonl"
    count = export(Journal(generated / "journal"), complete)
    lines = complete.read_bytes().splitlines(keepends=True)
    ends = {
        "cut": lines[-1][:-10],
        "nested": b'{"key": ' + b"[" * 100_000 + b"\n",
        "no request": b'{"key": "0", "request": {}, "response": {}}\n',
        "half a pair": b'{"key": "0", "request": {"model": "\\ud800"}, "response": {}}\n',
    }
    for name, end in ends.items():
        journal, file = Journal(tmp_path / name), tmp_path / f"{name}.jsonl"
        file.write_bytes(b"".join([*lines[:-1], lines[0], end]))
        with pytest.raises(UserError, match="not a journal entry") as error:
            import_entries(journal, file)
        assert error.value.where == f"{file}:{count + 1}"
        assert journal.count() == count - 1
        assert max_answers(journal) == 1


def test_a_corrupt_compressed_file_is_refused(tmp_path: Path, generated: Path) -> None:
    corrupt = tmp_path / "corrupt.jsonl.gz"
    export(Journal(generated / "journal"), corrupt)
    content = bytearray(corrupt.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8] = b"\xff" * 8
    corrupt.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read|not a journal entry"):
        import_entries(Journal(tmp_path / "j"), corrupt)


def test_models_are_named_for_people(tmp_path: Path, generated: Path) -> None:
    """Local weights by the name of their folder, without the path, where they were opened."""
    assert [row["name"] for row in stats(Journal(generated / "journal"))["models"]] == [
        "tiny-1, dtype float32"
    ]
    folder = ROOT / "data/models/tinylm"
    ctx = Context.scratch(tmp_path / "here")
    for model in (
        LanguageModel(str(folder)),
        LanguageModel(str(folder), chat_template="plain", dtype="bfloat16"),
        LanguageModel("org/served", "replay", base_url="http://localhost:8000/v1"),
    ):
        engine = ctx.open(model)
        assert isinstance(engine, JournaledEngine)
        (prepared,) = engine.prepare([Request("2 + 2 =", Decoding(max_tokens=2))])
        entry = JournalEntry(prepared.key, prepared.payload, {"text": "4", "finish_reason": "stop"})
        Journal(ctx.store / "journal").put_many([entry])
        engine.generate([Request("2 + 2 =", Decoding(max_tokens=2))])
    digest = folder_digest(folder, FileDigests(tmp_path / "files.json"))[:12]
    counted = called("journal", "stats", "--store", str(ctx.store)).stdout
    assert f"tinylm {digest}, dtype float32  " in counted
    assert f"tinylm {digest}, chat_template plain, dtype bfloat16  " in counted
    assert "\norg/served  " in counted
    assert str(ROOT) not in counted
    export(Journal(ctx.store / "journal"), tmp_path / "j.jsonl")
    elsewhere = Journal(tmp_path / "elsewhere")
    import_entries(elsewhere, tmp_path / "j.jsonl")
    names = {row["name"] for row in stats(elsewhere)["models"]}
    assert f"weights {digest}, dtype float32" in names
