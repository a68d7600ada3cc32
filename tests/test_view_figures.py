"""Pictures of a run are drawn from whatever rows the metrics have."""

import struct
import sys

import pytest

from bytequilt.config import UserError
from bytequilt.view import figures

PNG = b"\x89PNG\r\n\x1a\n"


def size(path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(PNG)
    return struct.unpack(">II", data[16:24])


def test_training_curve_of_two_stages(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        {"step": step, "bytes": 8192 * step, "bpb": 2 + 6 / (1 + step), "lr": 1e-3, "stage": stage}
        for stage in ("entropy", "blt")
        for step in range(50)
    ]
    rows[10]["val_bpb"] = 2.5
    rows[20]["bpb"] = float("nan")
    rows.append({"stage": "blt", "message": "resumed"})
    figures.training_curve(iter(rows), tmp_path / "curve.png")
    assert size(tmp_path / "curve.png") == (1200, 750)


@pytest.mark.parametrize("row", [{"bytes": 10, "bpb": 2.0}, {"bytes": 10, "val_bpb": 2.0, "lr": None}])
def test_one_row_is_enough(tmp_path, row):
    pytest.importorskip("matplotlib")
    figures.training_curve([row], tmp_path / "curve.png")
    assert size(tmp_path / "curve.png")


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(UserError, match="no bits per byte"):
        figures.training_curve([{"step": 0, "bytes": 0}], tmp_path / "curve.png")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"bytequilt\[plot\]"):
        figures.training_curve([{"bytes": 1, "bpb": 1.0}], tmp_path / "curve.png")


def test_smoothing_keeps_a_constant():
    values = figures.np.full(200, 3.0)
    assert figures._smooth(values) == pytest.approx(values)
