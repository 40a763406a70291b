"""Push a run to the Hugging Face Hub: its network, its measurements, and a model card.

Uploaded files are written anew, without paths of this machine and names of pictures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.block.made import block_in, known_maker
from senet.cost.tables import comparison_table
from senet.errors import InputError, StudyError, WeightsError
from senet.extras import extra
from senet.files import fileformat
from senet.files.atomic import atomic_write
from senet.files.hub import HubName
from senet.files.paths import expanded
from senet.files.records import Record, read_text
from senet.files.run_folder import MODEL, RESULT, read_json, report_folder, write_json
from senet.saving import read_metadata
from senet.study.comparison.pages import read_comparison
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from senet.study.comparison.report import Comparison

__all__ = ["CARD", "Pushed", "name_of", "prepare", "push"]

CARD = "README.md"
_WORDS = {"None": "none", "True": "yes", "False": "no"}
_KNOWN = ("torchvision:", "timm:", "hf:")  # names that are no paths, though some have a slash
_PATH = re.compile(r"[/\\]|[^\s/\\]+[/\\]")  # absolute, or folders whose first has no space: else it is prose
_BEGINNING = '---\nlibrary_name: "senet"\n'  # of every card
_UNFINISHED = "---\n\nThis folder is not whole: `senet push` is writing it, or was stopped. Push again.\n"
_NO_RUN = "senet push takes the folder of a run, as senet train wrote it; of a comparison, one of its runs such as {}"


@dataclasses.dataclass(frozen=True)
class Pushed:
    """A pushed run.

    Attributes:
        name: the name that `senet.load` takes.
        url: the repository's URL.
        commit: the commit pushed; `senet.load("hf:owner/name@COMMIT")` loads exactly this state.
        private: whether the repository is private. None for an existing repository, whose visibility is unchanged.
    """

    name: str
    url: str
    commit: str
    private: bool | None

    def __str__(self) -> str:
        seen = {True: "only you and your organisation see it", False: "everybody sees it", None: "it was there before"}
        loaded = f"senet.load({self.name!r}) loads it; this state is commit {self.commit}."
        return f"{self.url} ({seen[self.private]})\n{loaded}"


def push(run: str | Path, repository: str, *, public: bool = False, revision: str | None = None) -> Pushed:
    """Push a run's network to the Hub with its model card.

    Args:
        run: the run's folder.
        repository: owner/name; it is created if missing.
        public: whether a new repository is public.
        revision: the branch, created if missing; by default the main one.

    Raises:
        InputError: the repository's name is not owner/name.
        StudyError: the folder holds no finished run, or the Hub refuses the push.
        MissingPackageError: huggingface_hub is not installed.
    """
    name = name_of(repository, revision)
    hub = extra("huggingface_hub", "hub")
    api = hub.HfApi()
    with tempfile.TemporaryDirectory() as folder:
        prepare(run, folder, name=name)
        try:
            there = api.repo_exists(repository)
            url = api.create_repo(repository, private=not public, exist_ok=True)
            if revision is not None:
                api.create_branch(repository, branch=revision, exist_ok=True)
            added = [hub.CommitOperationAdd(file.name, file) for file in sorted(Path(folder).iterdir())]
            done = api.create_commit(repository, added, commit_message="Push a run of senet", revision=revision)
        except Exception as error:  # no connection, no permission, not logged in
            words = " ".join(str(error).split())
            raise StudyError(f"{repository} cannot be pushed: {type(error).__name__}: {words}") from error
    return Pushed(name, str(url), done.oid, None if there else not public)


def prepare(run: str | Path, out: str | Path, *, name: str = "hf:owner/name") -> Path:
    """Write the files that `push` uploads into a folder: the network, its measurements, and the card.

    Args:
        run: the run's folder.
        out: the folder, created if missing.
        name: the name under which the card says to load it.

    Raises:
        StudyError: the folder holds no finished run, its result was edited, or `out` holds files of another kind.
    """
    folder = expanded(run)
    if not (folder / MODEL).is_file() or not (folder / RESULT).is_file():
        runs = sorted(path.parent for path in folder.glob(f"*/{MODEL}"))
        raise StudyError(f"{folder} holds no finished run: {_NO_RUN.format(runs[-1] if runs else 'runs/photos/se-0')}")
    result, target = _result_of(folder), report_folder(out)
    _refuse_strangers(target)
    # The card of a push that is killed says so, and tells the next one that the files are its own.
    with atomic_write(target / CARD, follow=False) as temporary:
        temporary.write_text(_BEGINNING + _UNFINISHED, encoding="utf-8")
    _write_network(folder / MODEL, target / MODEL)
    kept = ("accuracy", "split", "images", "loss", "epochs", "seconds", "parameters", "sites", "settings", "machine")
    write_json(target / RESULT, {key: bare(result[key]) for key in kept if key in result})
    about = read_metadata(target / MODEL)
    with atomic_write(target / CARD, follow=False) as temporary:
        text = card(name, about, bare(result), _comparison(folder))
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a folder's name need not be UTF-8
    return target


def _result_of(run: Path) -> dict[str, Any]:
    """A run's result, with all that the card states, without the words of its command, which may be paths.

    Raises:
        StudyError: a field is missing or was edited.
    """
    found = Record(run / RESULT, read_json(run / RESULT))
    accuracy = found.number("accuracy", 0, 1)
    found.text("split")
    for name in ("images", "epochs", "parameters"):
        found.count(name)
    settings = found.record("settings")
    for name in ("model", "data"):
        settings.record(name).text("name")
    for name in ("weights", "recipe"):
        settings.record(name)
    result = {**found.fields, "accuracy": accuracy}
    if isinstance(machine := result.get("machine"), dict):
        result["machine"] = {key: value for key, value in machine.items() if key != "command"}
    return result


def _refuse_strangers(folder: Path) -> None:
    """Refuse to write over files that no earlier push wrote, such as the README of a project.

    Raises:
        StudyError: there are some.
    """
    there = [name for name in (CARD, MODEL, RESULT) if (folder / name).exists()]
    with contextlib.suppress(StudyError):
        if read_text(folder / CARD).startswith(_BEGINNING):
            return
    if there:
        raise StudyError(
            f"{folder} has {', '.join(there)}, which senet push did not write: choose another folder, such as a new one"
        )


def bare(value: Any, *, named: bool = False) -> Any:
    """A JSON value with every path cut to its last part; names of networks stay.

    Args:
        value: the value.
        named: whether it is a name, of data or weights, and no prose: then any slash makes it a path.
    """
    if isinstance(value, dict):
        return {key: bare(each, named=key in ("name", "make")) for key, each in value.items()}
    if isinstance(value, list):
        return [bare(each) for each in value]
    if not isinstance(value, str) or value.startswith(_KNOWN):
        return value
    scheme = "wds:" if value.startswith("wds:") else ""
    path = value.removeprefix(scheme).rstrip("/\\")
    return scheme + re.split(r"[/\\]", path)[-1] if named or _PATH.match(path) else value


def card(name: str, about: Mapping[str, Any], result: Mapping[str, Any], comparison: Comparison | None) -> str:
    """The model card: metadata for the Hub, and text for readers."""
    settings, metadata = result["settings"], about["metadata"]
    model, data = settings["model"]["name"], settings["data"]["name"]
    with_se = bool(about["sites"] or about["pruned"])
    block = block_in(settings) if settings.get("se") else "SE" if comparison is None else comparison.block
    put = f" with {'Squeeze-and-Excitation' if block == 'SE' else block}" if with_se else ""
    title = f"{model}{put}, trained on {data}"
    parts = [_front_matter(title, data, result), f"# {title}", _measured(result, data)]
    if comparison is not None:
        parts += [
            f"## Compared with the same network {'without' if with_se else 'with'} {block}",
            *_compared(comparison),
        ]
    parts += ["## Load it", _how_to_load(name, about)]
    if with_se and about["sites"]:
        parts += [f"## Where {block} is", _where(about["sites"])]
    parts += ["## Its input", _listed(metadata.get("preprocessing", {}))]
    if classes := metadata.get("classes"):
        parts += ["## Its classes", ", ".join(f"`{each}`" for each in classes)]
    parts += ["## How it was trained", _listed({"weights": settings["weights"]["name"], **settings["recipe"]})]
    versions = f"senet {about['senet']}, PyTorch {about['torch']}"
    parts.append(f"Written by {versions}. The file is safetensors; nothing in it is run.")
    return "\n\n".join(parts) + "\n"


def name_of(repository: str, revision: str | None) -> str:
    """The name under which `senet.load` finds a pushed run.

    Raises:
        InputError: the repository's name is not owner/name.
    """
    name = f"hf:{repository}" + (f"@{revision}" if revision else "")
    try:
        HubName.parse(name)
    except WeightsError:
        raise InputError(f"a repository on the Hub is named OWNER/NAME, not {repository!r}") from None
    return name


def _write_network(source: Path, target: Path) -> None:
    """Rewrite the network's file without this machine's details in its header."""
    tensors, header = fileformat.read(source)
    if header is None:
        raise StudyError(f"{source} was not written by senet: it does not say which network it holds")
    known: dict[str, Any] = {
        key: header.metadata[key] for key in ("classes", "preprocessing", "accuracy") if key in header.metadata
    }
    model = None if header.model is None else bare(header.model, named=True)
    sites = tuple((site, bare(spec)) for site, spec in header.sites)  # a made block's spec names its maker's file
    cut = {"options": bare(header.options), "changed": bare(header.changed)}
    with atomic_write(target, follow=False) as temporary:
        fileformat.write(
            temporary, tensors, dataclasses.replace(header, model=model, sites=sites, metadata=known, **cut)
        )


def _comparison(folder: Path) -> Comparison | None:
    """The comparison that a run belongs to; another run may lie in the same folder."""
    run = folder.absolute()
    try:
        found = read_comparison(run.parent)
    except StudyError:
        return None
    return found if run.name in [f"{arm}-{seed}" for arm in ("plain", "se") for seed in found.numbers] else None


def _front_matter(title: str, data: str, result: Mapping[str, Any]) -> str:
    found = {
        "task": {"type": "image-classification"},
        "dataset": {"name": data, "type": "other", "split": result["split"]},
        "metrics": [{"type": "accuracy", "value": result["accuracy"]}],
    }
    fields = {
        "library_name": "senet",
        "pipeline_tag": "image-classification",
        "tags": ["senet", "squeeze-and-excitation", "channel-attention", "pytorch", "image-classification"],
        "model-index": [{"name": title, "results": [found]}],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _measured(result: Mapping[str, Any], data: str) -> str:
    return (
        f"{100 * result['accuracy']:.2f} % of {result['images']} pictures of {data} ({result['split']}) are right, "
        f"after {counted(result['epochs'], 'epoch')}, with {result['parameters']:,} parameters."
    )


def _compared(comparison: Comparison) -> list[str]:
    told = dataclasses.replace(comparison, skipped=(), notes=())  # which name pictures
    lines = [
        part
        for part in told.parts()
        if isinstance(part, str) and part.startswith((f"{comparison.block} − plain", "  "))
    ]
    return [
        comparison.verdict,
        comparison.accuracy_table("Accuracy").markdown(),
        "\n".join(f"- {line.strip()}" for line in lines),
        "Cost of one image:",
        comparison_table(comparison.plain.cost, comparison.se.cost, "Cost of one image", comparison.block).markdown(),
    ]


def _how_to_load(name: str, about: Mapping[str, Any]) -> str:
    makers = {each["spec"]["make"] for each in about["sites"] if "make" in each["spec"]}
    unknown = sorted(each for each in makers if known_maker(each) is None)
    own = about["model"] is None or about["model"].rpartition(":")[0].endswith(".py")
    if not own and not unknown:
        return (
            f'```python\nimport senet\n\nnetwork = senet.load("{name}")  # in eval mode\n```\n\n'
            f"```sh\nsenet predict --model {name} --data picture.jpg\n```"
        )
    made = [f"Its blocks are made by {' and '.join(unknown)}"] if unknown else []
    made += [f"The plain network is made by {about['model'] or 'a function of its owner'}"] if own else []
    given = [name, *["model=network"] * own, *["make=function"] * bool(unknown)]
    flags = f"--model path/net.py:function --weights {name}" if own else f"--model {name}"
    flags += " --make path/blocks.py:function" if unknown else ""
    return (
        f"{'. '.join(made)}. That code is not here: a file never makes anybody run code. With yours, "
        f'`senet.load("{name}"{"".join(f", {each}" for each in given[1:])})` puts SE and weights into it; '
        f"at the command line, `senet predict {flags} --data picture.jpg`."
    )


def _where(sites: list[dict[str, Any]]) -> str:
    if any("make" in each["spec"] for each in sites):
        rows = ["| site | channels | block |", "|---|---:|---|"]
        places = ((each["site"], each["spec"].get("make", "SE")) for each in sites)
        return "\n".join([*rows, *(f"| `{site['name']}` | {site['channels']} | {block} |" for site, block in places)])
    rows = ["| site | channels | reduction ratio or width | squeeze | gate |", "|---|---:|---:|---|---|"]
    for each in sites:
        site, spec = each["site"], each["spec"]
        width = spec["width"] or spec["reduction_ratio"]
        rows.append(f"| `{site['name']}` | {site['channels']} | {width} | {spec['squeeze']} | {spec['gate']} |")
    return "\n".join(rows)


def _listed(settings: Mapping[str, Any]) -> str:
    def words(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(map(words, value)) or "none"
        return _WORDS.get(repr(value), str(value))

    rows = [f"| {name.replace('_', ' ')} | {words(value)} |" for name, value in settings.items()]
    return "\n".join(["| | |", "|---|---|", *rows])
