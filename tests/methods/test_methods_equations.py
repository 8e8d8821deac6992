"""Every method equals its equation, written out by hand on full logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clear_dist.methods import FORGET, IDK, METHODS, RETAIN, build, hyperparameters, kl, l1, nll, npo, parse_objective
from clear_dist.methods.objective import Objective, Penalty
from clear_dist.methods.terms import entropy
from clear_dist.ops import token_stats
from clear_dist.types import TokenStats, View

D, V = 8, 13
LENGTHS = {FORGET: [3, 1, 4], RETAIN: [2, 5], IDK: [1, 2, 2]}


@pytest.fixture
def world() -> dict[View, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(V, D, generator=generator, dtype=torch.float64)
    out = {}
    for view, lengths in LENGTHS.items():
        tokens = sum(lengths)
        out[view] = {
            "h": torch.randn(tokens, D, generator=generator, dtype=torch.float64).requires_grad_(),
            "h_ref": torch.randn(tokens, D, generator=generator, dtype=torch.float64),
            "y": torch.randint(V, (tokens,), generator=generator),
            "head": head,
        }
    return out


def stats_of(world: dict[View, dict[str, Tensor]], objective: Objective) -> dict[View, TokenStats]:
    out = {}
    for view in objective.needs.views:
        w, lengths = world[view], LENGTHS[view]
        want = objective.needs.wants[view]
        h_ref = w["h_ref"] if view in objective.needs.reference else None
        values = token_stats(w["h"], w["head"], w["y"], h_ref=h_ref, want=want)
        example = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        out[view] = TokenStats(example, len(lengths), len(lengths), sum(lengths), values)
    return out


def by_hand(world: dict[View, dict[str, Tensor]], view: View) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Per example: (student log-probs [t, V], reference log-probs [t, V], targets [t], logp of targets [t])."""
    w = world[view]
    p = torch.log_softmax((w["h"] @ w["head"].t()).float(), -1)
    q = torch.log_softmax((w["h_ref"] @ w["head"].t()).float(), -1)
    return [
        (a, b, y, a[torch.arange(len(y)), y])
        for a, b, y in zip(p.split(LENGTHS[view]), q.split(LENGTHS[view]), w["y"].split(LENGTHS[view]), strict=True)
    ]


def mean_nll(world: dict[View, dict[str, Tensor]], view: View) -> Tensor:
    return torch.stack([-logp.mean() for _, _, _, logp in by_hand(world, view)]).mean()


def mean_kl(world: dict[View, dict[str, Tensor]], view: View, direction: str) -> Tensor:
    def one(p: Tensor, q: Tensor) -> Tensor:
        a, b = (q, p) if direction == "forward" else (p, q)
        return (a.exp() * (a - b)).sum(-1).mean()

    return torch.stack([one(p, q) for p, q, _, _ in by_hand(world, view)]).mean()


def npo_by_hand(world: dict[View, dict[str, Tensor]], beta: float) -> Tensor:
    values = []
    for _, q, y, logp in by_hand(world, FORGET):
        ratio = (logp.sum() - q[torch.arange(len(y)), y].sum()).exp()
        values.append(2 / beta * torch.log(1 + ratio**beta))
    return torch.stack(values).mean()


EQUATIONS = {
    "retain_ft": lambda w: mean_nll(w, RETAIN),
    "ga": lambda w: -mean_nll(w, FORGET),
    "gd": lambda w: mean_nll(w, RETAIN) - mean_nll(w, FORGET),
    "kl": lambda w: mean_kl(w, RETAIN, "reverse") - mean_nll(w, FORGET),
    "idk": lambda w: mean_nll(w, RETAIN) + mean_nll(w, IDK),
    "npo": lambda w: npo_by_hand(w, 1.0),
    "scrub": lambda w: mean_kl(w, RETAIN, "forward") - mean_kl(w, FORGET, "forward") + mean_nll(w, RETAIN),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_method_is_its_equation(name: str, world: dict[View, dict[str, Tensor]]) -> None:
    objective = build(name)
    loss, parts = objective(stats_of(world, objective))
    expected = EQUATIONS[name](world)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    views = objective.needs.views
    got = torch.autograd.grad(loss, [world[v]["h"] for v in views])
    want = torch.autograd.grad(expected, [world[v]["h"] for v in views])
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-5, atol=1e-7)
    assert set(parts) == {w.term.name for w in objective.terms}


def test_every_method_of_the_table_is_covered_or_composed() -> None:
    assert set(EQUATIONS) <= set(METHODS)
    for name in METHODS:
        assert build(name).needs.views, name
        assert all(isinstance(v, (int, float)) for v in hyperparameters(name).values())


def test_shares_add_up_to_the_whole(world: dict[View, dict[str, Tensor]]) -> None:
    """The value does not depend on how a global batch is cut into ranks and accumulation steps."""
    objective = build("npo", {"retain_weight": 2.0, "kl_weight": 0.5})
    whole, _ = objective(stats_of(world, objective))
    total = torch.zeros(())
    for keep in ([0], [1, 2]):
        stats = {}
        for view, full in stats_of(world, objective).items():
            chosen = [e for e in keep if e < full.examples]
            mask = torch.isin(full.example, torch.tensor(chosen))
            local = torch.searchsorted(torch.tensor(chosen), full.example[mask])
            values = {k: v[mask] for k, v in full.values.items()}
            stats[view] = TokenStats(local, len(chosen), full.total_examples, full.total_tokens, values)
        total = total + objective(stats)[0]
    assert total.item() == pytest.approx(whole.item(), rel=1e-6)


