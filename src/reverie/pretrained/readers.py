"""Readers of the published files of pretrained networks: bytes to tensors by name."""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as from_bytes
from torch import Tensor

from reverie.core.fetching import unpack
from reverie.nets import inception, resnet
from reverie.nets.vgg import CONVOLUTIONS

Weights = dict[str, Tensor]

VGG_CONVOLUTIONS = {
    depth: [f"conv{block}_{i}" for block, count in enumerate(counts, 1) for i in range(1, count + 1)]
    for depth, counts in CONVOLUTIONS.items()
}

_ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # in any version of NumPy
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it needs {module}.{name}; only arrays are read")
        return _ARRAYS[module, name]


def read_torch(data: bytes) -> Weights:
    """A state dict written by torch.save, on the CPU; runs no code of the file."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def read_arrays(data: bytes) -> dict[str, Any]:
    """A pickle of nested dicts of NumPy arrays. Raises UnpicklingError for any other class."""
    return _ArraysOnly(io.BytesIO(data)).load()


def read_vgg_torch(data: bytes) -> Weights:
    """The convolutions of torchvision's VGG-16 or VGG-19: features.N.weight; N counts rectifiers and pools, too."""
    features = {key: tensor for key, tensor in read_torch(data).items() if key.startswith("features.")}
    numbers = sorted({int(key.split(".")[1]) for key in features})
    return {
        f"{name}.{part}": features[f"features.{number}.{part}"]
        for number, name in zip(numbers, VGG_CONVOLUTIONS[len(numbers) + 3], strict=True)
        for part in ("weight", "bias")
    }


def read_vgg_flax(data: bytes) -> Weights:
    """The convolutions of a pickled flax VGG-16: Conv_N of kernel (H, W, I, O) and bias."""
    layers = read_arrays(data)["VGG16_0"]
    weights = {}
    for number, name in enumerate(VGG_CONVOLUTIONS[16]):
        layer = layers[f"Conv_{number}"]
        weights[f"{name}.weight"] = torch.from_numpy(layer["kernel"]).permute(3, 2, 0, 1)  # (O, I, H, W)
        weights[f"{name}.bias"] = torch.from_numpy(layer["bias"])
    return weights


def read_heads(data: bytes) -> Weights:
    """LPIPS' linear heads, linN.model.1.weight (1, C, 1, 1), as linN (C,)."""
    return {key.partition(".")[0]: tensor.flatten() for key, tensor in read_torch(data).items()}


def read_inception_torch(data: bytes) -> Weights:
    """The convolutions of FID's Inception in pytorch-fid: NAME.conv.weight, NAME.bn.bias ..., without scales."""
    state = read_torch(data)
    parts = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
    return {
        f"{name}.{ours}": state[f"{name}.{theirs}"] for name in inception.CONVOLUTIONS for ours, theirs in parts.items()
    }


def read_inception_script(data: bytes) -> Weights:
    """The same from a TorchScript archive with the names and the order of the TensorFlow graph."""
    state = torch.jit.load(io.BytesIO(data), map_location="cpu").state_dict()
    theirs = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    return {
        f"{name}.{part}": state[f"{their}.{part}"]
        for name, their in zip(inception.CONVOLUTIONS, theirs, strict=True)
        for part in ("weight", "beta", "mean", "var")
    }


def read_inception_logits(data: bytes) -> Weights:
    """The last layer (1008, 2048); the published Inception Score omits its bias."""
    return {"weight": read_torch(data)["fc.weight"]}


def read_efficientnet_lite(data: bytes) -> Weights:
    """EfficientNet-Lite0 of efficientnet_lite_pytorch, by the names of MobileNetV2's layers."""
    ends = {"_conv_stem": "0.0", "_bn0": "0.1", "_conv_head": "17.0", "_bn1": "17.1"}
    names = {theirs: f"features.{ours}" for theirs, ours in ends.items()} | {"_fc": "classifier.1"}
    parts = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    for index in range(16):
        ours, theirs = ("0.0 0.1 1.0 1.1 2 3", parts) if index else ("0.0 0.1 1 2", parts[2:])
        names |= {
            f"_blocks.{index}.{b}": f"features.{index + 1}.conv.{a}" for a, b in zip(ours.split(), theirs, strict=True)
        }
    weights = {}
    for key, tensor in read_torch(data).items():
        layer, _, part = key.rpartition(".")
        weights[f"{names[layer]}.{part}"] = tensor
    return weights


def read_resnet_tfjs(data: bytes) -> Weights:
    """Keras' ResNet-50 in TensorFlow.js' format from an npm archive; normalisation folded, BGR to RGB."""
    arrays = _tfjs(unpack(data), "ResNet50/model.json")
    convolutions = {"conv1": ("conv1", "bn_conv1")}
    for stage, count in enumerate(resnet.BLOCKS, 1):
        for index in range(count):
            at = f"{stage + 1}{'abcdef'[index]}_branch"
            for part, letter in {"conv1": "2a", "conv2": "2b", "conv3": "2c", "downsample": "1"}.items():
                if index == 0 or part != "downsample":
                    convolutions[f"layer{stage}.{index}.{part}"] = f"res{at}{letter}", f"bn{at}{letter}"
    weights = {"fc.weight": arrays["fc1000/kernel"].T, "fc.bias": arrays["fc1000/bias"]}
    for name, (conv, norm) in convolutions.items():
        gamma, beta, mean, var = (
            arrays[f"{norm}/{part}"].double() for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / (var + 1e-3).sqrt()
        kernel = arrays[f"{conv}/kernel"].double().permute(3, 2, 0, 1)  # (O, I, H, W)
        kernel = kernel.flip(1) if name == "conv1" else kernel
        weights[f"{name}.weight"] = (kernel * scale[:, None, None, None]).float()
        weights[f"{name}.bias"] = ((arrays[f"{conv}/bias"].double() - mean) * scale + beta).float()
    return weights


def _tfjs(files: Mapping[str, bytes], model: str) -> Weights:
    """The float32 arrays of a TensorFlow.js model by name; its shards lie beside its JSON."""
    (path,) = (path for path in files if path.endswith(model))
    weights = {}
    for group in json.loads(files[path])["weightsManifest"]:
        shards = b"".join(files[str(PurePosixPath(path).parent / shard)] for shard in group["paths"])
        values, start = torch.frombuffer(bytearray(shards), dtype=torch.float32), 0
        for entry in group["weights"]:
            stop = start + math.prod(entry["shape"])
            weights[entry["name"]] = values[start:stop].view(entry["shape"])
            start = stop
    return weights


def read_bert(data: bytes) -> Weights:
    """The token encoder of a BERT, without the pooler and the position indices."""
    omitted = ("pooler.", "embeddings.position_ids")
    return {key: tensor for key, tensor in from_bytes(data).items() if not key.startswith(omitted)}


def read_words(data: bytes) -> Weights:
    """A vocabulary, one word per line, as its bytes; see ``words_in``."""
    return {"words": torch.frombuffer(bytearray(data), dtype=torch.uint8)}


def words_in(weights: Weights) -> list[str]:
    """The words of a vocabulary from ``read_words``, in order."""
    return bytes(weights["words"].tolist()).decode().removesuffix("\n").split("\n")
