"""Every model by name. A name leads to a class; the class's constructor signature is its configuration."""

from __future__ import annotations

import importlib
import inspect
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reverie.core.errors import UsageError, suggest

if TYPE_CHECKING:
    from reverie.data.types import Dataset
    from reverie.verbs import Model


@dataclass(frozen=True)
class Entry:
    """Where a model lives and what it is. ``taxonomy`` says how it treats p(x)."""

    path: str  # "package.module:Class", imported only when asked for
    system: str
    taxonomy: str
    paper: str

    def load(self) -> type[Model]:
        """The model's class."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)


_NO_DENSITY = "none (no density)"
_IMPLICIT = "implicit (a sampler alone)"
_BOUND = "explicit, approximate (bound)"
MODELS: dict[str, Entry] = {
    "autoencoder": Entry(
        "reverie.models.autoencoder:Autoencoder", "Autoencoder", _NO_DENSITY, "Hinton & Salakhutdinov, Science 2006"
    ),
    "denoising-autoencoder": Entry(
        "reverie.models.autoencoder:DenoisingAutoencoder",
        "Denoising autoencoder",
        _NO_DENSITY,
        "Vincent et al., JMLR 2010",
    ),
    "vae": Entry(
        "reverie.models.vae:VAE", "Variational autoencoder", _BOUND, "Kingma & Welling, ICLR 2014, arXiv:1312.6114"
    ),
    "ddpm": Entry(
        "reverie.models.diffusion:DDPM", "Denoising diffusion", _BOUND, "Ho et al., NeurIPS 2020, arXiv:2006.11239"
    ),
    "ddpm-textbook": Entry(
        "reverie.models.textbook:TextbookDDPM",
        "Denoising diffusion, the paper's U-Net",
        _BOUND,
        "Ho et al., NeurIPS 2020, arXiv:2006.11239",
    ),
    "edm": Entry(
        "reverie.models.diffusion:EDM",
        "Preconditioned diffusion",
        _BOUND,
        "Karras et al., NeurIPS 2022, arXiv:2206.00364",
    ),
    "flow-matching": Entry(
        "reverie.models.diffusion:FlowMatching",
        "Flow matching",
        "explicit, exact (by an ODE)",
        "Lipman et al., ICLR 2023, arXiv:2210.02747",
    ),
    "autoencoder-kl": Entry(
        "reverie.models.codec:AutoencoderKL",
        "Codec for latent diffusion",
        _NO_DENSITY,
        "Rombach et al., CVPR 2022, arXiv:2112.10752",
    ),
    "latent-diffusion": Entry(
        "reverie.models.latent_diffusion:LatentDiffusion",
        "Latent diffusion",
        "none (a density of codes, not of pictures)",
        "Rombach et al., CVPR 2022, arXiv:2112.10752",
    ),
    "dit": Entry(
        "reverie.models.dit:DiT",
        "Diffusion transformer",
        "explicit, exact (by an ODE)",
        "Peebles & Xie, ICCV 2023, arXiv:2212.09748",
    ),
    "distilled": Entry(
        "reverie.models.distilled:Distilled",
        "Few-step student of a diffusion model",
        _NO_DENSITY,
        "Salimans & Ho, ICLR 2022, arXiv:2202.00512",
    ),
    "gan": Entry(
        "reverie.models.gan:GAN", "Generative adversarial network", _IMPLICIT, "Goodfellow et al., arXiv:1406.2661"
    ),
    "dcgan": Entry(
        "reverie.models.gan:DCGAN", "Deep convolutional GAN", _IMPLICIT, "Radford et al., ICLR 2016, arXiv:1511.06434"
    ),
    "acgan": Entry(
        "reverie.models.gan:ACGAN", "Auxiliary-classifier GAN", _IMPLICIT, "Odena et al., ICML 2017, arXiv:1610.09585"
    ),
    "r3gan": Entry(
        "reverie.models.gan:R3GAN",
        "Relativistic GAN with R1 and R2",
        _IMPLICIT,
        "Huang et al., NeurIPS 2024, arXiv:2501.05441",
    ),
    "progan": Entry(
        "reverie.models.progan:ProGAN",
        "Progressively growing GAN",
        _IMPLICIT,
        "Karras et al., ICLR 2018, arXiv:1710.10196",
    ),
    "stylegan": Entry(
        "reverie.models.stylegan:StyleGAN", "Style-based GAN", _IMPLICIT, "Karras et al., CVPR 2019, arXiv:1812.04948"
    ),
    "stylegan2": Entry(
        "reverie.models.stylegan:StyleGAN2", "StyleGAN2", _IMPLICIT, "Karras et al., CVPR 2020, arXiv:1912.04958"
    ),
    "pix2pix": Entry(
        "reverie.models.translation:Pix2Pix",
        "Paired image-to-image translation",
        "none (p(B given A), a sampler)",
        "Isola et al., CVPR 2017, arXiv:1611.07004",
    ),
    "cyclegan": Entry(
        "reverie.models.translation:CycleGAN",
        "Unpaired image-to-image translation",
        "none (p(B given A), a sampler)",
        "Zhu et al., ICCV 2017, arXiv:1703.10593",
    ),
    "editor": Entry(
        "reverie.models.editor:Editor",
        "Feed-forward editor distilled from a StyleGAN",
        "none (a function of a picture)",
        "Viazovetskyi et al., ECCV 2020, arXiv:2003.03581",
    ),
    "noisy-classifier": Entry(
        "reverie.models.noisy_classifier:NoisyClassifier",
        "Classifier of noised pictures, for guidance",
        "none (p(class given x))",
        "Dhariwal & Nguyen, NeurIPS 2021, arXiv:2105.05233",
    ),
}

DATA_ARGUMENTS = ("shape", "size", "channels", "classes")  # constructor arguments that the data decides, not the user
# constructor arguments that are trained models: a run's path when asked for, then {"name", "kwargs", "run"}; the model
# builds a sub-module of the same name from it, which training fills with the run's weights
RUN_ARGUMENTS = ("codec", "teacher")


def entry(name: str) -> Entry:
    """The registry's entry, or a UsageError that names the nearest model."""
    if name not in MODELS:
        raise UsageError(f"There is no model {name!r}.{suggest(name, list(MODELS))} Known: {', '.join(MODELS)}.")
    return MODELS[name]


