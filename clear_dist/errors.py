"""The one exception that is a user's mistake, apart from everything heavy: a wrong flag is refused without torch."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user's: names the field, file or row, says what was expected and what to do.

    The command line prints its message without a traceback and exits with status 2.
    """
