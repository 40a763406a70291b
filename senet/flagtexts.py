"""The texts of the command's flags. A flag has one name and one meaning; its text may depend on the verb."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from senet.recipe import options

__all__ = ["FLAGS", "GROUPS", "POSITIONAL", "Flag"]


class Flag(NamedTuple):
    """A flag's metavar, text, least number, and its texts in particular verbs."""

    metavar: str
    help: str
    least: float | None = None
    verbs: Mapping[str, str] = MappingProxyType({})

    def text(self, verb: str) -> str:
        """The flag's help in a verb."""
        return self.verbs.get(verb, self.help)


_STUDIES = ("compare", "ablate", "judge")
_IMAGES = (
    "digits or context (built in), a folder of class folders (with train/ and val/ or test/ inside, or split 80/20), "
    "torchvision:NAME, or shards of WebDataset (wds:path/{0000..0099}.tar)"
)
_MODEL = (
    "a name of the zoo (resnet20, se_resnet20), torchvision:NAME, timm:NAME, path/to/file.py:FUNCTION (the file is "
    "run), a file or run folder that senet wrote, or hf:OWNER/NAME[@REVISION]"
)
_MEASURED = "images at a time; the default is 64"
_SIDE = "height and width of its input; the default is the network's own, or 224 (64 for volumes) if that is unknown"
_SEEN = (
    "height and width of the network's input; the default is the size of its training or its library, else 224, or "
    "the images' own size if that is at most 64"
)
_TRAINED_SIDE = (
    "height and width of the network's input; the default is the images' own size if that is at most 64, else that of "
    "a saved network or of timm's weights, else 224"
)
_ONE_DEVICE = "the device: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps; the default is auto"
_ENGINES = (
    "eager, channels-last, bf16, compile, onnxruntime, openvino, openvino-bf16, openvino-int8, executorch, litert, "
    "ncnn, cuda, cuda-compile"
)
_START = "identity: SE changes nothing at first; paper: He initialisation, to train from scratch"
_REPORT = "the folder to write to: report.html and its numbers"

