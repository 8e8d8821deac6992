r"""Tables as LaTeX in booktabs style, ready to paste: needs ``\usepackage{booktabs}``; accents, ``[T1]{fontenc}``.

Text from data and models is escaped so that it can neither break the table nor run a command. Latin letters with an
accent stay (UTF-8 is LaTeX's default since 2018); of other scripts pdfLaTeX's fonts know nothing, so such a character
is written as its code point, [U+4E2D].
"""

from __future__ import annotations

import unicodedata

from clear_dist.report.cells import Cell, Row, Table
from clear_dist.report.words import clean

_COMMANDS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{''}",
    "'": r"{'}",
    "`": r"\textasciigrave{}",
    "-": r"{-}",  # two of them would become a dash
    "[": r"{[}",  # after \\ it would be read as an option
    "]": r"{]}",
    "*": r"{*}",  # the same
    "–": "--",
    "—": "---",
    "−": "$-$",
    "…": r"\ldots{}",
    "‘": "{`}",
    "’": "{'}",
    "“": "{``}",
    "”": "{''}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
}
_LETTERS = "ßæÆœŒøØłŁđĐðÐþÞ"
_MARKS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327\u0328"  # accents of T1 fonts


def escape(text: object) -> str:
    """Any text as LaTeX that prints it, on one line."""
    return "".join(_char(c) for c in " ".join(clean(str(text)).split()))


def _char(char: str) -> str:
    if char in _COMMANDS:
        return _COMMANDS[char]
    if " " <= char <= "~":
        return char
    parts = unicodedata.normalize("NFD", char)
    accented = len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _MARKS
    return char if accented or char in _LETTERS else f"{{[}}U+{ord(char):04X}{{]}}"


def _number(text: str) -> str:
    return text.replace("-", "$-$")


def _cell(cell: Cell) -> str:
    if cell.kind == "gap":
        return rf"\emph{{{escape(cell.text)}}}"
    if cell.kind == "text":
        return escape(cell.text)
    small = f" {{\\scriptsize ({escape(cell.small)})}}" if cell.small else ""
    return _number(cell.text) + ("$^{*}$" if cell.star else "") + small


def _row(row: Row) -> str:
    shown = ["" if row.cells[i].text == "" else _cell(row.cells[i]) for i in range(len(row.cells))]
    if row.grey:
        shown = [rf"\textit{{{text}}}" if text else "" for text in shown]
    return "    " + " & ".join(shown) + r" \\"


def _groups(table: Table) -> list[str]:
    cells, rules, at = [], [], 1
    for title, span in table.groups:
        cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(title)}}}" if title else " & ".join([""] * span))
        if title:
            rules.append(rf"\cmidrule(lr){{{at}-{at + span - 1}}}")
        at += span
    return ["    " + " & ".join(cells) + r" \\", "    " + " ".join(rules)] if cells else []


def latex(table: Table) -> str:
    """The table's source: a ``table`` with caption and label; unranked rows in italics; notes below."""
    columns = "".join("r" if table.is_number(i) else "l" for i in range(len(table.head)))
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(table.title)}}}",
        rf"  \label{{tab:{table.key}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        *_groups(table),
        "    " + " & ".join(escape(h) for h in table.head) + r" \\",
        r"    \midrule",
    ]
    for i, row in enumerate(table.rows):
        if row.rule and i:
            lines.append(r"    \midrule")
        lines.append(_row(row))
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    if table.notes:
        lines += ["", r"  {\footnotesize " + " ".join(escape(note) for note in table.notes) + "}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"
