"""What ``token_stats`` asks for: only what is needed, and a mistake is named; caches, no tokens, names."""

from __future__ import annotations

import pytest
import torch
from ops_support import ALL, CONSTANT, OF_REFERENCE, D, T, V, tensors

from clear_dist.ops import HIDDEN_STATISTICS, TARGET_STATISTICS, token_stats
from clear_dist.ops import npo_vocab_beta as beta_of
from clear_dist.ops.token_stats.names import TARGET_OF_REFERENCE


def test_a_cached_reference_in_another_precision() -> None:
    h, w, y, h_ref, w_ref = tensors()
    stats = token_stats(h, w, y, h_ref=h_ref.bfloat16(), weight_ref=w_ref, want=OF_REFERENCE)
    exact = token_stats(h, w, y, h_ref=h_ref.bfloat16().float(), weight_ref=w_ref, want=OF_REFERENCE)
    assert all(torch.equal(stats[n], exact[n]) for n in OF_REFERENCE)


def test_ready_made_logp_ref() -> None:
    """No hidden states of the reference are asked for, and what is given is what comes back, as a constant."""
    h, w, y, _, _ = tensors()
    given = torch.linspace(-3, -1, T, requires_grad=True)
    stats = token_stats(h, w, y, logp_ref=given, want=["logp", "logp_ref"])
    assert torch.equal(stats["logp_ref"], given.detach()) and not stats["logp_ref"].requires_grad
    assert torch.equal(stats["logp"], token_stats(h, w, y)["logp"])
    alone = token_stats(h, None, None, logp_ref=given.detach().bfloat16(), want=["logp_ref"])["logp_ref"]
    assert alone.dtype == torch.float32
    with pytest.raises(ValueError, match=r"\['kl_forward'\] need h_ref"):
        token_stats(h, w, y, logp_ref=given, want=["logp_ref", "kl_forward"])


def test_hidden_statistics_form_no_logits() -> None:
    """A head of the wrong width would be noticed."""
    h, _, y, h_ref, _ = tensors()
    stats = token_stats(h, torch.zeros(V, D + 1), y, h_ref=h_ref, want=["cosine", "l2"])
    assert set(stats) == HIDDEN_STATISTICS


def test_targets_only_where_they_are_looked_at() -> None:
    h, w, y, h_ref, w_ref = tensors()
    free = [n for n in ALL if n not in TARGET_STATISTICS | TARGET_OF_REFERENCE]
    without = token_stats(h, w, None, h_ref=h_ref, weight_ref=w_ref, want=free)
    with_targets = token_stats(h, w, y, h_ref=h_ref, weight_ref=w_ref, want=free)
    assert set(without) == set(free)
    # Not to the last bit: sums take the target's column apart.
    assert all(torch.allclose(without[n], with_targets[n], atol=1e-6, rtol=1e-5) for n in free)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_no_token_stays_connected(name: str, dtype: torch.dtype) -> None:
    """A rank without an example of a view still takes part in the same backward."""
    h = torch.zeros(0, D, dtype=dtype, requires_grad=True)
    w = torch.zeros(V, D, dtype=dtype, requires_grad=True)
    stats = token_stats(h, w, torch.zeros(0, dtype=torch.long), h_ref=torch.zeros(0, D, dtype=dtype), want=[name])
    value = stats[name]
    assert value.shape == (0,) and value.dtype == torch.float32
    if name in CONSTANT:
        return
    value.sum().backward()
    touched = h if name in HIDDEN_STATISTICS else w
    assert touched.grad is not None and float(touched.grad.abs().sum()) == 0


def test_unknown_statistic_is_refused() -> None:
    h, w, y, _, _ = tensors()
    with pytest.raises(ValueError, match=r"unknown statistics \['logq'\].*'logp'.*'npo_vocab\(BETA\)'"):
        token_stats(h, w, y, want=["logp", "logq"])


@pytest.mark.parametrize("name", OF_REFERENCE)
def test_reference_must_be_given(name: str) -> None:
    h, w, y, _, _ = tensors()
    with pytest.raises(ValueError) as error:
        token_stats(h, w, y, want=[name])
    assert name in str(error.value) and "need h_ref" in str(error.value)


@pytest.mark.parametrize("name", sorted(TARGET_STATISTICS | {"logp_ref"}))
def test_target_must_be_given(name: str) -> None:
    h, w, _, h_ref, _ = tensors()
    with pytest.raises(ValueError, match=rf"\['{name}'\] need y"):
        token_stats(h, w, None, h_ref=h_ref, want=[name])


def test_head_must_be_given() -> None:
    h, _, y, h_ref, _ = tensors()
    with pytest.raises(ValueError, match=r"\['entropy', 'js'\] need weight"):
        token_stats(h, None, y, h_ref=h_ref, want=["entropy", "js", "l2"])


def test_beta_of_a_name() -> None:
    assert [beta_of(n) for n in ("npo_vocab(0.1)", "npo_vocab(1)", "npo_vocab(1e-05)", "logp")] == [
        0.1,
        1.0,
        1e-5,
        None,
    ]


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "()",
        "(0)",
        "(-1)",
        "(nan)",
        "(inf)",
        "(1e999)",
        "(1",
        "(1) ",
        "( 1)",
        "(.5)",
        "(1_0)",
        "(\N{FULLWIDTH DIGIT ONE})",
    ],
)
def test_a_name_is_read_strictly(inside: str) -> None:
    h, w, y, h_ref, _ = tensors()
    with pytest.raises(ValueError, match=r"expected npo_vocab\(BETA\) with a number > 0"):
        token_stats(h, w, y, h_ref=h_ref, want=["npo_vocab" + inside])


def test_unknown_implementation_is_refused() -> None:
    h, w, y, _, _ = tensors()
    with pytest.raises(ValueError, match="unknown impl 'fast'"):
        token_stats(h, w, y, impl="fast")  # pyright: ignore[reportArgumentType]
