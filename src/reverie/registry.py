"""Every model by name. A name leads to a system, a class or a function that returns a model; its signature is its
configuration.

The registry is open: ``@register("mine")`` in any module, ``package.module:function`` where a person names a model, the
modules that REVERIE_IMPORT names, and the entry-point group ``reverie.models``. A file never chooses code: what a
run.json or a checkpoint names is only looked up among what this process knows.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from reverie.core.errors import UsageError, suggest
from reverie.core.options import (
    EMPTY,
    Parameters,
    SubRun,
    call_system,
    checked,
    has_choices,
    listed,
    method_parameters,
    model_class,
    sampling_options,
    sub_run,
    system_parameters,
)
from reverie.core.verbs import verbs_of

if TYPE_CHECKING:
    from reverie.core.verbs import Model
    from reverie.data.types import Dataset

System = TypeVar("System", bound=Callable[..., Any])
_IMPORT, _GROUP = "REVERIE_IMPORT", "reverie.models"


@dataclass(frozen=True)
class Entry:
    """Where a system lives and what it is. ``taxonomy`` says how it treats p(x), ``stages`` which defaults its model's
    ``stages()`` has other than those of the class."""

    path: str  # "package.module:name", imported only when asked for
    system: str
    taxonomy: str
    paper: str
    registered: Callable[..., Any] | None = field(default=None, compare=False, repr=False)  # not to be imported
    stages: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """The class, or the function that returns a model."""
        return self.registered or _imported(self.path)

    def kind(self) -> type[Model]:
        """The class of its models, whose verbs are known without building one."""
        return model_class(self.load())

    @property
    def verbs(self) -> list[str]:
        """What its models can do."""
        return verbs_of(self.kind())

    @property
    def sampling(self) -> Parameters:
        """What its models can be told when they sample or translate."""
        return sampling_options(self.kind())


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
        "reverie.models.diffusion:ddpm", "Denoising diffusion", _BOUND, "Ho et al., NeurIPS 2020, arXiv:2006.11239"
    ),
    "ddpm-textbook": Entry(
        "reverie.models.textbook:ddpm_textbook",
        "Denoising diffusion, the paper's U-Net",
        _BOUND,
        "Ho et al., NeurIPS 2020, arXiv:2006.11239",
        stages={"lr": 2e-4},
    ),
    "edm": Entry(
        "reverie.models.diffusion:edm",
        "Preconditioned diffusion",
        _BOUND,
        "Karras et al., NeurIPS 2022, arXiv:2206.00364",
    ),
    "flow-matching": Entry(
        "reverie.models.diffusion:flow_matching",
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
        "reverie.models.latent_diffusion:latent_diffusion",
        "Latent diffusion",
        "none (a density of codes, not of pictures)",
        "Rombach et al., CVPR 2022, arXiv:2112.10752",
    ),
    "dit": Entry(
        "reverie.models.dit:dit",
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
        "reverie.models.gan.plain:gan",
        "Generative adversarial network",
        _IMPLICIT,
        "Goodfellow et al., arXiv:1406.2661",
    ),
    "dcgan": Entry(
        "reverie.models.gan.plain:dcgan",
        "Deep convolutional GAN",
        _IMPLICIT,
        "Radford et al., ICLR 2016, arXiv:1511.06434",
    ),
    "acgan": Entry(
        "reverie.models.gan.plain:acgan",
        "Auxiliary-classifier GAN",
        _IMPLICIT,
        "Odena et al., ICML 2017, arXiv:1610.09585",
    ),
    "r3gan": Entry(
        "reverie.models.gan.plain:r3gan",
        "Relativistic GAN with R1 and R2",
        _IMPLICIT,
        "Huang et al., NeurIPS 2024, arXiv:2501.05441",
    ),
    "progan": Entry(
        "reverie.models.gan.progan:progan",
        "Progressively growing GAN",
        _IMPLICIT,
        "Karras et al., ICLR 2018, arXiv:1710.10196",
        stages={"lr": 1e-3},
    ),
    "stylegan": Entry(
        "reverie.models.gan.stylegan:stylegan",
        "Style-based GAN",
        _IMPLICIT,
        "Karras et al., CVPR 2019, arXiv:1812.04948",
        stages={"lr": 2e-3},
    ),
    "stylegan2": Entry(
        "reverie.models.gan.stylegan:stylegan2",
        "StyleGAN2",
        _IMPLICIT,
        "Karras et al., CVPR 2020, arXiv:1912.04958",
        stages={"lr": 2e-3},
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

BUILT_IN = frozenset(MODELS)
# constructor arguments that the data decides, not the user
DATA_ARGUMENTS = ("shape", "size", "channels", "source_channels", "classes")

# What this process knows beside the built-in models


def register(
    name: str, *, title: str = "", taxonomy: str = "", paper: str = "", stages: Mapping[str, Any] | None = None
) -> Callable[[System], System]:
    """Make a class, or a function that returns a model, known by a name: ``@rv.register("mine")``.

    A run of it is opened where the module is imported: REVERIE_IMPORT=module does that for every command.

    Args:
        name: for ``reverie train`` and run.json.
        title: for ``reverie models``; the first line of its docstring by default.
        stages: defaults of ``stages()`` other than those of the model's class, such as {"lr": 1e-3}.
    Raises:
        UsageError: the name of a built-in model, or none at all.
    """
    if name in BUILT_IN or not name or name.startswith("-"):
        raise UsageError(f"A model cannot be registered as {name!r}: that is {'taken' if name else 'no name'}.")

    def add(system: System) -> System:
        lines = (inspect.getdoc(system) or "").splitlines()
        path = f"{system.__module__}:{system.__qualname__}"
        MODELS[name] = Entry(path, title or (lines[0] if lines else name), taxonomy, paper, system, stages or {})
        return system

    return add


def accept(name: str) -> str:
    """The name of a model as a person gives it; ``package.module:function`` is imported and known from then on.

    For names from the command line, from Python and from REVERIE_IMPORT; never for one that a file holds.

    Raises:
        UsageError: there is no such module, or nothing of that name in it.
    """
    if ":" in name and name not in MODELS:
        register(name)(_imported(name))
    return name


def names() -> list[str]:
    """Every model that this process knows."""
    _discover()
    return list(MODELS)


def where(test: Callable[[Entry], bool]) -> list[str]:
    """The models of which something holds; those of a package that cannot be imported are left out."""
    found = []
    for name in names():
        with contextlib.suppress(ImportError, UsageError):
            found += [name] * test(MODELS[name])
    return found


def with_verb(verb: str) -> list[str]:
    """The models that have a verb."""
    return where(lambda entry: verb in entry.verbs)


def with_option(name: str) -> list[str]:
    """The models that can be told this when they sample or translate."""
    return where(lambda entry: name in entry.sampling)


def entry(name: str) -> Entry:
    """The registry's entry.

    Raises:
        UsageError: no such model (it names the nearest), or code that this process was not told of.
    """
    if name not in MODELS:
        _discover()
    if name in MODELS:
        return MODELS[name]
    if ":" in name:
        raise UsageError(
            f"The model {name} is code outside reverie, and a file never chooses code. If you trust it, make it known: "
            f"set {_IMPORT}={name} for a command, or call reverie.registry.accept({name!r}) in Python."
        )
    raise UsageError(
        f"There is no model {name!r}.{suggest(name, list(MODELS))} Known: {', '.join(MODELS)}. A model of your own is "
        f"named package.module:function, or registered by a module that {_IMPORT} names."
    )


def code_of(name: str) -> dict[str, str]:
    """For run.json, of a model registered outside reverie: {"code": module}, for messages alone."""
    return {} if name in BUILT_IN or name not in MODELS else {"code": MODELS[name].path.partition(":")[0]}


def check_known(name: str, info: Mapping[str, Any]) -> None:
    """Raise a UsageError unless this process knows the model of a run; it says in which module the run found it."""
    if ":" not in name and name not in names() and (module := info.get("code")):
        raise UsageError(
            f"This is a run of {name!r}, which the module {module} registered: code outside reverie, and a file never "
            f"chooses code. If you trust it, set {_IMPORT}={module} for the command, or import it in Python."
        )


def _discover() -> None:
    """Take in, once, what REVERIE_IMPORT and the entry points name; built-in names and earlier ones stay."""
    if not _WAITING:
        return
    _WAITING.clear()  # first: what is imported here may ask for names
    for item in filter(None, (item.strip() for item in os.environ.get(_IMPORT, "").split(","))):
        try:
            accept(item) if ":" in item else _module(item)
        except UsageError as error:
            raise UsageError(f"{_IMPORT}: {error}") from error
    for point in metadata.entry_points(group=_GROUP):
        MODELS.setdefault(point.name, Entry(point.value, f"of the package {point.value.partition('.')[0]}", "", ""))


_WAITING = [True]  # emptied by the first call of ``_discover``


def _module(name: str) -> Any:
    """A module by its name; the folder where the command was given is looked through last."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
    sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"The module {name!r} cannot be imported: {error}.") from error


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    found: Any = _module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"The module {module} has no {name!r}.")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{path} is neither a class nor a function.")
    return found


