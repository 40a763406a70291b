"""The networks of the survey: how to build each with random weights, and what to run it on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

__all__ = ["ENTRIES", "Entry"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One network: its kind in the survey, how to build it, and examples for eval and for training mode."""

    name: str
    kind: str
    build: Callable[[], Any]
    shape: tuple[int, ...]
    make_example: Callable[[], Any] | None = None
    make_training_example: Callable[[], Any] | None = None

    def example(self) -> Any:
        """What the network takes in eval mode."""
        import torch

        torch.manual_seed(3)
        return self.make_example() if self.make_example else torch.randn(1, *self.shape)

    def training_example(self) -> Any:
        """What it takes in training mode: two samples, for the batch norms."""
        import torch

        torch.manual_seed(4)
        return self.make_training_example() if self.make_training_example else torch.randn(2, *self.shape)


# timm: the smallest network of each family (module), by parameters, as timm 1.0.31 lists them.
CONVOLUTIONAL = {
    "byobnet": ("mobileone_s1", 224),
    "convmixer": ("convmixer_768_32", 224),
    "convnext": ("convnext_zepto_rms", 224),
    "cspnet": ("cs3darknet_focus_s", 256),
    "cspnext": ("cspnext_tiny", 224),
    "densenet": ("densenet121", 224),
    "dla": ("dla46x_c", 224),
    "dpn": ("dpn48b", 224),
    "efficientnet": ("mobilenetv2_035", 224),
    "fasternet": ("fasternet_t0", 224),
    "ghostnet": ("ghostnet_050", 224),
    "hardcorenas": ("hardcorenas_b", 224),
    "hgnet": ("hgnetv2_b0", 224),
    "hrnet": ("hrnet_w18_small", 224),
    "inception_next": ("inception_next_atto", 224),
    "inception_resnet_v2": ("inception_resnet_v2", 299),
    "inception_v3": ("inception_v3", 299),
    "inception_v4": ("inception_v4", 299),
    "lcnetv2": ("lcnetv2_small", 224),
    "mambaout": ("mambaout_femto", 224),
    "mobilenetv3": ("mobilenetv3_small_050", 224),
    "nasnet": ("nasnetalarge", 331),
    "nfnet": ("nf_regnet_b0", 192),
    "pnasnet": ("pnasnet5large", 331),
    "rdnet": ("rdnet_tiny", 224),
    "regnet": ("regnetx_002", 224),
    "repghost": ("repghostnet_050", 224),
    "repvit": ("repvit_m1", 224),
    "res2net": ("res2next50", 224),
    "resnest": ("resnest14d", 224),
    "resnet": ("resnet10t", 176),
    "resnetv2": ("resnetv2_18", 224),
    "rexnet": ("rexnet_100", 224),
    "selecsls": ("selecsls42", 224),
    "senet": ("legacy_seresnet18", 224),
    "sknet": ("skresnet18", 224),
    "starnet": ("starnet_s050", 224),
    "tresnet": ("tresnet_m", 224),
    "vgg": ("vgg11", 224),
    "vovnet": ("ese_vovnet19b_slim_dw", 224),
    "xception": ("legacy_xception", 299),
    "xception_aligned": ("xception41p", 299),
}
HYBRID = {
    "byoanet": ("halonet_h1", 256),
    "coat": ("coat_tiny", 224),
    "cpubone": ("cpubone_nano", 256),
    "csatv2": ("csatv2", 512),
    "davit": ("davit_tiny", 224),
    "edgenext": ("edgenext_xx_small", 256),
    "efficientformer": ("efficientformer_l1", 224),
    "efficientformer_v2": ("efficientformerv2_s0", 224),
    "efficientvim": ("efficientvim_m1", 224),
    "efficientvit_mit": ("efficientvit_b0", 224),
    "efficientvit_msra": ("efficientvit_m0", 224),
    "fastvit": ("fastvit_t8", 256),
    "focalnet": ("focalnet_tiny_srf", 224),
    "gcvit": ("gcvit_xxtiny", 224),
    "iformer": ("iformer_t", 224),
    "levit": ("levit_128s", 224),
    "lowformer": ("lowformer_b0", 224),
    "maxxvit": ("maxvit_pico_rw_256", 256),
    "metaformer": ("poolformerv2_s12", 224),
    "mobilevit": ("mobilevit_xxs", 256),
    "mvitv2": ("mvitv2_tiny", 224),
    "nextvit": ("nextvit_small", 224),
    "pvt_v2": ("pvt_v2_b0", 224),
    "shvit": ("shvit_s1", 224),
    "swiftformer": ("swiftformer_xs", 224),
    "tiny_vit": ("tiny_vit_5m_224", 224),
    "twins": ("twins_svt_small", 224),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 224),
    "visformer": ("visformer_tiny", 224),
    "vitamin": ("vitamin_small_224", 224),
    "xcit": ("xcit_nano_12_p8_224", 224),
}
TRANSFORMER = {
    "beit": ("beit_base_patch16_224", 224),
    "cait": ("cait_xxs24_224", 224),
    "convit": ("convit_tiny", 224),
    "crossvit": ("crossvit_tiny_240", 240),
    "deit": ("deit_tiny_patch16_224", 224),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", 256),
    "hiera": ("hiera_tiny_224", 224),
    "mlp_mixer": ("gmlp_ti16_224", 224),
    "nest": ("nest_tiny", 224),
    "pit": ("pit_ti_224", 224),
    "sequencer": ("sequencer2d_s", 224),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 224),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 256),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 224),
    "tnt": ("tnt_s_legacy_patch16_224", 224),
    "vision_transformer": ("vit_tiny_patch16_224", 224),
    "vision_transformer_relpos": ("vit_srelpos_small_patch16_224", 224),
    "volo": ("volo_d1_224", 224),
}


