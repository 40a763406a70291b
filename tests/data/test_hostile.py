"""Small files that ask for a lot: each is one line, after a bounded amount of work."""

import io
import itertools
import os
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from senet.console.display import plain_text
from senet.data.decoding import MOST_SCANNED, decode_bytes
from senet.data.images import text_of
from senet.data.shards.index import _split, index_of
from senet.data.sources import open_data
from senet.errors import BadImageError, DataError, StudyError, WeightsError
from senet.recipe.file import read_recipe
from senet.report.table import Table
from senet.words import printable


def jpeg(side, **options):
    with io.BytesIO() as file:
        Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(file, "JPEG", **options)
        return file.getvalue()


class TestPictures:
    def test_a_jpeg_of_thousands_of_scans(self):
        content = jpeg(512, progressive=True)
        last = content[content.rindex(b"\xff\xda") : -2]
        assert decode_bytes(content + last * 9, "a.jpg").size == (512, 512)
        many = MOST_SCANNED // 512**2
        with pytest.raises(BadImageError, match=rf"{many + 10} scans of 512 × 512 pixels: save it again"):
            decode_bytes(content[:-2] + last * many + content[-2:], "a.jpg")

    def test_an_ordinary_photo_is_far_from_that(self):
        for options in ({}, {"progressive": True}, {"progressive": True, "quality": 100, "subsampling": 0}):
            assert jpeg(64, **options).count(b"\xff\xda") * 89_000_000 < MOST_SCANNED


def member(name, content=b"", **pax):
    info = tarfile.TarInfo(name)
    info.size, info.pax_headers = len(content), pax
    return info, content


def shard(path, members):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


class TestShards:
    def test_a_size_that_leads_back(self, tmp_path):
        picture = [member("a.jpg", jpeg(8)), member("a.cls", b"0")]
        path = shard(tmp_path / "s.tar", [*picture, member("b.cls", b"1", size="-4096")])
        found = list(itertools.islice(index_of(path), 10))
        assert [sample.name for sample in found] == ["a.jpg", ""]
        assert found[1].problem == "damaged, what follows is lost (a header leads back)"

    @pytest.mark.parametrize("size", ["1e9", "9" * 5000, "x", "nan"])
    def test_a_size_that_is_none(self, tmp_path, size):
        path = shard(tmp_path / "s.tar", [member("a.jpg", jpeg(8)), member("a.cls", b"0", size=size)])
        assert len(index_of(path)) < 3

    def test_a_name_of_slashes(self, tmp_path):
        path = shard(tmp_path / "s.tar", [member("/" * 200_000 + "a"), member("/" * 200_000 + ".x")])
        assert [sample.problem for sample in index_of(path)] == ["no picture in this sample"]

    def test_headers_before_headers(self, tmp_path):
        block = tarfile.TarInfo("././@LongLink")
        block.type, block.size = tarfile.GNUTYPE_LONGNAME, 0
        (tmp_path / "s.tar").write_bytes(block.tobuf(tarfile.GNU_FORMAT) * 5000)
        assert [s.problem[:11] for s in index_of(tmp_path / "s.tar")] in ([], ["damaged, wh"], ["not a tar f"])

    def test_names_are_split_as_webdataset_splits_them(self):
        pattern = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)  # its own expression
        for length in range(1, 7):
            for letters in itertools.product("a./", repeat=length):
                name = "".join(letters)
                found = pattern.fullmatch(name)
                assert _split(name) == (found.groups() if found else None), name


BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


class TestRecipes:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (BOMB, r"it has an alias \(\*\)"),
            ("lr: " + "[" * 1000, "it is nested more than 4 deep"),
            ("lr: 0.1 # " + "x" * 70_000, "it has more than 65536 characters"),
            ("epochs: " + "9" * 5000, "x.yaml"),
        ],
    )
    def test_bombs(self, tmp_path, text, words):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(StudyError, match=words) as error:
            read_recipe(tmp_path / "x.yaml")
        assert len(str(error.value)) < 6000

    def test_a_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "x.yaml")
        with pytest.raises(StudyError, match="cannot be read"):
            read_recipe(tmp_path / "x.yaml")


class TestNames:
    @pytest.mark.parametrize("name", [b"caf\xe9", b"\x1b]0;owned\x07", b"a\nb", "\u202egpj".encode()])
    def test_a_class_that_cannot_be_written_or_shown(self, paint, name):
        root = paint({"dark": 3, "light": 3})
        os.rename(os.fsencode(root / "light"), os.path.join(os.fsencode(root), name))  # noqa: PTH104, PTH118 bytes
        with pytest.raises(
            DataError, match=r"has a class called .*, which holds control characters or is not in UTF-8"
        ):
            open_data(root)

    def test_no_terminal_obeys_a_name(self):
        evil = "layer\x1b[2J\x9b1m\u202e"
        shown = r"layer\x1b[2J\x9b1m\u202e"
        assert printable(evil) == shown
        assert printable("Grüße, 猫: −14 %\n") == "Grüße, 猫: −14 %\n"
        assert str(WeightsError(f"{evil} is unknown")) == f"{shown} is unknown"
        assert plain_text(evil) == shown
        assert shown in plain_text(Table.of("Each class", ("class",), [(evil,)], numbers=range(0)))
        assert text_of(f"a/{evil}.jpg") == f"a/{shown}.jpg"
