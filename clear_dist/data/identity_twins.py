"""The same picture under two names: found before anybody is trained on it, since it would undo a holdout.

A model that never saw a forgotten person under one name may have seen the very pictures under another; no attack can
then tell what was forgotten, and no label is right. Pictures are compared as they are used, decoded and scaled, byte
for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from clear_dist.data.identity_listing import Reason, natural

TWIN_SHARE = 0.5  # of an identity's pictures that are one other's: then it is that one under another name


def same_pictures(
    names: Sequence[str], ids: Sequence[str], contents: Sequence[bytes | None]
) -> tuple[list[Reason], list[Reason]]:
    """What to leave out: (pictures, identities), each with the reason.

    An identity of whose pictures at least half are those of one that comes before it, in natural order, goes as a
    whole. Any other picture that stands under several names goes from each of them.

    Args:
        names, ids: whose each picture is, and its id. contents: a digest of each, None for what is no picture.
    """
    owners: dict[bytes, list[int]] = {}
    counts: Counter[str] = Counter()
    for i, (name, content) in enumerate(zip(names, contents, strict=True)):
        if content is not None:
            owners.setdefault(content, []).append(i)
            counts[name] += 1
    shared = [rows for rows in owners.values() if len({names[i] for i in rows}) > 1]
    gone: dict[str, str] = {}
    together: dict[str, Counter[str]] = {}
    for rows in shared:
        for i in rows:
            together.setdefault(names[i], Counter()).update({names[j] for j in rows} - {names[i]})
    for name in sorted(together, key=natural):
        for other, number in sorted(together[name].items(), key=lambda pair: natural(pair[0])):
            if natural(other) < natural(name) and other not in gone and number >= TWIN_SHARE * counts[name]:
                gone[name] = (
                    f"{number} of its {counts[name]} pictures are those of {other}: one identity under two names"
                )
                break
    pictures: list[Reason] = []
    for rows in shared:
        left = [i for i in rows if names[i] not in gone]
        for i in left:
            other = next((ids[j] for j in left if names[j] != names[i]), None)
            if other is not None:
                pictures.append((ids[i], f"the same picture as {other}, which is another identity's"))
    return pictures, list(gone.items())
