"""Weights are loaded once; what belongs to a stage is bound anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Decoding, LanguageModel, Request
from pipeline.models.engines.registry import close_engines
from pipeline.models.journal.journal import Journal

ROOT = Path(__file__).parents[3]


def test_stages_share_weights_and_keep_journals_and_counters_apart(
    tmp_path: Path, tinylm: LanguageModel
) -> None:
    one, other = Context.scratch(tmp_path / "one"), Context.scratch(tmp_path / "other")
    first, second = one.open(tinylm), other.open(tinylm)
    assert first.tokenizer is second.tokenizer
    first.generate([Request("The sea", Decoding(max_tokens=2))])
    assert one.counters["requests"] == 1
    assert not other.counters
    assert Journal(tmp_path / "one/store/journal").count() == 1
    assert Journal(tmp_path / "other/store/journal").count() == 0


def test_closing_frees_the_weights(ctx: Context, tinylm: LanguageModel) -> None:
    before = ctx.open(tinylm).tokenizer
    close_engines()
    assert ctx.open(tinylm).tokenizer is not before


def test_a_folder_without_a_language_model_is_refused(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="language model cannot be loaded"):
        ctx.open(LanguageModel(str(tmp_path)))


def test_engines_are_imported_without_heavy_libraries_and_without_the_context() -> None:
    code = (
        "import sys, pipeline.models.engines.registry, pipeline.models.journal.journal;"
        "import pipeline.models.journal.requests;"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules);"
        "assert 'pipeline.context' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
