"""The layer on fused kernels against the plain layer in float64: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import copy

import pytest
import torch
from fused import DEVICE, layer, needs_kernels
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from monai_crossd.ops.fused.layer import autocast

pytestmark = [
    pytest.mark.usefixtures("ieee"),
    needs_kernels,
]


def results(conv, x, dy, call=None):
    x = x.detach().requires_grad_()
    y = (call or conv)(x)
    y.backward(dy.to(y.dtype))
    return [y, x.grad, *(p.grad for p in conv.parameters()), *conv.predictor[1].buffers()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_agrees_with_the_plain_layer(training, padding_mode, channels_last):
    conv = layer(padding=1, stride=2, padding_mode=padding_mode).train(training)
    x = torch.randn(3, 4, 7, 9, device=DEVICE)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    dy = torch.randn(3, 17, 4, 5, device=DEVICE)
    expected = results(copy.deepcopy(conv).double(), x.double(), dy)  # float64 has no fused kernels
    actual = results(conv, x, dy)
    if padding_mode == "zeros":  # torch's reflection does not keep channels_last on a GPU
        assert actual[0].is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for one, exact in zip(actual, expected, strict=True):
        assert (one.double() - exact).norm() <= 1e-5 * exact.double().norm() + 1e-6


@pytest.mark.usefixtures("products_of_bfloat16")
@pytest.mark.parametrize("channels, side", [(64, 14), (256, 14), (512, 7)])
@pytest.mark.parametrize("precision, tolerance", [("ieee", 1e-5), ("tf32", 2e-3), ("bf16", 2e-2)])
def test_layers_of_a_network(channels, side, precision, tolerance, monkeypatch):
    if DEVICE == "cpu" and channels > 64:
        pytest.skip("the interpreter would take a minute")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision == "tf32")
    conv = layer(channels, channels, padding=1)
    nn.init.normal_(conv.predictor[3].weight, std=0.5)
    x = torch.relu(torch.randn(2, channels, side, side, device=DEVICE)).bfloat16()
    dy = torch.randn(2, channels, side, side, device=DEVICE).bfloat16()
    expected = results(copy.deepcopy(conv).double(), x.double(), dy)
    images = x if precision == "bf16" else x.float()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
        actual = results(conv, images, dy)
    names = ["y", "dx", *(name for name, _ in conv.named_parameters())]
    for name, one, exact in zip(names, actual, expected, strict=False):
        if name != "predictor.0.bias":  # statistics of the batch leave nothing of it
            bound = 2 * tolerance if name.startswith("predictor") else tolerance  # torch's own come to 1.9e-2 in bf16
            assert (one.double() - exact).norm() <= bound * exact.norm(), name


def test_higher_derivatives_fall_back_on_plain_operators():
    conv = layer(padding=1)
    x = torch.randn(2, 4, 6, 6, device=DEVICE)

    def penalty(conv, x):
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [x, conv.weight, conv.predictor[0].weight])

    expected = penalty(copy.deepcopy(conv).double(), x.double())
    for one, exact in zip(penalty(conv, x), expected, strict=True):
        assert (one.double() - exact).norm() <= 1e-4 * exact.norm()


def test_cumulative_average_and_batch_count():
    conv = layer()
    conv.predictor[1].momentum = None
    x = torch.randn(2, 4, 6, 6, device=DEVICE)
    plain = copy.deepcopy(conv).double()
    for step in range(2):
        conv(x + step), plain(x.double() + step)
    for one, exact in zip(conv.predictor[1].buffers(), plain.predictor[1].buffers(), strict=True):
        assert (one.double() - exact).norm() <= 1e-5 * exact.double().norm()


def test_synchronized_statistics_keep_the_plain_path():
    conv = nn.SyncBatchNorm.convert_sync_batchnorm(layer()).eval()
    assert conv(torch.randn(2, 4, 6, 6, device=DEVICE)).shape == (2, 17, 4, 4)


def replica(module):
    """As ``nn.DataParallel`` makes it: parameters are attributes that autograd made."""
    copied = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        if parameter is None:
            copied._parameters[name] = None
        else:
            setattr(copied, name, parameter.clone())
    for name, child in module._modules.items():
        copied._modules[name] = replica(child)
    return copied


def replaced(conv):
    for module in (conv.predictor[0], conv.predictor[1]):
        module.weight = nn.Parameter(module.weight.detach() * 2)
    return conv


def parametrized(conv):
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    for module in (conv.predictor[0], conv.predictor[1], conv.predictor[3]):
        nn.utils.parametrize.register_parametrization(module, "weight", Double())
    return conv


def called(conv):
    """A layer that is called with other parameters and statistics than its own."""
    state = {name: 1.5 * tensor for name, tensor in conv.state_dict().items() if tensor.is_floating_point()}
    return lambda x: torch.func.functional_call(conv, state, (x,))


def loaded(conv):
    conv.load_state_dict({name: 1.5 * tensor for name, tensor in conv.state_dict().items()})
    return conv


def moved(conv):
    """Parameters that stay the same objects on other memory, not contiguous."""
    for module in (conv.predictor[0], conv.predictor[3]):
        module.weight.data = module.weight.data.mT.contiguous().mT.flip(1)
    return conv


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", [replica, replaced, parametrized, called, loaded, moved])
def test_parameters_are_those_of_the_call(change, training):
    conv = layer(padding=1).train(training)
    x, dy = torch.randn(2, 4, 6, 6, device=DEVICE), torch.randn(2, 17, 6, 6, device=DEVICE)
    for _ in range(2):  # recorded, then repeated
        results(conv, x, dy)
    conv.zero_grad()
    found = []
    for one, images in ((copy.deepcopy(conv).double(), x.double()), (conv, x.clone())):
        y = change(one)(images.requires_grad_())
        y.backward(dy.to(y.dtype))
        found.append([y, images.grad, *(p.grad for p in one.parameters() if p.grad is not None), *one.buffers()])
    for exact, actual in zip(*found, strict=True):
        assert (actual.double() - exact).norm() <= 1e-5 * exact.double().norm() + 1e-5


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_that_is_cast_is_recorded_anew(training):
    from monai_crossd.ops.fused.launches import replay

    replay.forget()
    conv = layer(padding=1).train(training)
    x, dy = torch.randn(2, 4, 6, 6, device=DEVICE), torch.randn(2, 17, 6, 6, device=DEVICE)
    for _ in range(2):
        results(conv, x, dy)
    conv.zero_grad()
    conv.half()
    expected = results(copy.deepcopy(conv).double(), x.double(), dy)
    for one, exact in zip(results(conv, x.half(), dy), expected, strict=True):
        assert one.dtype in (torch.float16, torch.int64)
        assert (one.double() - exact).norm() <= 5e-2 * exact.double().norm() + 1e-2
    assert len(replay._plans) == 4 and None not in replay._plans.values()  # forward and backward, all can be repeated


@pytest.mark.parametrize("size", [6, 2])  # by kernels, by columns
@pytest.mark.parametrize("training", [True, False])
def test_without_gradients_all_is_the_same(training, size):
    conv = layer(padding=1).train(training)
    x = torch.randn(2, 4, size, size, device=DEVICE)
    for _ in range(2):
        before = copy.deepcopy(conv)
        y = conv(x)
        for mode in (torch.no_grad, torch.inference_mode):
            same = copy.deepcopy(before)
            with mode():
                other = same(x)
            assert not other.requires_grad and other.stride() == y.stride()
            assert torch.equal(other, y)
            for one, expected in zip(same.buffers(), conv.buffers(), strict=True):
                assert torch.equal(one, expected)


@pytest.mark.parametrize("reentrant", [True, False])
def test_takes_checkpointing(reentrant):
    conv = layer(padding=1)
    conv.predictor[1].momentum = 0.0  # a checkpoint runs forward twice
    x, dy = torch.randn(2, 4, 6, 6, device=DEVICE), torch.randn(2, 17, 6, 6, device=DEVICE)
    *expected, _ = results(copy.deepcopy(conv), x, dy)
    *actual, _ = results(conv, x, dy, lambda x: checkpoint(conv, x, use_reentrant=reentrant))
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


class Casts(TorchDispatchMode):
    """Counts casts of images by torch."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.aten._to_copy and args[0].dim() == 4
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [6, 2])  # by kernels, by columns
@pytest.mark.parametrize("channels", [4, 17, 40])  # by planes, hidden values computed anew and kept
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_casts_images_alone(dtype, channels_last, training, channels, size, monkeypatch):
    if DEVICE == "cpu" and dtype == torch.bfloat16 and channels_last:
        pytest.skip("the interpreter rounds to bfloat16 otherwise than torch")
    nothing = torch.tensor(float("nan"), dtype=dtype, device=DEVICE)
    monkeypatch.setattr(autocast, "_without_values", lambda x, dtype: torch.empty_like(x, dtype=dtype).copy_(nothing))
    conv = layer(channels, padding=1).train(training)
    x, dy = torch.randn(2, channels, size, size, device=DEVICE), torch.randn(2, 17, size, size, device=DEVICE)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    for _ in range(2):  # recorded, then repeated
        expected = results(copy.deepcopy(conv), x.to(dtype), dy)
        with torch.autocast(DEVICE, dtype):
            actual = results(copy.deepcopy(conv), x, dy)
            for grad in (False, True):
                with torch.set_grad_enabled(grad), Casts() as casts:
                    y = copy.deepcopy(conv)(x.detach().requires_grad_(grad))
                assert casts.count == (not channels_last or channels == 4)  # else the predictor's kernel does it
        assert actual[0].dtype == dtype and actual[1].dtype == torch.float32
        assert actual[0].stride() == expected[0].stride()
        assert torch.equal(y, expected[0])
        for one, other in zip(actual, expected, strict=True):
            assert torch.equal(one, other.to(one.dtype))


