"""What the parts of the benchmarks found at different times ends in one document."""

from pathlib import Path

import pytest
from benchmarks import document, results
from benchmarks.figures import Figure, Report


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(document, "FOLDER", tmp_path)
    return tmp_path


def keep(part: str, images: int, *figures: Figure, cell: str = "cell") -> None:
    report = Report(list(figures), {f"Table of {part}": [["a", "b"], ["row", cell]]})
    results.keep(part, report, images=images, effort="7 x 2.5 s", command=f"python -m benchmarks --only {part}")


def rendered(folder: Path) -> str:
    document.write(results.kept(["get", "lists", "soak"]))
    return (folder / "README.md").read_text()


def test_every_part_is_in_the_document_whenever_it_ran(folder: Path) -> None:
    keep("soak", 5_000, Figure("memory", 200, at_most=150))
    keep("get", 1_000, Figure("rate", 0.8, at_least=0.75, spread="[0.70-0.90]"))
    text = rendered(folder)
    assert text.index("| rate | 0.8 | [0.70-0.90] | >= 0.75 | met |") < text.index("| memory | 200 |")
    assert "**missed**" in text
    assert "## Table of soak, 5,000 images\n\n| a | b |" in text
    assert "get, soak: Python 3." in text
    assert "`python -m benchmarks --only get`" in text
    assert "0.8 (&gt;= 0.75)" in (folder / "goals.svg").read_text()


def test_a_part_that_is_measured_again_replaces_what_it_found(folder: Path) -> None:
    keep("get", 1_000, Figure("rate", 0.1, at_least=0.75), cell="before")
    keep("get", 1_000, Figure("rate", 0.9, at_least=0.75), cell="after")
    text = rendered(folder)
    assert ("before" in text, "after" in text, text.count("| rate |")) == (False, True, 1)


def test_a_part_at_two_sizes_names_the_size(folder: Path) -> None:
    keep("get", 1_000_000, Figure("rate", 0.7, at_least=0.75))
    keep("get", 1_000, Figure("rate", 0.9, at_least=0.75))
    text = rendered(folder)
    assert text.index("| rate, 1,000 images | 0.9 |") < text.index("| rate, 1,000,000 images | 0.7 |")
