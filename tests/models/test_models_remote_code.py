"""Code that comes with a model is not run, and nobody is asked on a terminal whether it may be."""

from __future__ import annotations

import builtins
import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clear_dist.models import inspect_model, load_model
from clear_dist.types import UserError

KINDS = {  # file that names the code -> what it names, class it then says it is
    "tokenizer_config.json": ({"AutoTokenizer": ["theirs.Own", None]}, {"tokenizer_class": "Own"}),
    "preprocessor_config.json": ({"AutoImageProcessor": "theirs.Own"}, {"image_processor_type": "Own"}),
    "config.json": ({"AutoConfig": "theirs.Own", "AutoModelForCausalLM": "theirs.Own"}, {"model_type": "own"}),
}


@pytest.mark.parametrize("file", KINDS)
def test_their_code_is_neither_run_nor_asked_for(
    tiny_dir: Path, copy_of: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def asked(*_: object) -> str:
        pytest.fail("asked on the terminal")

    monkeypatch.setattr(builtins, "input", asked)
    path = copy_of(tiny_dir)
    names, other = KINDS[file]
    ran = path / "ran"
    (path / "theirs.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Own: ...\n")
    if not (path / file).exists():  # older directories keep the image processor by itself
        inner = json.loads((path / "processor_config.json").read_text())["image_processor"]
        (path / file).write_text(json.dumps(inner))
    values = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(values | other | {"auto_map": names}))
    with contextlib.suppress(UserError):  # or a class of the same kind that is known here is taken
        inspect_model(path)
    (path / file).write_text(json.dumps(values | {"auto_map": names}))
    load_model(path, dtype="fp32", device="cpu")  # a class that is known here is taken
    assert not ran.exists()
