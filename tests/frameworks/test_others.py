"""Networks of libraries that come with SE of their own, or with blocks of their own to put it into."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import senet
from tests.frameworks.staying import OPEN, assert_same, not_doubled, opened, outputs, works


def need(name):
    return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class TestPytorchcv:
    def test_se_that_is_there(self, x, row):
        row("pytorchcv", "seresnet20_cifar10: its own SE, none put behind it", 9)
        provider = need("pytorchcv.model_provider")
        not_doubled(provider.get_model("seresnet20_cifar10"), x[..., :32, :32], 9)

    def test_the_network(self, x, tmp_path, row):
        row("pytorchcv", "resnet20_cifar10: insert, train, save", 9)
        provider = need("pytorchcv.model_provider")
        works(provider.get_model("resnet20_cifar10"), x[..., :32, :32], 9, tmp_path)


def test_efficientnet_pytorch(x, row):
    row("efficientnet_pytorch", "efficientnet-b0: its own SE, inline, none put behind it", 16)
    not_doubled(need("efficientnet_pytorch").EfficientNet.from_name("efficientnet-b0"), x, 16)


class TestGeffnet:
    @pytest.mark.parametrize(("name", "count", "left"), [("efficientnet_b0", 16, 0), ("mobilenetv3_small_075", 9, 1)])
    def test_se_that_is_there(self, name, count, left, x, row):
        row("geffnet", f"{name}: its own SE, none put behind it", count)
        not_doubled(need("geffnet").create_model(name), x, count, left)

    def test_the_network(self, x, tmp_path, row):
        row("geffnet", "mobilenetv2_100: insert, train, save", 10)
        works(need("geffnet").create_model("mobilenetv2_100"), x, 10, tmp_path)


KINDS = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}}
NOISE = {"sample": torch.randn(1, 3, 16, 16), "timestep": torch.tensor(3)}


class TestNnunet:
    def unet(self):
        unets = need("dynamic_network_architectures.architectures.unet")
        return unets.ResidualEncoderUNet(
            1, 3, (8, 16, 32), kernel_sizes=3, strides=(1, 2, 2), n_blocks_per_stage=(1, 2, 2), num_classes=2,
            n_conv_per_stage_decoder=1, nonlin=nn.LeakyReLU, conv_bias=True, **KINDS,
        )  # fmt: skip

    def test_se_that_is_there(self, row):
        row("dynamic-network-architectures", "ResidualEncoder, 3-d: its own SE, none put behind it", 5)
        encoders = need("dynamic_network_architectures.building_blocks.residual_encoders")
        net = encoders.ResidualEncoder(
            1, 3, (8, 16, 32), kernel_sizes=3, strides=(1, 2, 2), n_blocks_per_stage=(1, 2, 2), nonlin=nn.LeakyReLU,
            conv_bias=True, return_skips=True, squeeze_excitation=True, **KINDS,
        )  # fmt: skip
        not_doubled(net, torch.randn(1, 1, 16, 12, 8), 5)

    def test_the_network(self, tmp_path, row):
        row("dynamic-network-architectures", "ResidualEncoderUNet, 3-d: insert, train, save", 5)
        works(self.unet(), torch.randn(1, 1, 16, 16, 16), 5, tmp_path)


class TestSpeechbrain:
    def test_ecapa_has_se_already(self, row):
        models = need("speechbrain.lobes.models.ECAPA_TDNN")
        row("speechbrain", "ECAPA-TDNN: its own SE, none put behind it", 3)
        net = models.ECAPA_TDNN(
            20, lin_neurons=16, channels=[32, 32, 32, 32, 96], attention_channels=16, res2net_scale=4, se_channels=8
        )
        not_doubled(net, torch.randn(2, 40, 20), 3)
        not_doubled(net, (torch.randn(2, 40, 20), torch.tensor([1.0, 0.5])), 3)

    def test_the_network(self, tmp_path, row):
        models = need("speechbrain.lobes.models.ResNet")
        row("speechbrain", "ResNet: SE in its first two stages; insert into the others, train, save", 4)
        net = models.ResNet(20, channels=[8, 8, 16, 16], block_sizes=[1] * 4, strides=[1, 2, 2, 2], lin_neurons=8)
        not_doubled(net, torch.randn(2, 40, 20), 2, left=2)
        works(net, torch.randn(2, 40, 20), 2, tmp_path)

    def test_its_checkpointer(self, tmp_path, row):
        checkpoints = need("speechbrain.utils.checkpoints")
        models = need("speechbrain.lobes.models.ResNet")
        row("speechbrain", "ResNet: `Checkpointer`, saved and recovered", 4)
        x = torch.randn(2, 40, 20)

        def make(seed):
            torch.manual_seed(seed)
            net = models.ResNet(20, channels=[8, 8, 16, 16], block_sizes=[1] * 4, strides=[1, 2, 2, 2], lin_neurons=8)
            return opened(net, x, count=2)

        net, other = make(0), make(1)
        checkpoints.Checkpointer(tmp_path, recoverables={"net": net}).save_checkpoint()
        checkpoints.Checkpointer(tmp_path, recoverables={"net": other}).recover_if_possible()
        assert_same(outputs(other, x), outputs(net, x), outputs(senet.remove(net), x))


class TestDiffusers:
    def unet(self):
        torch.manual_seed(0)
        return need("diffusers").UNet2DModel(
            sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ).eval()  # fmt: skip

    def test_the_network(self, tmp_path, row):
        row("diffusers", "UNet2DModel: insert, train, save", 8)
        works(self.unet(), NOISE, 8, tmp_path)

    def test_ema_and_save_pretrained(self, tmp_path, row):
        row("diffusers", "UNet2DModel: `EMAModel`; `save_pretrained`, `load_state_dict`", 8)
        training = need("diffusers.training_utils")
        net = opened(self.unet(), NOISE, count=8)
        expected, plain = outputs(net, NOISE), outputs(senet.remove(net), NOISE)
        ema = training.EMAModel(net.parameters(), decay=0.9)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.1)
        ema.copy_to(net.parameters())
        assert_same(outputs(net, NOISE), expected, plain)
        net.save_pretrained(tmp_path)
        with pytest.warns(senet.SEWarning, match="built without, as .*conv2.se. It is lost"):
            assert not senet.blocks(type(net).from_pretrained(tmp_path))
        again = senet.insert(self.unet(), NOISE, OPEN)
        again.load_state_dict(load_file(tmp_path / "diffusion_pytorch_model.safetensors"))
        assert_same(outputs(again, NOISE), expected, plain)
