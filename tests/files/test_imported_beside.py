"""A digest of a user's file covers the files beside it that it imports."""

from senet.files.own_code import imported_beside
from senet.files.run_folder import digest_of, same_settings


def test_a_digest_follows_imports_of_files_beside_it(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "net.py").write_text("import torch\n")
    name = f"{tmp_path / 'net.py'}:build"
    assert "imports" not in digest_of(name)
    (tmp_path / "net.py").write_text("import torch\nfrom parts import block\n")
    alone = digest_of(name)
    (tmp_path / "other.py").write_text("import net\n")
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "block.py").write_text("from . import layer\nimport other\n")
    (tmp_path / "parts" / "layer.py").write_text("WIDTH = 1\n")
    beside = [each.relative_to(tmp_path).as_posix() for each in imported_beside(tmp_path / "net.py")]
    assert beside == ["other.py", "parts/__init__.py", "parts/block.py", "parts/layer.py"]
    before = digest_of(name)
    (tmp_path / "parts" / "layer.py").write_text("WIDTH = 2\n")
    after = digest_of(name)

    def same(held: object, wanted: object) -> bool:
        return same_settings({"model": {"name": name, "content": held}}, {"model": {"name": name, "content": wanted}})

    assert not same(before, after)
    assert same(alone, after)  # a run of an earlier version, which read one file