def test_higher_derivatives_under_autocast():
    conv = layer(padding=1).eval()
    x = torch.randn(2, 4, 6, 6, device=DEVICE).half().float().contiguous(memory_format=torch.channels_last)

    def penalty(conv, x, **autocast):
        x = x.detach().requires_grad_()
        with torch.autocast(DEVICE, **autocast):
            (grad,) = torch.autograd.grad(100 * conv(x).float().mean(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), [x, conv.weight, conv.predictor[0].weight])

    expected = penalty(copy.deepcopy(conv).double(), x.double(), enabled=False)
    for one, exact in zip(penalty(conv, x, dtype=torch.float16), expected, strict=True):
        assert exact.any() and (one.double() - exact).norm() <= 1e-1 * exact.norm()


@pytest.mark.parametrize("training", [True, False])
def test_no_images(training):
    conv = layer(padding=1).train(training)
    before = copy.deepcopy(conv.predictor[1])
    y, dx, *others = results(conv, torch.empty(0, 4, 9, 9, device=DEVICE), torch.empty(0, 17, 9, 9, device=DEVICE))
    assert y.shape == (0, 17, 9, 9) and dx.shape == (0, 4, 9, 9)
    assert not any(grad.any() for grad in others[:-3])
    assert torch.equal(conv.predictor[1].running_mean, before.running_mean)
    assert torch.equal(conv.predictor[1].running_var, before.running_var)


def test_images_without_pixels_are_refused_as_by_torch():
    with pytest.raises(RuntimeError, match="size"):
        layer(padding=2)(torch.empty(2, 4, 0, 3, device=DEVICE))


def test_takes_what_outlived_a_transform():
    kept, x, conv = [], torch.randn(2, 4, 8, 8, device=DEVICE), layer(padding=1)
    torch.func.grad(lambda t: (kept.append(t), t.sum())[1])(x)
    torch.testing.assert_close(conv(kept[0]), conv(x))


def test_forward_derivatives_and_vmap_are_refused():
    conv, x = layer(padding=1), torch.randn(2, 4, 6, 6, device=DEVICE)
    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="jvp"):
            conv(torch.autograd.forward_ad.make_dual(x, x))
        with mode(), pytest.raises(RuntimeError, match="setup_context"):
            torch.vmap(conv)(x[None])
        with mode(), torch.autocast(DEVICE, torch.bfloat16), pytest.raises(RuntimeError, match="setup_context"):
            torch.vmap(conv)(x.contiguous(memory_format=torch.channels_last)[None])
