"""``clear-dist SUB ...``: parse, then hand over to the recipe. Help never waits for torch."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from clear_dist import __version__, config
from clear_dist.errors import Preempted, UserError, nearest
from clear_dist.flags import is_main_process, parse

USER_ERROR, NOT_FINITE, PREEMPTED, INTERRUPTED = 2, 3, 75, 130  # docs/exit-codes.md


@dataclass(frozen=True)
class Command:
    """A subcommand: its configuration, one line about it, and examples for its help page."""

    config: type[config.Config]
    about: str
    examples: tuple[str, ...]


COMMANDS: dict[str, Command] = {
    "quickstart": Command(
        config.QuickstartConfig,
        "the whole story on generated people, in minutes",
        ("clear-dist quickstart --out runs/quickstart",),
    ),
    "data mini": Command(
        config.DataMiniConfig,
        "write CLEAR-mini, a dataset of generated people",
        ("clear-dist data mini --out data/mini", "clear-dist data mini --preset full --out data/full"),
    ),
    "data build": Command(
        config.DataBuildConfig,
        "make a dataset of your own people: faces, pictures, captions, splits",
        (
            "clear-dist data build people.jsonl --out data/mine",
            "clear-dist data build tofu/full.json --unnamed invent --out data/tofu-drawn",
            "clear-dist data build people.jsonl --people data/mine.build/people.csv --out data/mine",
            "clear-dist data build people.jsonl --faces DIR --images DIR --detectors DIR --out data/photos",
        ),
    ),
    "data check": Command(
        config.DataCheckConfig,
        "look for faults in a dataset: splits, labels, duplicates, leaks, pictures",
        ("clear-dist data check data/mine", "clear-dist data check data/mine --json"),
    ),
    "model new": Command(
        config.ModelNewConfig,
        "make a model with random weights and a tokenizer",
        ("clear-dist model new --arch llava --params 30m --text-from data/full --out models/llava-30m",),
    ),
    "model base": Command(
        config.ModelBaseConfig,
        "train the shipped base of CLEAR-mini again",
        ("clear-dist model base --out models/base",),
    ),
    "finetune": Command(
        config.FinetuneConfig,
        "teach a model people: an original or a gold model",
        (
            "clear-dist finetune --out runs/original",
            "clear-dist finetune --on retain --out runs/gold",
            "deepspeed launchers/finetune.py --ds ds_configs/z2.json --preset paper --model DIR --data DIR",
        ),
    ),
    "unlearn": Command(
        config.UnlearnConfig,
        "make a model forget people",
        (
            "clear-dist unlearn",
            'clear-dist unlearn --forget-names "Ada Example;Bo Sample" --data DIR --model DIR --original DIR',
            "clear-dist unlearn --method idk --set retain_weight=2 --epochs 8",
            'clear-dist unlearn --objective "2*nll(RETAIN) - nll(FORGET)"',
            "deepspeed launchers/unlearn.py --ds ds_configs/z3.json",
        ),
    ),
    "evaluate": Command(
        config.EvaluateConfig,
        "ask models about every set and score the answers",
        ("clear-dist evaluate --model runs/u/adapter --original runs/o/model --gold runs/g/model --out runs/e",),
    ),
    "sweep": Command(
        config.SweepConfig,
        "methods x seeds x grids, one table and the forget-retain front",
        (
            "clear-dist sweep --methods all --seeds 0,1,2 --out runs/all",
            "clear-dist sweep --methods npo,idk --grid lr=3e-4,1e-3 --grid set.beta=0.1,0.5 --out runs/grid",
            'clear-dist sweep --methods none --objectives "mine=nll(IDK) + 2*nll(RETAIN)" --out runs/mine',
        ),
    ),
    "plan": Command(
        config.PlanConfig,
        "memory, traffic and time of an unlearning step on GPUs that need not be there",
        (
            "clear-dist plan --model llava-1.5-7b --gpus 8 --gpu h100-80g --method npo",
            "clear-dist plan --model llava-next-34b --gpus 16 --gpu a100-80g --full --out runs/plan",
            'clear-dist plan --model DIR --gpus 1 --objective "2*nll(RETAIN) - nll(FORGET)" --ds z3_offload --json',
        ),
    ),
    "scale-study": Command(
        config.ScaleStudyConfig,
        "models x GPUs x ZeRO stages x methods: measured where the devices are, predicted elsewhere",
        (
            "clear-dist scale-study --grid benchmarks/grids/cpu.yaml --out runs/scale",
            "clear-dist scale-study --grid benchmarks/grids/llava.yaml --out runs/llava --dry-run",
        ),
    ),
    "robustness": Command(
        config.RobustnessConfig,
        "attack a run's models: does what was forgotten come back?",
        (
            "clear-dist robustness runs/u --attacks quantise,prompts --limit 100",
            "clear-dist robustness runs/u --attacks all --relearn-rows 4 --relearn-steps 1,5,20",
        ),
    ),
    "shadow-farm": Command(
        config.ShadowFarmConfig,
        "train shadow models, gold models and unlearned models for the attacks on pictures",
        (
            "clear-dist shadow-farm --out runs/farm",
            "clear-dist shadow-farm --images faces.zip --network 18 --methods scrub_bio,twins --out runs/faces",
            "clear-dist shadow-farm --preset paper --images data/CLEAR --methods all --executor ray --out runs/paper",
            "deepspeed launchers/shadow_farm.py --images data/CLEAR --out runs/farm",
        ),
    ),
    "farm status": Command(
        config.FarmStatusConfig, "how far a farm is, and what failed", ("clear-dist farm status runs/farm",)
    ),
    "attack": Command(
        config.AttackConfig,
        "U-LIRA and U-MIA on a farm: can forgotten people be told from people never seen?",
        (
            "clear-dist attack --farm runs/farm --out runs/attack",
            "clear-dist attack --farm runs/farm --variance mad --enrolment paper --folds 2 --out runs/published",
        ),
    ),
    "report": Command(
        config.ReportConfig,
        "the page of a run, or of several side by side",
        (
            "clear-dist report runs/e",
            "clear-dist report runs/npo runs/idk --out runs/report",
            "clear-dist report runs/all --out runs/all/report",
        ),
    ),
    "compare": Command(
        config.CompareConfig,
        "several runs side by side in the terminal",
        ("clear-dist compare runs/npo runs/idk", "clear-dist compare runs/all --json"),
    ),
    "import-log": Command(
        config.ImportLogConfig,
        "records and a report from TOFU's or open-unlearning's evaluation logs",
        ("clear-dist import-log eval_log_aggregated.json --gold gold/eval_log_aggregated.json --out runs/imported",),
    ),
    "export": Command(
        config.ExportConfig,
        "records or summaries of runs as one flat table",
        (
            "clear-dist export runs/e --out records.parquet",
            "clear-dist export runs/a runs/b --what summary --out summary.csv",
        ),
    ),
    "judge": Command(
        config.JudgeConfig,
        "let a language model of yours grade a run's answers",
        ("clear-dist judge runs/e --url http://localhost:8000/v1 --judge-model NAME",),
    ),
    "chat": Command(
        config.ChatConfig,
        "ask original, unlearned and gold side by side",
        ("clear-dist chat runs/quickstart --image face.png", 'clear-dist chat runs/u --question "Who is Ada Example?"'),
    ),
    "reproduce": Command(
        config.ReproduceConfig,
        "a finished run again, and whether it comes to the same, bit for bit",
        ("clear-dist reproduce runs/forgotten", "clear-dist reproduce runs/forgotten --fresh --out runs/second"),
    ),
    "certify": Command(
        config.CertifyConfig,
        "an unlearning certificate of a run, signed if you have a key; or the check of one",
        (
            "clear-dist certify runs/forgotten",
            "clear-dist certify --new-key keys/me.pem",
            "clear-dist certify runs/forgotten --key keys/me.pem",
            "clear-dist certify --verify runs/forgotten/certificate.json --public-key signer.pem",
        ),
    ),
    "doctor": Command(
        config.DoctorConfig,
        "is this machine fit for the work, and what to do where it is not",
        ("clear-dist doctor", "clear-dist doctor --no-ranks --json"),
    ),
    "checkpoint list": Command(
        config.CheckpointListConfig, "what a run has saved", ("clear-dist checkpoint list runs/u",)
    ),
    "checkpoint verify": Command(
        config.CheckpointVerifyConfig,
        "is what a run has saved still what was written?",
        ("clear-dist checkpoint verify runs/u",),
    ),
    "checkpoint prune": Command(
        config.CheckpointPruneConfig,
        "remove a run's older checkpoints",
        ("clear-dist checkpoint prune runs/u --keep 1",),
    ),
    "methods": Command(config.MethodsConfig, "list the methods as equations", ("clear-dist methods",)),
}


def overview() -> str:
    """The page of ``clear-dist --help``."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items())
    return (
        "usage: clear-dist COMMAND [OPTIONS]\n\n"
        "Makes vision-language models forget people, and proves that they forgot.\n\n"
        f"commands:\n{rows}\n\n"
        "clear-dist COMMAND --help shows a command's options and examples.\n"
        "The training commands also run on several processes: deepspeed launchers/unlearn.py --ds ds_configs/z3.json"
    )


