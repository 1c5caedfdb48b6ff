"""The report page, opened by a real browser from its file: numbers, search, map, hostile rows."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import Exit, UserError
from pipeline.execution.history import status
from pipeline.execution.snapshot import Snapshot
from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import create
from pipeline.stage import ROOT
from pipeline.store.store import Store
from stages.report._page.lineage import final_ids, lineage, origins_of_rows
from stages.report._page.search import rows_of
from stages.report._page.texts import MIN_RUN, SHORT, marked
from stages.report.page import page
from tests.support.hostile import MARKUP
from tests.support.running import called, command, run, timed

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg onload=window.hacked=1><style>* { display: none }</style>",
    "<iframe srcdoc='<script>parent.hacked = 1</script>'></iframe>",
    "<a href='https://example.com/' id='query'>click</a> <b>bold</b> <br>",
    "javascript:window.hacked=1 {{ 7 * 7 }} {% raw %} ${window.hacked = 1} `",
    "\u2028\u2029 \u202e reversed \x1b[31m &lt;script&gt; &#60;b&#62; %{x} <!-- --!> ]]>",
    "w" * 3000,
    "' onmouseover='window.hacked=1' \" onclick=\"window.hacked=1",
)
SOURCE = "<img src=x onerror=window.hacked=1>"
WORDS = [
    "sun",
    "moon",
    "river",
    "stone",
    "bread",
    "wheat",
    "mill",
    "grain",
    "flour",
    "wind",
    "water",
    "wheel",
]

RECIPE = """
name: page
models:
  potion: {engine: sentence-transformers, model: data/models/potion-base-4m}
stages:
  plain:    {uses: load.records, with: {path: plain.jsonl, source: plain, license: CC0-1.0}}
  hostile:  {uses: load.records, with: {path: hostile.jsonl, source: %s, license: MIT}}
  heldout:  {uses: load.records, with: {path: heldout.jsonl, source: heldout, license: MIT}}
  exams:    {uses: load.benchmarks, with: {names: [gsm8k]}}
  pool:     {uses: load.concat, needs: [plain, hostile]}
  unique:   {uses: dedup.minhash, needs: pool}
  clean:    {uses: decontaminate.ngram, needs: {rows: unique, benchmarks: exams}}
  others:   {uses: select.except, needs: {rows: clean, except: heldout}}
  tagged:   {uses: tag.surface, needs: others}
  measured: {uses: score.heuristics, needs: tagged}
  vectors:  {uses: embed.text, needs: measured, with: {embedder: potion}}
  chosen:   {uses: select.clusters, needs: vectors, with: {budget: 40, score: response_words}}
  shards:   {uses: export.parquet, needs: chosen}
"""
"""Without a language model, since each of its parts has tests; the quickstart's has one."""


def row(prompt: str, answer: str) -> str:
    return json.dumps({"instruction": prompt, "input": "", "output": answer})


def pool(folder: Path) -> None:
    """Rows of all kinds: plain, near-duplicate, equal, contaminated, broken, hostile, held out."""
    plain = [
        row(
            f"What is number {i} of the {word}?",
            f"{' '.join(WORDS[: i % 9 + 1])} number {i} {word}",
        )
        for i in range(8)
        for word in WORDS
    ]
    text = "Tell me a long story of the old mill by the river, where the miller ground the grain"
    near = [row(text, f"{' '.join(WORDS)} and so on until the {end}") for end in ("end", "day")]
    items = pl.read_ndjson(ROOT / "data/benchmarks/gsm8k_test.jsonl.gz").head(3)
    leaked = [row(question, "42") for question in items["question"]]
    broken = ["{not json", json.dumps({"instruction": "A", "output": ["<b>list</b>"]})]
    (folder / "plain.jsonl").write_text("\n".join([*plain, *plain[:3], *near, *leaked, *broken]))
    hostile = [row(text, other) for text, other in zip(HOSTILE, HOSTILE[::-1], strict=True)]
    (folder / "hostile.jsonl").write_text("\n".join(hostile))
    (folder / "heldout.jsonl").write_text("\n".join([plain[5], row("Only held out?", "Yes.")]))


