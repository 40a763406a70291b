"""The help texts of a recipe's flags; each stands in place of the recipe's value."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RECIPE", "WHERE"]

RECIPE: Mapping[str, tuple[str, str, float | None]] = {
    "recipe": (
        "NAME",
        "how to train: a recipe that comes with senet (cifar-resnet, cifar-shake-shake, cifar-wrn, fine-tuning, "
        "imagenet-modern, imagenet-paper, imagenet-released, imagenet-senet154, mobilenet) or a .yaml file; the flags "
        "of this group stand in place of its values; without it what suits the images and the weights",
        None,
    ),
    "optimiser": ("KIND", "sgd or adamw; without a recipe sgd", None),
    "se_lr": ("RATE", "learning rate of the SE blocks; without it the same as the rest", None),
    "lr_scaling": (
        "KIND",
        "how the recipe's learning rate follows another --batch-size: linear, sqrt or none; without a recipe linear",
        None,
    ),
    "momentum": ("X", "of SGD, or AdamW's first beta; without a recipe 0.9", 0),
    "nesterov": ("", "Nesterov's momentum; without a recipe yes", None),
    "weight_decay": ("X", "without a recipe 1e-4, and 5e-4 for small images from scratch", 0),
    "decay_norms_and_biases": ("", "weight decay of norms and biases too; without a recipe yes", None),
    "schedule": ("KIND", "of the learning rate after its rise: cosine or step; without a recipe cosine", None),
    "milestones": ("SHARE", "for step: after which shares of the run the learning rate drops, such as 0.3 0.6 0.9", 0),
    "lr_factor": ("X", "for step: what the learning rate is multiplied by; without a recipe 0.1", 0),
    "warm_up": ("SHARE", "of the run, in which the learning rate rises; without a recipe 0.1", 0),
    "label_smoothing": ("X", "without a recipe 0", 0),
    "mixup": ("ALPHA", "mix images of a batch; 0 is none", 0),
    "cutmix": ("ALPHA", "paste parts of images of a batch into others; 0 is none", 0),
    "crop_scale": ("SHARE", "for photos: the least share of the area that is cut out; without a recipe 0.35", 0),
    "trivial_augment": ("", "TrivialAugment, wide", None),
    "random_erasing": ("P", "probability that a rectangle of an image is erased", 0),
    "cutout": ("PIXELS", "side of a square that is erased; 0 is none", 0),
    "ema": ("DECAY", "measure and save a moving average of the weights; 0 is none", 0),
    "freeze_statistics": ("SHARE", "of the run, after which batch norm's statistics stay; 1 is never", 0),
    "accumulate": ("N", "work a batch off in N parts, for less memory", 1),
    "clip": ("NORM", "largest norm of the gradients; without it any", 0),
    "precision": ("KIND", "32, bf16 or 16 (mixed); without a recipe 32", None),
    "channels_last": ("", "memory format of images and weights; without a recipe yes", None),
    "compile": ("", "use torch.compile", None),
}
"""Name, metavar, text, the least number."""

WHERE: Mapping[str, tuple[str, str, float | None]] = {
    "nodes": ("N", "machines; on each the command runs under torchrun or SLURM; without it 1, or as they say", 1),
    "strategy": ("KIND", "for several devices: ddp or fsdp; without it ddp", None),
    "checkpoint_minutes": (
        "MINUTES",
        "time between two checkpoints within an epoch; 0 is after every step; without it 10",
        0,
    ),
}
