"""Files that are written whole or not at all."""

import os
from pathlib import Path

import pytest

from llmcli.errors import LlmcliError, UsageError
from llmcli.files import check_target, write_whole


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "a"
    write_whole(target, b"old")
    with target.open("rb") as reader:
        write_whole(target, b"new")
        assert reader.read() == b"old"
    assert target.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_what_writes_gets_a_path_of_its_own(tmp_path: Path) -> None:
    target = tmp_path / "a"
    given: list[Path] = []
    write_whole(target, lambda path: (given.append(path), path.write_bytes(b"x")))
    assert given[0].parent == tmp_path
    assert given[0] != target
    assert target.read_bytes() == b"x"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("broken"), KeyboardInterrupt()])
def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with pytest.raises(LlmcliError if isinstance(error, OSError) else type(error)) as raised:
        write_whole(target, fail, remedy="buy a disk")
    if isinstance(raised.value, LlmcliError):
        assert str(raised.value) == f"{target} cannot be written: No space left on device"
        assert raised.value.remedy == "buy a disk"
    assert target.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_link_stays_one_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "a")
    write_whole(link, b"through")
    assert link.is_symlink()
    assert (tmp_path / "there" / "a").read_bytes() == b"through"
    assert [each.name for each in (tmp_path / "there").iterdir()] == ["a"]


def test_permissions_are_those_of_the_file_or_of_a_new_one(tmp_path: Path) -> None:
    kept, new, plain = tmp_path / "kept", tmp_path / "new", tmp_path / "plain"
    kept.touch(0o600)
    plain.touch()

    def private(path: Path) -> None:
        path.unlink()
        path.touch(0o600)

    write_whole(kept, b"x")
    write_whole(new, private)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert new.stat().st_mode == plain.stat().st_mode


def test_what_is_no_regular_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    if Path("/dev/full").exists():
        with pytest.raises(LlmcliError, match="No space left"):
            write_whole(Path("/dev/full"), b"x" * 100_000)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LlmcliError, match="No such file"):
        write_whole(tmp_path / "no" / "b", b"")
    with pytest.raises(UsageError, match="does not exist"):
        check_target(tmp_path / "no" / "b")
    with pytest.raises(UsageError, match="is a folder"):
        check_target(tmp_path)
    check_target(tmp_path / "b")