@dataclass
class Site:
    """A recipe that has run, its page, and the command line that reads it."""

    folder: Path
    recipe: Recipe
    snapshot: Snapshot

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def file(self) -> Path:
        return self.folder / "report.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    pool(folder)
    path = folder / "page.yaml"
    path.write_text(RECIPE % json.dumps(SOURCE))
    recipe = Recipe.load(str(path))
    assert run(recipe, folder / "store") == Exit.ROWS_FAILED
    built = Site(folder, recipe, Snapshot.of_recipe(recipe, Store(folder / "store")))
    done = called("report", str(path), "-o", str(built.file), "--store", str(built.store))
    assert done.returncode == 0, done.stderr
    return built


# The browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One running Chromium; tests that need it skip where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader"]
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@dataclass
class Watched:
    """An open page with what happened in it."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        text: str = self.page.inner_text(selector)
        return text

    def search(self, query: str) -> list[str]:
        """The ids of the rows that the search shows."""
        self.page.fill("#query", query)
        self.page.wait_for_timeout(250)
        codes: list[str] = self.page.locator("#results code").all_inner_texts()
        return codes

    def point(self, trace: int = -1) -> tuple[float, float]:
        """Where on the screen a trace's first point is."""
        self.page.eval_on_selector("#plot", "plot => plot.scrollIntoView({block: 'center'})")
        x, y = self.page.evaluate(
            """trace => {
              const plot = document.getElementById('plot'), {xaxis, yaxis} = plot._fullLayout;
              const {x, y} = plot.data.at(trace), box = plot.getBoundingClientRect();
              return [box.left + xaxis._offset + xaxis.l2p(x[0]),
                      box.top + yaxis._offset + yaxis.l2p(y[0])];
            }""",
            trace,
        )
        return x, y


