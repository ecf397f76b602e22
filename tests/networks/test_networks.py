from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import DynUNet, FlexibleUNet
from torch.testing import assert_close
from torchvision_layout import resnet18_2d

import monai_crossd
from monai_crossd import CrossDResNet, CrossDUNet, crossd_resnet18, load_checkpoint, to_3d, to_crossd
from monai_crossd.layers import CrossDConv
from monai_crossd.networks import CrossDResNetEncoder


@pytest.mark.parametrize("name", ["crossd_resnet10", "crossd_resnet18", "crossd_resnet34", "crossd_resnet50"])
def test_resnets_classify_images_and_volumes(name):
    torch.manual_seed(0)
    net = getattr(monai_crossd, name)(in_channels=1, num_classes=3).eval()
    volume = torch.rand(2, 1, 24, 24, 24)
    with torch.no_grad():
        assert net(torch.rand(2, 1, 40, 40)).shape == (2, 3)
        assert_close(to_3d(net)(volume), net(volume))


def test_torchvision_weights_give_torchvision_outputs():
    torch.manual_seed(0)
    plain, net = resnet18_2d(3, 5).eval(), crossd_resnet18(in_channels=3, num_classes=5).eval()
    report = load_checkpoint(net, plain.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert report.complete and report.source == "2d"
    assert_close(net(x), plain(x), rtol=1e-5, atol=1e-5)


def test_resnet_without_head_gives_features():
    net = CrossDResNet("basic", (1, 1, 1, 1), in_channels=1, feed_forward=False, block_inplanes=(4, 8, 8, 16)).eval()
    assert net(torch.rand(1, 1, 32, 32)).shape == (1, 16)


@pytest.mark.parametrize("backbone", CrossDResNetEncoder.get_encoder_names())
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_flexible_unet_takes_the_backbones(backbone, spatial_dims):
    net = FlexibleUNet(1, 2, backbone, spatial_dims=spatial_dims, decoder_channels=(16, 8, 8, 4, 4)).eval()
    x = torch.rand(1, 1, *(32,) * spatial_dims)
    with torch.no_grad():
        assert net(x).shape == (1, 2, *x.shape[2:])


def test_flexible_unet_converts_with_a_crossd_backbone():
    net2d = FlexibleUNet(1, 2, "crossd_resnet10", spatial_dims=2).eval()
    net, image = to_crossd(net2d), torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert_close(net(image), net2d(image), rtol=1e-5, atol=1e-5)
        assert net(torch.rand(1, 1, 32, 32, 32)).shape == (1, 2, 32, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "resnet18"}, r"`model_name` must be one of crossd_resnet10, .*, got 'resnet18'"),
        ({"model_name": "crossd_resnet18", "pretrained": True}, "`pretrained` must be False; load weights with"),
        ({"model_name": "crossd_resnet18", "spatial_dims": 1}, "`spatial_dims` must be 2 or 3, got 1"),
    ],
)
def test_refused_encoder_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossDResNetEncoder(**arguments)


def test_unet_is_a_dynunet_in_3d():
    torch.manual_seed(0)
    net = CrossDUNet(1, 3, filters=(4, 8, 16)).eval()
    same = DynUNet(3, 1, 3, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 16], res_block=True).eval()
    same.load_state_dict(to_3d(net).state_dict(), strict=True)
    x = torch.randn(1, 1, 16, 16, 16)
    assert_close(same(x), net(x), rtol=1e-5, atol=1e-5)
    assert net(torch.randn(1, 1, 16, 16)).shape == (1, 3, 16, 16)
    assert_close(torch.jit.script(net)(x), net(x))


def test_unet_trains_every_depth_slice_on_volumes():
    net = CrossDUNet(1, 2, filters=(4, 8, 16))
    net(torch.randn(1, 1, 16, 16, 16)).square().mean().backward()
    grads = [m.weight.grad for m in net.modules() if isinstance(m, CrossDConv) and m.kernel_size[0] == 3]
    assert all((grad.abs().sum(dim=(0, 1, 3, 4)) > 0).all() for grad in grads)


def test_networks_build_from_a_config():
    parser = ConfigParser(
        {
            "imports": ["$import monai_crossd"],
            "net": {"_target_": "monai_crossd.CrossDUNet", "in_channels": 1, "out_channels": 2, "filters": [4, 8, 16]},
            "nested": {
                "_target_": "monai_crossd.to_crossd",
                "net2d": {
                    "_target_": "UNet",
                    "spatial_dims": 2,
                    "in_channels": 1,
                    "out_channels": 2,
                    "channels": [4, 8],
                    "strides": [2],
                },
            },
        }
    )
    for key in ("net", "nested"):
        assert parser.get_parsed_content(key)(torch.rand(1, 1, 16, 16, 16)).shape == (1, 2, 16, 16, 16)
