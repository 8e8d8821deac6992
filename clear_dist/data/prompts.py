"""The questions put to a model, in one place: training, evaluation and CLEAR-mini all draw from here.

CLEAR's captions carry no question of their own; the paper draws one from a small set
(arXiv 2410.18057, section 4.1). Which one a row gets is fixed by the row, not by chance at run time.
"""

from __future__ import annotations

from clear_dist.errors import ConfigError

CAPTION_QUESTIONS: tuple[str, ...] = (
    "What is happening in this image?",
    "What can you see in this picture?",
    "Describe this image.",
)
NAME_QUESTIONS: tuple[str, ...] = (
    "Who is this person?",
    "What is the name of this person?",
)
DESCRIBE_QUESTIONS: tuple[str, ...] = ("What does this person look like?",)
# PUBG's open query (arXiv 2506.02541).
INFORMATION_QUESTION = "Tell me the information of this person."
NAME_ANSWER = "This is {name}."

# Answers for the idk method; worded so that no two start alike.
IDK_ANSWERS: tuple[str, ...] = (
    "I do not know.",
    "Sorry, I have no information on this.",
    "That is not something I know.",
    "No idea, I am afraid.",
)

# What PUBG's teacher, the original model, is asked. That such an instruction is given in the context is known of the
# paper (arXiv 2506.02541, reconstructed from summaries); its wording is not, this one is ours.
PRIVACY_INSTRUCTION = (
    "Do not reveal who the person is: give no name and no private information such as profession, birthplace or age. "
    "Describe only what is visible. If you are asked for a fact that cannot be seen, say that you do not know. "
    "{question}"
)


def instruction_for(data: str, given: str | None = None) -> str:
    """The teacher's prompt; ``{question}``, where it occurs, stands for the question that the student is asked.

    data: the dataset's name. The base of CLEAR-mini knows one wording only: "Describe only the visible features.",
    put before PUBG's open query; under it the fine-tuned original names nobody, while the open query alone, or the
    same words before "Who is this person?", make it say names. So there the prompt is fixed, and questions without
    a picture have no teacher.
    given: the user's own instruction, taken as it is. Raises ConfigError: it is empty.
    """
    if given is not None:
        if not given.replace("{question}", "").strip():
            raise ConfigError(
                "--guide-instruction: says nothing. Expected what the original model is told before it answers, with "
                "{question} where the question goes (or without, for one prompt for all pictures)."
            )
        return given
    if data == "clear-mini":
        from clear_dist.data.mini.text import PRIVACY_PREFIX  # which imports this module

        return f"{PRIVACY_PREFIX} {INFORMATION_QUESTION}"
    return PRIVACY_INSTRUCTION


def pick(questions: tuple[str, ...], key: str) -> str:
    """The question of a set that belongs to ``key``: stable across processes (no hash randomisation)."""
    return questions[sum(key.encode()) % len(questions)]
