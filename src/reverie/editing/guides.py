"""Other trained models that guide a diffusion model: a classifier towards a class, a weaker run away from its mistakes.

A guide is a function (denoise, label, text) -> denoise: a denoiser made of a denoiser, for the condition of these rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.diffusion.denoiser import denoiser
from reverie.diffusion.guidance import classified, guided
from reverie.diffusion.prediction import PREDICTIONS
from reverie.diffusion.samplers import Denoise
from reverie.models.diffusion import Guide
from reverie.verbs import Model


def towards_class(model: Model, classifier: Model, scale: float = 1.0) -> Guide:
    """Classifier guidance (Dhariwal and Nguyen, arXiv:2105.05233): labels are the classifier's.

    Args:
        model: a diffusion model that does not know classes itself.
        classifier: a ``noisy-classifier`` of pictures of the same size.
        scale: 0 is off, 1 is Bayes' rule, above it is sharper.
    Raises:
        UsageError: a classifier that does not fit.
    """
    if not hasattr(classifier, "log_likelihood"):
        raise UsageError(
            "That run is no classifier of noised pictures. Train one on the same pictures: "
            "reverie train noisy-classifier --data ..."
        )
    if getattr(model, "classes", 0):
        raise UsageError("This model knows classes itself: --label and --guidance need no classifier.")
    seen = (classifier.channels, classifier.size, classifier.size)
    if seen != tuple(model.code_shape):
        raise UsageError(f"The classifier reads {_said(seen)}; this model diffuses {_said(model.code_shape)}.")

    def guide(denoise: Denoise, label: Tensor | None, text: Sequence[str] | None) -> Denoise:
        if label is None:
            raise UsageError("A classifier steers towards a class: name one with --label.")
        return classified(denoise, partial(classifier.log_likelihood, label=label), scale)

    return guide


def away_from(model: Model, weaker: Model, scale: float) -> Guide:
    """Autoguidance (Karras et al., arXiv:2406.02507): away from what a weaker model of the same data would say.

    Args:
        weaker: a smaller run, or an earlier checkpoint; it knows the same conditions, or none.
        scale: 1 is off.
    Raises:
        UsageError: a weaker model that does not fit.
    """
    if not hasattr(weaker, "denoiser"):
        raise UsageError("That run is no diffusion model; autoguidance wants a weaker one of the same pictures.")
    if tuple(weaker.code_shape) != tuple(model.code_shape):
        raise UsageError(f"The weaker run diffuses {_said(weaker.code_shape)}; this model {_said(model.code_shape)}.")
    if not _same_codec(model, weaker):
        raise UsageError("The weaker run works on codes of another codec; autoguidance needs the same for both.")
    if weaker.classes not in (0, model.classes) or (weaker.texts and not model.texts):
        raise UsageError("The weaker run was trained with conditions that this model does not know.")

    def guide(denoise: Denoise, label: Tensor | None, text: Sequence[str] | None) -> Denoise:
        other = denoiser(weaker.bind(label, text), weaker.schedule, PREDICTIONS[weaker.prediction])
        return guided(denoise, other, scale)  # both as they come: what is clamped is the guided estimate

    return guide


def _same_codec(model: Model, weaker: Model) -> bool:
    """Whether both diffuse codes of one codec; that of an earlier checkpoint's average may be off by a little."""
    ours, theirs = (getattr(one, "codec", None) for one in (model, weaker))
    if ours is None or theirs is None:
        return ours is theirs
    theirs = theirs.state_dict()
    return all(
        name in theirs and value.shape == theirs[name].shape and torch.allclose(value, theirs[name], 0.05, 1e-3)
        for name, value in ours.state_dict().items()
    )


def _said(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{height}x{width}x{channels}"
