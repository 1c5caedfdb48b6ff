"""tag.tokens: the tokens that a tokenizer alone says, row by row, many at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipeline.context import Context
from pipeline.errors import Exit, OptionError
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
from pipeline.recipe.recipe import Recipe
from stages._llm.rendered import rendered_text
from stages.score.loss import loss
from stages.tag import tokens as module
from stages.tag.tokens import tokens
from tests.support.chats import TOOLS, answer, result, user
from tests.support.rows import DATA, conversations, frame, record, self_instruct
from tests.support.running import artifact, run, states

CTX = Context(Path(), Path(), Path())
TINYLM = LanguageModel(model=str(DATA / "models/tinylm"))
OWN = AutoTokenizer.from_pretrained(TINYLM.model)
TEXTS = st.lists(st.text(max_size=30), min_size=1, max_size=5)


def counts(rows: pl.DataFrame, **options: Any) -> list[int | None]:
    result = tokens(CTX, rows, **{"model": TINYLM, **options})
    assert result.schema == {"tokens": pl.Int32, "error": pl.String}
    assert result["error"].null_count() == len(rows)
    return result["tokens"].to_list()


def test_all_is_what_score_loss_counts(tmp_path: Path) -> None:
    rows = self_instruct(60)
    scored = loss(Context.scratch(tmp_path), rows, model=TINYLM, max_length=4096)
    assert counts(rows) == scored["tokens"].to_list()


@given(st.lists(TEXTS, max_size=5))
def test_one_row_at_a_time_with_the_tokenizer_itself(texts: list[list[str]]) -> None:
    rows = conversations(texts)
    expected: dict[tuple[str, str], list[int | None]] = {}
    for messages in rows["messages"].to_list():
        roles = [turn["role"] for turn in messages]
        last = len(roles) - 1 - roles[::-1].index("assistant") if "assistant" in roles else None
        before = messages[:last]
        contents = [
            len(OWN(turn["content"], add_special_tokens=False)["input_ids"]) for turn in messages
        ]
        prompt = OWN.apply_chat_template(before, add_generation_prompt=True, return_dict=True)
        until = OWN.apply_chat_template(messages[: (last or 0) + 1], return_dict=True)
        whole = OWN.apply_chat_template(messages, return_dict=True)
        numbers = {
            ("plain", "all"): sum(contents),
            ("plain", "prompt"): sum(contents[:last]),
            ("plain", "response"): None if last is None else contents[last],
            ("chat", "all"): len(whole["input_ids"]),
            ("chat", "prompt"): len(prompt["input_ids"]),
            ("chat", "response"): None
            if last is None
            else len(until["input_ids"]) - len(prompt["input_ids"]),
        }
        for key, number in numbers.items():
            expected.setdefault(key, []).append(number)
    for (rendering, part), numbers in expected.items():
        assert counts(rows, rendering=rendering, part=part) == numbers


def test_prompt_and_response_sum_to_all() -> None:
    rows = self_instruct(300)
    of = {part: pl.Series(counts(rows, part=part)) for part in ("all", "prompt", "response")}
    assert (of["prompt"] + of["response"]).to_list() == of["all"].to_list()
    assert of["response"].min() > 1


def test_slices_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = self_instruct(50)
    before = counts(rows)
    monkeypatch.setattr(module, "_SLICE", 7)
    assert counts(rows) == before
    assert counts(rows.clear()) == []


def test_a_file_that_says_that_texts_are_cut_or_padded_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "cutting"
    shutil.copytree(TINYLM.model, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    said = json.loads((folder / "tokenizer.json").read_text())
    said["truncation"] = {
        "max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right",
    }  # fmt: skip
    said["padding"] = {
        "strategy": {"Fixed": 512}, "direction": "Right", "pad_id": 0, "pad_type_id": 0,
        "pad_token": said["added_tokens"][0]["content"], "pad_to_multiple_of": None,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(said))
    rows = self_instruct(20)
    for rendering in ("chat", "plain"):
        cutting = LanguageModel(model=str(folder))
        assert counts(rows, rendering=rendering, model=cutting) == counts(rows, rendering=rendering)


def test_published_tokens_of_wordpiece() -> None:
    """BERT's own example: "Who was Jim Henson ?" and "Jim Henson was a puppeteer"."""
    bert = LanguageModel(model=str(DATA / "models/potion-base-4m"))
    rows = conversations([("Who was Jim Henson ?", "Jim Henson was a puppeteer")])
    plain = {p: counts(rows, model=bert, rendering="plain", part=p)[0] for p in ("all", "prompt")}
    # who was jim henson ? / jim henson was a puppet ##eer
    assert plain == {"all": 11, "prompt": 5}


