from __future__ import annotations

import pytest
import torch
from monai.networks import nets
from torch import nn
from torch.testing import assert_close
from torchvision_layout import resnet18_2d

from monai_crossd import CrossDConv, to_2d, to_3d, to_crossd
from monai_crossd.layers import CrossDBatchNorm
from monai_crossd.ops import LIFTS

NETWORKS = {
    "UNet": lambda d: nets.UNet(d, 1, 2, (4, 8, 16), (2, 2), num_res_units=2),
    "BasicUNet": lambda d: nets.BasicUNet(d, 1, 2, features=(4, 4, 8, 8, 16, 4)),
    "BasicUNetPlusPlus": lambda d: nets.BasicUNetPlusPlus(d, 1, 2, features=(4, 4, 8, 8, 16, 4)),
    "SegResNet": lambda d: nets.SegResNet(d, 8, 1, 2),
    "SegResNetDS": lambda d: nets.SegResNetDS(d, 8, in_channels=1, out_channels=2),
    "DynUNet": lambda d: nets.DynUNet(d, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16], res_block=True),
    "FlexibleUNet": lambda d: nets.FlexibleUNet(1, 2, "resnet50", spatial_dims=d, decoder_channels=(16, 8, 8, 4, 4)),
    "resnet18": lambda d: nets.resnet18(spatial_dims=d, n_input_channels=1, num_classes=2),
    "resnet50": lambda d: nets.resnet50(spatial_dims=d, n_input_channels=1, num_classes=2),
    "DenseNet121": lambda d: nets.DenseNet121(d, 1, 2),
    "AttentionUnet": lambda d: nets.AttentionUnet(d, 1, 2, (4, 8, 16), (2, 2)),
    "AutoEncoder": lambda d: nets.AutoEncoder(d, 1, 1, (4, 8), (2, 2)),
}


def first(y):
    return y[0] if isinstance(y, list) else y


def trained(net: nn.Module) -> nn.Module:
    """Give a network the statistics and weights that training would: none at their initial values."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return net.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_monai_networks(name):
    """Same output in 2D after conversion; to_3d loads into MONAI's 3D network and agrees; to_2d agrees at rest."""
    torch.manual_seed(0)
    net2d = trained(NETWORKS[name](2))
    images, volumes = torch.rand(2, 1, 64, 64), torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        net = to_crossd(net2d)
        assert_close(first(net(images)), first(net2d(images)), rtol=1e-5, atol=1e-5)
        expected = first(net(volumes))
        plain = to_3d(net)
        assert not any(type(module).__module__.startswith("monai_crossd") for module in plain.modules())
        assert_close(first(plain(volumes)), expected, rtol=1e-5, atol=1e-5)
        built = NETWORKS[name](3).eval()
        built.load_state_dict(plain.state_dict(), strict=True)
        assert_close(first(built(volumes)), expected, rtol=1e-5, atol=1e-5)
        flat = to_2d(net, images)
        flat_again = NETWORKS[name](2).eval()
        flat_again.load_state_dict(flat.state_dict(), strict=True)
        assert_close(first(flat_again(images)), first(net2d(images)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "path", "reason"),
    [
        (lambda: nets.VNet(2, 1, 2), r"in_tr \(InputTransition\)", r"uses `spatial_dims`"),
        (lambda: nets.SwinUNETR(1, 2, spatial_dims=2, feature_size=12), r"attn \(WindowAttention\)", "may be tied"),
        (
            lambda: nets.ViT(1, (32, 32), (16, 16), hidden_size=48, num_heads=4, spatial_dims=2),
            r"patch_embedding \(PatchEmbeddingBlock\)",
            "may be tied",
        ),
        (
            lambda: nets.FlexibleUNet(1, 2, "resnet18", spatial_dims=2),
            r"encoder\.layer2\.0 \(ResNetBlock\)",
            "shortcut_type='B'",
        ),
        (
            lambda: nets.EfficientNetBN("efficientnet-b0", pretrained=False),
            r"_conv_stem_padding \(ConstantPad2d\)",
            "no form of",
        ),
    ],
    ids=["VNet", "SwinUNETR", "ViT", "FlexibleUNet-resnet18", "EfficientNet"],
)
def test_what_cannot_be_converted_is_named(build, path, reason):
    with pytest.raises(ValueError, match=f"(?s)to_crossd cannot convert .*{path}: .*{reason}"):
        to_crossd(build())


@pytest.mark.parametrize("lift", LIFTS)
def test_a_network_that_is_not_monais(lift):
    """torchvision's layout, written out in tests/torchvision_layout.py."""
    torch.manual_seed(0)
    net2d = trained(resnet18_2d(in_channels=3, num_classes=5))
    images = torch.rand(2, 3, 64, 64)
    net = to_crossd(net2d, lift=lift)
    with torch.no_grad():
        assert_close(net(images), net2d(images), rtol=1e-5, atol=1e-5)
        volumes = torch.rand(1, 3, 32, 32, 32)
        assert_close(to_3d(net)(volumes), net(volumes), rtol=1e-5, atol=1e-5)


def test_timm():
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net2d = trained(timm.create_model("resnet18", num_classes=3))
    images = torch.rand(1, 3, 64, 64)
    assert_close(to_crossd(net2d)(images), net2d(images), rtol=1e-5, atol=1e-5)


