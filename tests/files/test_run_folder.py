import pytest

from senet.errors import StudyError
from senet.files.run_folder import (
    digest_of,
    named,
    open_folder,
    read_csv,
    read_json,
    report_folder,
    write_csv,
    write_json,
)

SETTINGS = {"data": {"name": "digits", "content": "abc"}, "recipe": {"lr": 0.1, "sizes": (1, 2)}}


def test_a_folder_is_made_and_opened_again(tmp_path):
    folder = open_folder(tmp_path / "a/b", SETTINGS, resume=False)
    assert read_json(folder / "settings.json") == {**SETTINGS, "recipe": {"lr": 0.1, "sizes": [1, 2]}}
    assert open_folder(tmp_path / "a/b", SETTINGS, resume=True) == folder


def test_an_empty_name_is_no_output_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for opened in (lambda: open_folder("", SETTINGS, resume=True), lambda: report_folder("")):
        with pytest.raises(StudyError, match="the output folder has no name"):
            opened()
    assert list(tmp_path.iterdir()) == []
    assert open_folder(".", SETTINGS, resume=True).samefile(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": {"lr": 0.2, "sizes": [1, 2]}}, "recipe.lr was 0.1 and is now 0.2"),
        ({"recipe": {"lr": 0.2, "sizes": [1]}}, r"recipe.lr was .*; recipe.sizes was \[1, 2\] and is now \[1\]"),
        ({"recipe": None}, "recipe was .* and is now None"),
        ({"data": {"name": "digits", "content": "abd"}}, "data digits has changed since"),
        ({"data": {"name": "photos", "content": "abd"}}, "data was 'digits' and is now 'photos'"),
        ({"device": "cuda"}, "device was None and is now 'cuda'"),
    ],
)
def test_settings_that_differ_are_named(tmp_path, change, words):
    open_folder(tmp_path, SETTINGS, resume=True)
    with pytest.raises(StudyError, match=f"holds a study with other settings: {words}"):
        open_folder(tmp_path, {**SETTINGS, **change}, resume=True)


def test_the_same_data_under_another_name_is_the_same(tmp_path):
    open_folder(tmp_path, SETTINGS, resume=True)
    open_folder(tmp_path, {**SETTINGS, "data": {"name": "moved", "content": "abc"}}, resume=True)


def test_digests(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("one")
    first = digest_of(file)
    assert digest_of(f"{file}:function") == first
    file.write_text("two")
    assert digest_of(file) != first
    (tmp_path / "model.safetensors").write_text("two")
    assert digest_of(tmp_path) == digest_of(file)
    assert [digest_of(name) for name in ("resnet20", None)] == ["resnet20", None]


def test_json_is_whole_or_not_there(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(StudyError, match="damaged"):
        read_json(tmp_path / "a.json")


def test_csv_keeps_every_digit(tmp_path):
    write_csv(tmp_path / "a.csv", [{"x": 0.1 + 0.2, "y": "a,b"}, {"x": 1, "y": ""}])
    assert read_csv(tmp_path / "a.csv") == [{"x": "0.30000000000000004", "y": "a,b"}, {"x": "1", "y": ""}]
    with pytest.raises(StudyError, match="cannot be read"):
        read_csv(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("held", "wanted", "words"),
    [
        ({}, {"seed": 0}, "holds a comparison, and this is a training"),
        ({"study": "ablation"}, {}, "holds an ablation, and this is a comparison"),
        ({"study": "judge", "seed": 1}, {"study": "judge"}, "holds a training, and this is a judgement"),
    ],
)
def test_another_kind_of_study_is_named_and_nothing_listed(tmp_path, held, wanted, words):
    open_folder(tmp_path / "a", {"se": {"width": 3}, **held}, resume=True)
    with pytest.raises(StudyError, match=words) as error:
        open_folder(tmp_path / "a", {"se": None, **wanted}, resume=True)
    assert "width" not in str(error.value)


@pytest.mark.parametrize("name", ["result.json", "predictions.csv", "best.safetensors"])
def test_files_that_no_study_wrote_are_left_alone(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(StudyError, match=f"has {name} but no settings.json"):
        open_folder(tmp_path, {**SETTINGS, "seed": 0}, resume=True)
    assert (tmp_path / name).read_text() == "mine"


def test_results_do_not_go_among_the_images(tmp_path):
    with pytest.raises(StudyError, match="lies inside the data"):
        report_folder(tmp_path / "runs/a", tmp_path)
    assert not (tmp_path / "runs").exists()
    assert report_folder(tmp_path / "runs", tmp_path / "images").is_dir()


def test_two_functions_of_one_file_are_two_networks(tmp_path):
    """The content is the file's, so that it may move; it does not tell its functions apart."""
    file = tmp_path / "net.py"
    file.write_text("small = large = None")

    def settings(function, path=file):
        return {"model": named(f"{path}:{function}", digest_of(f"{path}:{function}"))}

    open_folder(tmp_path / "run", settings("small"), resume=True)
    moved = file.rename(tmp_path / "moved.py")
    open_folder(tmp_path / "run", settings("small", moved), resume=True)
    with pytest.raises(StudyError, match=r"model was '.*:small' and is now '.*:large'"):
        open_folder(tmp_path / "run", settings("large", moved), resume=True)
