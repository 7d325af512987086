"""The documents name only files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from turnkeeper_service.providers.scripted import Reply

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "docs" / "ROADMAP.md"]
DOCUMENTS += [ROOT / "docs" / name for name in ("clients.md", "operations.md", "rules.md")]
DOCUMENTS += sorted((ROOT / "docs" / "decisions").glob("*.md"))
MADE_BY_MAKE = {".venv/", ".tools/"}


def named_paths(text: str) -> set[str]:
    """What stands in backticks and looks like a path from the root of the repository."""
    top = "|".join(re.escape(path.name) for path in ROOT.iterdir() if path.is_dir())
    words = set(re.findall(r"`([^`\s]+)`", text))
    is_file = r"[\w.-]+\.(?:md|toml|py|rs|proto|lock)"
    return {word for word in words if re.fullmatch(rf"(?:{top})/[\w./-]*", word)} | {
        word for word in words if re.fullmatch(is_file, word) and word[0].isupper()
    }


def links(text: str) -> set[str]:
    """Targets of links that are not addresses."""
    return {target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in target}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    missing = {name for name in named_paths(text) - MADE_BY_MAKE if not (ROOT / name).exists()}
    missing |= {target for target in links(text) if not (document.parent / target).exists()}
    assert not missing


def test_paths_and_links_are_found() -> None:
    text = "`core-rs/core/`, `docs/none.md`, `README.md`, `turnkeeper serve`, [a](docs/x.md), [b](https://example.com)"
    assert named_paths(text) == {"core-rs/core/", "docs/none.md", "README.md"}
    assert links(text) == {"docs/x.md"}


def test_the_architecture_names_every_package() -> None:
    """A package that is added gets its line on the map."""
    map_ = (ROOT / "ARCHITECTURE.md").read_text()
    service = ROOT / "service" / "src" / "turnkeeper_service"
    packages = [path.name for path in service.iterdir() if (path / "__init__.py").exists()]
    assert len(packages) > 5
    assert [name for name in packages if f"`service/src/turnkeeper_service/{name}/`" not in map_] == []


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = links((folder / "README.md").read_text())
    assert listed == {path.name for path in folder.glob("0*.md")}


def test_the_directives_of_scripted_models_are_all_described() -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    table = page[page.index("| field | what it does |") :]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(Reply.__struct_fields__)
