"""``--objective``: whatever stands there is an objective or a refusal that says why; nothing of it is ever run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st

from clear_dist.errors import ConfigError
from clear_dist.methods.objective import Objective
from clear_dist.methods.parser import RULES, SCHEDULES, TERMS, parse_objective
from clear_dist.types import View

from .fuzz import check_message, counted
from .fuzz_inputs import HOSTILE_TEXTS

COUNTS = [pytest.param(2_000, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
VIEWS = (
    *(view.name for view in View),
    "LORA",
    "ALL",
    "forget",
    "View",
    "FORG\u0415T",
    "\uff26\uff2f\uff32\uff27\uff25\uff34",
)
NUMBERS = (
    *(
        "0",
        "1",
        "0.5",
        "2",
        "-1",
        "1e-3",
        "1e308",
        "1e999",
        "-1e999",
        "1e-400",
        "9" * 400,
        "9" * 4_000,
        "0x" + "f" * 1_500,
    ),
    *("0b1", "1_0", "1j", "True", "None", "'x'", "b'x'", "...", "7", "3.5", "2**9**9", "nan", "inf", "1e", "01"),
)
OPTIONS = (
    *("beta", "gamma", "layer", "scale", "seed", "reduction", "direction", "tokens", "control", "average", "images"),
    *("until", "turn", "temperature", "strength", "alpha", "self", "view", "__class__", "**", "*"),
)
WORDS = (
    "forward",
    "reverse",
    "example",
    "token",
    "sum",
    "mean",
    "answer",
    "sequence",
    "fixed",
    "redrawn",
    "__import__",
)
CODE = (
    "__import__('os').system('true')",
    "__import__('os')",
    "().__class__.__bases__[0].__subclasses__()",
    "nll.__globals__",
    "nll(FORGET).terms",
    "[nll(x) for x in FORGET]",
    "(lambda: nll(FORGET))()",
    "nll(RETAIN) if 1 else nll(FORGET)",
    "(x := nll(FORGET))",
    "f'{nll(FORGET)}'",
    "open('/etc/passwd')",
    "nll(FORGET)\nimport os",
    "nll(*FORGET)",
    "nll(**{})",
    "eval('1')",
    "await nll(FORGET)",
    "yield nll(FORGET)",
    "print",
    "nll[FORGET]",
    "nll(FORGET) ** 2",
    "nll(FORGET) / 0",
    "nll(FORGET) @ nll(FORGET)",
    "~nll(FORGET)",
    "not nll(FORGET)",
    "nll(FORGET) < nll(RETAIN)",
    "nll(FORGET) and nll(RETAIN)",
    "'nll(FORGET)'",
    "nll(view=FORGET)",
    "nll(FORGET, reduction=reduction)",
    "1 << 10000000000",
    "9**9**9**9",
)
PIECES = (
    "(",
    ")",
    ",",
    "=",
    "+",
    "-",
    "*",
    "**",
    "/",
    ".",
    " ",
    "\n",
    "#",
    "\\",
    "[",
    "{",
    "'",
    "\u2212",
    "\uff0b",
    "\0",
)


UNDER_AUDIT = """
import json, sys
from clear_dist.errors import ConfigError
from clear_dist.methods.parser import parse_objective

texts, events, refused, listening = json.load(sys.stdin), [], 0, False
# ast.parse compiles to a tree, which runs nothing.
quiet = ("compile", "object.", "builtins.id", "sys._getframe", "code.__new__")

def hook(event, arguments):
    if listening and not event.startswith(quiet):
        events.append([event, ascii(arguments)[:200]])

try:
    parse_objective("nll(")  # whatever is imported on first use
except ConfigError:
    pass
sys.addaudithook(hook)
listening = True
for text in texts:
    try:
        parse_objective(text)
    except ConfigError:
        refused += 1