# Signatures and building


def signature(name: str) -> Parameters:
    """A system's parameters by name: the model's whole configuration."""
    return system_parameters(entry(name).load())


def stage_options(name: str) -> Parameters:
    """The arguments of ``stages()`` of a model's class, with the system's own defaults (learning rate ...)."""
    system = entry(name)
    known = method_parameters(system.kind(), "stages")
    return {key: p.replace(default=system.stages.get(key, p.default)) for key, p in known.items()}


def stage_defaults(name: str) -> dict[str, Any]:
    """The system's own defaults of ``stages()``; none of a model that no registry built."""
    return dict(MODELS[name].stages) if name in MODELS else {}


def sub_runs(name: str) -> dict[str, SubRun]:
    """The parameters of a system that are trained models."""
    return {key: mark for key, p in signature(name).items() if (mark := sub_run(p))}


def build(name: str, data: Dataset | None = None, **kwargs: Any) -> Model:
    """A fresh model; ``model.config`` is the ``{"name", "kwargs"}`` that builds it again.

    Args:
        name: of a model that this process knows (see ``accept``).
        data: where given, it decides ``size`` or ``shape``, ``channels``, ``classes`` and, where it has pairs,
            ``source_channels``.
        kwargs: the system's own arguments.
    Raises:
        UsageError: unknown model, unknown or unfit argument.
    """
    parameters = signature(name)
    if data is not None:
        facts: dict[str, Any] = {"channels": data.spec.channels, "classes": len(data.classes), "shape": data.spec.shape}
        if "source" in data.train:
            facts["source_channels"] = data.train["source"].shape[-1]
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
    kwargs = {  # a model checks its choices itself: it knows what to do instead
        key: value if has_choices(parameters[key]) else checked(name, key, parameters[key], value)
        for key, value in kwargs.items()
    }
    defaults = {key: p.default for key, p in parameters.items() if p.default is not EMPTY}
    kwargs = defaults | kwargs  # the defaults are kept too: they may change in a later release
    if missing := [key for key in parameters if key not in kwargs]:
        facts_of_data = f"Data decides {listed(DATA_ARGUMENTS)}; pass any other, or all of them"
        raise UsageError(f"{name} cannot be built without {listed(missing)}. {facts_of_data}.")
    model: Any = call_system(entry(name).load(), kwargs)
    if not issubclass(type(model), nn.Module):
        raise UsageError(f"{name} makes a {type(model).__name__}, and a model is a torch.nn.Module.")
    model.config = {"name": name, "kwargs": kwargs}
    return model
