"""Code spans and blocks of any text: nothing of it is markup, and all of it is shown."""

from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.terminal import visible, visible_line
from stages.publish._markdown import block, code

MARKDOWN = MarkdownIt("commonmark").enable("table")
TEXTS = st.text(st.sampled_from("`~|\\*_<>[]()!#-+ \n\tab&;:/.=\u202e\x1b$"), max_size=40)


@given(TEXTS)
def test_a_block_shows_its_text_and_ends_where_it_ends(text: str) -> None:
    shown = MARKDOWN.render(f"{block(text)}\n\nafter")
    inner = html.escape(visible(text), quote=True)
    expected = f'<pre><code class="language-text">{inner}\n</code></pre>\n<p>after</p>\n'
    assert shown == expected


@given(TEXTS)
def test_a_span_is_one_cell_of_a_table(text: str) -> None:
    tokens = MARKDOWN.parse(f"| a | b |\n|---|---|\n| {code(text)} | c |\n\nafter")
    cells = [token for token in tokens if token.type == "inline"]
    assert [c.content for c in cells][:2] == ["a", "b"]
    (span,) = cells[2].children or []
    assert span.type == "code_inline"
    line = visible_line(text).replace("|", "\\u007c")
    if line.strip():
        assert span.content == line
    assert [c.content for c in cells][3:] == ["c", "after"]


def test_a_long_text_is_cut() -> None:
    assert code("x" * 300, 10) == "`xxxxxxxxxx…`"
