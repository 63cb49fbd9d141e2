"""Tiny models of every kind, registered and toys, and batches for them: what the engine's tests have in common."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.layout import to_device_layout
from reverie.core.noise import Noise, fold
from reverie.core.precision import Precision
from reverie.optim.phase import Phase, Stage
from reverie.training.step import Engine
from toys.canvas import Fresco
from toys.flow import RealNVP
from toys.rbm import RBMStack
from toys.tokens import TokenPrior
from toys.voxels import VoxelGAN
from toys.wide import WideVAE

FP32 = Precision(torch.device("cpu"), False, "tests")
BF16 = Precision(torch.device("cpu"), True, "tests")


# Data


class Batches:
    """What the engine asks of data: global batches by step, streams by name. Columns are tensors or lists of N."""

    def __init__(self, columns: dict[str, Any], batch_size: int, seed: int = 0, rank: int = 0, ranks: int = 1):
        self.columns, self.batch_size, self.seed = columns, batch_size, seed
        self.rows = batch_size // ranks
        self.start = rank * self.rows

    def __call__(self, step: int) -> Batch:
        return self.some(step * self.batch_size + self.start, step, self.start, self.rows)

    def global_batch(self, step: int) -> Batch:
        return self.some(step * self.batch_size, step, 0, self.batch_size)

    def in_order(self, rows: int) -> Iterator[Batch]:
        yield self.some(0, 0, 0, len(next(iter(self.columns.values()))))

    def some(self, first: int, step: int, start: int, rows: int) -> Batch:
        def cut(column: Any) -> Any:
            index = [(first + i) % len(column) for i in range(rows)]
            return column[torch.tensor(index)] if isinstance(column, Tensor) else [column[i] for i in index]

        rng = Noise.of_step(fold(self.seed, step, "forward"), start, rows)
        return Batch({k: cut(v) for k, v in self.columns.items()}, rng, row=torch.arange(start, start + rows))

    def stream(self, step: int, name: str) -> Noise:
        return Noise.of_step(fold(self.seed, step, name), self.start, self.rows)


def images(*shape: int, rows: int = 48) -> dict[str, Any]:
    """Lying and standing bars with grey values, of any shape (C, *sides), and columns of every kind."""
    rng = torch.Generator().manual_seed(1)
    label = torch.randint(0, 2, (rows,), generator=rng)
    x = torch.full((rows, *shape), -1.0) + 0.2 * torch.rand(rows, *shape, generator=rng)
    for image, stands in zip(x, label.tolist(), strict=True):
        axis = image.ndim - 1 - stands
        at = int(torch.randint(0, image.shape[axis], (), generator=rng))
        image.select(axis, at).copy_(torch.rand(image.select(axis, at).shape, generator=rng))
    text = ["a bar that stands" if stands else "a bar that lies" for stands in label.tolist()]
    return {"x": x, "label": label, "text": text}


# Models


class Regression(nn.Module):
    """Softplus units fitted by L-BFGS to noisy labels: a closure whose loss differs between the ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Softplus(), nn.Linear(4, 1))

    def stages(self) -> list[Stage]:
        optimizer = torch.optim.LBFGS(self.parameters(), 0.5, max_iter=3, line_search_fn="strong_wolfe")
        return [Stage([Phase("fit", optimizer, self.loss, closure=True)], forward=self.predict, precision="fp32")]

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        x = batch["x"]
        return {"y": self.net(x + 0.1 * batch.rng(1, 8, 8).to(x))[:, 0]}

    def loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        target = batch["label"] + 0.1 * batch.rng().to(outputs["y"]) + batch.shared()[0]
        return {"loss": (outputs["y"] - target).square().mean()}


@dataclass(frozen=True)
class Case:
    """A model to train: ``build()`` gives the module; ``options`` are those of its ``stages``."""

    build: Callable[[], nn.Module]
    columns: dict[str, Any] = field(default_factory=lambda: images(1, 8, 8))
    warm: Callable[[Any], None] = lambda model: None  # buffers away from where they start


