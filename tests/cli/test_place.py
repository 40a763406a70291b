"""The folder of a verb's output file."""

import pytest

from senet.verbs.place import Place


def test_a_failure_leaves_no_folder_behind(tmp_path):
    place = Place(str(tmp_path / "a" / "b" / "x.onnx"), force=False, ours=lambda _: False)
    with pytest.raises(ValueError, match="no"), place.made():
        raise ValueError("no")
    assert not list(tmp_path.iterdir())
    with place.made() as path:
        (tmp_path / "a" / "b" / "x.onnx").write_text("")
    assert path == str(tmp_path / "a" / "b" / "x.onnx")
