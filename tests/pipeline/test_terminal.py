"""Nothing that a row, a server or a file name holds steers the terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.main import main
from pipeline.models.engines.registry import close_engines
from pipeline.stage import ROOT
from pipeline.terminal import visible, visible_line
from tests.support.running import environment, toys
from tests.support.serving import NAME, FakeServer, error_response, fixed, listening

KINDS = ("Cc", "Cf", "Cs", "Zl", "Zp")
CONTROLS = {c for i in range(sys.maxunicode + 1) if unicodedata.category(c := chr(i)) in KINDS}
CONTROLS -= {"\n", "\t"}
SURROGATES = {c for c in CONTROLS if unicodedata.category(c) == "Cs"}
HOSTILE = (
    "\x1b]0;owned\x07 \x1b[31mred \x9b2J \r\x08\x7f \u202eevil \u2066iso \u200bzero\ufeff"
    " \u2028line \U000e0041tag [red]markup[/] :smile: \\u001b"
)


def controls_in(text: str) -> set[str]:
    return CONTROLS & set(text)


def test_every_control_character_is_escaped() -> None:
    assert not controls_in(visible("".join(sorted(CONTROLS))))
    assert not {"\n", "\t"} & set(visible_line("a\n\tb"))


@given(
    st.text()
    | st.text(st.sampled_from(sorted(CONTROLS - SURROGATES)) | st.sampled_from("a\n\t\\u"))
)
def test_what_is_shown_is_safe_and_json_keeps_its_values(text: str) -> None:
    assert not controls_in(visible(text))
    assert visible(visible(text)) == visible(text)
    assert json.loads(visible(json.dumps({text: [text]}, ensure_ascii=False))) == {text: [text]}
    if not controls_in(text):
        assert visible(text) == text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A recipe whose rows, file names and server are hostile, and the folder of its store."""
    folder = tmp_path_factory.mktemp("hostile" + HOSTILE.replace("/", ""))
    rows = [f"{HOSTILE} {i}\t{HOSTILE}{'x' * (i // 2)}" for i in range(6)]
    rows = [row.replace("\r", "").replace("\u2028", "") for row in rows]  # they would end a line
    (folder / f"rows{HOSTILE.replace('/', '')}.txt").write_text("\n".join([*rows, HOSTILE[:20]]))
    with listening(FakeServer(fixed(error_response("400 Bad Request", HOSTILE)))) as port:
        model = {"engine": "openai", "model": NAME, "base_url": f"http://127.0.0.1:{port}/v1"}
        text = f"""\
name: hostile
models: {{m: {json.dumps(model)}}}
stages:
  a: {{uses: toy.load, with: {{path: "rows*.txt"}}}}
  sized: {{uses: toy.length, needs: a}}
  unique: {{uses: toy.distinct, needs: sized}}
  rated: {{uses: tests.support.asking.rate, needs: unique, with: {{model: m}}}}
  out: {{uses: toy.export, needs: unique}}
"""
        path = folder / f"recipe{HOSTILE.replace('/', '')}.yaml"
        path.write_text(toys(text))
        yield str(path), str(folder / "store")
    close_engines()


def printed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """All that a verb prints, with its exit code checked to be no bug's."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), "utf-8") for name in ("stdout", "stderr")}
    monkeypatch.setattr(sys, "argv", ["gristmill", *arguments])
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, 2, 4)
    texts = []
    for stream in streams.values():
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return "".join(texts)


def test_no_verb_prints_a_control_character(
    hostile: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe, store = hostile
    where = ["--store", store]
    say = [
        ["plan", recipe],
        ["run", recipe, "--workers", "1"],
        ["run", recipe, "out"],
        ["plan", recipe, "--json"],
        ["status", recipe],
        ["status", recipe, "--json"],
        ["why", recipe, "a"],
        *[["cat", recipe, stage] for stage in ("a", "unique", "rated", "out")],
        *[["cat", recipe, stage, "--dropped"] for stage in ("a", "unique")],
        *[["cat", recipe, stage, "--failed"] for stage in ("a", "rated")],
        *[["cat", recipe, stage, "--table"] for stage in ("a", "unique", "rated")],
        ["sample", recipe, "unique", "--dropped"],
        ["sample", recipe, "rated", "--failed"],
        ["sample", recipe, "unique", "--reason", HOSTILE],
        ["journal", "stats"],
        ["journal", "verify"],
        ["journal", "export", f"{tmp_path}/{HOSTILE.replace('/', '')}.jsonl"],
        ["journal", "import", f"{tmp_path}/{HOSTILE.replace('/', '')}.jsonl"],
        ["cat", recipe, HOSTILE],
        ["cat", recipe, "a", "-o", HOSTILE],
        ["explain", recipe, HOSTILE],
        ["run", HOSTILE],
        ["status", recipe, "--set", f"stages.a.with.source={HOSTILE}"],
        ["status", recipe, "--set", HOSTILE],
        ["status", recipe, "--profile", HOSTILE],
    ]
    texts = {}
    for arguments in say:
        texts[tuple(arguments)] = text = printed(monkeypatch, *arguments, *where)
        assert not controls_in(text), arguments
    assert "\\u001b]0;owned" in texts["cat", recipe, "rated", "--failed"], "the server's error"
    rows = texts["cat", recipe, "unique", "--dropped"].splitlines()
    assert "\u202e" in json.loads(rows[0])["messages"][0]["content"], "the value is the same"
    for arguments in (["stages", HOSTILE], ["doctor"], [HOSTILE], ["--help", HOSTILE]):
        assert not controls_in(printed(monkeypatch, *arguments)), arguments
    dropped = json.loads(rows[0])["id"]
    for more in ([], ["--json"]):
        text = printed(monkeypatch, "explain", recipe, dropped, *where, *more)
        assert not controls_in(text)
        assert "\\u202e" in text


def test_the_live_display_draws_nothing_but_itself() -> None:
    code = (
        "import sys\n"
        "from pipeline.terminal import protect\n"
        "protect()\n"
        "from pipeline.execution.progress import watch\n"
        "from pipeline.execution.progress import StartedStep\n"
        "text = sys.argv[1]\n"
        "live = watch([text] * 3)\n"
        "live.start(StartedStep(1, text, text, [text], lambda: text, lambda: text))\n"
        "live.update(1, 2)\n"
        "print(text, file=sys.stderr)\n"
        "live.finish(text)\n"
        "live.close()\n"
        "print(text, file=sys.stderr)\n"
    )
    ours, terminal = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-c", code, HOSTILE],
        cwd=ROOT,
        env=environment(COLUMNS="300"),
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert done.wait() == 0
    text = shown.decode()
    assert text.count("\\u001b]0;owned") >= 4
    assert "[red]markup[/] :smile:" in text, "neither markup nor emoji codes are read"
    for sequence in ("\x1b]0;", "\x07", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff", "\x1b[31m"):
        assert sequence not in text


def test_what_the_encoding_lacks_is_escaped(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "pipeline", "cat", "nowhere-\udcff-\u00e9.yaml", "a"]
    done = subprocess.run(
        call, cwd=ROOT, env=environment(PYTHONIOENCODING="ascii"), capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"\\udcff-\\u00e9" in done.stderr
    assert b"Traceback" not in done.stderr
