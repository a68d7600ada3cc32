"""Files: whole or not at all."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from bytequilt.config import UserError
from bytequilt.files import (
    finite,
    locked,
    read_json,
    read_text,
    remove_folder,
    replacing,
    replacing_folder,
    sweep,
    write_text,
)


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    write_text(path := tmp_path / "deep" / "a.txt", "старое")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert read_text(path) == "старое"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_refusal_of_the_disk_is_one_line(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "file" / "below", "text")


def test_a_folder_is_replaced_whole_or_stays(tmp_path):
    folder = tmp_path / "model"
    with replacing_folder(folder) as partial:
        write_text(partial / "a", "1")
    with pytest.raises(KeyError), replacing_folder(folder) as partial:
        write_text(partial / "b", "2")
        raise KeyError
    assert os.listdir(folder) == ["a"]
    with replacing_folder(folder) as partial:
        write_text(partial / "c", "3")
    assert os.listdir(folder) == ["c"]
    with pytest.raises(FileExistsError), replacing_folder(folder, replace=False):
        pass
    remove_folder(folder)
    assert os.listdir(tmp_path) == []


def test_what_a_folder_holds_beside_the_files_of_a_writer_stays(tmp_path):
    (folder := tmp_path / "model").mkdir()
    for name in ("old.bin", "note.txt", "deep/er/note.txt"):
        write_text(folder / name, name)
    (folder / "link").symlink_to("note.txt")
    with replacing_folder(folder, stale=("*.bin",)) as partial:
        write_text(partial / "new.bin", "new")
    assert sorted(os.listdir(folder)) == ["deep", "link", "new.bin", "note.txt"]
    assert (folder / "deep" / "er" / "note.txt").read_text(encoding="utf-8") == "deep/er/note.txt"
    assert (folder / "link").is_symlink()
    with pytest.raises(UserError, match="it is a file"), replacing_folder(folder / "note.txt"):
        pass
    assert (folder / "note.txt").read_text(encoding="utf-8") == "note.txt"
    assert os.listdir(tmp_path) == ["model"]


def test_leftovers_are_swept(tmp_path):
    (tmp_path / ".model.x.partial").mkdir()
    (tmp_path / ".a.1.partial").write_text("", encoding="utf-8")
    (tmp_path / "kept").write_text("", encoding="utf-8")
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\xff\xfea\x00", "not UTF-8"), (b"{", "not JSON"), (b"[" * 100_000, "not JSON")],
)
def test_a_damaged_file_is_one_line(tmp_path, data, message):
    (path := tmp_path / "x.json").write_bytes(data)
    with pytest.raises(UserError, match=message) as raised:
        read_json(path)
    assert "\n" not in str(raised.value)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (path := tmp_path / "x").write_bytes(b"\xef\xbb\xbftext")
    assert read_text(path) == "text"


def test_one_process_has_a_folder_at_a_time(tmp_path):
    other = "import sys\nfrom pathlib import Path\nfrom bytequilt.files import locked\n"
    other += "with locked(Path(sys.argv[1])) as mine: print(mine)"

    def asked_elsewhere() -> str:
        return subprocess.run([sys.executable, "-c", other, str(tmp_path)], capture_output=True, text=True).stdout

    with locked(tmp_path) as mine:
        assert mine
        assert asked_elsewhere() == "False\n"
    assert asked_elsewhere() == "True\n"


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    path = tmp_path / "shared"

    def write(text: str) -> None:
        for _ in range(50):
            write_text(path, text)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, ["a" * 9, "b" * 9, "c" * 9, "d" * 9]))
    assert read_text(path) in {letter * 9 for letter in "abcd"}
    assert os.listdir(tmp_path) == ["shared"]


def test_numbers_that_json_has_no_word_for_become_none():
    value = {"a": [1, 2.5, float("nan"), (float("inf"), True)], "b": {"c": -float("inf"), "d": "NaN"}, "e": None}
    assert finite(value) == {"a": [1, 2.5, None, [None, True]], "b": {"c": None, "d": "NaN"}, "e": None}