def test_a_row_that_the_template_refuses_fails_by_itself(tmp_path: Path) -> None:
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{%- for m in messages -%}{%- if m.role == 'system' -%}"
        "{{ raise_exception('no system turns') }}{%- endif -%}{{ m.content + '\\n' }}{%- endfor -%}"
    )
    strict = LanguageModel(model=TINYLM.model, chat_template=str(template))
    rows = frame(
        [
            record("Sing", "La"),
            record("Be kind", "Sing", "La", roles=("system", "user", "assistant")),
        ]
    )
    result = tokens(CTX, rows, model=strict)
    has_system = [len(messages) == 3 for messages in rows["messages"]]
    assert result["tokens"].is_null().to_list() == has_system
    assert result["error"].is_not_null().to_list() == has_system
    assert "no system turns" in result["error"].drop_nulls().item()


def test_what_stands_beside_content_counts_as_it_is_rendered(tmp_path: Path) -> None:
    thought = answer("Look.", '{"port": "Oban"}', reasoning="A port.")
    chats = [[user(), answer("Look.")], [user(), thought], [user(), thought, result(), answer("3")]]
    rows = frame(
        {**record("?"), "id": f"{i}{bool(tools)}", "messages": chat, "tools": tools}
        for i, chat in enumerate(chats)
        for tools in (None, TOOLS)
    )
    conversations = rows.select("messages", "tools").iter_rows()
    rendered = [rendered_text(OWN, messages, tools) for messages, tools in conversations]
    lengths = [len(OWN(text)["input_ids"]) for text in rendered]
    assert counts(rows) == lengths
    assert len(set(lengths)) == 6
    scored = loss(Context.scratch(tmp_path), rows, model=TINYLM)
    assert scored["tokens"].to_list() == lengths
    of = {part: pl.Series(counts(rows, part=part)) for part in ("prompt", "response")}
    assert (of["prompt"] + of["response"]).to_list() == lengths
    shown = [counts(rows, rendering="plain", view=view)[2] for view in ("content", "calls", "all")]
    assert shown == sorted(set(shown))
    token = frame([record("What is <|im_start|>?", "A token")])
    scored = loss(Context.scratch(tmp_path / "token"), token, model=TINYLM)
    assert counts(token) == scored["tokens"].to_list()
    (messages,) = token["messages"].to_list()
    real = OWN.apply_chat_template(messages, return_dict=True)["input_ids"]
    as_text = OWN("<|im_start|>", split_special_tokens=True)["input_ids"]
    assert counts(token)[0] == len(real) - 1 + len(as_text)


def test_a_template_that_changes_the_prompt_without_its_answer(tmp_path: Path) -> None:
    template = tmp_path / "counting.jinja"
    template.write_text("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}")
    model = LanguageModel(model=TINYLM.model, chat_template=str(template))
    result = tokens(CTX, conversations([("Sing", "La")]), model=model, part="response")
    assert "otherwise without its answer" in result["error"].item()


def test_a_recipe_counts_and_spends_tokens_and_content_is_the_fingerprint(tmp_path: Path) -> None:
    lines = [{"prompt": f"What is {i}?", "completion": "It is " + "so " * i} for i in range(20)]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, lines)))
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        shutil.copytree(TINYLM.model, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    path = {"path": str(tmp_path / "pool.jsonl"), "source": "made", "license": "CC0-1.0"}
    budget = {"budget": {"rows": 9, "tokens": 100}}
    stages = {
        "pool": {"uses": "load.records", "with": path},
        "counted": {"uses": "tag.tokens", "needs": "pool", "with": {"model": "some"}},
        "sample": {"uses": "select.random", "needs": "counted", "with": budget},
    }
    wired = [Recipe.of("tokens", stages, {"some": {"model": str(f)}}) for f in folders]
    store = tmp_path / "store"
    assert run(wired[0], store) is Exit.DONE
    assert 0 < artifact(wired[0], store, "sample").kept < 9
    assert states(wired[1], store) == dict.fromkeys(stages, "cached")
    with (folders[1] / "tokenizer_config.json").open("a") as file:
        file.write("\n")
    assert states(wired[1], store)["counted"] != "cached"


def test_a_model_whose_tokenizer_only_its_server_has_is_refused() -> None:
    served = LanguageModel(model="far", engine="openai", base_url="http://localhost:1/v1")
    check = find("tag.tokens").check
    assert check
    with pytest.raises(OptionError, match="must have a tokenizer on this machine, got 'far'"):
        check(SimpleNamespace(model=served))
