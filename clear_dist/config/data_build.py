"""``clear-dist data build``: a dataset in CLEAR's layout from a text about people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import model_validator

from .base import Config, opt
from .flags import from_flags

Stage = Literal["attributes", "faces", "matching", "prompts", "images", "texts", "dataset"]
ASKED = ("attributes", "prompts", "captions")


def parts(text: str) -> tuple[str, ...]:
    """``A,B,C`` in parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


class DataBuildConfig(Config):
    """Turn questions and answers about people into a dataset of pictures and text, stage by stage: attributes, faces,
    matching, prompts, images, texts, dataset. Each leaves a file in DIR.build; the same command goes on where it
    stopped."""

    recipe: ClassVar[str] = "data_build"
    text: Annotated[Path, "positional"] = opt(..., "data", "JSON lines with question and answer, by person", "FILE")
    block: int | None = opt(None, "data", "questions of each person, where all have as many", "N", ge=1)
    people: Path | None = opt(None, "data", "table that corrects people, such as DIR.build/people.csv", "FILE")
    year: int = opt(2024, "data", "ages are counted at the end of it", "N", ge=1000, le=9999)
    unnamed: Literal["refuse", "invent"] = opt("refuse", "data", "people whose name the text does not say")
    missing: Literal["allow", "refuse"] = opt("allow", "data", "people without an age, a gender or a group")
    pictures: str = opt("clear", "data", "of each person: all, N, or as many of all as CLEAR kept", "clear|all|N")
    unseen: int = opt(2, "data", "last pictures of each person, kept out of all training", "N", ge=0)
    companions: str = opt(
        "beside", "data", "TOFU's *_perturbed files: those beside the text, none, or of DIR", "beside|none|DIR"
    )
    real: str = opt(
        "drawn", "data", "real faces and real world: drawn, none, or those of another dataset", "drawn|none|DIR|HUB"
    )
    text_licence: str = opt("not stated", "data", "licence of the text, for the card", "TEXT")
    faces_licence: str = opt("not stated", "data", "licence of faces that are not drawn, for the card", "TEXT")

    faces: str = opt(
        "drawn", "pictures", "drawn, a folder of pictures with a list, or a StyleGAN2 or diffusers network", "drawn|DIR"
    )
    pool: int = opt(2000, "pictures", "faces to choose from", "N", ge=1)
    face_draw: int = opt(32, "pictures", "faces made at a time ...", "N", ge=1)
    face_best: int = opt(8, "pictures", "... of which so many, the best, are kept", "N", ge=1)
    slack: int = opt(5, "pictures", "years a face may be off before another is shifted in age", "N", ge=0)
    face_age: str | None = opt(None, "pictures", "classifier that tells how old a made face looks", "DIR|HUB")
    face_gender: str | None = opt(None, "pictures", "the same of its gender", "DIR|HUB")
    face_group: str | None = opt(None, "pictures", "the same of its group", "DIR|HUB")
    images: str = opt("drawn", "pictures", "drawn, or a diffusers pipeline that can be given a face", "drawn|DIR|HUB")
    adapter: Path | None = opt(None, "pictures", "IP-Adapter that gives a text-to-image pipeline the face", "DIR")
    samples: int | None = opt(None, "pictures", "samples of each prompt (default: 8; of drawings 1)", "N", ge=1)
    style: float = opt(0.5, "pictures", "style strength: how far a picture may go from the face", "X", ge=0, le=1)
    guidance: float = opt(7.5, "pictures", "how closely a picture follows its prompt", "X", ge=0)
    steps: int = opt(50, "pictures", "steps of diffusion", "N", ge=1)
    size: int | None = opt(None, "pictures", "side of pictures (default: 96 drawn, else the network's)", "PX", ge=32)
    detectors: str | None = opt(None, "pictures", "classifiers of real against made that choose samples", "DIR,DIR")
    device: Literal["auto", "cpu", "cuda"] = opt("auto", "pictures", "where networks run")

    ask_url: str | None = opt(None, "model", "OpenAI-compatible server with a language model to ask", "URL")
    ask_model: str | None = opt(None, "model", "its name there", "NAME")
    ask_for: str = opt("attributes,prompts,captions", "model", "what it is asked for; answers are checked", "A,B,C")
    ask_key_env: str | None = opt(None, "model", "environment variable with the server's key", "NAME")

    until: Stage = opt("dataset", "run", "stop after this stage")
    seed: int = opt(0, "run", "seed of faces and pictures", "N", ge=0)
    out: Path = opt(..., "run", "the dataset; the stages' files are in DIR.build", "DIR")

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: Any) -> Any:
        return from_flags(values, comma=("detectors", "ask_for"), pairs=())

    @model_validator(mode="after")
    def _go_together(self) -> DataBuildConfig:
        number = self.pictures.isascii() and self.pictures.isdigit() and len(self.pictures) < 7 and int(self.pictures)
        if self.pictures not in ("clear", "all") and not number:
            raise ValueError(f"`pictures` {self.pictures}: expected clear, all, or a whole number of at least 1")
        if self.face_best > self.face_draw:
            raise ValueError(f"`face_best` {self.face_best}: expected at most `face_draw` ({self.face_draw})")
        strange = [name for name in parts(self.ask_for) if name not in ASKED]
        if strange or not parts(self.ask_for):
            raise ValueError(f"`ask_for` {self.ask_for}: expected some of {', '.join(ASKED)}, with commas between")
        if (self.ask_url is None) != (self.ask_model is None):
            raise ValueError("`ask_url` and `ask_model` go together: give both, or neither")
        if (self.images == "drawn") != (self.faces == "drawn"):
            raise ValueError(
                "`images` and `faces` go together: drawings are made of drawn faces; give both, or leave both out"
            )
        return self

    @property
    def build(self) -> Path:
        """Where the stages' files are."""
        return self.out.with_name(f"{self.out.name}.build")
