"""METHODS: every method is its equation. One screen after the other, top to bottom.

Sources: CLEAR, arXiv 2410.18057, appendix A, unless a method says otherwise. Hyperparameters are keyword arguments,
overridable with ``--set name=value``; their defaults are the paper's. Retain terms that a method does not print itself
can be added to any of them (``COMMON``).
"""

from __future__ import annotations

from . import variants
from .hidden import cosine, l2, match, misdirect, similarity
from .method import Method
from .objective import Objective
from .preference import dpo, npo, simnpo
from .rules import Orthogonal
from .schedules import Alternate, Until
from .terms import (
    AUGMENTED,
    FORGET,
    GUIDE,
    IDK,
    PRIVATE,
    RANDOM,
    RETAIN,
    SAFE,
    bounded_nll,
    ce_u,
    entropy,
    kl,
    l1,
    nll,
    satimp,
    undial,
    weighted,
    wga,
)


def retain_ft() -> Objective:
    """Fine-tune on the retain set and hope that the rest fades."""
    return nll(RETAIN)


def ga() -> Objective:
    """Gradient ascent on the forget set."""
    return -nll(FORGET)


def ga_entropy() -> Objective:
    """Make predictions on the forget set as uncertain as they can be: entropy is maximised.

    A public implementation has the sign wrong and minimises it."""
    return -entropy(FORGET)


def gd(retain_weight: float = 1.0) -> Objective:
    """Gradient difference (eq. 1)."""
    return retain_weight * nll(RETAIN) - nll(FORGET)


def kl_min(alpha: float = 1.0) -> Objective:
    """Ascent on forget, KL to the original on retain.

    The printed formula indexes the forget set; text and code say retain, which is right."""
    return alpha * kl(RETAIN) - nll(FORGET)


def idk(retain_weight: float = 1.0) -> Objective:
    """Teach "I don't know" on the forget prompts."""
    return retain_weight * nll(RETAIN) + nll(IDK)


def dpo_(beta: float = 0.1, idk_weight: float = 1.0, dpo_weight: float = 1.0, answers: str = "idk") -> Objective:
    """Prefer "I don't know" to the true answer (DPO, arXiv 2305.18290).

    CLEAR's reference is the original fine-tuned on the IDK answers (give it with --reference-model); here the
    original, unless told otherwise. ``answers``: idk, or random (another identity, as for vision models)."""
    if answers not in ("idk", "random"):
        raise ValueError(f"dpo: answers is {answers!r}; expected idk or random")
    view = IDK if answers == "idk" else RANDOM
    return weighted(idk_weight, nll(view)) + dpo_weight * dpo(view, FORGET, beta=beta)


def npo_(beta: float = 1.0) -> Objective:
    """Negative preference optimisation (arXiv 2404.05868): ascent that slows down where the answer has become less
    likely than it was.

    Without a retain term, as in CLEAR; most users want one (``retain_weight``)."""
    return npo(FORGET, beta=beta)


def scrub(
    alpha: float = 1.0, gamma: float = 1.0, forget_weight: float = 1.0, forget_until: float = 1.0, alternate: int = 0
) -> Objective:
    """Stay with the teacher on retain, move away from it on forget.

    ``forget_until`` < 1 stops the moving away after that fraction of training; ``alternate`` = n takes turns, n times,
    between moving away and staying (the original method, arXiv 2302.09880, does both; say one of them)."""
    if alternate and forget_until < 1:
        raise ValueError("scrub: alternate and forget_until both say when to move away; give one of them")
    away = forget_weight * kl(FORGET, direction="forward")
    stay = alpha * kl(RETAIN, direction="forward") + gamma * nll(RETAIN)
    if alternate:
        return stay * Alternate(int(alternate), turn=1) - away * Alternate(int(alternate), turn=0)
    return stay - (away * Until(forget_until) if forget_until < 1 else away)


def llmu(idk_weight: float = 1.0, kl_retain: float = 1.0, answers: str = "idk") -> Objective:
    """Ascent on the truth, descent on something else, KL to the original on retain (LLMU, arXiv 2310.10683).

    Its text says forward KL, its formula the reverse: the formula is followed. ``answers``: idk, or random (answers
    about other people)."""
    if answers not in ("idk", "random"):
        raise ValueError(f"llmu: answers is {answers!r}; expected idk or random")
    return idk_weight * nll(IDK if answers == "idk" else RANDOM) - nll(FORGET) + kl_retain * kl(RETAIN)


