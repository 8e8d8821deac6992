"""Ask the models of a run the same question and read their answers side by side."""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clear_dist.config import ChatConfig
from clear_dist.data.encode import encode_prompt
from clear_dist.data.images import decode
from clear_dist.engine.predict import ModelPredictor
from clear_dist.models import ModelInfo, inspect_model, load_model, with_base_weights
from clear_dist.services.progress import say
from clear_dist.types import Picture, Request, UserError

from .chat_models import Named, models_of
from .common import spells

LARGEST_FILE = 200_000_000  # bytes of a picture's file
HELP = "A question, or /image FILE for another picture, /image alone for none; an empty line ends."
# Signs that reorder the text around them: an answer could pass for another one.
BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Speaker(Protocol):
    """What is asked of a predictor here."""

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[str]: ...


@dataclass(frozen=True)
class Voice:
    """A loaded model by the name its column gets."""

    name: str
    speaker: Speaker
    info: ModelInfo


def run(config: ChatConfig) -> None:
    """``clear-dist chat``.

    Raises:
        UserError: a run without models, a picture that cannot be opened, a picture for models that see none.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    picture = None if config.image is None else open_picture(config.image)
    named = models_of(config.runs)
    infos = infos_of(named)
    if picture is not None and not any(info.image_tokens for info in infos):
        raise UserError(f"--image {config.image}: {infos[0].name} sees no pictures; leave it out")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    voices = []
    for model, info in zip(named, infos, strict=True):
        say(f"{model.name}: {model.folder}")
        voices.append(Voice(model.name, ModelPredictor(load_model(info, device=device)), info))
    if config.question is not None:
        console.print(answers(voices, config.question, picture, config.max_new_tokens))
    else:
        converse(voices, picture, config.max_new_tokens, console, input)


def infos_of(named: Sequence[Named]) -> list[ModelInfo]:
    """The models with their base weights kept as their runs had them; original and gold as the first run's own."""
    infos = [with_base_weights(inspect_model(model.folder), model.base_weights) for model in named]
    own = next((info for model, info in zip(named, infos, strict=True) if model.own), None)
    if own is None:
        return infos
    kept = own.base_weights
    return [i if m.own else with_base_weights(i, kept) for m, i in zip(named, infos, strict=True)]


def converse(
    voices: Sequence[Voice],
    picture: Picture | None,
    max_new_tokens: int,
    console: Console,
    read: Callable[[str], str],
) -> None:
    """Questions until an empty line, the end of the input or Ctrl-C. A mistake is told, and the talk goes on."""
    console.print(HELP)
    while True:
        try:
            line = read("you: ").strip()
            if not line:
                return
            if line == "/image" or line.startswith("/image "):
                name = line.removeprefix("/image").strip()
                picture = open_picture(Path(name).expanduser()) if name else None
                console.print("now without a picture" if picture is None else Text(f"now about {plain(name)}"))
            elif line.startswith("/"):
                console.print(HELP)
            else:
                console.print(answers(voices, line, picture, max_new_tokens))
        except UserError as error:
            console.print(Text(plain(f"error: {error}")))
        except (EOFError, KeyboardInterrupt):
            console.print()
            return


def answers(voices: Sequence[Voice], question: str, picture: Picture | None, max_new_tokens: int) -> Table:
    """A column per model with its answer, or in brackets why it has none."""
    table = Table(title=Text(plain(question)), title_justify="left", pad_edge=False, expand=True)
    for voice in voices:
        table.add_column(Text(plain(voice.name)), ratio=1, overflow="fold")
    table.add_row(*(Text(plain(answer(voice, question, picture, max_new_tokens))) for voice in voices))
    return table


def answer(voice: Voice, question: str, picture: Picture | None, max_new_tokens: int) -> str:
    """One model's answer; in brackets what keeps it from answering."""
    if picture is not None and not voice.info.image_tokens:
        return "(sees no pictures)"
    if not spells(question, voice.info):
        unknown = [word for word in question.split() if not spells(word, voice.info)]
        named = f": {', '.join(unknown)}" if unknown else ""
        return f"(its tokenizer does not know every word of the question{named})"
    longest = getattr(voice.info.family.text_config(voice.info.config), "max_position_embeddings", None)
    prefix, rest, _ = encode_prompt(voice.info.processor, question, picture)
    length = len(prefix) + len(rest)
    if longest is not None and length + max_new_tokens > longest:
        return (
            f"(the question takes {length} tokens, and with {max_new_tokens} more the model's {longest} are exceeded)"
        )
    text = voice.speaker.generate([Request(question, picture)], max_new_tokens)[0]
    return text or "(says nothing)"


def open_picture(path: Path) -> Picture:
    """A picture from a file, whole and decodable. Raises UserError naming the file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a picture such as face.png")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path}: more than {LARGEST_FILE // 1_000_000} MB; name a smaller picture")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    picture = Picture(hashlib.sha256(data).hexdigest(), str(path), lambda: data)
    decode(picture)  # header and pixels: damage is found here, not by the first question
    return picture


def plain(text: str) -> str:
    """Text that is safe to show on a terminal: no control characters (an answer could hold escape sequences that
    rewrite the screen), no halves of characters, no signs that reorder what stands around them."""
    kept = (" " if c == "\t" else c for c in text.replace("\r\n", "\n"))
    return "".join(c for c in kept if c == "\n" or (unicodedata.category(c) not in ("Cc", "Cs") and c not in BIDI))
