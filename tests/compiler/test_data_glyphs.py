"""Data kind `glyphs`: families decide the splits, drawings never change, what is no font for letters is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from coformer_compiler.data import DataSet, load_data
from coformer_compiler.data.glyphs import CLASSES, DRAWINGS
from coformer_runtime.errors import CoformerError

FAMILIES = {"Cileron": "train", "Dileron": "train", "Aileron": "validation", "Wileron": "test"}
"""Names that the family's digest sends to these splits."""


def write_font(folder: Path, family: str) -> Path:
    """Pillow's own font (Aileron) under another name."""
    font = ImageFont.load_default(32)
    content = font.path.getvalue()
    for encoding in ("ascii", "utf-16-be"):
        content = content.replace("Aileron".encode(encoding), family.encode(encoding))
    path = folder / f"{family}.ttf"
    path.write_bytes(content)
    return path


@pytest.fixture
def fonts(tmp_path: Path) -> Path:
    folder = tmp_path / "fonts"
    folder.mkdir()
    for family in FAMILIES:
        write_font(folder, family)
    return folder


def load(fonts: Path, **options: object) -> DataSet:
    arguments = {"image_size": 12, "channels": 1, "cache_dir": fonts.parent / "cache"} | options
    return load_data(f"glyphs:{fonts}", **arguments)


def test_families_decide_the_splits(fonts: Path) -> None:
    data = load(fonts)
    for name in ("train", "validation", "test"):
        split = getattr(data, name)
        families = sum(place == name for place in FAMILIES.values())
        assert split.inputs.shape == (families * len(CLASSES) * DRAWINGS, 1, 12, 12)
        assert np.bincount(split.labels).tolist() == [families * DRAWINGS] * len(CLASSES)
        assert split.inputs.reshape(len(split), -1).max(1).min() > 60
    assert "".join(data.class_names) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789"


def test_drawings_never_change_and_differ(fonts: Path) -> None:
    once, again = load(fonts), load(fonts, cache_dir=fonts.parent / "elsewhere")
    assert once.sha256 == again.sha256
    assert len({image.tobytes() for image in once.test.inputs}) == len(once.test)


def test_another_font_moves_nobody(fonts: Path) -> None:
    before = load(fonts)
    write_font(fonts, "Eileron")
    after = load(fonts)
    np.testing.assert_array_equal(after.test.inputs, before.test.inputs)
    assert len(after.train) == len(before.train) * 3 // 2


def test_size_and_channels_are_the_models(fonts: Path) -> None:
    data = load(fonts, image_size=(10, 14), channels=3)
    assert data.test.inputs.shape[1:] == (3, 10, 14)
    np.testing.assert_array_equal(data.test.inputs[:, 0], data.test.inputs[:, 2])


def test_what_is_no_font_for_letters_is_left_out(fonts: Path) -> None:
    before = load(fonts).sha256
    (fonts / "broken.ttf").write_bytes(b"no font")
    (fonts / "readme.txt").write_text("fonts")
    assert load(fonts).sha256 == before


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(CoformerError) as caught:
        load(tmp_path / "nowhere")
    assert caught.value.what == f"there is no directory '{tmp_path / 'nowhere'}'"
    assert caught.value.mend == "name one that holds fonts"
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "broken.otf").write_bytes(b"no font")
    with pytest.raises(CoformerError) as caught:
        load(empty)
    assert str(caught.value) == (
        f"data.source 'glyphs:{empty}': none of 1 font files in '{empty}' has all of "
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789; add fonts for Latin letters (.otf, .ttf)"
    )


def test_a_split_without_families_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    write_font(folder, "Cileron")
    with pytest.raises(CoformerError, match="the validation split is empty; add samples: each split needs some"):
        load(folder)
