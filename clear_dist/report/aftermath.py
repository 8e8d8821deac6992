"""What models say about the people to forget once they no longer should: labels, attributes, CLIPScore, a judge."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from clear_dist.report.cells import Row, Table, anything, count, gap, measured, notes_of, plain_number, text
from clear_dist.report.draw import Image, Theme, draw, plain
from clear_dist.report.subject import Subject, at
from clear_dist.report.words import AFTERMATH, LABELS, number

# leaked, degenerate, refused, hallucinated, informative, vague: told apart by lightness too.
COLORS = {
    "light": ("#b3261e", "#4a5260", "#dd8a3c", "#7a4fb0", "#2f8f68", "#b9c3cf"),
    "dark": ("#f2695c", "#6d7887", "#d99a52", "#b592e0", "#5fcf9c", "#3f4a58"),
}
ON = {
    "light": ("white", "white", "#18212c", "white", "white", "#18212c"),
    "dark": ("#10151c", "white", "#10151c", "#10151c", "#10151c", "white"),
}
JUDGED = ("privacy", "informativeness", "hallucination")


def labels_table(subjects: Sequence[Subject], key: str = "labels") -> Table | None:
    """Shares of the labels, a row a model."""
    rows, values = [], []
    for subject in subjects:
        shares = [subject.estimate("aftermath", "labels", label) for label in LABELS]
        values += shares
        n = next((s.n for s in shares if s is not None), None)
        rows.append(Row((text(subject.name, link=subject.anchor, dot=subject.dot), *map(measured, shares), count(n))))
    if not anything(rows):
        return None
    title = "What answers about the people to forget are: shares of each label"
    return Table(key, title, ("Model", *LABELS, "n"), tuple(rows), notes=notes_of(values))


def aftermath_table(subjects: Sequence[Subject], key: str = "aftermath") -> Table | None:
    rows, values = [], []
    for subject in subjects:
        figures = [subject.estimate("aftermath", name) for name in AFTERMATH]
        values += figures
        rows.append(Row((text(subject.name, link=subject.anchor, dot=subject.dot), *map(measured, figures))))
    if not anything(rows):
        return None
    title = "Answers about pictures of the people to forget: what they give away, what they describe"
    return Table(key, title, ("Model", *AFTERMATH.values()), tuple(rows), notes=notes_of(values))


def _stacks(subjects: Sequence[Subject], theme: Theme) -> Figure:
    figure = Figure(figsize=(9.6, 0.36 * len(subjects) + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for y, subject in enumerate(subjects):
        left = 0.0
        for i, label in enumerate(LABELS):
            found = subject.estimate("aftermath", "labels", label)
            if found is None or found.value <= 0:
                continue
            axes.barh(y, found.value, left=left, height=0.72, color=COLORS[theme.name][i], edgecolor=theme.card)
            if found.value >= 0.06:
                axes.text(
                    left + found.value / 2, y, number(round(found.value, 2))[:-1], ha="center", va="center", fontsize=8,
                    color=ON[theme.name][i],
                )  # fmt: skip
            left += found.value
    axes.set_yticks(range(len(subjects)), [plain(s.name, 32) for s in subjects])
    axes.set_ylim(len(subjects) - 0.5, -0.5)
    axes.set_xlim(0, 1.0)
    axes.set_xticks((0, 0.25, 0.5, 0.75, 1))
    axes.tick_params(colors=theme.ink, labelsize=8.5, length=0)
    axes.tick_params(axis="x", colors=theme.soft)
    for color, label in zip(COLORS[theme.name], LABELS, strict=True):
        axes.bar(0, 0, color=color, label=label)
    figure.legend(
        loc="outside upper left", ncols=len(LABELS), frameon=False, fontsize=8.5, labelcolor=theme.ink,
        handlelength=1.0, columnspacing=1.2,
    )  # fmt: skip
    return figure


def labels_image(subjects: Sequence[Subject], key: str = "labels") -> Image | None:
    """Stacked bars of the labels, a bar a model; the numbers are those of :func:`labels_table`."""
    shown = [s for s in subjects if any(s.estimate("aftermath", "labels", label) for label in LABELS)]
    if not shown:
        return None
    alt = (
        f"Stacked bars for {', '.join(s.name for s in shown)}: shares of answers that are {', '.join(LABELS)}. "
        "The shares are in the table below."
    )
    title = "What is said about the people to forget, by label; the first that applies counts"
    return draw(f"{key}_stacked", lambda theme: _stacks(shown, theme), alt=alt, title=title)


def judge_table(subjects: Sequence[Subject], key: str = "judge") -> Table | None:
    """Grades of a judge; replies that were no grades are counted beside them, never averaged."""
    rows = []
    for subject in subjects:
        grades = [subject.estimate("judge", name) for name in JUDGED]
        cells = [
            gap() if g is None else plain_number(g.value, 2, f"{g.low:.2f} to {g.high:.2f}") for g in grades
        ]  # grades are on a scale of 1 to 5
        invalid = subject.number("judge", "invalid")
        who = dict.fromkeys(
            f"{at(b, 'judge', 'judge_model')}, prompt {at(b, 'judge', 'prompt_version')}"
            for b in subject.blocks
            if at(b, "judge") is not None
        )
        n = next((g.n for g in grades if g is not None), None)
        cells += [count(None if invalid is None else round(invalid)), count(n)]
        cells.append(text("; ".join(who)) if who else gap())
        rows.append(Row((text(subject.name, link=subject.anchor, dot=subject.dot), *cells)))
    if not anything(rows):
        return None
    return Table(
        key,
        "Grades of a judging model, 1 to 5",
        ("Model", *JUDGED, "invalid replies", "n", "judge"),
        tuple(rows),
        notes=("The rubric is this project's own. A judge is a model: it errs, and can be talked into a grade.",),
    )
