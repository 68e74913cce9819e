"""Every method has a page, and the page's settings are the dataclass's fields."""

import re
from pathlib import Path

import pytest

from rarefy import methods
from rarefy.method import Method
from rarefy.recipe import Recipe, make
from rarefy.settings import describe, fields

PAGES = Path(__file__).parents[2] / "docs" / "methods"
SECTIONS = ["## Settings", "## When to use it", "## When not", "## With other methods"]


def table(method: Method) -> list[str]:
    """The rows a page must have."""
    rows = []
    for name, (field, kind) in fields(type(method)).items():
        low, high, choices = (field.metadata.get(key) for key in ("low", "high", "choices"))
        if choices:
            values = ", ".join(f"`{choice}`" for choice in choices)
        else:
            both = f", {low} to {high}" if high is not None else f", at least {low}"
            values = describe(kind) + (both if low is not None else "")
        default = str(field.default).lower() if kind is bool else "none" if field.default == () else str(field.default)
        rows.append(f"| `{name}` | {default} | {values} | {field.metadata['help']} |")
    return rows


@pytest.mark.parametrize("name", methods.names())
def test_the_page_says_what_the_fields_say(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    body = text.split("## Settings\n")[1].split("\n## ")[0]
    rows = [line for line in body.splitlines() if line.startswith("| `")]
    assert rows == table(make(name, {}))
    assert [line for line in text.splitlines() if line.startswith("## ") and line in SECTIONS] == SECTIONS
    assert max(map(len, re.sub(r"\|.*", "", text).splitlines())) <= 130


@pytest.mark.parametrize("name", methods.names())
def test_the_pages_examples_are_recipes(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    words = [re.findall(r"-m '?([^\s'`]+)", line) for line in text.splitlines() if "rarefy compress" in line]
    assert words and all(Recipe.from_arguments(line).methods for line in words)


def test_no_page_is_of_no_method() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == set(methods.names())
