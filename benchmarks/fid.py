"""FID: images a second and value, ours against torch-fidelity, torchmetrics and pytorch-fid, in one run.

    python benchmarks/fid.py [--pictures 2200] [--peers torch-fidelity,torchmetrics,pytorch-fid] [--data cifar10]

Every contestant looks at the same 8-bit images (test against train of CIFAR-10) with the same network, taken from
our own verified copy of its weights, each in a process of its own with all cores; they take turns, a few hundred
images at a time, so that a machine whose speed wanders treats them alike. The peers are fetched by pip, without their
dependencies, into a folder of their own; torchvision, which they import but do not need here, gets the operators that
its wheels miss on a CPU build of torch. A value of few images is biased; all contestants' biases are the same.

Two of the peers resize in the original's way, as we do; pytorch-fid has another, which we are also asked for by name.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import numpy as np

PACKAGES = (
    "torch-fidelity==0.4.0",
    "torchmetrics==1.9.0",
    "lightning-utilities==0.15.3",
    "pytorch-fid==0.3.0",
    "tqdm",
    "scipy",
)
OURS = ("reverie fp32", "reverie bf16")
PEERS = ("torch-fidelity", "torchmetrics", "pytorch-fid")
TURN = 200  # images
BATCH = 64  # the peers' usual


class Ours:
    def __init__(self, precision: str, resize: str = "tf1-bilinear"):
        from reverie.evaluation.features import backbone

        self.eye = backbone("inception", resize, precision)
        self.parts: dict[bool, list] = {True: [], False: []}

    def feed(self, images: np.ndarray, real: bool) -> None:
        from reverie.evaluation.features import features

        self.parts[real].append(features(images, self.eye, keep=False)[:])

    def value(self) -> float:
        import torch

        from reverie.evaluation.distances import frechet_distance
        from reverie.evaluation.statistics import Moments

        return frechet_distance(*(Moments.of(torch.cat(self.parts[side])) for side in (False, True)))


class TorchFidelity:
    def __init__(self, weights: Path):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights))
        self.parts: dict[bool, list] = {True: [], False: []}

    def feed(self, images: np.ndarray, real: bool) -> None:
        for batch in batches(images):
            self.parts[real].append(self.net(batch)[0])

    def value(self) -> float:
        import torch
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        sides = [fid_features_to_statistics(torch.cat(self.parts[side])) for side in (False, True)]
        return float(fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"])


class TorchMetrics:
    def __init__(self, weights: Path):
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(weights), antialias=False)

    def feed(self, images: np.ndarray, real: bool) -> None:
        for batch in batches(images):
            self.metric.update(batch, real=real)

    def value(self) -> float:
        return float(self.metric.compute())


class PytorchFid:
    def __init__(self, weights: Path):
        import pytorch_fid.inception as theirs
        import torch

        theirs.load_state_dict_from_url = lambda *_, **__: torch.load(weights, weights_only=True)
        self.net = theirs.InceptionV3().eval()
        self.parts: dict[bool, list] = {True: [], False: []}

    def feed(self, images: np.ndarray, real: bool) -> None:
        for batch in batches(images):
            self.parts[real].append(self.net(batch.float() / 255)[0][:, :, 0, 0])

    def value(self) -> float:
        import torch
        from pytorch_fid.fid_score import calculate_frechet_distance

        sides = [torch.cat(self.parts[side]).double().numpy() for side in (False, True)]
        return float(
            calculate_frechet_distance(*(f(s) for s in sides for f in (lambda s: s.mean(0), lambda s: np.cov(s.T))))
        )


def batches(images: np.ndarray):
    import torch

    for low in range(0, len(images), BATCH):
        yield torch.from_numpy(images[low : low + BATCH]).permute(0, 3, 1, 2).contiguous()


def contestant(name: str, weights: Path):
    """One contestant, ready to be fed."""
    if name in PEERS:
        import torch

        library = torch.library.Library("torchvision", "DEF")  # else import torchvision fails on a CPU build
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return {"torch-fidelity": TorchFidelity, "torchmetrics": TorchMetrics, "pytorch-fid": PytorchFid}[name](weights)
    return Ours(name.split()[1], *name.split()[2:])


def work(name: str, address: str, weights: Path) -> None:
    """A contestant's process: (images, real) -> seconds; None -> (value, seconds it took)."""
    import torch

    with Client(address) as line, torch.inference_mode():
        contender = contestant(name, weights)
        line.send("ready")
        while (turn := line.recv()) is not None:
            began = time.perf_counter()
            contender.feed(*turn)
            line.send(time.perf_counter() - began)
        began = time.perf_counter()
        value = contender.value()
        line.send((value, time.perf_counter() - began))


