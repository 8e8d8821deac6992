"""What computes: torch and its GPUs, the project's kernels, and ranks that talk to each other. Each really runs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import psutil
import torch

from clear_dist.ops import token_stats
from clear_dist.ops.dispatch import Impl, available
from clear_dist.ops.native import report
from clear_dist.services.checks import Check
from clear_dist.services.rank_processes import end_ranks, free_port, rank_environment

RANKS_SECONDS = 180  # for the ranks' test, process start included
WANT = ("logp", "kl_forward", "entropy")


def torch_itself() -> list[Check]:
    """The build, threads and memory."""
    built = torch.version.cuda or (f"ROCm {torch.version.hip}" if torch.version.hip else "no GPU support")
    memory = psutil.virtual_memory()
    out = [
        Check("torch", "ok", f"{torch.__version__} ({built}), {torch.get_num_threads()} threads"),
        Check("memory", "ok", f"{memory.available / 1e9:,.1f} of {memory.total / 1e9:,.1f} GB free"),
    ]
    if torch.version.cuda and not torch.cuda.is_available() and Path("/dev/nvidiactl").exists():
        out.append(
            Check(
                "GPU",
                "broken",
                "there is a driver, but torch sees no GPU",
                "the driver may be older than this torch: see nvidia-smi, take a torch built for it",
            )
        )
    elif not torch.cuda.is_available():
        out.append(Check("GPU", "missing", "none: everything runs on the CPU, in fp32"))
    return out


def gpus() -> list[Check]:
    """Each GPU multiplies matrices and is compared with the CPU."""
    out = []
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        facts = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(device)
        said = f"{facts.name}, sm_{facts.major}{facts.minor}, {free / 1e9:,.1f} of {total / 1e9:,.1f} GB free"
        a = torch.randn(256, 256, generator=torch.Generator().manual_seed(number))
        wrong = float(((a.to(device).double() @ a.to(device).double()).cpu() - a.double() @ a.double()).abs().max())
        if wrong > 1e-9:
            out.append(
                Check(f"GPU {number}", "broken", f"{said}; a product is off by {wrong:.2g}", "do not use this GPU")
            )
        elif (facts.major, facts.minor) < (8, 0):
            out.append(Check(f"GPU {number}", "warning", said, "no bf16 before sm_80: train with --dtype fp32"))
        elif free < 0.9 * total:
            out.append(Check(f"GPU {number}", "warning", said, "another process holds memory here: see nvidia-smi"))
        else:
            out.append(Check(f"GPU {number}", "ok", said))
    return out


def kernels() -> list[Check]:
    """Every implementation that can run computes the same statistics as the reference."""
    out = []
    left_out = report().get("cuda_reason") or ""
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for impl, why in available(device).items():
            name = f"ops: {impl} on {device}"
            if impl == "reference" or (impl == "triton" and device == "cpu"):
                continue
            if why is not None:
                advice = "the slower reference runs instead; a C++ compiler and `make setup` build it"
                out.append(Check(name, "warning", f"{why} {left_out if device == 'cuda' else ''}".strip(), advice))
                continue
            off = _largest_difference(cast(Impl, impl), device)
            state, advice = ("ok", "") if off < 1e-3 else ("broken", "CLEAR_DIST_OPS_IMPL=reference until it is mended")
            out.append(Check(name, state, f"within {off:.1g} of the reference", advice))
    return out


def _largest_difference(impl: Impl, device: str) -> float:
    """Of any statistic, on random states."""
    make = torch.Generator().manual_seed(0)
    h, other = (torch.randn(32, 64, generator=make).to(device) for _ in range(2))
    head = torch.randn(999, 64, generator=make).to(device)
    targets = torch.randint(0, 999, (32,), generator=make).to(device)
    found = token_stats(h, head, targets, h_ref=other, want=WANT, impl=impl)
    plain = token_stats(h, head, targets, h_ref=other, want=WANT, impl="reference")
    return max(float((found[name] - plain[name]).abs().max()) for name in WANT)


def ranks(count: int | None = None, seconds: float = RANKS_SECONDS) -> Check:
    """Two ranks (one for each GPU, where there are GPUs) add up a number and take steps under ZeRO-3."""
    here = torch.cuda.device_count()
    size = count or (here if here else 2)
    backend = "NCCL" if here else "gloo"
    name = f"{size} ranks over {backend}"
    port = free_port()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "clear_dist.engine.selftest"],
                stdout=out,
                stderr=err,
                start_new_session=True,  # killed with all they start
                env=rank_environment(rank, size, port),
            )
            for rank in range(size)
        ]
        codes = _exits(started, time.monotonic() + seconds)
        out.seek(0)
        err.seek(0)
        if codes is None:
            reach = f"{'NCCL' if here else 'GLOO'}_SOCKET_IFNAME=lo"
            advice = f"ranks do not reach each other: try {reach}{', and NCCL_DEBUG=INFO to see more' if here else ''}"
            return Check(name, "broken", f"no answer within {seconds:g} s", advice)
        if any(codes):
            said = [line for line in err.read().splitlines() if line.strip()]
            return Check(
                name,
                "broken",
                said[-1] if said else f"exit status {codes}",
                "DeepSpeed or the process group does not work here; see the message",
            )
        found = json.loads(out.read().splitlines()[-1])
    return Check(name, "ok", f"sums and ZeRO-3 steps agree, {found['seconds']:.0f} s on {found['device']}")


def _exits(started: Sequence[subprocess.Popen[bytes]], deadline: float) -> list[int] | None:
    """Exit statuses; None where time is up. One that fails ends the others, which would wait for it for ever."""
    try:
        while True:
            codes = [process.poll() for process in started]
            if any(codes) or all(code is not None for code in codes):
                return [1 if code is None else code for code in codes]
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)
    finally:
        end_ranks(started)
