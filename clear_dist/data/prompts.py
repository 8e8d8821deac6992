"""The questions put to a model, in one place: training, evaluation and CLEAR-mini all draw from here.

CLEAR's captions carry no question of their own; the paper draws one from a small set
(arXiv 2410.18057, section 4.1). Which one a row gets is fixed by the row, not by chance at run time.
"""

from __future__ import annotations

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


def pick(questions: tuple[str, ...], key: str) -> str:
    """The question of a set that belongs to ``key``: stable across processes (no hash randomisation)."""
    return questions[sum(key.encode()) % len(questions)]
