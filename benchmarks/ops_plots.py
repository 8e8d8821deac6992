"""The plots of ``bench_ops``: ratios over all cases, time and memory against T and V, gradient error against KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, told apart by colour-blind eyes; a marker each for print. This project's are drawn thicker.
STYLES: Mapping[str, tuple[str, str]] = {
    "native": ("#D55E00", "o"),
    "triton": ("#CC79A7", "s"),
    "auto": ("#882255", "D"),
    "reference": ("#E69F00", "^"),
    "eager": ("#000000", "v"),
    "eager_fp32": ("#777777", "<"),
    "compile": ("#0072B2", "P"),
    "checkpoint": ("#56B4E9", "X"),
    "liger": ("#009E73", "*"),
    "fla": ("#117733", "h"),
    "cce": ("#332288", "p"),
    "torch_lce": ("#44AA99", "d"),
    "foreach": ("#999933", "d"),
}
OURS = ("native", "triton", "auto", "reference")
Row = Mapping[str, Any]


def draw_all(rows: Sequence[Row], errors: Sequence[Row], where: Path, stem: str) -> list[Path]:
    """Every plot there is data for; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    out: list[Path] = []

    def save(figure: Any, name: str) -> None:
        path = where / f"{stem}{name}.png"
        figure.savefig(path, dpi=150)
        plt.close(figure)
        out.append(path)

    plain = [r for r in rows if not r["scaling"] and r["ratio_to_eager"]]
    if plain:
        save(_overview(plt, plain), "")
    if errors:
        save(_errors(plt, errors), "_errors")
    for op in dict.fromkeys(r["op"] for r in rows if r["scaling"]):
        lines = _scaling(plt, [r for r in rows if r["op"] == op and r["fwd_bwd_ms"]], op)
        if lines is not None:
            save(lines, f"_{op}")
    return out


def style(name: str) -> dict[str, Any]:
    colour, marker = STYLES.get(name, ("#AAAAAA", "."))
    thick = name in OURS and name != "reference"
    return {"color": colour, "marker": marker, "lw": 2.2 if thick else 1.2, "ms": 7 if thick else 5.5}


def case_label(row: Row) -> str:
    kind = f" {row['kind']}" if row["kind"] else ""
    shape = " x ".join(str(row[k]) for k in ("T", "D", "V") if row[k])
    return f"{row['op']}{kind}\n{row['dtype']}, {shape}"


def _overview(plt: Any, rows: Sequence[Row]) -> Any:
    """A line per case: time and memory as multiples of eager's, and time as a multiple of the floor."""
    cases = list(dict.fromkeys(case_label(r) for r in rows))
    figure, axes = plt.subplots(1, 3, figsize=(15, 1.6 + 0.46 * len(cases)), sharey=True, layout="constrained")
    panels = (
        ("ratio_to_eager", "time of forward + backward / eager's"),
        ("memory_to_eager", "peak memory / eager's"),
        ("ratio_to_floor", "time of forward + backward / floor"),
    )
    shown: dict[str, Any] = {}
    for axis, (field, label) in zip(axes, panels, strict=True):
        for name in [n for n in STYLES if n != "auto" and any(r["impl"] == n for r in rows)]:  # auto is one of them
            mine = [r for r in rows if r["impl"] == name and r[field]]
            look = style(name) | {"lw": 0, "zorder": 4 if name in OURS else 3}
            if name not in OURS:
                look["markerfacecolor"] = "none"  # what lies under it is to be seen
            if name == "eager" and field != "ratio_to_floor":
                continue
            (line,) = axis.plot([r[field] for r in mine], [cases.index(case_label(r)) for r in mine], **look, alpha=0.9)
            shown[name] = line
        axis.axvline(1, color="#000000", lw=0.8)
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(axis="x", which="major", alpha=0.3)
        for line in range(len(cases)):
            axis.axhline(line, color="#dddddd", lw=0.5, zorder=0)
        _plain_ticks(axis.xaxis)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(cases)), cases, fontsize=8)
    axes[0].set_ylim(len(cases) - 0.5, -0.5)
    figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=len(shown), frameon=False)
    return figure


