"""Commands about finished runs: other programs' logs, tables, a judge, a chat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from .base import Config, opt


class ImportLogConfig(Config):
    """Read another program's evaluation logs (TOFU's, open-unlearning's) and write records and a report from them."""

    recipe: ClassVar[str] = "import_log"
    log: Annotated[Path, "positional"] = opt(
        ..., "evaluation", "the model's log: a file, or a directory of logs", "LOG"
    )
    gold: Path | None = opt(
        None, "evaluation", "log of the model that never saw the people; needed for forget quality", "LOG"
    )
    original: Path | None = opt(None, "evaluation", "log of the model before unlearning", "LOG")
    truth_ratio: Literal["geometric", "arithmetic"] = opt(
        "geometric", "evaluation", "mean over wrong answers: as TOFU's code takes it, or as CLEAR's equation 3 has it"
    )
    out: Path | None = opt(None, "run", "run directory (default: runs/import-log-DIGEST)", "DIR")


class ExportConfig(Config):
    """Write records or summaries of runs as one flat table, Parquet or CSV."""

    recipe: ClassVar[str] = "export"
    runs: Annotated[tuple[Path, ...], "positional"] = opt(..., "run", "run directories", "RUN [RUN ...]", min_length=1)
    what: Literal["records", "summary"] = opt(
        "records", "output", "a row per example and model, or a row per metric with its interval"
    )
    out: Path = opt(..., "output", "file to write; its ending, .parquet or .csv, says which", "FILE")


class JudgeConfig(Config):
    """Ask a language model behind an OpenAI-compatible address to grade a run's answers about forgotten people.

    The questions, answers and names are sent to that address. Nothing else in this program sends anything anywhere.
    """

    recipe: ClassVar[str] = "judge"
    run: Annotated[Path, "positional"] = opt(..., "run", "run directory", "RUN")
    url: str = opt(..., "evaluation", "address that has /chat/completions, e.g. http://localhost:8000/v1", "URL")
    judge_model: str = opt(..., "evaluation", "the judge's name there", "NAME")
    limit: int | None = opt(None, "evaluation", "answers of each model to grade (default: all)", "N", ge=1)
    api_key_env: str | None = opt(
        None, "evaluation", "environment variable that holds the key (never the key itself)", "VAR"
    )
    workers: int = opt(4, "run", "requests at a time", "N", ge=1, le=64)
    timeout: float = opt(120.0, "run", "seconds to wait for one answer", "SECONDS", gt=0)


class ChatConfig(Config):
    """Ask the models of a run the same question and read their answers side by side."""

    recipe: ClassVar[str] = "chat"
    runs: Annotated[tuple[Path, ...], "positional"] = opt(
        ...,
        "run",
        "run directories of unlearn, evaluate or quickstart, or model directories",
        "RUN [RUN ...]",
        min_length=1,
    )
    image: Path | None = opt(None, "evaluation", "picture to ask about (default: a question without one)", "FILE")
    question: str | None = opt(None, "evaluation", "ask this and end (default: a conversation)", "TEXT")
    max_new_tokens: int = opt(64, "run", "longest generated answer", "N", ge=1)