SMALL = {
    "width": 8,
    "depth": 1,
    "hidden": (16,),
    "latent": 3,
    "widths": (8, 16),
    "norm_groups": 4,
    "pool_size": 12,
    "couplings": 2,
    "depths": (1, 1),
}
# models that learn from another run: of what model
TEACHERS = {"distilled": "ddpm", "editor": "stylegan2", "learned-inverse": "tarflow"}
STYLES = Path(__file__).parent / "styles"
OPTIONS: dict[str, dict[str, Any]] = {
    "sparse-autoencoder": {"k": 2},
    "pix2pix": {"task": "lines"},  # the bars have no pairs
    "style-net": {"encoder": "small", "style": str(STYLES / "checks.png"), "style_size": 16},
    "adain": {"encoder": "small", "styles": str(STYLES), "views": 16},
    "rbm": {"hidden": 16, "chains": 32},
    "dbn": {"hidden": (16, 12), "chains": 32, "wake_sleep": 1.0},
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "autoencoder": [{"net": "dense", "loss": "bce"}, {"loss": "l1"}],
    "denoising-autoencoder": [
        {"corruption": "masking", "corruption_level": 0.3},
        {"corruption": "salt-and-pepper", "corruption_level": 0.3},
    ],
    "vae": [
        {"likelihood": "gaussian"},
        {"likelihood": "learned"},
        {"conditional": "label"},
        {"free_bits": 0.5, "net": "dense"},
    ],
    "sparse-autoencoder": [{"sparsity": "l1"}, {"sparsity": "kl", "class_weight": 0.1}],
    "autoencoder-kl": [{"adversarial_weight": 0.1, "adversarial_start": 0.0, "factor": 2}],
    "vq-vae": [
        {"quantiser": "codebook", "codes": 12, "code_decay": 0.5},
        {"adversarial_weight": 0.1, "adversarial_start": 0.0},
    ],
    "token-transformer": [{"conditional": "text"}],
    "maskgit": [{"conditional": "label"}],
    "ddpm": [{"conditional": "text"}],
    "latent-diffusion": [{"schedule": "cosine", "conditional": "label"}],
    "dit": [{"conditional": "label"}],
    "tarflow": [{"conditional": "label"}],
    "rbm": [{"conditional": "label", "k": 2, "sparsity": 1.0}, {"negative": "cd"}],
    "realnvp": [{"levels": 2, "logit": 0.05}],
    "glow": [{"conditional": "label", "levels": 2, "dequantisation": "variational"}],
    "gan": [{"conditional": "label", "packing": 2}],
    "dcgan": [
        {"loss": "wasserstein", "penalty_every": 2},
        {"d_augment": "ada", "loss": "hinge"},
        {"conditional": "label", "spectral_norm": True},
    ],
    "r3gan": [{"d_augment": "diffaugment", "penalty_every": 2}],
    "stylegan2": [{"conditional": "label", "loss": "r3"}],
    "style-net": [{"temporal_weight": 1.0}],
    "adain": [{"layers": 3}],
}


def kwargs_of(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments of a tiny model."""
    accepted = registry.signature(name)
    kwargs = {"shape": 8, "channels": 1, "classes": 2} | SMALL | OPTIONS.get(name, {})
    if name in TEACHERS:
        kind = TEACHERS[name]
        config = registry.build(kind, **{k: v for k, v in kwargs_of(kind, {}).items() if k != "classes"}).config
        kwargs["teacher"] = config
    return {k: v for k, v in kwargs.items() if k in accepted} | options


def registered(name: str, options: dict[str, Any]) -> nn.Module:
    return registry.build(name, **kwargs_of(name, options))


def warm_buffers(model: Any) -> None:
    """ADA at work, a full image pool, a mean of path lengths."""
    for name, value in {"augment_p": 0.5, "path_length_mean": 0.3, "pool_filled": SMALL["pool_size"]}.items():
        if name in dict(model.named_buffers()):
            model.get_buffer(name).fill_(value)
    for name in {"pool_a", "pool_b"} & dict(model.named_buffers()).keys():
        pool = model.get_buffer(name)
        pool.copy_(torch.rand(pool.shape, generator=torch.Generator().manual_seed(2)) * 2 - 1)


def short_lived_codes(model: Any) -> None:
    """A code that is not used is revived in the second step."""
    model.codebook.decay = 0.5


CASES = {
    "-".join([name, *map(str, options.values())]): Case(
        lambda name=name, options=options: registered(name, options), warm=warm_buffers
    )
    for name in registry.MODELS
    for options in [{}, *VARIANTS.get(name, [])]
}
TOYS = {
    "flow": Case(lambda: RealNVP(8, 1, width=16, depth=2)),
    "rbm-stack": Case(lambda: RBMStack(8, 1, hidden=(16, 8), chains=32)),
    "canvas": Case(lambda: Fresco(8, 1), columns={}),
    "voxels": Case(lambda: VoxelGAN((4, 8, 8), 1, latent=3, width=8), columns=images(1, 4, 8, 8)),
    "wide": Case(lambda: WideVAE((8, 12), 3, latent=3, width=8), columns=images(3, 8, 12)),
    "tokens": Case(lambda: TokenPrior(8, 1, 2, codes=32, code_width=4, width=16, depth=1), warm=short_lived_codes),
}
CASES |= TOYS | {"l-bfgs": Case(Regression)}
every_case = pytest.mark.parametrize("case", CASES)
every_toy = pytest.mark.parametrize("case", TOYS)


def build(case: str) -> Any:
    """The model of a case, always the same, placed as training places it; away from zero, where branches are silent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CASES[case].build().train()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn(p.shape))
            CASES[case].warm(model)
    return to_device_layout(model, "cpu")