@contextmanager
def opened(
    chromium: Any, file: Path, width: int = 1280, scheme: str = "light"
) -> Iterator[Watched]:
    """The page in a window of its own, with all that it does watched."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    watched = Watched(context.new_page())
    watched.page.on("request", lambda request: watched.requests.append(request.url))
    watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
    watched.page.on(
        "console",
        lambda message: watched.errors.append(message.text) if message.type == "error" else None,
    )
    watched.page.goto(file.as_uri())
    watched.page.wait_for_selector("html[data-ready=all]", timeout=120_000)
    yield watched
    context.close()


@pytest.fixture(scope="module")
def view(chromium: Any, site: Site) -> Iterator[Watched]:
    with opened(chromium, site.file) as watched:
        yield watched


def test_funnel_is_that_of_status(view: Watched, site: Site) -> None:
    expected = status(site.snapshot)["stages"]
    shown = view.page.evaluate(FUNNEL)
    assert shown == [
        [
            stage["name"],
            *(stage[n] for n in ("rows_in", "created", "kept")),
            sum(stage["dropped"].values()),
            stage["failed"],
            [[*pair] for pair in sorted(stage["dropped"].items(), key=lambda i: (-i[1], i[0]))],
        ]
        for stage in expected
    ]
    assert {"near_duplicate", "contaminated", "not_selected", "duplicate"} <= {
        reason for stage in shown for reason, _ in stage[-1]
    }


def test_verdicts_add_up_to_all_rows(site: Site) -> None:
    rows = rows_of(site.snapshot)
    verdicts = dict(rows.frame["verdict"].value_counts().iter_rows())
    assert sum(verdicts.values()) == rows.frame["id"].n_unique() == len(rows.frame)
    assert verdicts["kept"] == site.snapshot.stages["shards"].artifact.kept
    assert verdicts["other"] == 1  # held out; the other held-out row is in the pool too
    for number, entry in enumerate(rows.frame.iter_rows(named=True)):
        passed = rows.histories[entry["history"]]
        if entry["verdict"] == "dropped":
            assert passed[-1] == (entry["stage"], f"dropped\t{entry['reason']}"), number


def test_histories_are_those_of_the_artifacts(site: Site) -> None:
    rows = rows_of(site.snapshot)
    passed = {
        (row_id, stage, outcome)
        for row_id, number in zip(rows.frame["id"], rows.frame["history"], strict=True)
        for stage, outcome in rows.histories[number]
    }
    for name, stage in site.snapshot.stages.items():
        if stage.kind == "records":
            kept = {i for i, at, outcome in passed if at == name and outcome.startswith("kept")}
            assert kept == set(stage.artifact.read("kept", ["id"])["id"])


def test_lineage_follows_rows_and_not_edges(site: Site) -> None:
    assert [s.name for s in origins_of_rows(site.snapshot)] == ["plain", "hostile"]
    assert "heldout" not in [s.name for s in lineage(site.snapshot)]
    shards = site.snapshot.stages["shards"].artifact
    assert set(final_ids(site.snapshot)["id"]) == set(shards.read("kept", ["id"])["id"])


def test_page_is_the_same_again_and_for_a_release(site: Site, tmp_path: Path) -> None:
    html = page(site.snapshot)
    assert html == page(site.snapshot)
    assert html == site.file.read_text("utf-8")
    text = (site.folder / "page.yaml").read_text("utf-8")
    whole = site.folder / "whole.yaml"
    whole.write_text(text.replace("path: plain.jsonl", "path: whole.jsonl"))
    lines = (site.folder / "plain.jsonl").read_text().splitlines()[:-2]
    (site.folder / "whole.jsonl").write_text("\n".join(lines))
    recipe = Recipe.load(str(whole))
    assert run(recipe, tmp_path) == Exit.DONE
    release = create(recipe, Store(tmp_path)).release
    snapshot = Snapshot.of_release(Store(tmp_path), release)
    numbers = re.findall(r'data-value="\d+"', page(snapshot))
    assert numbers == re.findall(
        r'data-value="\d+"', page(Snapshot.of_recipe(recipe, Store(tmp_path)))
    )
    fewer = Recipe.load(str(whole), ["stages.chosen.with.budget=30"])
    assert run(fewer, tmp_path) == Exit.DONE
    html = page(Snapshot.of_recipe(fewer, Store(tmp_path)), snapshot)
    assert "Differences from page@1.0" in html
    assert re.search(r">removed</td><td class=\"n\">10</td>", html)
    done = called("report", "page@1.0", "-o", str(tmp_path / "r.html"), "--store", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Release 1.0" in (tmp_path / "r.html").read_text("utf-8")


def test_it_asks_for_nothing_and_reports_no_error(view: Watched, site: Site) -> None:
    assert [url for url in view.requests if not url.startswith("blob:")] == [site.file.as_uri()]
    assert view.errors == []
    html = site.file.read_text("utf-8")
    assert "default-src 'none'" in html
    links = re.findall(r"""<[a-z]+[^<>]*\s(?:src|href)=["']?(.)""", html)
    assert set(links) == {"#"}


def test_search_finds_rows_by_each_fact(view: Watched, site: Site) -> None:
    rows = rows_of(site.snapshot).frame
    first = rows["id"][0]
    assert view.search(first[:8]) == [first[:12]]
    dropped = rows.filter(pl.col("reason") == "near_duplicate")
    assert view.search("near_duplicate unique") == [i[:12] for i in dropped["id"]]
    contaminated = rows.filter(pl.col("reason") == "contaminated")["id"]
    assert len(contaminated) == 3
    assert view.search("CONTAMINATED") == [i[:12] for i in contaminated]
    texts = [i[:12] for i, text in rows.select("id", "text").iter_rows() if "number 3 of" in text]
    assert len(texts) == len(WORDS)
    assert view.search('plain "number 3 of"') == texts
    assert view.search("no such words anywhere") == []
    assert "0 rows" in view.text("#count")


