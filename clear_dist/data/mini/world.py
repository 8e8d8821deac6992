"""The world of CLEAR-mini: who lives in it, what is known of them, which pictures exist.

Deterministic from (preset, seed). The real people, the strangers and the world's facts come from streams of
their own, so neither the seed nor the number of fictitious people changes what a base model learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from PIL.Image import Image

from clear_dist.data.mini.draw import SIZE, draw
from clear_dist.data.mini.facts import TextQA, assign_facts, text_rows
from clear_dist.data.mini.people import (
    Identity,
    Look,
    Person,
    attributes,
    distances,
    distinct_identities,
    name_people,
    random_identity,
    random_look,
)
from clear_dist.types import UserError

STREAM: Final = "clear-mini/1"  # part of every seed; raised when wording, drawing or sampling change
REAL_PEOPLE: Final = 10
NEAR: Final = 2.0  # strangers keep this Identity.distance from real people


@dataclass(frozen=True)
class Preset:
    """Sizes of a dataset. ``tiers``: (people, pictures) blocks in order, retained people first, then those that
    only forget10 forgets, only forget10 and forget05, and all three."""

    name: str
    tiers: tuple[tuple[int, int], ...]
    unseen: int  # last pictures of a person, held out of all training
    real_faces: int
    real_world: int
    perturbed_rows: tuple[tuple[str, int], ...]  # cap on the rows of the picture configs *_perturbed
    retain_text_rows: int  # rows of TOFU's retain_perturbed

    @property
    def people(self) -> int:
        return sum(people for people, _ in self.tiers)

    @property
    def forget(self) -> dict[str, int]:
        """Split -> how many of the last people it forgets."""
        _, ten, five, one = (people for people, _ in self.tiers)
        return {"forget01": one, "forget05": one + five, "forget10": one + five + ten}


PRESETS: Final[dict[str, Preset]] = {
    "mini": Preset(
        name="mini",
        tiers=((20, 320), (2, 32), (1, 16), (1, 16)),
        unseen=6,
        real_faces=60,
        real_world=120,
        perturbed_rows=(),
        retain_text_rows=100,
    ),
    # The row counts of the Hub dataset therem/CLEAR.
    "full": Preset(
        name="full",
        tiers=((180, 3389), (10, 191), (8, 153), (2, 35)),
        unseen=2,
        real_faces=151,
        real_world=367,
        perturbed_rows=(("forget10", 378), ("retain", 395)),
        retain_text_rows=400,
    ),
}


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture not yet drawn. person: None for a stranger."""

    identity: Identity
    look: Look
    person: str | None = None
    unseen: bool = False

    @property
    def attributes(self) -> dict[str, str]:
        return attributes(self.identity, self.look)

    def draw(self, size: int = SIZE) -> Image:
        """[size, size] RGB."""
        return draw(self.identity, self.look, size)


@dataclass(frozen=True)
class Population:
    """People with everything known of them; lists and tuples in the order of ``people``."""

    people: tuple[Person, ...]
    facts: dict[str, dict[str, str]]
    rows: dict[str, list[TextQA]]


@dataclass(frozen=True)
class World:
    """Everything a dataset is written from. shots: name -> pictures, the unseen ones last."""

    preset: Preset
    seed: int
    fictitious: Population
    real: Population
    shots: dict[str, list[Shot]]
    real_faces: list[Shot]
    strangers: list[Shot]

    def forgotten(self, split: str) -> tuple[Person, ...]:
        """The people a split such as "forget05" forgets: the last ones."""
        return self.fictitious.people[-self.preset.forget[split] :]

    def retained(self, split: str) -> tuple[Person, ...]:
        return self.fictitious.people[: -self.preset.forget[split]]

    def shots_of(self, people: Sequence[Person]) -> list[Shot]:
        return [shot for person in people for shot in self.shots[person.name]]

    def rows_of(self, people: Sequence[Person]) -> list[TextQA]:
        return [row for person in people for row in self.fictitious.rows[person.name]]


def spread(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` nearly equal whole numbers, the larger ones first."""
    return [total // parts + (index < total % parts) for index in range(parts)]


def real_people() -> Population:
    """The people every base model knows; the same for all presets and seeds."""
    rng = Random(f"{STREAM}/real")
    identities = distinct_identities(rng, REAL_PEOPLE, [])
    names = name_people(rng, identities, [])
    facts = assign_facts(rng, names, {})
    people = tuple(Person(name, identity, True) for name, identity in zip(names, identities, strict=True))
    return Population(people, facts, {name: text_rows(rng, name, facts[name]) for name in names})


def stranger(rng: Random, real: Sequence[Person]) -> Shot:
    """A picture of nobody in particular, not to be mistaken for a real person."""
    known = [person.identity for person in real]
    while True:
        identity = random_identity(rng)
        if distances([identity], known).min() >= NEAR:
            return Shot(identity, random_look(rng, identity))


def pictures_of(rng: Random, person: Person, count: int, unseen: int = 0) -> list[Shot]:
    """``count`` pictures of a person, the last ``unseen`` of them flagged as held out."""
    return [
        Shot(person.identity, random_look(rng, person.identity), person.name, index >= count - unseen)
        for index in range(count)
    ]


def build_world(preset: str = "mini", seed: int = 0) -> World:
    """The world of a preset ("mini" or "full") and a seed.

    Raises:
        UserError: unknown preset.
    """
    if preset not in PRESETS:
        raise UserError(f"preset: expected one of {', '.join(PRESETS)}; got {preset!r}.")
    sizes = PRESETS[preset]
    real = real_people()
    rng = Random(f"{STREAM}/people/{preset}/{seed}")
    identities = distinct_identities(rng, sizes.people, [person.identity for person in real.people])
    taken = [person.name for person in real.people]
    names = name_people(rng, identities, taken, last=sizes.forget["forget10"])
    assert len({*names, *taken}) == len(names) + len(taken), "full names are unique"
    people = tuple(Person(name, identity, False) for name, identity in zip(names, identities, strict=True))
    facts = assign_facts(rng, names, real.facts)
    rows = {name: text_rows(rng, name, facts[name]) for name in names}
    counts = [count for block, pictures in sizes.tiers for count in spread(pictures, block)]
    shots = {
        person.name: pictures_of(rng, person, count, sizes.unseen) for person, count in zip(people, counts, strict=True)
    }
    faces = Random(f"{STREAM}/real_faces/{preset}")
    passers_by = Random(f"{STREAM}/real_world/{preset}")
    return World(
        preset=sizes,
        seed=seed,
        fictitious=Population(people, facts, rows),
        real=real,
        shots=shots,
        real_faces=[
            shot
            for person, count in zip(real.people, spread(sizes.real_faces, REAL_PEOPLE), strict=True)
            for shot in pictures_of(faces, person, count, unseen=count)
        ],
        strangers=[stranger(passers_by, real.people) for _ in range(sizes.real_world)],
    )
