"""diffusers, where it is installed, without its talk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging

from clear_dist.models.quiet import quiet
from clear_dist.types import UserError


def diffusers_module() -> Any:
    """The package. Raises UserError where it is not installed."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it asks for image processors that want torchvision, and does without
    try:
        import diffusers
    except ImportError as error:
        raise UserError("pictures of faces need the package diffusers: pip install 'clear-dist[images]'") from error
    finally:
        logging.set_verbosity(verbosity)
    return diffusers


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """No bars, and nothing about settings of older releases, which diffusers brings up to date as it loads them."""
    told: Any = diffusers_module().utils.logging
    verbosity, bars, others = told.get_verbosity(), told.is_progress_bar_enabled(), logging.get_verbosity()
    told.set_verbosity_error()
    told.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")
            yield
    finally:
        told.set_verbosity(verbosity)
        logging.set_verbosity(others)
        if bars:
            told.enable_progress_bar()
