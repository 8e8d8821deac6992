"""A plan in words and tables: for a terminal, for Markdown, and as the lines of a dry run."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from clear_dist.planner.advice import ROOM

from .plan_outlook import PARTS, Outlook, shape_facts, size

TITLES = {"optimizer": "optimiser", "workspace": "head and loss", "communication": "communication buffers"}


def tables(found: Outlook, what: str) -> Iterator[RenderableType]:
    """Title, memory, then the lines on traffic, time, ranks and the verdict."""
    yield escape(title(found, what))
    yield memory_table(found)
    for line in [*lines(found), *verdict_lines(found)]:
        yield escape(line)


def title(found: Outlook, what: str) -> str:
    job, facts = found.job, shape_facts(found.job.shape)
    nodes = f" on {job.gpus // job.gpus_per_node} nodes" if job.gpus > job.gpus_per_node else ""
    return (
        f"{what} on {facts['name']}: {facts['trainable']:,} of {facts['parameters']:,} parameters train in "
        f"{'bf16' if job.bf16 else 'fp32'}, {job.gpus} x {found.gpu.name}{nodes}\n"
        f"a micro-batch of a rank: {job.tokens:,} tokens in {counted(job.rows, 'row')}, {job.scored:,} scored, "
        f"{counted(job.pictures, 'picture')}; {job.accumulation} a step; reference: {job.reference}\n"
        f"DeepSpeed: {found.ds} ({found.why})"
    )


def memory_table(found: Outlook) -> Table:
    """Bytes on each GPU by part, a column for every file; the one in force has a star."""
    out = Table(title="memory of each GPU", title_justify="left", pad_edge=False)
    out.add_column("part")
    columns = found.columns
    for name in columns:
        out.add_column(escape(f"{name} *" if name == found.ds else name), justify="right")
    for part in PARTS:
        cells = [int(getattr(memory, part)) for memory in columns.values()]
        if any(cells):
            out.add_row(TITLES.get(part, part), *(size(n) if n else "–" for n in cells))
    out.add_section()
    out.add_row("total", *(size(memory.total) for memory in columns.values()), style="bold")
    out.add_row(f"of {size(found.gpu.memory)}", *(fits(memory.total, found) for memory in columns.values()))
    if any(memory.host for memory in columns.values()):
        out.add_row("CPU memory a rank", *(size(m.host) if m.host else "–" for m in columns.values()))
    return out


def fits(total: int, found: Outlook) -> str:
    over = total - found.gpu.memory
    return "fits" if over <= 0 else f"+{size(over)}"


def lines(found: Outlook) -> list[str]:
    """Traffic, time and what grows with ranks."""
    traffic, speed = found.traffic, found.speed
    sent = {
        "all-gather": traffic.all_gather,
        "reduce-scatter": traffic.reduce_scatter,
        "all-reduce": traffic.all_reduce,
        "to and from the host": traffic.host,
    }
    said = ", ".join(f"{name} {size(count)}" for name, count in sent.items() if count)
    exposed, hidden = speed.communication_s
    out = [
        f"traffic    {said or 'none'} (what a rank sends in a step)",
        f"step       {seconds(speed.step_s)}: computing {seconds(speed.compute_s)}, waiting for communication "
        f"{seconds(exposed)} (and {seconds(hidden)} of it hidden behind computing)",
        f"speed      {speed.tokens_per_s:,.0f} tokens/s, {speed.pictures_per_s:,.1f} images/s, on all GPUs together",
        f"FLOPs      {speed.flops_needed:.3g} needed a step, {speed.flops_hardware:.3g} done; MFU {speed.mfu:.1%}",
        f"           {speed.formula}",
    ]
    first, *_, last = found.ranks.items()
    grown = ", ".join(f"{TITLES.get(p, p)} +{size(n)}" for p, n in found.grows.items())
    out.append(
        f"ranks      {last[0]} GPUs instead of {first[0]}, the same micro-batch: {size(last[1].total)} instead of "
        f"{size(first[1].total)} each; {'grows: ' + grown if grown else 'nothing grows'}"
    )
    return out


def verdict_lines(found: Outlook) -> list[str]:
    """Whether it fits, and what would help, the most helpful first."""
    verdict = found.verdict
    room = found.gpu.memory - found.memory.total
    tight = "" if found.memory.total <= ROOM * found.gpu.memory else ": less than a plan may be off"
    head = f"fits, {size(room)} to spare{tight}" if verdict.fits else f"does not fit: short by {size(verdict.short)}"
    return [f"verdict    {head}", *(f"  - {change}" for change in verdict.changes)]


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 or not value else f"{value * 1e3:.3g} ms"


def dry_lines(found: Outlook) -> list[str]:
    """The plan of a run, as its dry run prints it: memory by part on a line."""
    memory = found.memory
    parts = ", ".join(f"{TITLES.get(p, p)} {size(n)}" for p in PARTS if (n := int(getattr(memory, p))))
    host = f"; {size(memory.host)} of CPU memory" if memory.host else ""
    return [
        f"memory     {size(memory.total)} of {size(found.gpu.memory)} on each {found.gpu.name}: {parts}{host}",
        *lines(found),
        *verdict_lines(found),
    ]


def markdown(found: Outlook, what: str, command: str) -> str:
    """plan.md."""
    columns = found.columns
    names = [f"**{name}**" if name == found.ds else name for name in columns]
    rows = [f"| {' | '.join(('part', *names))} |", f"|---|{'---:|' * len(columns)}"]
    for part in PARTS:
        cells = [int(getattr(memory, part)) for memory in columns.values()]
        if any(cells):
            rows.append(f"| {' | '.join((TITLES.get(part, part), *(size(n) if n else '–' for n in cells)))} |")
    rows.append(f"| **total** | {' | '.join(f'**{size(m.total)}**' for m in columns.values())} |")
    rows.append(f"| of {size(found.gpu.memory)} | {' | '.join(fits(m.total, found) for m in columns.values())} |")
    rows.append(f"| CPU memory a rank | {' | '.join(size(m.host) if m.host else '–' for m in columns.values())} |")
    head = "\n\n".join(title(found, what).splitlines())
    tail = "\n".join([*lines(found), *verdict_lines(found)])
    table = "\n".join(rows)
    return f"# Plan\n\n```\n{command}\n```\n\n{head}\n\n{table}\n\n![memory](plan.png)\n\n```\n{tail}\n```\n"