def _scaling(plt: Any, rows: Sequence[Row], op: str) -> Any | None:
    """Time and memory of one op against T and against V; None without a curve to draw.

    A curve's points share everything else with the scaling rows: dtype, kind, D, and the other of T and V.
    """
    marked = [r for r in rows if r["scaling"]]
    if not marked:
        return None
    first = marked[0]
    same = [r for r in rows if all(r[k] == first[k] for k in ("dtype", "kind", "D"))]
    most = {k: max((r[k] for r in same), key=[r[k] for r in same].count) for k in ("T", "V")}
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), sharex="col", layout="constrained")
    shown: dict[str, Any] = {}
    for column, (along, other) in enumerate((("T", "V"), ("V", "T"))):
        points = [r for r in same if r[other] == most[other]]
        for line, (field, label) in enumerate(
            (("fwd_bwd_ms", "forward + backward, ms"), ("peak_mb", "peak memory, MB"))
        ):
            axis = axes[line][column]
            for name in [n for n in STYLES if n not in ("auto", "compile")]:
                mine = sorted((r for r in points if r["impl"] == name and r[field]), key=lambda r: r[along])
                if len(mine) < 2:
                    continue
                (shown[name],) = axis.plot([r[along] for r in mine], [r[field] for r in mine], **style(name))
            if field == "fwd_bwd_ms":
                floor = sorted({(r[along], r["floor_ms"]) for r in points})
                (shown["floor"],) = axis.plot(*zip(*floor, strict=True), color="#000000", lw=1, ls=":")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            ticks = sorted({r[along] for r in points})
            axis.set_xticks(ticks, [f"{t:,}" for t in ticks], rotation=30, ha="right")
            axis.minorticks_off()
            axis.tick_params(labelbottom=True)
            axis.grid(alpha=0.3)
            axis.set_ylabel(label)
            axis.set_xlabel({"T": "rows T", "V": "vocabulary V"}[along])
            axis.set_title(f"{other} = {most[other]:,}")
            axis.spines[["top", "right"]].set_visible(False)
            _plain_ticks(axis.yaxis)
    width = f", D = {first['D']:,}" if first["D"] else ""
    figure.suptitle(f"{op} {first['kind'] or ''}, {first['dtype']}{width}")
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), frameon=False)
    return figure


def _errors(plt: Any, rows: Sequence[Row]) -> Any:
    """Gradient error against the divergence of student and reference, a panel for each op and dtype."""
    panels = list(dict.fromkeys((r["op"], r["dtype"]) for r in rows))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 4.6), squeeze=False, sharey=True, layout="constrained"
    )
    shown: dict[str, Any] = {}
    for axis, (op, dtype) in zip(axes[0], panels, strict=True):
        for name in [n for n in STYLES if n != "auto"]:
            mine = [r for r in rows if (r["op"], r["dtype"], r["impl"]) == (op, dtype, name) and r["grad_rel_err"] > 0]
            mine = sorted((r for r in mine if r["kl"] > 0), key=lambda r: r["kl"])
            if mine:
                (shown[name],) = axis.plot([r["kl"] for r in mine], [r["grad_rel_err"] for r in mine], **style(name))
        axis.axhline(1, color="#000000", lw=0.8, ls=":")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.invert_xaxis()
        axis.set_xlabel("KL(reference || student), nats")
        shape = next(r for r in rows if (r["op"], r["dtype"]) == (op, dtype))
        axis.set_title(
            f"{op} {shape['kind']}, {dtype}\n" + " x ".join(str(shape[k]) for k in ("T", "D", "V") if shape[k])
        )
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("relative error of the gradient\n(1: as large as the gradient)")
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=max(1, len(shown)), frameon=False)
    return figure


def _plain_ticks(axis: Any) -> None:
    """1,000 rather than 10^3; steps of 1, 2, 5 where there is room for them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 10 else f"{x:.3g}"))