def test_token_reduction_is_one_mean_over_tokens(world: dict[View, dict[str, Tensor]]) -> None:
    objective = nll(FORGET, reduction="token")
    loss, _ = objective(stats_of(world, objective))
    expected = -torch.cat([logp for *_, logp in by_hand(world, FORGET)]).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_entropy_of_a_uniform_prediction(world: dict[View, dict[str, Tensor]]) -> None:
    objective = entropy(FORGET)
    world[FORGET]["h"] = torch.zeros_like(world[FORGET]["h"])
    assert objective(stats_of(world, objective))[0].item() == pytest.approx(math.log(V), rel=1e-5)


def test_npo_tends_to_gradient_ascent(world: dict[View, dict[str, Tensor]]) -> None:
    """beta -> 0: the gradient of npo becomes that of the summed log-probability (arXiv 2404.05868)."""
    objective = npo(FORGET, beta=1e-4)
    loss, _ = objective(stats_of(world, objective))
    got = torch.autograd.grad(loss, world[FORGET]["h"])[0]
    ascent = torch.stack([logp.sum() for *_, logp in by_hand(world, FORGET)]).mean()
    want = torch.autograd.grad(ascent, world[FORGET]["h"])[0]
    torch.testing.assert_close(got, want, rtol=2e-3, atol=1e-6)


def test_npo_refuses_a_senseless_beta() -> None:
    with pytest.raises(ValueError, match="beta must be > 0"):
        npo(FORGET, beta=0.0)


def test_schedule_switches_a_term_off_and_keeps_the_graph(world: dict[View, dict[str, Tensor]]) -> None:
    objective = build("scrub", {"forget_until": 0.5})
    stats = stats_of(world, objective)
    early, _ = objective(stats, 0.4)
    late, parts = objective(stats, 0.6)
    assert early.item() == pytest.approx(EQUATIONS["scrub"](world).item(), rel=1e-5)
    assert late.item() == pytest.approx((mean_kl(world, RETAIN, "forward") + mean_nll(world, RETAIN)).item(), rel=1e-5)
    assert "kl(FORGET, direction=forward)" in parts
    gradient = torch.autograd.grad(late, world[FORGET]["h"])[0]
    assert gradient.abs().max().item() == 0.0


def test_algebra() -> None:
    objective = 2 * (nll(RETAIN) - 0.5 * nll(FORGET)) + 0.01 * l1("lora", reduction="mean")
    assert [w.factor for w in objective.terms] == [2.0, -1.0]
    assert objective.penalties == (Penalty("l1", "lora", "mean", 0.01),)
    assert str(objective) == "2*nll(RETAIN) - nll(FORGET) + 0.01*l1(LORA, mean)"
    assert str(-nll(FORGET)) == "-nll(FORGET)"


def test_needs_follow_the_equation() -> None:
    needs = (npo(FORGET) + kl(RETAIN) + nll(RETAIN)).needs
    assert needs.views == (FORGET, RETAIN)
    assert needs.reference == {FORGET, RETAIN}
    assert needs.wants[RETAIN] == {"kl_reverse", "logp"}
    assert build("gd").needs.reference == frozenset()


def test_no_example_gives_zero_and_stays_connected() -> None:
    h = torch.zeros(0, D, requires_grad=True)
    values = token_stats(
        h, torch.zeros(V, D), torch.zeros(0, dtype=torch.long), h_ref=h.detach(), want=["logp", "logp_ref"]
    )
    stats = {FORGET: TokenStats(torch.zeros(0, dtype=torch.long), 0, 4, 9, values)}
    loss, _ = npo(FORGET)(stats)
    assert loss.item() == 0.0
    loss.backward()
    assert h.grad is not None and h.grad.shape == (0, D)


def test_parser_reads_what_objectives_print() -> None:
    for text in ("nll(RETAIN) - nll(FORGET)", "2*kl(RETAIN) - 0.5*nll(FORGET) + nll(IDK)", "-nll(FORGET)"):
        assert str(parse_objective(text)) == text
    assert str(parse_objective("npo(FORGET, beta=0.5) + 0.01*l1(LORA)")).endswith("0.01*l1(LORA, sum)")
    assert str(parse_objective("nll(RETAIN) - until(0.7)*nll(FORGET)")) == "nll(RETAIN) - until(0.7)*nll(FORGET)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("npoo(FORGET)", "did you mean 'npo'"),
        ("nll(RETIAN)", "did you mean 'RETAIN'"),
        ("nll(RETAIN) / 2", "not allowed"),
        ("__import__('os').system('x')", "not allowed"),
        ("nll(RETAIN, beta=2)", "unexpected keyword"),
        ("npo(FORGET, beta=-1)", "must be > 0"),
        ("npo(FORGET, beta='x')", "expected a number"),
        ("kl(RETAIN, direction='up')", "forward, reverse"),
        ("2 + 3", "only terms add"),
        ("3", "is a number"),
        ("nll(RETAIN) * nll(FORGET)", "a number and a term"),
        ("l1(LORA)", "only penalties"),
        ("nll(RETAIN", "cannot read"),
        ("-" * 1900 + "nll(RETAIN)", "--objective"),
        ("nll()", "takes one of"),
        ("(lambda: 1)()", "not allowed"),
    ],
)
def test_parser_refuses(text: str, message: str) -> None:
    from clear_dist.types import UserError

    try:
        objective = parse_objective(text)
    except UserError as error:
        assert message in str(error)
    else:  # a long chain of minus signs is legal where the interpreter can read it
        assert text.startswith("--") and objective.terms
