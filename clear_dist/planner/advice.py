"""Whether a job fits, by how much it does not, and what each change would save, by planning again with that change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from clear_dist.planner.hardware import Gpu
from clear_dist.planner.job import Job
from clear_dist.planner.memory import memory_of

ROOM = 0.9  # of a GPU's memory: what a plan that chooses for you may fill


@dataclass(frozen=True)
class Verdict:
    """short: bytes missing on each GPU, 0 where it fits. changes: what to do, those first that are enough alone, in the
    order of what they cost; then the rest, the largest saving first."""

    fits: bool
    short: int
    changes: tuple[str, ...]


def judge(job: Job, gpu: Gpu) -> Verdict:
    total = memory_of(job).total
    short = max(0, total - gpu.memory)
    if not short:
        return Verdict(True, 0, ())
    enough, helps = [], []
    for text, other in changes(job):
        saved = total - memory_of(other).total
        if saved >= short:
            enough.append(f"{text}: saves {_gigabytes(saved)}, enough")
        elif saved > 0:
            helps.append((saved, f"{text}: saves {_gigabytes(saved)} of the {_gigabytes(short)} that are short"))
    helps.sort(key=lambda change: -change[0])
    return Verdict(False, short, (*enough, *(text for _, text in helps)))


def changes(job: Job) -> Iterator[tuple[str, Job]]:
    """(what to do, the job then), the cheapest in time first."""
    for name, other in stages(job).items():
        if job.stage < other.stage <= (2 if job.nf4 else 3) and not other.offload_optimizer and job.gpus > 1:
            yield f"--ds {name}", other
    if job.reference == "copy":
        kept = "cache" if job.full else "adapter"
        yield f"--reference {kept}", replace(job, reference=kept)
    if job.pictures and job.shape.vision_layers and not job.frozen_tower_cached:
        yield "--tower-cache on", replace(job, frozen_tower_cached=True)
    if job.attention == "sdpa" and job.bf16:
        yield "--attention flash_attention_2", replace(job, attention="flash")
    if not job.checkpointing:
        yield "--gradient-checkpointing on", replace(job, checkpointing=True)
    if job.rows > 1:
        yield "half the micro-batch (--micro-batch)", halved(job)
        if not job.checkpointing:
            yield (
                "--gradient-checkpointing on and half the micro-batch",
                replace(halved(job), checkpointing=True),
            )
    if not job.full and not job.nf4 and job.stage < 3:
        yield "--base-weights nf4", replace(job, nf4=True)
    if not job.bf16:
        yield "--dtype bf16", replace(job, bf16=True)
    for name, other in stages(job).items() if not job.nf4 else ():
        if other.offload_optimizer and job.offload_parameters != other.offload_parameters:
            yield f"--ds {name}", other
            if not job.checkpointing:
                yield f"--ds {name} and --gradient-checkpointing on", replace(other, checkpointing=True)
    if job.full:
        yield "LoRA instead of --full", frozen(job)
    if not job.nf4:
        yield f"{2 * job.gpus} GPUs and --ds z3", replace(stages(job)["z3"], gpus=2 * job.gpus)


def halved(job: Job) -> Job:
    """Half the rows in each of twice as many micro-batches."""
    rows = -(-job.rows // 2)
    share = rows / job.rows
    return replace(
        job,
        rows=rows,
        tokens=max(1, round(job.tokens * share)),
        scored=max(1, round(job.scored * share)),
        pictures=-(-job.pictures // 2),
        accumulation=2 * job.accumulation,
    )


def frozen(job: Job) -> Job:
    """With nothing to train: what LoRA is but for its two small matrices beside each projection."""
    parts = tuple(
        replace(
            part, tensors=tuple(t._replace(trainable=t.trainable and t.inputs > 0 and t.lora > 0) for t in part.tensors)
        )
        for part in job.shape.parts
    )
    first = parts[[p.name for p in parts].index("blocks")]
    kept = min(range(len(first.tensors)), key=lambda i: first.tensors[i].numel)
    # One small tensor stays trained, so that activations are kept for it as they are for an adapter.
    alive = tuple(
        t._replace(trainable=i == kept, inputs=1 if i == kept else t.inputs) for i, t in enumerate(first.tensors)
    )
    shape = replace(job.shape, parts=tuple(replace(p, tensors=alive) if p.name == "blocks" else p for p in parts))
    return replace(job, full=False, shape=shape, reference="adapter" if job.reference != "none" else "none")


def stages(job: Job) -> dict[str, Job]:
    """Shipped DeepSpeed file -> the job under it, in the order of what they give up."""
    plain = replace(
        job,
        offload_optimizer=None,
        offload_parameters=None,
        hpz=0,
        quantized_weights=False,
        quantized_gradients=False,
    )
    return {
        **{f"z{stage}": replace(plain, stage=stage) for stage in range(4)},
        "z3_offload": replace(plain, stage=3, offload_optimizer="cpu", offload_parameters="cpu"),
        "z3_nvme": replace(plain, stage=3, offload_optimizer="nvme", offload_parameters="nvme"),
    }


def choose_stage(job: Job, gpu: Gpu, *, may_recompute: bool = False) -> Job:
    """The job under the first shipped file that fits: z0 (LoRA only), z1, z2, z3, z3_offload, z3_nvme; where none does,
    under the one that needs least. What fits leaves a tenth of the memory free: plans are off by some percent.

    may_recompute: where no file without offloading fits, they are tried again with activations recomputed, and so are
    those with offloading: a third more computing is cheaper than states that travel through the host.
    """
    tried = [o for name, o in stages(job).items() if not ((name == "z0" and job.full) or (job.nf4 and o.stage == 3))]
    if may_recompute and not job.checkpointing:
        here = [other for other in tried if not other.offload_optimizer]
        hosted = [other for other in tried if other.offload_optimizer]
        tried = [replace(o, checkpointing=on) for group in (here, hosted) for on in (False, True) for o in group]
    fitting = (other for other in tried if memory_of(other).total <= ROOM * gpu.memory)
    return next(fitting, None) or min(tried, key=lambda other: memory_of(other).total)


def recomputing(job: Job, gpu: Gpu) -> Job:
    """The job as it is where it fits and leaves a tenth of the memory free, else with activations recomputed."""
    return job if memory_of(job).total <= ROOM * gpu.memory else replace(job, checkpointing=True)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