def rmu(
    layer: int = 7, c: float = 6.5, alpha: float = 1.0, average: bool = False, images: bool = False, layers: int = 3
) -> Objective:
    """Push layer l's states on forget to a fixed random direction, keep them on retain (RMU, arXiv 2403.03218).

    Nothing above layer l is computed, and only blocks l - ``layers`` + 1 .. l are updated, as in WMDP's code. The
    paper gives neither c nor alpha; WMDP's (c = 6.5, alpha = 1200) are for ``average``, the mean over the hidden
    size."""
    if int(layers) < 1:
        raise ValueError(f"rmu: layers must be >= 1, got {layers}")
    push = misdirect(FORGET, layer=layer, scale=c, average=average, images=images)
    stay = match(RETAIN, layer=layer, average=average, images=images)
    trained = tuple(range(max(0, int(layer) - int(layers) + 1), int(layer) + 1))
    return (push + alpha * stay).training(trained)


def twins(distance: str = "l2", retain_weight: float = 1.0) -> Objective:
    """Answer on a forget picture as the original does on a transformed one; on retain, as the original does.

    For models trained without augmentation. ``distance``: l2 or kl. The distance of final states is squared: the
    plain norm has no gradient at 0, where training starts on retain."""
    if distance not in ("l2", "kl"):
        raise ValueError(f"twins: distance is {distance!r}; expected l2 or kl")
    d = l2 if distance == "l2" else kl
    return d(AUGMENTED) + retain_weight * d(RETAIN)


def scrub_bio(retain_weight: float = 1.0) -> Objective:
    """Embeddings of forget examples away from the original's, those of retain examples where they are.

    1 minus the cosine distance on forget, the cosine distance on retain. Both gradients are 0 where the student is
    the original: something has to break the symmetry (BatchNorm in train mode, a small perturbation)."""
    return similarity(FORGET) + retain_weight * cosine(RETAIN)


def sparsity(weight: float = 1e-4) -> Objective:
    """Fine-tune on retain with an L1 penalty on all trained weights (arXiv 2304.04934).

    The paper gives no weight; 1e-4 is that of CLEAR's public code."""
    return nll(RETAIN) + weight * l1("all")


def grad_orth(until: float = 0.8) -> Objective:
    """Ascend on forget orthogonally to the retain gradient, then fine-tune on retain.

    400 + 100 epochs in the paper, hence ``until`` = 0.8. It prints a division by |g_R|; a projection divides by
    |g_R|^2, which is what is done."""
    return (nll(RETAIN) - nll(FORGET)).ruled(Orthogonal(until))


def pubg(
    suppress: str = "npo",
    beta: float = 0.5,
    ceiling: float = 5.0,
    suppress_weight: float = 1.0,
    guide_weight: float = 1.0,
    retain_weight: float = 1.0,
) -> Objective:
    """Suppress private answers, follow what the original says under a privacy instruction, keep the rest (PUBG, arXiv
    2506.02541).

    Reconstructed from summaries of the paper: suppression and forward KL to the instructed original are its own;
    the retain term, the bounds on the suppression and all weights are ours.

    ``suppress``: npo, or ga (gradient ascent that lets go of a token at an NLL of ``ceiling``)."""
    return pubg_paper(suppress, beta, ceiling, suppress_weight, guide_weight) + retain_weight * nll(RETAIN)


def pubg_paper(
    suppress: str = "ga",
    beta: float = 0.5,
    ceiling: float = 5.0,
    suppress_weight: float = 1.0,
    guide_weight: float = 1.0,
) -> Objective:
    """PUBG's two published terms: suppression of private answers, forward KL to the guided original (arXiv 2506.02541).

    Reconstructed from summaries of the paper. The KL is on the tokens of the guided answers; the ceiling on the
    ascent and the weights are ours."""
    if suppress not in ("npo", "ga"):
        raise ValueError(f"pubg: suppress is {suppress!r}; expected npo or ga")
    push = npo(PRIVATE, beta=beta) if suppress == "npo" else -bounded_nll(PRIVATE, ceiling=ceiling)
    return suppress_weight * push + guide_weight * kl(GUIDE, direction="forward")