def _timm(kind: str, family: str, name: str, size: int) -> Entry:
    def build() -> Any:
        import timm

        return timm.create_model(name)

    return Entry(f"timm:{name} ({family})", kind, build, (3, size, size))


_TRANSFORMERS = ("vit_", "swin", "mvit")
_TOO_LARGE = ("regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32")  # 640 M parameters; transformers of one kind


def _torchvision() -> list[Entry]:
    from torchvision import models

    entries = []
    for name in models.list_models():
        if name.startswith("quantized_") or name in _TOO_LARGE:
            continue  # the quantized ones are the same networks, made for conversion
        module = models.get_model_builder(name).__module__
        kind = "transformer" if name.startswith(_TRANSFORMERS) else "torchvision"
        entries.append(_torchvision_entry(name, module, kind))
    return entries


def _torchvision_entry(name: str, module: str, kind: str) -> Entry:
    options: dict[str, Any] = {}
    shape: tuple[int, ...] = (3, 96, 96)
    example = training = None
    if "detection" in module:
        sizes = {} if name.startswith("ssd") else {"min_size": 128, "max_size": 160}  # what it resizes pictures to
        options = {"weights_backbone": None, **sizes}
        example = lambda: ([_image(160), _image(200)],)  # noqa: E731
        training = lambda: ([_image(160), _image(160)], [_target(name), _target(name)])  # noqa: E731
    elif "segmentation" in module:
        options = {"weights_backbone": None}
    elif "video" in module:
        shape = (3, 16, 112, 112) if "resnet" in module else (3, 16, 224, 224)
    elif "optical_flow" in module:
        example = training = lambda: (_image(128)[None], _image(128)[None])
    elif name in ("inception_v3", "googlenet"):
        options = {"init_weights": False}
        shape = (3, 299, 299)
    elif name.startswith(("vit", "swin", "maxvit")):
        shape = (3, 224, 224)
    elif name.startswith(("alexnet", "vgg", "squeezenet")):
        shape = (3, 128, 128)

    def build() -> Any:
        from torchvision import models

        return models.get_model(name, weights=None, **options)

    return Entry(f"torchvision:{name}", kind, build, shape, example, training)


