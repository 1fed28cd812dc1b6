"""Files that appear whole or not at all."""

import os

import pytest
import torch

from experiments import figures
from experiments.runs import records
from pndm.errors import OptionError


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    records.write(path, b"old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OptionError, match=r"cannot be written \(No space left on device"):
        records.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_leaves_is_known_by_its_name(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(os, "replace", lambda aside, path: names.append(aside.name))
    records.write(tmp_path / "record.json", b"new")
    (tmp_path / "below").mkdir()
    others = [".notes.tmp", ".notes.12345.tmp", "notes.0123abcd.tmp", ".notes.0123ABCD.tmp", f"below/{names[0]}"]
    for name in (*names, *others):
        (tmp_path / name).write_text("")
    assert records.half_written(tmp_path) == [tmp_path / names[0]]


def test_environment_names_versions_and_machine():
    found = records.environment(torch.device("cpu"))
    assert found["versions"]["torch"] == torch.__version__
    assert found["device"] == "cpu"
    assert found["device_name"]


def test_a_figure_is_png_and_svg(tmp_path):
    figure = figures.new_figure(2, 1)
    figure.add_subplot().plot([1, 2], [3, 4])
    records.write_figure(tmp_path, "line", figure)
    assert (tmp_path / "line.png").read_bytes()[1:4] == b"PNG"
    assert b"<svg" in (tmp_path / "line.svg").read_bytes()


def test_image_grid_places_every_image():
    from io import BytesIO

    import numpy as np
    from PIL import Image

    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 2).contiguous() * 10
    sheet = np.asarray(Image.open(BytesIO(figures.image_grid(images, columns=3, scale=1, gap=1))))
    assert sheet.shape == (5, 8)
    for i in range(5):
        y, x = (i // 3) * 3, (i % 3) * 3
        assert (sheet[y : y + 2, x : x + 2] == 10 * i).all()
    assert (sheet[3:, 6:] == 255).all()


def test_colours_do_not_change_between_runs():
    assert figures.colour("plms") != figures.colour("ddim")
    assert figures.colour("a solver of your own") == figures.colour("a solver of your own")


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = {"schema": records.SCHEMA, "value": 0.1, "pairs": [[1, 2.5e-17]], "none": None}
    records.write_record(tmp_path, record)
    assert records.read_record(tmp_path / "record.json") == record
    records.write_record(tmp_path, {"schema": records.SCHEMA, "by": {10: (1, 2), 9: ()}})
    assert records.read_record(tmp_path / "record.json")["by"] == {"10": [1, 2], "9": []}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[:-30], "is truncated or damaged"),
        (lambda text: "", "is truncated or damaged"),
        (lambda text: "[1]", "has schema None"),
        (lambda text: text.replace(f'"schema": {records.SCHEMA}', '"schema": 1'), "has schema 1, and this version"),
        (lambda text: text.replace("0.25", "0.24"), "has been edited"),
        (lambda text: text.replace('"sha256"', '"sha"'), "has been edited"),
    ],
)
def test_a_record_that_cannot_be_relied_on_is_named(tmp_path, spoil, said):
    records.write_record(tmp_path, {"schema": records.SCHEMA, "value": 0.25})
    path = tmp_path / "record.json"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(OptionError, match=f"record {path} {said}"):
        records.read_record(path)
    with pytest.raises(OptionError, match="cannot be read"):
        records.read_record(tmp_path / "none.json")
