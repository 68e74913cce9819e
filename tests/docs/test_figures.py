"""The figures in the docs are those of the committed results; links lead somewhere."""

import re
from pathlib import Path

import pytest

import figures

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("path", figures.pages(), ids=lambda path: path.name)
def test_rendered_pages_are_the_results(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == figures.pages()[path], "run python bench/figures.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
