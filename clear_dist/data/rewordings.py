"""The dataset's own rewordings of its questions: TOFU's ``paraphrased_question``, for attacks that ask otherwise."""

from __future__ import annotations

from pathlib import Path

from clear_dist.data.clear import ClearFiles
from clear_dist.data.rows import BadData, filled
from clear_dist.data.sources import _HUB_TOFU, _clear_mini, _companion
from clear_dist.data.tofu import PERTURBED, TofuFiles


def rewordings(source: str, companion: str | None = None) -> dict[str, str]:
    """question -> the same question in other words, for those that have one; empty where the dataset has none.

    Args:
        source, companion: as ``load_dataset``'s ``source`` and ``tofu``, which must have read them before.
    """
    files = _files(source, companion)
    if files is None:
        return {}
    configs = ["full"] if files.single_file else [name for name in PERTURBED if files.has(name)]
    out: dict[str, str] = {}
    for config in configs:
        for record in files.records(config):
            question, other = record.get("question"), record.get("paraphrased_question")
            if isinstance(question, str) and isinstance(other, str) and filled(question) and filled(other):
                out.setdefault(question.strip(), other.strip())
    return out


def _files(source: str, companion: str | None) -> TofuFiles | None:
    path = _clear_mini() if source == "clear-mini" else Path(source)
    if path.is_dir() and ClearFiles(path, BadData("fail")).configs():
        return _companion(companion, path / "tofu")
    if path.exists() or source.lower().endswith("tofu"):
        return TofuFiles(source if not path.exists() else path)
    return _companion(companion, _HUB_TOFU)
