"""The numbers of the paper's tables, as printed (arXiv 1709.01507, journal version).

Errors are in %: top-1 and top-5 on ImageNet's validation images with one 224² centre crop, and
top-1 on CIFAR's test images. Costs are multiply-adds of one image. None means not printed.
"""

from __future__ import annotations

import dataclasses

__all__ = ["CIFAR", "IMAGENET", "MOBILE", "REDUCTIONS", "STAGES", "VARIANTS", "CifarRow", "ImageNetRow", "VariantRow"]


@dataclasses.dataclass(frozen=True)
class ImageNetRow:
    """A network of tables 2, 3 and 8, plain and with SE.

    Attributes:
        title: the paper's name for it.
        name: the zoo's name of the network with SE.
        error: top-1 and top-5 of the plain network, as the authors re-implemented it.
        se_error: top-1 and top-5 of the network with SE.
        multiply_adds: multiply-adds of the plain network.
        se_multiply_adds: multiply-adds of the network with SE.
        parameters: parameters of the plain network.
        se_parameters: parameters of the network with SE.
    """

    title: str
    name: str
    error: tuple[float, float] | None
    se_error: tuple[float, float]
    multiply_adds: float | None = None
    se_multiply_adds: float | None = None
    parameters: float | None = None
    se_parameters: float | None = None


@dataclasses.dataclass(frozen=True)
class CifarRow:
    """A network of tables 4 and 5: errors on CIFAR-10 and CIFAR-100, plain and with SE."""

    title: str
    name: str
    cifar10: tuple[float, float]
    cifar100: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class VariantRow:
    """A variant of SE-ResNet-50, trained in the paper's ablations.

    Attributes:
        what: the variant in words.
        value: the varied value: r, or the only stage with SE.
        error: top-1 and top-5.
        parameters: the number of parameters.
        multiply_adds: multiply-adds for one image of 224².
    """

    what: str
    value: int
    error: tuple[float, float]
    parameters: float | None
    multiply_adds: float | None = None


IMAGENET = (
    ImageNetRow("ResNet-50", "se_resnet50", (24.80, 7.48), (23.29, 6.62), 3.86e9, 3.87e9, 25.6e6, 28.1e6),
    ImageNetRow("ResNet-101", "se_resnet101", (23.17, 6.52), (22.38, 6.07), 7.58e9, 7.60e9),
    ImageNetRow("ResNet-152", "se_resnet152", (22.42, 6.34), (21.57, 5.73), 11.30e9, 11.32e9),
    ImageNetRow("ResNeXt-50 (32×4d)", "se_resnext50_32x4d", (22.11, 5.90), (21.10, 5.49), 4.24e9, 4.25e9),
    ImageNetRow("ResNeXt-101 (32×4d)", "se_resnext101_32x4d", (21.18, 5.57), (20.70, 5.01), 7.99e9, 8.00e9),
    ImageNetRow("VGG-16 (with BN)", "se_vgg16_bn", (27.02, 8.81), (25.22, 7.70), 15.47e9, 15.48e9),
    ImageNetRow("BN-Inception", "se_bn_inception", (25.38, 7.89), (24.23, 7.14), 2.03e9, 2.04e9),
    ImageNetRow("Inception-ResNet-v2", "se_inception_resnet_v2", (20.37, 5.21), (19.80, 4.79), 11.75e9, 11.76e9),
    ImageNetRow("SENet-154", "senet154", None, (18.68, 4.47)),
)
MOBILE = (
    ImageNetRow("MobileNet v1", "se_mobilenet_v1", (28.4, 9.4), (25.3, 7.7), 569e6, 572e6, 4.2e6, 4.7e6),
    ImageNetRow("ShuffleNet v1 (1×, g=3)", "se_shufflenet_v1", (32.6, 12.5), (31.0, 11.1), 140e6, 142e6, 1.8e6, 2.4e6),
)
CIFAR = (
    CifarRow("ResNet-110", "se_resnet110", (6.37, 5.21), (26.88, 23.85)),
    CifarRow("pre-activation ResNet-164", "se_preact_resnet164", (5.46, 4.39), (24.33, 21.31)),
    CifarRow("WRN-16-8", "se_wrn16_8", (4.27, 3.88), (20.43, 19.14)),
    CifarRow("Shake-Shake-26 2×96d, Cutout", "se_shake_shake26_2x96d", (2.56, 2.12), (15.85, 15.41)),
)
REDUCTIONS = tuple(
    VariantRow(f"r = {r}", r, error, parameters)
    for r, error, parameters in (
        (2, (22.29, 6.00), 45.7e6),
        (4, (22.25, 6.09), 35.7e6),
        (8, (22.26, 5.99), 30.7e6),
        (16, (22.28, 6.03), 28.1e6),
        (32, (22.72, 6.20), 26.9e6),
    )
)
STAGES = (
    VariantRow("SE in stage 2 alone", 2, (23.03, 6.48), 25.6e6),
    VariantRow("SE in stage 3 alone", 3, (23.04, 6.32), 25.7e6),
    VariantRow("SE in stage 4 alone", 4, (22.68, 6.22), 26.4e6),
)
VARIANTS = (
    VariantRow("SE after the 3×3 convolution", 16, (22.48, 6.02), 25.8e6),
    VariantRow("nothing squeezed", 16, (22.93, 6.39), 28.1e6, 4.27e9),
)