def test_to_2d_freezes_the_mean_shift():
    torch.manual_seed(0)
    net = CrossDConv(2, 3, 3, padding=1).double().eval()
    nn.init.normal_(net.predictor[3].weight)
    batches = [torch.randn(3, 2, 8, 8).double(), torch.randn(1, 2, 8, 8).double()]
    with torch.no_grad():
        mean = torch.cat([net.predictor(batch) for batch in batches]).mean(dim=0)
        frozen = to_2d(net, batches)
        net.predictor.register_forward_hook(lambda _module, _inputs, s: mean.expand(len(s), 3))
        assert_close(frozen(batches[0]), net(batches[0]))


def test_to_2d_needs_images_that_reach_every_layer():
    net = nn.ModuleDict({"used": CrossDConv(1, 1, 3), "unused": CrossDConv(1, 1, 3)})
    net.forward = net["used"].forward
    with pytest.raises(ValueError, match=r"unused \(CrossDConv\): no image reached it"):
        to_2d(net, torch.rand(1, 1, 8, 8))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.second = self.first
        self.third = nn.Conv2d(2, 2, 3, padding=1)
        self.third.weight = self.first.weight

    def forward(self, x):
        return self.third(self.second(self.first(x)))


def test_tied_modules_and_parameters_stay_tied():
    net2d, x = Tied(), torch.rand(1, 2, 8, 8)
    net = to_crossd(net2d)
    assert net.first is net.second and net.third.weight is net.first.weight
    assert_close(net(x), net2d(x))
    plain = to_3d(net)
    assert plain.first is plain.second and plain.third.weight is plain.first.weight


def test_modes_dtype_and_frozen_weights_survive():
    net2d = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 2, 3), nn.Dropout2d()))
    net2d = net2d.to(torch.bfloat16).train()
    net2d[2].eval()
    net2d[0].weight.requires_grad_(False)
    net = to_crossd(net2d)
    assert [module.training for module in net] == [True, True, False] and net[2][1].training is False
    assert {parameter.dtype for parameter in net.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in [net[0].weight, *net[0].predictor.parameters()])
    assert net[2][0].weight.requires_grad and net[0].bias.requires_grad
    assert isinstance(net2d[0], nn.Conv2d), "the given network is left as it is"
    plain = to_3d(net)
    assert plain[0].weight.requires_grad is False and plain[2].training is False


def test_converting_twice_changes_nothing():
    net = to_crossd(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), lift="aligned")
    again = to_crossd(net)
    assert again[0].lift == "aligned" and isinstance(again[1], CrossDBatchNorm)
    assert_close(dict(again.state_dict()), dict(net.state_dict()))


def test_the_network_itself_may_be_one_module():
    assert isinstance(to_crossd(nn.Conv2d(1, 2, 3)), CrossDConv)


class OwnConv(nn.Conv2d):
    pass


def hooked():
    conv = nn.Conv2d(1, 1, 3)
    conv.register_forward_hook(lambda *_: None)
    return conv


REFUSED = [
    (lambda: nn.Conv2d(1, 1, (3, 5)), r"`kernel_size` must be square"),
    (lambda: nn.Conv1d(1, 1, 3), "no form of Conv1d for images and volumes"),
    (lambda: nn.PixelShuffle(2), "no form of PixelShuffle"),
    (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), "mode 'bicubic' has no form for volumes"),
    (lambda: nn.Upsample(size=(8, 8)), r"`size`=\(8, 8\) is a size of images; give `scale_factor`"),
    (lambda: nn.MaxPool2d(2, return_indices=True), "`return_indices` has no form"),
    (lambda: nn.AdaptiveMaxPool2d(2, return_indices=True), "`return_indices` has no form"),
    (lambda: nn.AvgPool2d(2, divisor_override=3), "`divisor_override` has no form"),
    (lambda: nn.AvgPool2d((2, 3)), r"`kernel_size`=\(2, 3\) differs between axes"),
    (lambda: OwnConv(1, 1, 3), "a subclass of Conv2d with behavior of its own"),
    (hooked, "its hooks would be lost"),
    (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 3)), "its parametrization would be lost"),
    (lambda: torch.jit.script(nn.ReLU()), "it is TorchScript"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refused_modules(build, message):
    with pytest.raises(ValueError, match=rf"part\.0 \(\w+\): .*{message}"):
        to_crossd(nn.ModuleDict({"part": nn.Sequential(build())}))


def test_all_obstacles_stand_in_one_error_and_nothing_changes():
    net2d = nn.Sequential(nn.Conv2d(1, 1, 3), nn.PixelShuffle(2), nn.LPPool2d(2, 2))
    with pytest.raises(ValueError, match=r"(?s)2 module\(s\) of Sequential.*1 \(PixelShuffle\).*2 \(LPPool2d\)"):
        to_crossd(net2d)
    assert isinstance(net2d[0], nn.Conv2d)


def test_unknown_lift():
    with pytest.raises(ValueError, match=r"`lift` must be one of 'published', 'aligned', 'inflated', got 'up'"):
        to_crossd(nn.Conv2d(1, 1, 3), lift="up")


def test_to_3d_names_unequal_pairs():
    with pytest.raises(ValueError, match=r"(?s)to_3d cannot convert .*`stride` must be the same on both axes"):
        to_3d(nn.Sequential(CrossDConv(1, 1, 3, stride=(1, 2))))