def engine(case: str, model: Any = None, batch_size: int = 16, rank: int = 0, ranks: int = 1, **options: Any) -> Engine:
    """An engine that trains the model of a case."""
    model = build(case) if model is None else model
    dtype = next(model.parameters()).dtype
    columns = {k: v.to(dtype) if k == "x" else v for k, v in CASES[case].columns.items()}
    batches = Batches(columns, batch_size, rank=rank, ranks=ranks)
    return Engine(model, model.stages(), batches, FP32, **{"warmup": 1} | options)


class Scales(nn.Module):
    """x times a, and times b: two linear maps without networks, for losses that are worked out by hand."""

    def __init__(self, features: int = 3):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.full((features,), value)) for value in (1.0, 2.0))
        self.register_buffer("mean", torch.zeros(features))

    def square(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        return {"loss": (batch["x"] * self.a).square().mean()}


def sgd(*parameters: nn.Parameter, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr)


def train(model: nn.Module, *stages: Stage, rows: int = 12, **options: Any) -> Engine:
    """An engine without clipping, warm-up, decay or average."""
    x = torch.linspace(-1, 1, rows * 3).view(rows, 3).to(next(model.parameters()).dtype)
    plain = {"precision": FP32, "ema": 0, "clip": 0, "warmup": 1, "decay": "constant"}
    return Engine(model, stages, Batches({"x": x}, rows), **plain | options)


def progress_of(engine: Engine, stage: int, share: float = 0.3) -> float:
    """A place within a stage, in the progress of the whole training."""
    low, high = engine.ends[stage], engine.ends[stage + 1]
    return low + share * (high - low)


def walk(engine: Engine, steps: int, first: int = 0, end: int | None = None) -> list[dict[str, Tensor]]:
    """Steps ``first`` to ``end`` of a training of ``steps`` steps in each stage."""
    total = steps * len(engine.stages)
    numbers = range(first, total if end is None else min(end, total))
    return [engine.step(n, progress_of(engine, n // steps, (n % steps) / steps)) for n in numbers]


def state_of(engine: Engine) -> dict[str, Tensor]:
    """Everything that the next step depends on, by name: weights, buffers, average, optimisers' moments."""
    tensors = {f"model/{name}": t for name, t in engine.model.state_dict().items()}
    if engine.ema:
        tensors |= {f"ema/{name}": t for name, t in engine.ema.state_dict().items()}
    for number, optimizer in enumerate(engine.state()["optimizers"]):
        for place_, state in optimizer["state"].items():
            tensors |= {f"optimizer/{number}/{place_}/{k}": torch.as_tensor(v) for k, v in flat(state).items()}
    return {name: t.detach().clone() for name, t in tensors.items()}


def flat(state: dict[str, Any]) -> dict[str, Any]:
    """Lists of tensors (L-BFGS keeps some) as entries of their own."""
    tensors = {}
    for key, value in state.items():
        parts = value if isinstance(value, list) else [value]
        tensors |= {f"{key}/{i}": part for i, part in enumerate(parts) if part is not None}
    return tensors


def apart(a: dict[str, Tensor], b: dict[str, Tensor], near: float = 0.0) -> dict[str, float]:
    """Where two states differ by more than ``near`` (1 + |a|), and by how much."""
    assert a.keys() == b.keys()
    pairs = {k: (a[k].double(), b[k].double()) for k in a if a[k].numel()}
    far = {k: float(((x - y).abs() / (1 + x.abs())).max()) for k, (x, y) in pairs.items()}
    return {k: d for k, d in far.items() if not d <= near}


@contextlib.contextmanager
def doubles() -> Iterator[None]:
    """Within the block everything is float64: random draws and what the code under test calls ``float()``, too."""
    normal, uniform, cast = Noise.__call__, Noise.uniform, Tensor.float
    Noise.__call__ = lambda self, *shape: normal(self, *shape).double()  # type: ignore[method-assign]
    Noise.uniform = lambda self, *shape, **ends: uniform(self, *shape, **ends).double()  # type: ignore[method-assign]
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Noise.__call__, Noise.uniform, Tensor.float = normal, uniform, cast  # type: ignore[method-assign]


def double_model(case: str) -> Any:
    """The model of a case in float64."""
    return copy.deepcopy(build(case)).double()