listening = False
print(json.dumps({"refused": refused, "events": events}))
"""


@st.composite
def call(draw: st.DrawFn) -> str:
    """A term with views and options, not always its own."""
    name = draw(st.sampled_from((*TERMS, *TERMS, *SCHEDULES, *RULES, "nl", "\u0430lpha", "nll_", "eval")))
    views = draw(st.lists(st.sampled_from(VIEWS), min_size=name != "pcgrad", max_size=2 if name == "dpo" else 1))
    options = []
    for _ in range(draw(st.integers(0, 2))):
        key = draw(st.sampled_from(OPTIONS))
        value = draw(st.sampled_from(NUMBERS) | st.sampled_from(WORDS))
        options.append(f"{key}{value}" if key.startswith("*") else f"{key}={value}")
    return f"{name}({', '.join([*views, *options])})"


@st.composite
def plain(draw: st.DrawFn) -> str:
    """A term as it should be."""
    name, view = draw(st.sampled_from(("nll", "kl", "npo", "entropy", "l2"))), draw(st.sampled_from(list(View)))
    return f"{name}({view.name})"


@st.composite
def equation(draw: st.DrawFn) -> str:
    """A sum of weighted terms, sometimes under a rule, sometimes with pieces lost, doubled or in the wrong place."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        term = draw(plain() | plain() | call())
        weight = draw(
            st.sampled_from(("", "", "2*", "-", "--", "until(0.7)*", "alternate(3, 1)*", "1e200*1e200*", "+"))
        )
        parts.append(weight + term)
    text = draw(st.sampled_from((" + ", " + ", " - ", " - ", "*", " / "))).join(parts)
    text = draw(
        st.sampled_from(("{}", "{}", "{}", "orthogonal({})", "pcgrad({})", "-({})", "3*({})", "({}", "{}.x"))
    ).format(text)
    for _ in range(draw(st.integers(0, 2)) if draw(st.booleans()) else 0):
        at, span = draw(st.integers(0, len(text))), draw(st.integers(0, 6))
        text = text[:at] + draw(st.sampled_from(PIECES) | st.text(max_size=3)) + text[at + span :]
    return text


def repeated() -> st.SearchStrategy[str]:
    """Far too much of one thing."""
    piece = st.sampled_from(
        ("(", "-", "nll(FORGET)+", "orthogonal(", "1*", "until(", "nll(", "[", "a.", "not ", "+-", "9")
    )
    return st.tuples(piece, st.integers(1, 2_500), st.sampled_from(("", "nll(FORGET)", "1"))).map(
        lambda p: p[0] * p[1] + p[2]
    )


def objectives() -> st.SearchStrategy[str]:
    odd = st.sampled_from(CODE) | st.sampled_from(HOSTILE_TEXTS) | st.text(max_size=40) | repeated()
    return st.one_of(equation(), equation(), equation(), call(), odd)


@pytest.mark.parametrize("count", COUNTS)
def test_an_equation_is_read_back_as_it_prints_or_refused_by_name(count: int) -> None:
    def objective(text: str) -> None:
        value = parse_objective(text)
        assert isinstance(value, Objective)
        assert value.terms
        assert str(parse_objective(str(value))) == str(value), "what it prints is another objective"

    counted(
        count,
        objectives(),
        objective,
        names=["--objective"],
        accepted_at_least=count // 10,
        rejected_at_least=count // 3,
    )


def test_what_looks_like_code_is_refused_and_nothing_is_run(tmp_path: Path) -> None:
    target = tmp_path / "written"
    texts = [*CODE, f"open({str(target)!r}, 'w')", f"nll(FORGET, reduction=open({str(target)!r}, 'w'))"]
    done = subprocess.run(
        [sys.executable, "-c", UNDER_AUDIT], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"refused": len(texts), "events": []}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        *("(" * 100_000, "-" * 100_000 + "nll(FORGET)", "-" * 1_900 + "nll(FORGET)", "+" * 1_990, "9" * 1_999),
        *("(" * 900 + "nll(FORGET)" + ")" * 900, "nll(FORGET)" + "+nll(FORGET)" * 160, "nll(FORGET" * 190),
        *("orthogonal(" * 180, "nll(FORGET, " * 150, "l1(ALL, reduction=" * 100, "nll(" + "A" * 1_990 + ")"),
        *("2*" * 990 + "nll(FORGET)", "\U0001d427ll(FORGET)"),
    ],
)  # fmt: skip
def test_too_much_of_one_thing_is_an_objective_or_refused(text: str) -> None:
    try:
        assert parse_objective(text).terms
    except ConfigError as error:
        check_message(str(error), ["--objective"])