def alt_dpo(beta: float = 0.1, retain_weight: float = 1.0) -> Objective:
    """AltPO (arXiv 2409.13474): prefer the safe answer to the private one."""
    return dpo(SAFE, PRIVATE, beta=beta) + retain_weight * nll(RETAIN)


def sft_guide(kl_retain: float = 1.0) -> Objective:
    """Learn the safe answers, with KL to the original on retain.

    Ours: PUBG's teacher without its KL, for comparison."""
    return nll(SAFE) + kl_retain * kl(RETAIN, direction="forward")


def reject() -> Objective:
    """Learn to refuse on forget prompts: a baseline of PUBG (arXiv 2506.02541)."""
    return nll(IDK)


def random() -> Objective:
    """Learn other people's answers on forget prompts: a baseline of PUBG (arXiv 2506.02541)."""
    return nll(RANDOM)


def simnpo_(beta: float = 4.5, gamma: float = 0.0, forget_weight: float = 0.125, retain_weight: float = 1.0):
    """NPO without a reference: the log-probability per token instead of the log-ratio (SimNPO, arXiv 2410.07163).

    Weights as open-unlearning publishes them for TOFU."""
    return forget_weight * simnpo(FORGET, beta=beta, gamma=gamma) + weighted(retain_weight, nll(RETAIN))


def undial_(strength: float = 10.0, retain_weight: float = 0.0) -> Objective:
    """Distil from the original with the true token's logit lowered by ``strength`` (UNDIAL, arXiv 2402.10052)."""
    objective = undial(FORGET, strength=strength)
    return objective + retain_weight * nll(RETAIN) if retain_weight else objective


def wga_(alpha: float = 1.0, retain_weight: float = 1.0) -> Objective:
    """Gradient ascent, each token weighted by its probability to the power of ``alpha`` (WGA, arXiv 2502.19301)."""
    return wga(FORGET, alpha=alpha) + weighted(retain_weight, nll(RETAIN))


def satimp_(beta1: float = 5.0, beta2: float = 1.0, forget_weight: float = 1.0, retain_weight: float = 0.1):
    """Gradient ascent weighted by saturation and importance (SatImp, arXiv 2505.11953)."""
    return forget_weight * satimp(FORGET, beta1=beta1, beta2=beta2) + weighted(retain_weight, nll(RETAIN))


def ce_u_(skip: int = 1) -> Objective:
    """Cross-entropy to one's own prediction without the true token (CE-U, arXiv 2503.01224)."""
    return ce_u(FORGET, skip=skip)


METHODS: dict[str, Method] = {
    "retain_ft": Method(retain_ft),
    "ga": Method(ga),
    "ga_entropy": Method(ga_entropy),
    "gd": Method(gd, tofu=variants.gd_tofu),
    "kl": Method(kl_min, clear_code=variants.kl_clear_code, tofu=variants.kl_tofu),
    "idk": Method(idk, clear_code=variants.idk_clear_code),
    "dpo": Method(dpo_, clear_code=variants.dpo_clear_code),
    "npo": Method(npo_, clear_code=variants.npo_clear_code, tofu=variants.npo_tofu),
    "scrub": Method(scrub, clear_code=variants.scrub_clear_code),
    "llmu": Method(llmu, clear_code=variants.llmu_clear_code),
    "rmu": Method(rmu, clear_code=variants.rmu_clear_code),
    "twins": Method(twins),
    "scrub_bio": Method(scrub_bio),
    "sparsity": Method(sparsity),
    "grad_orth": Method(grad_orth),
    "pubg": Method(pubg),
    "pubg_paper": Method(pubg_paper),
    "alt_dpo": Method(alt_dpo),
    "sft_guide": Method(sft_guide),
    "reject": Method(reject),
    "random": Method(random),
    "simnpo": Method(simnpo_),
    "undial": Method(undial_),
    "wga": Method(wga_),
    "satimp": Method(satimp_),
    "ce_u": Method(ce_u_),
}