def _split(args: Sequence[str]) -> tuple[str, list[str]]:
    """(command, its arguments).

    Raises:
        UserError: no such command.
    """
    for words in (2, 1):
        if (name := " ".join(args[:words])) in COMMANDS:
            return name, list(args[words:])
    typed = " ".join(args[:2] if args[0] in {name.split()[0] for name in COMMANDS if " " in name} else args[:1])
    raise UserError(f"unknown command {typed}{nearest(typed, COMMANDS)}; `clear-dist --help` lists them all")


def run(args: Sequence[str]) -> int:
    """Parse ``args`` and run the recipe they name; its exit status."""
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if args else USER_ERROR
    if args[0] == "--version":
        print(f"clear-dist {__version__}")
        return 0
    name, rest = _split(args)
    command = COMMANDS[name]
    examples = "examples:\n" + "\n".join(f"  {line}" for line in command.examples)
    settings = parse(command.config, rest, f"clear-dist {name}", examples)
    recipe = importlib.import_module(f"clear_dist.recipes.{settings.recipe}")
    return recipe.run(settings) or 0


def main(args: Sequence[str] | None = None) -> int:
    """The console script; its exit statuses are those of docs/exit-codes.md."""
    try:
        return run(sys.argv[1:] if args is None else args)
    except BrokenPipeError:  # the reader of our output has left, e.g. `clear-dist unlearn --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        if is_main_process():
            print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except UserError as error:
        return _told(f"error: {error}", USER_ERROR)
    except FloatingPointError as error:
        return _told(f"error: {error}", NOT_FINITE)
    except Preempted as error:
        return _told(str(error), PREEMPTED)


def _told(message: str, status: int) -> int:
    if is_main_process():
        print(message, file=sys.stderr)
    return status
