"""Pages of runs, farms and scale studies whose files somebody else wrote: refused, or free of what they try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from clear_dist.errors import UserError
from tests.faults.fuzz import counted
from tests.faults.fuzz_inputs import altered
from tests.faults.pages import KINDS, Folder, all_texts, unpainted
from tests.faults.test_faults_fuzz_reports import TEXTS
from tests.faults.test_faults_html import check_page

COUNTS = [pytest.param(5, id="fast"), pytest.param(2_000, marks=pytest.mark.slow, id="2000")]
FEWER = [pytest.param(2, id="fast"), pytest.param(200, marks=pytest.mark.slow, id="200")]


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(request.param, tmp_path / "folder")


@pytest.mark.parametrize("count", COUNTS)
def test_texts_of_any_kind_change_no_element(folder: Folder, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    unpainted(monkeypatch, composed=False)
    harmless = folder.page(all_texts(folder.good, ["harmless"]))

    def page(texts: list[str]) -> None:
        check_page(folder.page(all_texts(folder.good, texts)), harmless)

    texts = st.lists(TEXTS, min_size=1, max_size=5)
    # Half a character is refused: no file can hold it.
    counted(count, texts, page, names=folder.names, accepted_at_least=count * 4 // 5, rejected_at_least=0)


def _damaged(folder: Folder, count: int) -> None:
    harmless = folder.page(folder.good)

    def page(contents: Any) -> None:
        check_page(folder.page(contents), harmless, same_data=False)

    counted(count, altered([folder.good]), page, names=folder.names, accepted_at_least=0, rejected_at_least=0)


@pytest.mark.parametrize("count", COUNTS)
def test_files_changed_anywhere_are_refused_or_shown(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    unpainted(monkeypatch, composed=False)
    _damaged(folder, 2 * count)


@pytest.mark.parametrize("count", FEWER)
def test_figures_of_files_changed_anywhere_can_be_put_together(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    unpainted(monkeypatch, composed=True)
    _damaged(folder, count)


def test_an_empty_folder_is_refused(folder: Folder) -> None:
    with pytest.raises(UserError, match="folder"):
        folder.page({})