_NETWORK: Mapping[str, Flag] = {
    "model": Flag(
        "NAME",
        f"the network: {_MODEL}",
        verbs={
            **dict.fromkeys(("evaluate", "predict"), f"the network: {_MODEL}, or an exported .onnx or .xml file"),
            "explore": f"the networks, one or several; each is {_MODEL}",
        },
    ),
    "weights": Flag(
        "FILE",
        "its weights: a .safetensors, .pth or .caffemodel file, a run folder, 'pretrained' (the library's own, may be "
        "downloaded), or hf:OWNER/NAME; the default is random weights",
        verbs={
            "explore": "the weights of each network, in their order: a file, a run folder, 'pretrained', "
            "hf:OWNER/NAME, or 'none'"
        },
    ),
    "num_classes": Flag(
        "N", "the number of classes; the default is that of the weights, else the network's own, 1000 in the zoo", 1
    ),
    "in_channels": Flag("N", "the number of input channels; the default is the network's own, mostly 3", 1),
}
_SE: Mapping[str, Flag] = {
    "reduction_ratio": Flag("R", "hidden units are channels / R, at least 1"),
    "width": Flag("H", "hidden units, instead of the ratio"),
    "least_width": Flag("H", "the least number of hidden units that the ratio may give"),
    "squeeze": Flag("KIND", "how a map becomes one number: avg, max, or none (no squeeze)"),
    "gate": Flag("KIND", "sigmoid, hard_sigmoid, tanh or relu"),
    "bias": Flag("", "give both layers biases, as in the authors' released networks"),
    "placement": Flag("PLACE", "standard, pre, post, identity or inner (figure 5 of the paper)"),
    "start": Flag(
        "START",
        f"{_START}; the default is identity, or paper if the network itself is trained from scratch",
        verbs={
            **dict.fromkeys(("insert", "judge"), f"{_START}; the default is identity"),
            "ablate": f"{_START}; the default is paper, since not every gate has an identity start",
            "cost": f"{_START}; the cost is the same",
        },
    ),
    "make": Flag(
        "MAKER",
        "another block instead of SE: timm's attention module of that name (eca, cbam, ...; se is ours), or "
        "path/net.py:FUNCTION, which takes the channels and returns a module. Of these flags only --placement and "
        "--start apply to it. It also opens a saved network that holds such blocks",
        verbs={
            "ablate": "the standard block, if it is not SE: timm's attention module of that name, or "
            "path/net.py:FUNCTION",
            "judge": "another block instead of SE: timm's attention module of that name (eca, cbam, ...), or "
            "path/net.py:FUNCTION, which takes the channels and returns a module",
            "advise": "se, the default: this verb measures no other block",
            **dict.fromkeys(
                ("evaluate", "predict", "explain", "prune", "explore", "export", "sites", "check"),
                "the maker of a saved network's blocks, if they are neither SE nor timm's: path/net.py:FUNCTION",
            ),
        },
    ),
    "where": Flag("PATTERN", "only the sites whose name matches one of these patterns, such as 'layer4*'"),
}
_DATA: Mapping[str, Flag] = {
    "data": Flag(
        "NAME",
        f"the images: {_IMAGES}",
        verbs={
            "predict": "pictures, and folders of pictures at any depth",
            "explore": f"images over which gates are averaged: {_IMAGES}; at most 200 are used",
            "export": f"with --int8, the images to calibrate on and to measure: {_IMAGES}",
            **dict.fromkeys(
                ("sites", "insert", "check", "cost", "advise"), f"images that set the size of the input: {_IMAGES}"
            ),
        },
    ),
    "data_root": Flag(
        "FOLDER", "the folder of torchvision's data sets, also for downloads; the default is ~/.cache/senet/data"
    ),
    "size": Flag(
        "PIXELS",
        _SEEN,
        1,
        verbs={
            "evaluate": f"one or several: {_SEEN}",
            **dict.fromkeys(("train", "compare", "ablate"), _TRAINED_SIDE),
            **dict.fromkeys(("sites", "insert", "check", "cost", "bench", "advise"), _SIDE),
        },
    ),
    "resize": Flag(
        "PIXELS",
        "shorter side of an image before the central crop; this flag and the next five default to the values that were "
        "saved with the weights, that their library gives, or to ImageNet's",
        1,
    ),
    "crop": Flag("SHARE", "instead of --resize: the share of the shorter side that is cropped, such as 0.875", 0),
    "mean": Flag("X", "mean of red, green and blue, for values in [0, 1]"),
    "std": Flag("X", "standard deviation, likewise; with 0.5 0.5 0.5 for both, the input is in [-1, 1]", 0),
    "interpolation": Flag("KIND", "how images are resized: nearest, bilinear, bicubic or lanczos"),
    "channels": Flag("ORDER", "order of the colours in the network's input: RGB or BGR"),
    "range": Flag(
        "VALUE",
        "the values of black and white in grey pictures of more than 8 bits; the default is what was saved with the "
        "weights, else the bit depth, or the least and greatest value, of the training pictures",
    ),
    "classes": Flag(
        "FILE",
        "a JSON file with the network's class names in order, to which folders are matched; the default is the "
        "names saved with the network or published by its library; without names, folders are taken in "
        "alphabetical order",
        verbs={
            "predict": "a JSON file with the network's class names in order; the default is the names "
            "saved with the network or published by its library, else numbers",
            "explore": "a JSON file with the class names of each network, in their order, or 'none'; the default is "
            "the names saved with it or published by its library, else numbers",
            "export": "a JSON file with the network's class names in order, kept in the file; the default is the "
            "names saved with the network or published by its library",
        },
    ),
    "class_offset": Flag(
        "N", "a number added to each class index, 1 if the network's first class is the background", 0
    ),
    "top": Flag("K", "the K most likely classes of each picture; the screen shows five of them", 1),
    "split": Flag("NAME", "which images: train, val, test or all; the default is test, or val if there is no test"),
    "batch_size": Flag(
        "N",
        "images at a time; the default is 32 from weights, 64 from scratch, 128 for small images other than digits and "
        "context",
        1,
        verbs={
            **dict.fromkeys(("evaluate", "predict", "explain", "prune"), _MEASURED),
            "bench": "images at a time; the default is 1 and 16 (128 for small images, 256 on a GPU)",
            "advise": "images at a time",
        },
    ),
    "max_bad": Flag(
        "N",
        "how many images may be unreadable, a number (40) or a share (0.05): they are skipped and listed at the "
        "end, and more stop the command",
    ),
    "workers": Flag("N", "processes that load images; 0 is none; the default suits images and machine", 0),
}
_TRAINING: Mapping[str, Flag] = {
    "epochs": Flag(
        "N",
        "passes over the training images; the default is 5 from weights, and from scratch 15 for digits, 30 for "
        "other small images, 60 for photos, 8 for context",
        1,
    ),
    "lr": Flag(
        "RATE",
        "highest learning rate; the default is 0.01 from weights, 0.05 from scratch, 0.1 for small images other than "
        "digits and context, in proportion to the batch",
    ),
    "seed": Flag(
        "N",
        "seed of everything random: weights, order of the images, augmentation",
        0,
        verbs=dict.fromkeys(_STUDIES, "train only the cells of this seed, and draw no report"),
    ),
    "seeds": Flag("N", "train each network N times, with seeds 0 to N - 1", 1),
    "devices": Flag(
        "DEVICE",
        "where to train: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps, or their number, such as 8 or cpu*2; "
        "the default is auto",
        verbs={
            **dict.fromkeys(("evaluate", "predict", "explain", "prune"), _ONE_DEVICE),
            "explore": _ONE_DEVICE.removesuffix("; the default is auto"),
            "judge": "where to train: auto, cpu, cuda:1 or mps; of several, such as cpu*2 or cuda:0,1, each trains "
            "its own cells; the default is auto",
        },
    ),
    **{name: Flag(*texts) for name, texts in options.WHERE.items()},
}
_SCORE: Mapping[str, Flag] = {
    "code": Flag("FILE:FUNCTION", "the training, a function of a cell: path/to/file.py:FUNCTION (the file is run)"),
    "score": Flag(
        "NAME", "the score's name, such as mAP50-95; the default is that of the judgement in --out, or score"
    ),
    "unit": Flag(
        "NAME", "the score's unit, such as points or dB; the default is that of the judgement in --out, or none"
    ),
    "higher_is_better": Flag(
        "",
        "whether a higher score is better; --no-higher-is-better is for errors; the default is as in the judgement in "
        "--out, or yes",
    ),
    "control": Flag("", "compare plain with plain, from other seeds, to see chance differences"),
    "version": Flag("NAME", "a name for this training instead of a digest of its code"),
}
_CELLS: Mapping[str, Flag] = {
    "only": Flag(
        "VARIANT",
        "train only the cells of this variant, and draw no report: plain, se, or one that --table or --grid varies",
        verbs={
            "compare": "train only the cells of this network, and draw no report: plain or se",
            "judge": "train only the cells of this arm, and draw no report: plain, se or control",
        },
    ),
    "list_cells": Flag("", "train nothing; print the command of each cell, one per line, for any scheduler"),
    "report_only": Flag("", "train nothing; draw the report of the finished cells"),
    "launcher": Flag("NAME", "slurm submits the cells as one job array; the default is to train them here"),
    "wait": Flag("", "with --launcher: wait for the jobs, and then draw the report"),
    "sbatch": Flag("OPTIONS", "with --launcher slurm: options for sbatch, such as '--partition=gpu --gres=gpu:1'"),
}
_GATES: Mapping[str, Flag] = {
    "blocks": Flag("PATTERN", "the SE blocks to prune: names, or patterns such as 'layer4*'"),
    "advice": Flag("", "instead of --blocks: the blocks that explain advises"),
    "explanation": Flag("FOLDER", "the folder of explain for this network, whose means and advice are used"),
    "tolerance": Flag("SHARE", "the accuracy that the advised blocks may cost together, as a fraction", 0),
}
_OUTPUT: Mapping[str, Flag] = {
    "out": Flag(
        "PATH",
        "the folder to write to",
        verbs={
            "insert": "the .safetensors file to write; a missing folder is created",
            "export": "the file to write: .onnx (ONNX), .xml (OpenVINO) or .pt2 (PyTorch); a missing folder is created",
            "prune": "a .safetensors file for the pruned network; a missing folder is created",
            "cost": "with --table, a .png or .svg file for the figure of the paper's accuracies against the costs",
            "predict": "a .csv or .parquet file for the classes of each picture",
            "train": "the run's folder: the network, its metrics and its checkpoints",
            "evaluate": "the folder to write to: predictions, figures and result.json",
            **dict.fromkeys(_STUDIES, "the study's folder: report.html, its numbers, and every run"),
            **dict.fromkeys(("report", "explain"), _REPORT),
            "bench": "the folder to write to: table, figure and bench.json",
            "push": "a folder for the files instead of the Hub; nothing is sent",
            "advise": "the folder to write to: advice.json and table.txt; the default is to write nothing",
        },
    ),
    "public": Flag("", "make a new repository public; without it only you and your organisation see it"),
    "revision": Flag("BRANCH", "the branch to push to, created if missing; the default is the main one"),
    "force": Flag("", "overwrite a file at --out that this command did not write"),
    "predictions": Flag("KIND", "the format of the predictions in --out: csv or parquet"),
    "table": Flag(
        "NAME",
        "train the variants of a table of the paper: reduction, squeeze, no-squeeze, gate, stages, placement, bias, or "
        "all",
        verbs={"cost": "count the networks of the paper's tables, and show the paper's figures beside them"},
    ),
    "grid": Flag(
        "AXIS=VALUES",
        "train every combination of these: reduction-ratio=4,16 width=8 least-width=1,4 squeeze=avg,max,none "
        "gate=sigmoid,tanh bias=no,yes placement=standard,pre stages=all,each,but-each,2,-2,2+3 (2 alone, all but 2, "
        "both) make=se,eca,cbam",
    ),
    "runs": Flag("FOLDER", "folders of finished comparisons, or of judgements"),
    "resume": Flag("", "resume what an earlier call began in the folder"),
    "engines": Flag(
        "NAME", f"the engines: {_ENGINES}; the default is all but openvino-int8, executorch, litert and ncnn"
    ),
    "engine": Flag("NAME", f"the engine that will run the network: {_ENGINES}"),
    "budget": Flag("RATIO", "the largest ratio of the time with SE to the time without: 1.02 is two per cent more", 1),
    "placements": Flag("PLACE", "placements to choose from; the default is standard and inner"),
    "ablation": Flag("FOLDER", "the folder of ablate for this network, to show its accuracies beside the costs"),
    "quick": Flag(
        "",
        "fewer rounds and nothing compiled, for a first impression only",
        verbs={"advise": "fewer rounds, for a first impression only"},
    ),
    "dynamic_size": Flag("", "let the file take pictures of any height and width, not only of --size"),
    "int8": Flag(
        "", "compute in INT8 (OpenVINO), calibrated on pictures of --data, and show the accuracy before and after"
    ),
    "allow_host": Flag(
        "NAME",
        "more host names by which the page may be reached, such as a proxy's; everyone who can reach it sees the page",
    ),
    "port": Flag("N", "the page is at http://127.0.0.1:N; the default is 7860, or a free one if that is taken", 1),
    "latency": Flag("", "also measure the time of a forward pass, in turn with and without SE"),
}
POSITIONAL: Mapping[str, Flag] = {
    "pattern": Flag("PATTERN", "names to list, such as 'resnet*'"),
    "run": Flag("RUN", "the folder of a finished run, such as runs/photos/se-0"),
    "repository": Flag("OWNER/NAME", "the repository on the Hub, created if missing"),
}
GROUPS: Mapping[str, Mapping[str, Flag]] = {
    "the network": _NETWORK,
    "the images": _DATA,
    "the SE blocks": _SE,
    "the gates": _GATES,
    "the training": _TRAINING,
    "the score": _SCORE,
    "the cells (a cell is one variant and one seed)": _CELLS,
    "the recipe": {name: Flag(*texts) for name, texts in options.RECIPE.items()},
    "the output": _OUTPUT,
}

FLAGS: Mapping[str, Flag] = {name: flag for group in (*GROUPS.values(), POSITIONAL) for name, flag in group.items()}
"""The flags by parameter name; `batch_size` is typed `--batch-size`."""