def test_a_row_shows_its_history(view: Watched, site: Site) -> None:
    rows = rows_of(site.snapshot)
    entry = rows.frame.filter(pl.col("reason") == "near_duplicate").row(0, named=True)
    view.search(entry["id"])
    view.page.click("#results button")
    assert entry["id"] in view.text("#row h3")
    steps = view.page.locator("#row .history li").all_inner_texts()
    assert [step.split("\n")[0] for step in steps] == [
        s for s, _ in rows.histories[entry["history"]]
    ]
    assert "near_duplicate" in steps[-1]
    duplicate_of = next(
        v for v in json.loads(entry["evidence"]).values() if v in set(rows.frame["id"])
    )
    view.page.click("#row button")
    assert duplicate_of in view.text("#row h3")
    assert f"explain {site.folder / 'page.yaml'} {duplicate_of}" in view.text("#row .command")


def test_dropped_rows_are_beside_what_evidence_names(view: Watched) -> None:
    view.page.eval_on_selector_all("#dropped details", "all => all.forEach(d => { d.open = true })")
    sample = view.page.locator("#dropped-unique-1 .sample.beside").first
    assert sample.locator("mark").count() >= 2
    assert sample.locator("h4").all_inner_texts()[1].startswith("Named by the evidence")
    item = view.page.locator("#dropped-clean-1 .sample.beside").first
    assert "gsm8k" in item.inner_text()
    assert item.locator("dt", has_text="ngram").count() == 1
    assert view.text('[data-verdict="failed"]') == "2"
    failed = view.text("#dropped > .scroll")
    assert "plain.jsonl" in failed


def test_hover_shows_the_rows_text_and_a_click_its_history(view: Watched, site: Site) -> None:
    rows = rows_of(site.snapshot).frame
    for colour in ("source", "cluster", "verdict"):
        view.page.select_option("#colour", colour)
        view.page.wait_for_timeout(300)
    x, y = view.point()
    view.page.mouse.move(x - 30, y)
    view.page.mouse.move(x, y, steps=4)
    view.page.wait_for_selector("#tip:not([hidden])", timeout=10_000)
    hovered = view.page.inner_text("#tip code")
    entry = rows.filter(pl.col("id").str.starts_with(hovered)).row(0, named=True)
    assert entry["verdict"] == "kept"
    assert view.text("#tip .text").split() == entry["text"].split()
    view.page.mouse.click(x, y)
    view.page.wait_for_function(
        "id => document.querySelector('#row h3')?.textContent.startsWith(id)", arg=hovered
    )
    assert len(view.page.locator("#maplegend button").all()) >= 2


def test_rows_are_never_markup(view: Watched, site: Site) -> None:
    """Every hostile row is searched for, opened and hovered; nothing of it comes alive."""
    view.page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = true })")
    for text in HOSTILE:
        view.search(text.split()[0][:60])
        for button in view.page.locator("#results button").all()[:3]:
            button.click()
    view.search("plain")
    for selector in ("source", "cluster", "verdict"):
        view.page.select_option("#colour", selector)
        view.page.wait_for_timeout(200)
        for trace in range(view.page.evaluate("document.getElementById('plot').data.length")):
            x, y = view.point(trace)
            view.page.mouse.move(x - 25, y)
            view.page.mouse.move(x, y, steps=2)
    live = view.page.evaluate(
        """() => [window.hacked ?? null, document.querySelectorAll(
          'main :is(img, iframe, b, a:not([href^="#"])), #tip img, [onerror], [onclick]').length,
          document.querySelectorAll('#query').length, document.scripts.length]"""
    )
    assert live == [None, 0, 1, 1]
    assert view.errors == []
    assert SOURCE in view.text("#sources")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_screens_are_readable(chromium: Any, site: Site, width: int, scheme: str) -> None:
    """Nothing is wider than the screen, every text stands out from what is behind it."""
    with opened(chromium, site.file, width, scheme) as watched:
        watched.page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = true })")
        watched.search("number")
        watched.page.click("#results button")
        overflow = watched.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
        faint = watched.page.evaluate(CONTRAST)
        assert faint == []
        sizes = watched.page.evaluate(SMALL_TEXT)
        assert sizes == []
        background = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        for section in ("#funnel", "#plot"):
            watched.page.eval_on_selector(section, "part => part.scrollIntoView()")
            assert colours(chromium, watched.page.screenshot()) > 20


