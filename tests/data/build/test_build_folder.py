"""A stage's file is whole or not there, and is made again exactly where what decides it has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from clear_dist.data.build.folder import STATE, Folder, key_of, opened, read_lines
from clear_dist.types import UserError


def lines(*numbers: int) -> list[dict[str, int]]:
    return [{"n": number} for number in numbers]


def write(folder: Folder, key: str, *numbers: int) -> None:
    with folder.writing("one", key) as writer:
        for line in lines(*numbers):
            writer.add(line)


def test_a_stage_is_done_for_its_key_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert not folder.done("one", "a")
    write(folder, "a", 1, 2)
    for again in (folder, Folder(tmp_path)):
        assert again.done("one", "a") and not again.done("one", "b") and not again.done("two", "a")
        assert again.read("one") == lines(1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", STATE]


def test_a_file_that_was_changed_or_removed_is_not_done(tmp_path: Path) -> None:
    write(Folder(tmp_path), "a", 1, 2)
    (tmp_path / "one.jsonl").write_text('{"n": 1}\n{"n": 3}\n')
    assert not Folder(tmp_path).done("one", "a")
    (tmp_path / "one.jsonl").unlink()
    assert not Folder(tmp_path).done("one", "a")


@pytest.mark.parametrize("state", ["", "[]", "{", '{"v": 2, "stages": {}}', '{"v": 1, "stages": []}', "\x00"])
def test_a_broken_state_means_that_nothing_is_done(tmp_path: Path, state: str) -> None:
    write(Folder(tmp_path), "a", 1)
    (tmp_path / STATE).write_text(state)
    folder = Folder(tmp_path)
    assert not folder.done("one", "a")
    write(folder, "a", 1)
    assert Folder(tmp_path).done("one", "a")


def interrupted(folder: Folder, key: str, *numbers: int) -> None:
    with pytest.raises(KeyboardInterrupt), folder.writing("one", key) as writer:
        for line in lines(*numbers):
            writer.add(line)
        raise KeyboardInterrupt


def test_an_interrupted_stage_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    interrupted(folder, "a", 1, 2)
    assert not folder.done("one", "a") and not folder.file("one").exists()
    begun = Folder(tmp_path).begun("one", "a")
    assert begun == lines(1, 2)
    with folder.writing("one", "a", begun) as writer:
        writer.add({"n": 3})
    assert folder.read("one") == lines(1, 2, 3) and folder.begun("one", "a") == []


def test_what_another_key_has_begun_is_not_gone_on_with(tmp_path: Path) -> None:
    interrupted(Folder(tmp_path), "a", 1, 2)
    assert Folder(tmp_path).begun("one", "b") == []


def test_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    interrupted(folder, "a", 1, 2)
    part = tmp_path / "one.part"
    data = part.read_bytes()
    for length in range(len(data)):
        part.write_bytes(data[:length])
        begun = folder.begun("one", "a")
        assert begun == lines(1, 2)[: max(0, data[:length].count(b"\n") - 1)]
    part.write_bytes(data.replace(b'{"n": 1}', b'{"n": 1'))
    assert folder.begun("one", "a") == []


def test_lines_that_say_what_they_are_are_found_whatever_the_key(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.lines_left("one") == []
    write(folder, "a", 1, 2)
    interrupted(folder, "b", 3)
    (tmp_path / "one.part").write_bytes((tmp_path / "one.part").read_bytes() + b'[]\n{"n": 4}\n{"n": 5\n{"n": 6}\n')
    assert folder.lines_left("one") == [*lines(1, 2), {"key": "b"}, *lines(3, 4)]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path / "d"), pytest.raises(UserError, match="another process builds"), opened(tmp_path / "d"):
        pass
    with opened(tmp_path / "d"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), opened(tmp_path / "file" / "d"):
        pass


@pytest.mark.parametrize(
    ("text", "says"), [(b"{", "line 2: not JSON"), (b"[]", "line 2: expected"), (b"\xff", "line 2")]
)
def test_a_broken_line_is_named(tmp_path: Path, text: bytes, says: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + text + b"\n")
    with pytest.raises(UserError, match=r"x\.jsonl, line 2: "):
        read_lines(path)


def test_keys_tell_values_and_their_order_apart() -> None:
    keys = [key_of("a", 1), key_of(1, "a"), key_of("a1"), key_of(["a", 1]), key_of("a", None), key_of("a", {"b": 1})]
    assert len(set(keys)) == len(keys)
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
