"""Files of a person's own: what lies beside one is imported for it, and for no other."""

import sys

import pytest

from senet.errors import ModelError
from senet.files.own_code import function_in, importing_from


@pytest.fixture
def people(tmp_path):
    """Two folders, each with a net.py that imports a helper.py and a package of its own, also when called."""
    before = set(sys.modules)
    for person in ("one", "two"):
        folder = tmp_path / person
        (folder / "parts").mkdir(parents=True)
        (folder / "helper.py").write_text(f"name = {person!r}\n")
        (folder / "parts" / "__init__.py").write_text("")
        (folder / "parts" / "inner.py").write_text(f"name = {person!r}\n")
        (folder / "net.py").write_text(
            "import helper\nfrom parts import inner\n\n"
            "def make():\n    import helper as late\n    return helper.name, late.name, inner.name\n"
        )
    yield [tmp_path / person / "net.py" for person in ("one", "two")]
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_each_file_gets_what_lies_beside_it(people):
    for file in (*people, *people):
        with importing_from(file.parent):
            assert function_in(file, "make")() == (file.parent.name,) * 3
    assert not {str(file.parent) for file in people} & set(sys.path)


def test_what_was_imported_is_not_run_again(people):
    one, two = people
    seen = []
    for file in (one, two, one):
        with importing_from(file.parent):
            function_in(file, "make")
            seen.append(sys.modules["helper"])
    assert seen[0] is seen[2]
    assert seen[0] is not seen[1]


def test_modules_of_python_and_of_packages_stay(people):
    one, two = people
    (two.parent / "json.py").write_text("raise ImportError('the wrong one')\n")
    import json

    for file in (one, two):
        with importing_from(file.parent):
            function_in(file, "make")
    assert sys.modules["json"] is json


def test_a_file_that_ends_the_process_is_one_error(tmp_path):
    (tmp_path / "script.py").write_text("import sys\nsys.exit('usage: script.py FILE')\n\ndef make(): ...\n")
    with pytest.raises(ModelError, match=r"cannot be imported: SystemExit: usage: script.py FILE \(.*py, line 2\)"):
        function_in(tmp_path / "script.py", "make")
