"""What each kind of finding of ``clear-dist data check`` means, and what to do about it."""

from __future__ import annotations

from typing import Final

OTHER: Final = ("What was found is said beside each place.", "See docs/data.md.")
KINDS: Final[dict[str, tuple[str, str]]] = {
    "config-missing": (
        "A config that belongs to the layout is not there.",
        "Add the folder with its parquet files, or do without the runs that need it.",
    ),
    "config-broken": (
        "A config cannot be read: its files are damaged, or lack a column. Its rows were not checked.",
        "Write its parquet files again, with the columns of docs/data.md.",
    ),
    "cell-empty": (
        "A text or a name is empty, or is no text.",
        "Fill in the cell, or remove the row from every config that has it.",
    ),
    "id-twice": (
        "Two rows have the same id, so that records could not tell them apart.",
        "Give each row of a config its own id.",
    ),
    "picture-missing": ("A row has no picture.", "Put the encoded picture into the cell, or remove the row."),
    "picture-unreadable": (
        "A picture cannot be decoded: it is cut off, damaged, too large or no picture. Training would stop at it.",
        "Encode it again from its source, as PNG or JPEG.",
    ),
    "picture-blank": (
        "A picture shows one colour only. Nothing can be learned from it.",
        "Look at it; replace it if it was meant to show somebody.",
    ),
    "picture-of-two": (
        "One picture has the names of two people. Nobody can learn both, and one cannot be forgotten alone.",
        "Decide whose picture it is, and remove it from the other.",
    ),
    "picture-twice": (
        "A person has the same picture more than once. It counts twice in training.",
        "Remove one of the two rows, unless their captions differ on purpose.",
    ),
    "picture-nearly-in-both": (
        "A person to forget looks nearly like one to keep. What is forgotten would be learned again from the other.",
        "Compare the two pictures; replace one if they show the same. --near says how alike they have to be.",
    ),
    "row-lost": (
        "A row of everybody is in neither part of a split. It would be neither forgotten nor kept.",
        "Put it into the forget or the retain config.",
    ),
    "row-twice": (
        "A row occurs more often in a split than in full. It counts twice, or is forgotten and kept at once.",
        "Remove it where it does not belong.",
    ),
    "row-changed": (
        "A row of a split is not in full with this person, picture and text.",
        "Write the splits from full again, without changing texts or encoding pictures anew.",
    ),
    "split-not-nested": (
        "A smaller forget split has a row that the next larger one lacks. The layout promises that they nest.",
        "Add the row to the larger split, and take it from its retain config.",
    ),
    "person-in-both": (
        "A person is to be forgotten and to be kept. Gold would know them too, and forgetting could not be measured.",
        "Move all rows of the person to one side.",
    ),
    "picture-in-both": (
        "A picture of a person to forget is also in what is kept.",
        "Remove it there, or forget the other person too.",
    ),
    "question-in-both": (
        "A question about a person to forget is also in what is kept.",
        "Remove it there, or word it differently.",
    ),
    "name-leaks": (
        "What is kept names a person to forget, so that training on it teaches the name again.",
        "Take the name out of the text, or move the row to the forget split.",
    ),
    "swapped-label": (
        "The name of a row and its caption, or its row in the split, are about different people.",
        "Look at the picture, and correct the name or the caption.",
    ),
    "question-twice": (
        "A person is asked the same twice. With two answers, one of them is wrong.",
        "Keep one of the rows.",
    ),
    "companion-foreign": (
        "A row with paraphrases belongs to no row of its split, or to somebody on the other side.",
        "Write the perturbed config from its split again.",
    ),
    "companion-missing": (
        "A row has no paraphrase and no wrong answers. It counts nothing in the truth ratio.",
        "Add a row for it to the perturbed config. The published dataset lacks one as well.",
    ),
    "paraphrase-missing": (
        "The paraphrase is empty: the row has no truth ratio.",
        "Word the caption differently in paraphrased_caption.",
    ),
    "paraphrase-same": (
        "The paraphrase is the caption itself, so that the truth ratio measures wording that was learned by heart.",
        "Word the caption differently in paraphrased_caption.",
    ),
    "paraphrase-nameless": (
        "The caption names the person, the paraphrase does not. Its probability says less about what is remembered.",
        "Name the person in paraphrased_caption too.",
    ),
    "perturbed-missing": (
        "Wrong captions are missing: the truth ratio is an average over fewer, or over none.",
        "Write as many wrong captions as the other rows have.",
    ),
    "perturbed-right": (
        "A wrong caption is the right one, which pulls the truth ratio towards 1.",
        "Replace it by one that is wrong.",
    ),
    "options-missing": (
        "A multiple-choice row has fewer than two different options: there is nothing to choose.",
        "Add options, or remove the row.",
    ),
    "real-is-fictitious": (
        "A face that counts as real is one of the people to learn.",
        "Remove the row from real_faces.",
    ),
    "attributes-broken": (
        "attributes.json cannot be read, so that visible attributes and facts are not asked.",
        "Correct the entry that is named.",
    ),
    "attributes-foreign": (
        "attributes.json describes a picture that no row has. A digest changes whenever a picture is encoded anew.",
        "Write attributes.json from the pictures again.",
    ),
    "nothing-to-train": (
        "All pictures of a person are marked unseen: nothing is left to learn them from.",
        "Mark fewer of them unseen.",
    ),
    "nothing-unseen": (
        "No picture of a person is marked unseen. Others have some: this one is judged on pictures it was trained on.",
        "Mark some pictures unseen, or generate more.",
    ),
    "unbalanced": (
        "Some people have less than half as many pictures or questions as most. They are learned less well.",
        "Add rows for them, or take them out of the dataset.",
    ),
}


def meaning_of(kind: str) -> tuple[str, str]:
    """(what a kind means, what to do); general words for one that is not known."""
    return KINDS.get(kind, OTHER)
