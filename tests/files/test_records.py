import os

import pytest

from senet.errors import StudyError
from senet.files.records import read_csv, read_json, read_text, write_csv, write_json
from senet.report.table import csv_text

NAMES = [
    "=1+1",
    "@x",
    "+a",
    "-a",
    "-1",
    "'=1",
    "'a",
    "''=1",
    "\tx",
    "=",
    "a=b",
    "",
    "+1e3",
    "a\u2028b\x85\x0cc",
    'Grüße, "x"\n',
]


class TestCSV:
    def test_no_cell_is_a_formula_and_every_name_comes_back(self, tmp_path):
        rows = [{"=head": name, "value": -1.5} for name in NAMES]
        write_csv(tmp_path / "t.csv", rows)
        assert read_csv(tmp_path / "t.csv") == [{"=head": name, "value": "-1.5"} for name in NAMES]
        lines = (tmp_path / "t.csv").read_text().splitlines()
        assert lines[0] == "'=head,value"
        assert lines[1:6] == ["'=1+1,-1.5", "'@x,-1.5", "'+a,-1.5", "'-a,-1.5", "-1,-1.5"]

    def test_tables_of_reports_neither(self):
        assert csv_text(["class", "share"], [["=cmd|' /C calc'!A0", -0.5]]) == "class,share\n'=cmd|' /C calc'!A0,-0.5\n"

    def test_a_link_gives_way(self, tmp_path):
        (tmp_path / "outside").write_text("precious")
        for name in ("t.csv", "t.json"):
            (tmp_path / name).symlink_to(tmp_path / "outside")
        write_csv(tmp_path / "t.csv", [{"a": 1}])
        write_json(tmp_path / "t.json", [1])
        assert (tmp_path / "outside").read_text() == "precious"
        assert read_json(tmp_path / "t.json") == [1]

    @pytest.mark.parametrize("text", ["a,a\n1,2\n", "a\n1,2\n", 'a\n"x', "a\n\0"])
    def test_damaged(self, tmp_path, text):
        (tmp_path / "t.csv").write_text(text)
        if "\0" in text:
            assert read_csv(tmp_path / "t.csv") == [{"a": "\0"}]
            return
        with pytest.raises(StudyError, match=r"t\.csv"):
            read_csv(tmp_path / "t.csv")


class TestJSON:
    def test_a_path_that_is_not_utf8_comes_back(self, tmp_path):
        content = {os.fsdecode(b"caf\xe9"): "Grüße"}
        write_json(tmp_path / "t.json", content)
        assert read_json(tmp_path / "t.json") == content
        assert (tmp_path / "t.json").read_bytes() == '{\n  "caf\\udce9": "Grüße"\n}\n'.encode()


class TestText:
    def test_bounds(self, tmp_path):
        (tmp_path / "big").write_text("x" * 101)
        with pytest.raises(StudyError, match="has 101 bytes, and no study writes more than 100"):
            read_text(tmp_path / "big", 100)
        os.mkfifo(tmp_path / "pipe")
        for name in ("pipe", "none", "."):
            with pytest.raises(StudyError, match=str(tmp_path)):
                read_text(tmp_path / name)