def _image(size: int) -> Any:
    import torch

    return torch.rand(3, size, size)


def _target(name: str) -> dict[str, Any]:
    import torch

    target = {"boxes": torch.tensor([[10.0, 12, 90, 100], [40, 30, 140, 150]]), "labels": torch.tensor([1, 1])}
    if name.startswith("maskrcnn"):
        target["masks"] = torch.ones(2, 160, 160, dtype=torch.uint8)
    if name.startswith("keypointrcnn"):
        target["keypoints"] = torch.rand(2, 17, 3) * 60 + 40
        target["keypoints"][:, :, 2] = 1
    return target


def _others() -> list[Entry]:
    def unet(encoder: str, architecture: str = "Unet") -> Callable[[], Any]:
        def build() -> Any:
            import segmentation_models_pytorch as smp

            return getattr(smp, architecture)(encoder, encoder_weights=None)

        return build

    def monai(name: str, **options: Any) -> Callable[[], Any]:
        def build() -> Any:
            import monai.networks.nets as nets

            return getattr(nets, name)(**options)

        return build

    volume = (1, 32, 32, 32)
    three_d = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    strides = {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 2}
    made = {
        "smp:Unet resnet18": (unet("resnet18"), (3, 96, 96)),
        "smp:Unet vgg11_bn": (unet("vgg11_bn"), (3, 96, 96)),
        "smp:Unet mobilenet_v2": (unet("mobilenet_v2"), (3, 96, 96)),
        "smp:UnetPlusPlus resnet18": (unet("resnet18", "UnetPlusPlus"), (3, 96, 96)),
        "smp:FPN resnet18": (unet("resnet18", "FPN"), (3, 96, 96)),
        "smp:Linknet resnet18": (unet("resnet18", "Linknet"), (3, 96, 96)),
        "smp:DeepLabV3Plus resnet18": (unet("resnet18", "DeepLabV3Plus"), (3, 96, 96)),
        "smp:MAnet resnet18": (unet("resnet18", "MAnet"), (3, 96, 96)),
        "monai:UNet 3-d": (monai("UNet", **three_d, **strides), volume),
        "monai:BasicUNet 3-d": (monai("BasicUNet", **three_d, features=(8, 8, 16, 32, 64, 8)), volume),
        "monai:SegResNet 3-d": (monai("SegResNet", **three_d, init_filters=8), volume),
        "monai:DynUNet 3-d": (
            monai(
                "DynUNet",
                **three_d,
                kernel_size=(3, 3, 3),
                strides=(1, 2, 2),
                upsample_kernel_size=(2, 2),
                filters=(8, 16, 32),
                res_block=True,
            ),
            volume,
        ),
        "monai:ResNet-18 3-d": (
            monai(
                "ResNet",
                block="basic",
                layers=(2, 2, 2, 2),
                block_inplanes=(16, 32, 64, 128),
                n_input_channels=1,
                num_classes=2,
            ),
            volume,
        ),
        "monai:DenseNet121 3-d": (monai("DenseNet121", **three_d), (1, 64, 64, 64)),
        "monai:VNet 3-d": (monai("VNet", **three_d), volume),
        "monai:SENet154 3-d": (monai("SENet154", spatial_dims=3, in_channels=1, num_classes=2), volume),
        "monai:HighResNet 3-d": (monai("HighResNet", **three_d), (1, 16, 16, 16)),
    }
    return [Entry(name, "other", build, shape) for name, (build, shape) in made.items()]


def _all() -> dict[str, Entry]:
    families = (("timm", CONVOLUTIONAL), ("hybrid", HYBRID), ("transformer", TRANSFORMER))
    entries = _torchvision()
    entries += [_timm(kind, family, *which) for kind, table in families for family, which in table.items()]
    return {entry.name: entry for entry in entries + _others()}


ENTRIES = _all()
