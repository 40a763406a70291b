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
    "digits (built in), a folder of class folders (with train/ and val/ or test/ inside, or split 80/20), "
    "torchvision:NAME, or shards of WebDataset (wds:path/{0000..0099}.tar)"
)
_MODEL = (
    "a name of the zoo (resnet20, se_resnet20), torchvision:NAME, timm:NAME, path/to/file.py:FUNCTION (the file is "
    "run), a file or run folder that senet wrote, or hf:OWNER/NAME[@REVISION]"
)
_MEASURED = "images at a time; the default is 64"
_SIDE = "height and width of its input; the default is its own, 224 where that is not known"
_SEEN = (
    "height and width of what the network sees; the default is what it was trained with or made for, else 224, or "
    "the images' own size where that is at most 64"
)
_ONE_DEVICE = "where to compute: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps; the default is auto"
_ENGINES = (
    "eager, channels-last, bf16, compile, onnxruntime, openvino, openvino-bf16, openvino-int8, executorch, litert, "
    "ncnn, cuda, cuda-compile"
)
_REPORT = "the folder to write to: report.html and its numbers"

_NETWORK: Mapping[str, Flag] = {
    "model": Flag(
        "NAME",
        f"the network: {_MODEL}",
        verbs={"explore": f"the networks, one or several; each is {_MODEL}"},
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
    "num_classes": Flag("N", "classes that the network tells apart; the default is its own number", 1),
    "in_channels": Flag("N", "channels of its input images; the default is its own number, mostly 3", 1),
}
_SE: Mapping[str, Flag] = {
    "reduction_ratio": Flag("R", "hidden units are channels / R, at least 1"),
    "width": Flag("H", "hidden units, in place of the ratio"),
    "least_width": Flag("H", "hidden units at least, where the ratio decides; the default is 1"),
    "squeeze": Flag("KIND", "how a map becomes one number: avg, max, or none (nothing is squeezed)"),
    "gate": Flag("KIND", "sigmoid, hard_sigmoid, tanh or relu"),
    "bias": Flag("", "give both layers biases, as the authors' released networks have them"),
    "placement": Flag("PLACE", "standard, pre, post, identity or inner (figure 5 of the paper)"),
    "start": Flag(
        "START",
        "identity: the network computes at first what it did; paper: He initialisation, to train from scratch; "
        "the default is identity, or paper where the network itself is trained from scratch",
    ),
    "make": Flag(
        "MAKER",
        "another block in SE's place: timm's attention module of that name (eca, cbam, ...; se is ours), or "
        "path/net.py:FUNCTION, which is given the channels and returns a module. Of the flags here --placement and "
        "--start go with it. It opens a saved network that holds such blocks",
        verbs={
            "ablate": "the standard block, where it is not SE: timm's attention module of that name, or "
            "path/net.py:FUNCTION",
            "judge": "another block in SE's place: timm's attention module of that name (eca, cbam, ...), or "
            "path/net.py:FUNCTION, which is given the channels and returns a module",
            **dict.fromkeys(
                ("evaluate", "predict", "explain", "prune", "explore", "export", "sites"),
                "what makes the blocks of a saved network that holds others than SE and timm's: path/net.py:FUNCTION",
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
            "predict": "pictures, and folders of pictures, nested as they may be",
            "explore": f"images over which gates are averaged: {_IMAGES}; at most 200 of them are taken",
            "export": f"with --int8, the images to calibrate on and to measure: {_IMAGES}",
            **dict.fromkeys(("sites", "insert", "cost", "advise"), f"images whose size the input has: {_IMAGES}"),
        },
    ),
    "data_root": Flag(
        "FOLDER", "where torchvision's data sets lie, and are downloaded to; the default is ~/.cache/senet/data"
    ),
    "size": Flag(
        "PIXELS",
        _SEEN,
        1,
        verbs={
            "evaluate": f"one or several: {_SEEN}",
            **dict.fromkeys(("sites", "insert", "cost", "bench", "advise"), _SIDE),
        },
    ),
    "resize": Flag(
        "PIXELS",
        "shorter side of an image before its middle is cut out; the default of this flag and the next five is what was "
        "saved with the weights, what their library says of them, or ImageNet's",
        1,
    ),
    "crop": Flag("SHARE", "in place of --resize: the share of the shorter side that is cut out, such as 0.875", 0),
    "mean": Flag("X", "of red, green and blue, of values in [0, 1]"),
    "std": Flag("X", "of red, green and blue: with 0.5 0.5 0.5 for both, the input is in [-1, 1]", 0),
    "interpolation": Flag("KIND", "of the resizing: nearest, bilinear, bicubic or lanczos"),
    "range": Flag(
        "VALUE",
        "of grey pictures of more than 8 bits, two values: what is black and what is white; the default is what was "
        "saved with the weights, else the bit depth, or the least and greatest value, of the pictures to train on",
    ),
    "channels": Flag("ORDER", "of the colours in the network's input: RGB or BGR"),
    "classes": Flag(
        "FILE",
        "a JSON file with the network's class names in order, by which the folders are looked up; the default is "
        "the names that were saved with the network or that its library publishes, and a network without names "
        "takes the folders in the order of their names",
        verbs={
            "predict": "a JSON file with the network's class names in order; the default is the names that were "
            "saved with the network or that its library publishes, else numbers",
            "explore": "a JSON file with the class names of each network, in their order, or 'none'; the default is "
            "the names that were saved with it or that its library publishes, else numbers",
            "export": "a JSON file with the network's class names in order, kept in the file; the default is the "
            "names that were saved with the network",
        },
    ),
    "class_offset": Flag(
        "N", "added to the number of each class, 1 where the network's first class is the background; default: 0", 0
    ),
    "top": Flag("K", "the K likeliest classes of each picture; the screen shows five of them", 1),
    "split": Flag("NAME", "which images: train, val, test or all; the default is test, or val where there is no test"),
    "batch_size": Flag(
        "N",
        "images at a time; the default is 32 from weights, 64 from scratch, 128 for small images other than digits",
        1,
        verbs={
            **dict.fromkeys(("evaluate", "predict", "explain", "prune"), _MEASURED),
            "bench": "images at a time; the default is 1 and 16 (128 for small images, 256 on a GPU)",
            "advise": "images at a time",
        },
    ),
    "max_bad": Flag(
        "N",
        "images that may be unreadable, a number (40) or a share of all (0.05): so many are skipped and listed at "
        "the end, and more stop the command",
    ),
    "workers": Flag("N", "processes that load images; 0 is none; the default is as many as help", 0),
}
_TRAINING: Mapping[str, Flag] = {
    "epochs": Flag(
        "N",
        "passes over the training images; the default is 5 from weights, and from scratch 15 for digits, 30 for "
        "other small images, 60 for photos",
        1,
    ),
    "lr": Flag(
        "RATE",
        "highest learning rate; the default is 0.01 from weights, 0.05 from scratch, 0.1 for small images other than "
        "digits, in proportion to the batch",
    ),
    "seed": Flag(
        "N",
        "decides all that is random: weights, order of the images, augmentation",
        0,
        verbs=dict.fromkeys(_STUDIES, "train the cells of this seed alone and draw no report"),
    ),
    "seeds": Flag("N", "train each network N times, with seeds 0 to N - 1", 1),
    "devices": Flag(
        "DEVICE",
        "where to train: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps, or how many, such as 8 or cpu*2; "
        "the default is auto",
        verbs={
            **dict.fromkeys(("evaluate", "predict", "explain", "prune", "explore"), _ONE_DEVICE),
            "judge": "where to train: auto, cpu, cuda:1 or mps; with several, such as cpu*2 or cuda:0,1, each trains "
            "cells of its own; the default is auto",
        },
    ),
    **{name: Flag(*texts) for name, texts in options.WHERE.items()},
}
_SCORE: Mapping[str, Flag] = {
    "code": Flag("FILE:FUNCTION", "the training, which is given a cell: path/to/file.py:FUNCTION (the file is run)"),
    "score": Flag("NAME", "what the score is called, such as mAP50-95"),
    "unit": Flag("NAME", "that the score is counted in, such as points or dB; the default is none"),
    "higher_is_better": Flag("", "whether more of the score is better; --no-higher-is-better is for errors"),
    "control": Flag("", "train plain against plain, from other seeds: how large a difference chance makes"),
    "version": Flag("NAME", "a name for this training, in place of a digest of its code, which changes with it"),
}
_CELLS: Mapping[str, Flag] = {
    "only": Flag(
        "VARIANT",
        "train the cells of this variant alone and draw no report: plain, se, or a variant of an ablation",
    ),
    "list_cells": Flag("", "train nothing: print the command of each cell, one a line, for any scheduler"),
    "report_only": Flag("", "train nothing: draw the report of the cells that are finished"),
    "launcher": Flag("NAME", "slurm submits the cells as one job array; the default is to train them here"),
    "wait": Flag("", "with --launcher: wait for the jobs, and then draw the report"),
    "sbatch": Flag("OPTIONS", "with --launcher slurm: options of sbatch, such as '--partition=gpu --gres=gpu:1'"),
}
_GATES: Mapping[str, Flag] = {
    "blocks": Flag("PATTERN", "the SE blocks to prune: names, or patterns such as 'layer4*'"),
    "advice": Flag("", "in place of --blocks: those that explain advises"),
    "explanation": Flag("FOLDER", "what explain wrote of this network: its means and its advice are taken as they are"),
    "tolerance": Flag("SHARE", "how much accuracy the advised blocks may cost together, as a fraction", 0),
}
_OUTPUT: Mapping[str, Flag] = {
    "out": Flag(
        "PATH",
        "the folder to write to",
        verbs={
            "insert": "the .safetensors file to write; a folder that is missing is made",
            "export": "the file to write, which ends in .onnx (ONNX), .xml (OpenVINO) or .pt2 (PyTorch); a folder "
            "that is missing is made",
            "prune": "a .safetensors file for the pruned network; a folder that is missing is made",
            "cost": "with --table, a .png or .svg file for the figure of the paper's accuracies against the costs",
            "predict": "a .csv or .parquet file for the classes of every picture",
            "train": "the folder of the run: the network, its metrics and its checkpoints",
            "evaluate": "the folder to write to: predictions, figures and result.json",
            **dict.fromkeys(_STUDIES, "the folder of the study: report.html, its numbers, and every run"),
            **dict.fromkeys(("report", "explain"), _REPORT),
            "bench": "the folder to write to: table, figure and bench.json",
            "push": "a folder to write to what would go up; nothing is sent",
            "advise": "the folder to write to: advice.json and table.txt; the default is to write nothing",
        },
    ),
    "public": Flag("", "let everybody see a repository that is made; without it only you and your organisation do"),
    "revision": Flag("BRANCH", "the branch to push to, made where it is not there; the default is the main one"),
    "force": Flag("", "write over a file at --out that this command did not write"),
    "predictions": Flag("KIND", "how the prediction for each image is written to --out: csv or parquet"),
    "table": Flag(
        "NAME",
        "train the variants of a table of the paper: reduction, squeeze, no-squeeze, gate, stages, placement, bias, or "
        "all",
        verbs={"cost": "count the networks of the paper's tables, and set the paper's figures beside them"},
    ),
    "grid": Flag(
        "AXIS=VALUES",
        "train every combination of these: reduction-ratio=4,16 width=8 least-width=1,4 squeeze=avg,max,none "
        "gate=sigmoid,tanh bias=no,yes placement=standard,pre stages=all,each,but-each,2,-2,2+3 (2 alone, all but 2, "
        "both) make=se,eca,cbam",
    ),
    "runs": Flag("FOLDER", "what compare wrote, finished; or what judge wrote"),
    "resume": Flag("", "go on with what is in the folder from an earlier call"),
    "engines": Flag(
        "NAME",
        f"what to measure in: {_ENGINES}; the default is all but openvino-int8, executorch, litert and ncnn",
    ),
    "engine": Flag("NAME", f"what will run the network: {_ENGINES}"),
    "budget": Flag("RATIO", "the most time with SE, over the time without: 1.02 is two per cent more", 1),
    "placements": Flag("PLACE", "placements to choose among; the default is standard and inner"),
    "ablation": Flag("FOLDER", "what ablate wrote of this network: its accuracies stand beside the costs"),
    "quick": Flag("", "fewer rounds and nothing compiled: a look, no figure to report"),
    "dynamic_size": Flag("", "let the file take pictures of any height and width, not of --size alone"),
    "int8": Flag(
        "", "compute in INT8 (OpenVINO), calibrated on pictures of --data, the accuracy before and after shown"
    ),
    "allow_host": Flag(
        "NAME",
        "names, besides this machine's own, by which the page may be reached, such as that of a proxy; whoever gets "
        "there sees it",
    ),
    "port": Flag("N", "the page is at http://127.0.0.1:N; the default is 7860, or a free one where that is taken", 1),
    "latency": Flag("", "also measure the time of a forward pass, in turn with and without SE"),
}
POSITIONAL: Mapping[str, Flag] = {
    "pattern": Flag("PATTERN", "names to list, such as 'resnet*'"),
    "run": Flag("RUN", "the folder of a finished run, such as runs/photos/se-0"),
    "repository": Flag("OWNER/NAME", "the repository on the Hub; it is made where it is not there"),
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
