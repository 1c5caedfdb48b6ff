"""The identity of a model: its content, its name on the hub, or its user's id."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.models import Embedder, LanguageModel, Limits, Price
from pipeline.models.identity import identity
from pipeline.store.file_hashes import FileDigests

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def files(tmp_path: Path) -> FileDigests:
    return FileDigests(tmp_path / "files.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text(name)
    return folder


def test_it_is_json_and_contains_no_path(folder: Path, files: FileDigests) -> None:
    result = identity(LanguageModel(str(folder)), files)
    assert json.loads(json.dumps(result)) == result
    assert str(folder) not in json.dumps(result)


def test_the_same_files_elsewhere_are_the_same_model(
    folder: Path, files: FileDigests, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    model = LanguageModel(str(folder), device="cpu")
    other = LanguageModel(str(tmp_path / "copy"), device="cuda")
    assert identity(model, files) == identity(other, files)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "chat_template.jinja", "generation_config.json", "1_Pooling/config.json"],
)
def test_every_file_that_may_change_an_answer_belongs_to_it(
    folder: Path, files: FileDigests, name: str
) -> None:
    before = identity(LanguageModel(str(folder)), files)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("other")
    assert identity(LanguageModel(str(folder)), files) != before


@pytest.mark.parametrize(
    "name", ["README.md", ".gitattributes", "optimizer.pt", "checkpoint-5/model.safetensors"]
)
def test_other_files_do_not_belong_to_it(folder: Path, files: FileDigests, name: str) -> None:
    before = identity(LanguageModel(str(folder)), files)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("other")
    assert identity(LanguageModel(str(folder)), files) == before


def test_dtype_and_a_replaced_template_belong_to_it(folder: Path, files: FileDigests) -> None:
    model = LanguageModel(str(folder))
    template = folder.parent / "other.jinja"
    template.write_text("{{ messages }}")
    replaced = replace(model, chat_template=str(template))
    variants = [model, replace(model, dtype="bfloat16"), replaced]
    identities = [json.dumps(identity(variant, files)) for variant in variants]
    template.write_text("{{ messages[0] }}")
    identities.append(json.dumps(identity(replaced, files)))
    assert len(set(identities)) == 4


def test_an_id_stands_for_the_weights(folder: Path, files: FileDigests) -> None:
    one, other = LanguageModel(str(folder), id="first"), LanguageModel("nowhere", id="first")
    assert identity(one, files) == identity(other, files)
    assert identity(one, files) != identity(replace(one, id="second"), files)
    assert identity(one, files) != identity(replace(one, dtype="float16"), files)


def test_a_hub_name_with_a_commit_needs_no_look_up(files: FileDigests) -> None:
    model = Embedder("somebody/something", revision=COMMIT)
    assert identity(model, files) == {"weights": {"name": "somebody/something", "revision": COMMIT}}


def test_a_hub_name_resolves_to_what_the_local_cache_holds(
    files: FileDigests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub/models--somebody--something"
    (cached / "snapshots" / COMMIT).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(COMMIT)
    (cached / "snapshots" / COMMIT / "config.json").write_text("{}")
    result = identity(LanguageModel("somebody/something"), files)
    assert result["weights"] == {"name": "somebody/something", "revision": COMMIT}


@pytest.mark.parametrize("name", ["somebody/something-that-is-not-there", "not/a/name/at-all"])
def test_a_model_that_does_not_exist_is_refused(
    files: FileDigests, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=name):
        identity(LanguageModel(name), files)


def test_a_hub_that_cannot_be_reached_is_reported(tmp_path: Path, files: FileDigests) -> None:
    """In a process of its own: the hub's library reads its address once."""
    code = (
        "from pathlib import Path\n"
        "from pipeline.store.file_hashes import FileDigests\n"
        "from pipeline.models import LanguageModel\n"
        "from pipeline.models.identity import identity\n"
        f"identity(LanguageModel('nobody/nothing'), FileDigests(Path({str(tmp_path)!r}) / 'f'))\n"
    )
    variables = {
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True
    )
    assert "pipeline.errors.UserError: model must be a folder or a name" in run.stderr, run.stderr[
        -500:
    ]


def test_an_empty_folder_and_a_missing_template_are_refused(
    folder: Path, files: FileDigests, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="must be a folder with weights"):
        identity(LanguageModel(str(tmp_path / "empty")), files)
    with pytest.raises(UserError, match="template"):
        identity(LanguageModel(str(folder), chat_template="nowhere.jinja"), files)


def test_what_may_change_an_answer_belongs_to_it_and_how_it_is_run_does_not(
    files: FileDigests,
) -> None:
    plain = LanguageModel("m", "vllm", id="x")
    how = replace(
        plain,
        engine="openai",
        base_url="http://h",
        api_key_env="K",
        python="p",
        limits=Limits(concurrency=3),
        price=Price(1.0, 2.0),
        engine_options={"tensor_parallel_size": 2, "enable_prefix_caching": True},
    )
    assert identity(how, files) == identity(plain, files)
    what = [
        replace(plain, engine_options={"quantization": "fp8"}),
        replace(plain, engine_options={"kv_cache_dtype": "fp8"}),
        replace(plain, lora="somebody/adapter"),
        replace(plain, tokenizer="somebody/else"),
        replace(plain, chat_template="plain"),
        replace(plain, dtype="bfloat16"),
    ]
    identities = [json.dumps(identity(model, files)) for model in [plain, *what]]
    assert len(set(identities)) == len(identities)


def test_a_served_model_is_identified_by_its_name_alone(
    files: FileDigests,
) -> None:
    one = LanguageModel("org/model", "openai", base_url="http://h/v1", dtype="bfloat16")
    other = LanguageModel("org/model", "replay", base_url="http://elsewhere/v1")
    assert identity(one, files) == identity(other, files) == {"weights": {"served": "org/model"}}
    named = replace(one, served_name="alias")
    assert identity(named, files) == identity(one, files), "a server may call it what it likes"
