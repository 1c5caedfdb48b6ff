"""Builds the documentation: pages written by hand, and a reference that writes itself.

Run by `make docs`. Every stage, every room of helpers and every module of the engine gets a
page from its own docstrings; nothing is listed by hand. The build is strict (a wrong link
or a documented parameter that does not exist ends it) and needs no network: whatever a
page would fetch from another host is an error too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

DOCS: Final = Path(__file__).resolve().parent
ROOT: Final = DOCS.parent
PAGES: Final = DOCS / "pages"
CONFIG: Final = DOCS / ".generated.yml"
FETCHED: Final = re.compile(
    r"""<(?:script|img|iframe)[^>]+src=["']?(?:https?:)?//|<link[^>]+rel=["']?stylesheet[^>]+"""
    r"""href=["']?(?:https?:)?//|url\(["']?(?:https?:)?//|@import\s+["'](?:https?:)?//"""
)
"""What a browser would fetch from another host when it opens a page."""


sys.path.insert(0, str(ROOT))


def main() -> int:
    """Write the reference, build the site, and look for what it would fetch."""
    shutil.rmtree(PAGES / "reference", ignore_errors=True)
    shutil.rmtree(DOCS / "site", ignore_errors=True)
    from pipeline.cli.stage_lists import update_readme

    update_readme()
    shutil.copy(ROOT / "CHANGELOG.md", PAGES / "changelog.md")
    config = yaml.safe_load((DOCS / "mkdocs.yml").read_text("utf-8"))
    config["nav"] = [
        {"Home": "index.md"},
        {"Architecture": "architecture.md"},
        {"Training on several devices": "training.md"},
        {"Methods": list(_method_pages())},
        {"Stages": list(_stage_pages())},
        {"Engine": list(_module_pages("pipeline"))},
        {"Records": list(_module_pages("schemas"))},
        {"Rooms": list(_room_pages())},
        {"Changelog": "changelog.md"},
    ]
    CONFIG.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    zensical = Path(sys.executable).with_name("zensical")
    built = subprocess.run([zensical, "build", "--strict", "-c", "-f", CONFIG], check=False)
    return built.returncode or _check_offline()


def _page(path: str, text: str) -> str:
    """Write a page of the reference; its path as the navigation names it."""
    file = PAGES / "reference" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return f"reference/{path}"


def _stage_pages() -> Iterator[Any]:
    """The list of all stages, then a page for each, by family."""
    from pipeline.recipe.discovery import available, find

    names = available()
    families = dict.fromkeys(name.partition(".")[0] for name in names)
    table = ["# Stages", "", "| stage | scope | makes | what it does |", "|---|---|---|---|"]
    pages: list[Any] = []
    for family in families:
        members: list[Any] = []
        for name in (n for n in names if n.startswith(f"{family}.")):
            stage = find(name)
            about = (sys.modules[stage.function.__module__].__doc__ or "").split("\n")[0]
            makes = str(stage.makes or ("columns" if stage.annotates else "files"))
            inputs = ", ".join(f"`{e.name}` ({' or '.join(e.kinds)})" for e in stage.edges)
            facts = f"Version {stage.version}, {stage.scope} scope; makes {makes}."
            text = f"# {name}\n\n{facts} Inputs: {inputs or 'none'}.\n\n"
            text += (
                f"::: {stage.function.__module__}\n    options:\n      show_root_heading: false\n"
            )
            members.append({name: _page(f"stages/{family}/{name.partition('.')[2]}.md", text)})
            link = f"[{name}]({family}/{name.partition('.')[2]}.md)"
            table.append(f"| {link} | {stage.scope} | {makes} | {about} |")
        pages.append({family: members})
    yield {"All stages": _page("stages/index.md", "\n".join(table) + "\n")}
    yield from pages


def _method_pages() -> Iterator[Any]:
    """The list of the methods of the literature, then a page for each, as `methods` shows it."""
    from pipeline.recipe.methods import methods

    table = ["# Methods", "", "| method | paper | recipe | needs |", "|---|---|---|---|"]
    pages: list[Any] = []
    for method in methods(ROOT):
        paper = method.paper
        needs = ", ".join(method.needs) or "nothing but a CPU"
        parts = {
            "As in the paper": method.as_in_paper,
            "As in the authors' code": method.as_in_code,
            "Ours": method.differs,
            "Left out": method.left_out,
        }
        stages = ", ".join(
            f"[{stage}](../stages/{stage.replace('.', '/')}.md)" for stage in method.stages
        )
        text = f"# {method.name}\n\n{paper.title} ({paper.authors} {paper.year}, "
        text += f"[arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}))\n\n"
        text += f"{method.summary}\n\nStages: {stages}. Needs: {needs}.\n"
        text += "".join(f"\n## {title}\n\n{said}\n" for title, said in parts.items() if said)
        text += "\n## How to run it\n\n```console\n"
        text += f"gristmill plan {method.recipe}\n"
        text += f"gristmill run {method.recipe} --profile tiny  # offline and small\n"
        text += f"gristmill run {method.recipe}\n```\n"
        pages.append({method.name: _page(f"methods/{method.recipe}.md", text)})
        facts = f"{paper.title} ({paper.year})", f"`{method.recipe}`", needs
        table.append(f"| [{method.name}]({method.recipe}.md) | {' | '.join(facts)} |")
    yield {"All methods": _page("methods/index.md", "\n".join(table) + "\n")}
    yield from pages


def _module_pages(package: str) -> Iterator[Any]:
    """A page for every module of a package that has public names."""
    for file in sorted((ROOT / package).rglob("*.py")):
        dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if file.name.startswith("__") or "_stages" in dotted:
            continue
        yield {dotted: _page(f"api/{dotted}.md", f"# {dotted}\n\n::: {dotted}\n")}


def _room_pages() -> Iterator[Any]:
    """A page for every helper module under `stages/`: rooms, and what single families share."""
    for file in sorted((ROOT / "stages").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if file.name != "__init__.py" and any(part.startswith("_") for part in parts):
            dotted = ".".join(parts)
            yield {dotted: _page(f"api/{dotted}.md", f"# {dotted}\n\n::: {dotted}\n")}


def _check_offline() -> int:
    """The number of files of the site that would fetch something; each is printed."""
    fetching = [
        file
        for file in sorted((DOCS / "site").rglob("*"))
        if file.suffix in (".html", ".css") and FETCHED.search(file.read_text("utf-8"))
    ]
    for file in fetching:
        print(f"{file.relative_to(ROOT)} fetches from another host", file=sys.stderr)
    return len(fetching)


if __name__ == "__main__":
    sys.exit(main())