def arguments(kind: type, method: str) -> dict[str, inspect.Parameter]:
    """What a class's method takes, by name, types resolved; what it hands on by ``**more`` is its base class's."""
    found: dict[str, inspect.Parameter] = {}
    for one in kind.__mro__:
        if function := vars(one).get(method):
            hints, own = typing.get_type_hints(function), inspect.signature(function).parameters.values()
            named = [p for p in own if p.name != "self" and p.kind is not p.VAR_KEYWORD and p.name not in found]
            found |= {p.name: p.replace(annotation=hints.get(p.name, Any)) for p in named}
            if all(p.kind is not p.VAR_KEYWORD for p in own):
                break
    return found


def signature(name: str) -> dict[str, inspect.Parameter]:
    """The constructor's parameters by name: the model's whole configuration."""
    return arguments(entry(name).load(), "__init__")


def build(name: str, data: Dataset | None = None, **kwargs: Any) -> Model:
    """A fresh model; ``model.config`` is the ``{"name", "kwargs"}`` that builds it again.

    Args:
        data: where given, it decides ``size`` or ``shape``, ``channels`` and ``classes``.
        kwargs: the constructor's own arguments.
    Raises:
        UsageError: unknown model, unknown or unfit argument.
    """
    parameters = signature(name)
    if data is not None:
        facts: dict[str, Any] = {"channels": data.spec.channels, "classes": len(data.classes), "shape": data.spec.shape}
        if data.spec.square:
            facts["size"] = data.spec.square
        elif "size" in parameters and "size" not in kwargs:
            raise UsageError(f"{name} makes square images, and these are {data.spec.medium}s of {data.spec}.")
        kwargs = {key: value for key, value in facts.items() if key in parameters} | kwargs
    for key in kwargs:
        if key not in parameters:
            raise UsageError(
                f"{name} has no option {key!r}.{suggest(key, list(parameters))} It has: {', '.join(parameters)}."
            )
    defaults = {key: p.default for key, p in parameters.items() if p.default is not inspect.Parameter.empty}
    kwargs = defaults | kwargs  # the defaults are kept too: they may change in a later release
    model = entry(name).load()(**kwargs)
    model.config = {"name": name, "kwargs": kwargs}
    return model