@contextlib.contextmanager
def process(name: str, weights: Path, folder: Path, peers: Path):
    address = str(folder / f"{name.replace(' ', '-')}.socket")
    with Listener(address) as listener:
        path = (
            f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{peers}"
            if name in PEERS
            else os.environ.get("PYTHONPATH", "")
        )
        command = [sys.executable, __file__, "--work", name, address, str(weights)]
        child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"})
        try:
            line: Connection = listener.accept()
            line.recv()
            yield line
        finally:
            child.wait(30)


def fetch_peers(folder: Path) -> None:
    """The peers by pip, without dependencies: nothing of theirs can replace this environment's torch."""
    import torch

    if (folder / "scipy").is_dir():
        return
    minor = int(torch.__version__.split(".")[1])
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, *PACKAGES, f"torchvision==0.{minor + 15}.*"], check=True)


def common_file(path: Path) -> None:
    """Our verified weights in the layout that the peers read; the class logits, which FID has no use for, are zeros."""
    import torch

    from reverie.nets.inception import CONVOLUTIONS
    from reverie.pretrained import weights

    ours, theirs = weights.load("inception"), {}
    for name in CONVOLUTIONS:
        theirs[f"{name}.conv.weight"] = ours[f"{name}.weight"]
        theirs[f"{name}.bn.weight"] = torch.ones_like(ours[f"{name}.beta"])
        theirs[f"{name}.bn.bias"] = ours[f"{name}.beta"]
        theirs[f"{name}.bn.running_mean"] = ours[f"{name}.mean"]
        theirs[f"{name}.bn.running_var"] = ours[f"{name}.var"]
    theirs |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(theirs, path)


def report_peak(rates: dict[str, float]) -> None:
    """Which share of the machine's convolution peak is reached."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from training_step import convolution, peak

    from reverie.evaluation.features import backbone

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        backbone("inception", precision="fp32").net(torch.zeros(1, 3, 299, 299))
    giga = counter.get_total_flops() / 1e9
    for name, dtype in (("reverie fp32", torch.float32), ("reverie bf16", torch.bfloat16)):
        top, reached = peak(convolution, dtype), rates[name] * giga
        print(
            f"{name}: {reached:.0f} GFLOP/s ({giga:.1f} GFLOP a picture), {reached / top:.0%} of the peak of a "
            f"convolution, {top:.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2200, help="a side; more than the 2,048 features")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--data", default="cifar10")
    arguments = parser.parse_args()
    import torch

    import reverie as rv
    from reverie.core.cache import home

    data = rv.data(arguments.data, channels=3)
    sides = {False: data.held_out["x"], True: data.train["x"]}
    sides = {real: np.ascontiguousarray(images[: arguments.pictures]) for real, images in sides.items()}
    peers = home() / "benchmarks" / "fid-peers"
    fetch_peers(peers)
    names = [*OURS, *arguments.peers.split(",")]
    if "pytorch-fid" in names:
        names.append("reverie fp32 bilinear")
    seconds, count, values = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0), {}
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        common = Path(scratch) / "inception.pth"
        common_file(common)
        lines = {name: stack.enter_context(process(name, common, Path(scratch), peers)) for name in names}
        for name in names:  # not timed: the first images pay for memory and plans
            lines[name].send((sides[True][:BATCH], True))
            lines[name].recv()
        turns = [(real, low) for low in range(BATCH, arguments.pictures, TURN) for real in (False, True)]
        for number, (real, low) in enumerate(turns, 1):
            images = sides[real][low : low + TURN]
            for name in names:
                lines[name].send((images, real))
                seconds[name] += lines[name].recv()
                count[name] += len(images)
            print(f"\rturn {number} of {len(turns)}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        took = {}
        for name in names:
            lines[name].send(None)
            values[name], took[name] = lines[name].recv()
    rates = {name: count[name] / seconds[name] for name in names}
    threads = torch.get_num_threads()
    print(
        f"{arguments.data}, {arguments.pictures} test against as many training pictures, "
        f"{threads} threads, torch {torch.__version__}"
    )
    for name in names:
        print(f"{name:24} {rates[name]:7.1f} pictures/s   FID {values[name]:.5f}   distance in {took[name]:.1f} s")
    report_peak(rates)
    exact = values["reverie fp32"]
    print(f"bf16 against fp32: {abs(values['reverie bf16'] / exact - 1):.2e} of the value")
    for name in names:
        if name in PEERS:
            mine = values["reverie fp32 bilinear"] if name == "pytorch-fid" else exact
            print(f"ours (fp32, the same resize) against {name}: {abs(mine / values[name] - 1):.1e} of the value")
    fastest = max(rates[name] for name in names if name in PEERS)
    print(f"fp32 against the fastest peer: {rates['reverie fp32'] / fastest:.2f}")
    print(f"ratio: {rates['reverie bf16'] / fastest:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        main()