LONG_RECIPE = """
name: long
stages:
  rows:   {uses: load.records, with: {path: long.jsonl, source: long, license: MIT}}
  marked: {uses: tests.support.hostile.mark, needs: rows}
"""


def test_no_row_makes_a_page_of_megabytes_or_leaves_the_screen(
    chromium: Any, tmp_path: Path
) -> None:
    turns = [{"role": role, "content": f"{MARKUP} {i}"} for i in range(2000) for role in ROLES]
    rows = [{"messages": turns[: 2 * n]} for n in (2000, 3, 2, 1)]
    lines = [*map(json.dumps, rows), "{" + "x" * 10**6]
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    (tmp_path / "long.yaml").write_text(LONG_RECIPE)
    recipe = Recipe.load(str(tmp_path / "long.yaml"))
    assert run(recipe, tmp_path / "store") == Exit.ROWS_FAILED
    file = tmp_path / "long.html"
    file.write_text(page(Snapshot.of_recipe(recipe, Store(tmp_path / "store"))), "utf-8")
    assert file.stat().st_size < 300_000
    with opened(chromium, file, width=360) as watched:
        watched.page.eval_on_selector_all("details", "all => all.forEach(d => { d.open = true })")
        watched.search("script")
        for button in watched.page.locator("#results button").all():
            button.click()
            assert watched.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert watched.page.evaluate("window.hacked ?? null") is None
        assert watched.errors == []


ROLES = ("user", "assistant")

FUNNEL = """() => {
  const number = (cell) => Number(cell.innerText.replaceAll(',', ''));
  const table = document.getElementById('funnel-table');
  return [...table.querySelectorAll('tr.stage')].map((row) => {
    const reasons = table.querySelectorAll(`tr.reason[data-stage="${row.dataset.stage}"]`);
    return [row.dataset.stage, ...[...row.querySelectorAll('[data-field]')].map(number),
      [...reasons].map((r) => [r.dataset.reason, number(r.querySelector('[data-field]'))])];
  });
}"""
"""What the funnel shows: by stage its name, five numbers, and reasons with theirs."""

CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const node of document.querySelectorAll('main *')) {
    const own = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
    if (!own || !node.offsetParent || node.closest('.zero, #plot')) continue;
    const ink = light(parse(getComputedStyle(node).color)), paper = light(behind(node));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) faint.push(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`);
  }
  return faint;
}"""
"""The elements whose text has a contrast below 4.5 (WCAG AA), zeros of tables excepted."""

SMALL_TEXT = """() => [...document.querySelectorAll('main *')].filter(node => node.offsetParent
  && [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim())
  && parseFloat(getComputedStyle(node).fontSize) < 11).map(node => node.tagName + node.className)"""


def colours(chromium: Any, png: bytes) -> int:
    """The number of colours of a picture, counted by the browser."""
    blank = chromium.new_page()
    number: int = blank.evaluate(
        """async data => {
          const picture = new Image();
          picture.src = 'data:image/png;base64,' + data;
          await picture.decode();
          const canvas = new OffscreenCanvas(picture.width, picture.height).getContext('2d');
          canvas.drawImage(picture, 0, 0);
          const bytes = canvas.getImageData(0, 0, picture.width, picture.height).data;
          return new Set(new Uint32Array(bytes.buffer)).size;
        }""",
        base64.b64encode(png).decode(),
    )
    blank.close()
    return number


# Without a browser


def test_marks_are_runs_that_both_texts_have() -> None:
    first = [("user", "Tell me  how old the mill\nby the river is"), ("assistant", "Very old")]
    second = [("text", "I know how old the mill by the river was")]
    left, right = marked(first, second)
    for turns, sides in ((first, left), (second, right)):
        for (_, text), (_, segments) in zip(turns, sides, strict=True):
            assert " ".join(piece for piece, _ in segments) == text
    shared = [[p.split() for _, s in side for p, mark in s if mark] for side in (left, right)]
    assert shared[0] == shared[1] == [["how", "old", "the", "mill", "by", "the", "river"]]
    assert all(len(run) >= MIN_RUN for side in shared for run in side)


def test_texts_of_the_search_are_short(site: Site) -> None:
    texts = rows_of(site.snapshot).frame["text"]
    assert texts.str.len_chars().max() == SHORT
    assert texts.null_count() == 0


def test_a_run_that_keeps_nothing_has_a_page(site: Site, tmp_path: Path) -> None:
    path = site.folder / "none.yaml"
    stages = RECIPE.split("  vectors:")[0].replace("name: page", "name: none")
    options = "{score: mtld, min_score: 1000000000}"
    last = f"  shards: {{uses: select.top, needs: measured, with: {options}}}\n"
    path.write_text(stages % json.dumps(SOURCE) + last)
    recipe = Recipe.load(str(path))
    assert run(recipe, site.store) == Exit.ROWS_FAILED
    html = page(Snapshot.of_recipe(recipe, Store(site.store)))
    assert 'data-verdict="kept">0<' in html


def test_mistakes_are_explained(site: Site, tmp_path: Path) -> None:
    recipe = str(site.folder / "page.yaml")
    with pytest.raises(UserError, match="no rows to report on"):
        page(Snapshot.of_recipe(site.recipe, Store(tmp_path / "empty")))
    for output, message in (("x.txt", "must end in .html"), ("no/x.html", "there is no folder")):
        done = called("report", recipe, "-o", str(tmp_path / output), "--store", str(site.store))
        assert done.returncode == Exit.MISTAKE
        assert message in done.stderr


@pytest.mark.proof
def test_52002_rows_in_time_and_size(chromium: Any, shared: Path, tmp_path: Path) -> None:
    """The page of the whole Alpaca pool: 15 MB at most, 20 s at most, and no lag in it."""
    source = shared / "pools/alpaca_52k.json.gz"
    text = RECIPE.replace("plain.jsonl", str(source)).replace("budget: 40", "budget: 5000")
    pool(tmp_path)
    (tmp_path / "big.yaml").write_text(text % json.dumps("hostile"))
    arguments = [str(tmp_path / "big.yaml"), "--store", str(tmp_path / "store")]
    assert command("run", *arguments, timeout=900).returncode == Exit.DONE
    file = tmp_path / "report.html"
    done, seconds = timed("report", *arguments, "-o", str(file))
    assert done.returncode == 0, done.stderr
    assert file.stat().st_size <= 15e6
    assert seconds <= 20
    with opened(chromium, file) as watched:
        assert "52," in watched.text(".lede")
        assert watched.search("photosynthesis glucose")
        spent = watched.page.evaluate(
            """() => {
              const query = document.getElementById('query'), start = performance.now();
              query.value = 'the capital of'; query.dispatchEvent(new Event('input'));
              return performance.now() - start;
            }"""
        )
        assert spent < 200
        x, y = watched.point()
        watched.page.mouse.move(x - 30, y)
        watched.page.mouse.move(x, y, steps=3)
        watched.page.wait_for_selector("#tip:not([hidden])", timeout=10_000)
        assert watched.errors == []
