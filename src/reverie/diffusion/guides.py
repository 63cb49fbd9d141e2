"""Trained models that guide a diffusion model: a classifier (classifier guidance) or a weaker run (autoguidance).

A guide is a function (denoise, label, text) -> denoise: it returns the guided denoiser for the condition of these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from reverie.core.card import card_of
from reverie.core.errors import UsageError, argument
from reverie.core.verbs import Model
from reverie.diffusion.denoiser import denoiser
from reverie.diffusion.guidance import classified, guided
from reverie.diffusion.prediction import PREDICTIONS
from reverie.diffusion.samplers import Denoise

Guide = Callable[[Denoise, Tensor | None, Sequence[str] | None], Denoise]  # (denoiser, label, text) -> a denoiser


def guide_of(model: Model, classifier: Model | None, weaker: Model | None, scale: float) -> Guide | None:
    """The guide for sampling, if any.

    Raises:
        UsageError: both, a guide that does not fit, or autoguidance with scale 1.
    """
    if classifier is not None and weaker is not None:
        raise UsageError("Guidance takes a classifier or a weaker run, not both.")
    if classifier is not None:
        return towards_class(model, classifier, scale)
    if weaker is None:
        return None
    if scale == 1:
        raise UsageError(f"Autoguidance needs {argument('guidance')} above 1, for example 1.5 (1 is off).")
    return away_from(model, weaker, scale)


def towards_class(model: Model, classifier: Model, scale: float = 1.0) -> Guide:
    """Classifier guidance (Dhariwal and Nguyen, arXiv:2105.05233): labels are the classifier's.

    Args:
        model: an unconditional diffusion model.
        classifier: a ``noisy-classifier`` of images of the same size.
        scale: 0 is off, 1 is Bayes' rule, above 1 is sharper.
    Raises:
        UsageError: a classifier that does not fit.
    """
    if card_of(model).classes:
        label, guidance = argument("label"), argument("guidance")
        raise UsageError(f"This model is class-conditional: {label} and {guidance} need no classifier.")
    output = card_of(classifier).output
    shape = (output.channels, *output.shape) if output else ()
    if shape != tuple(model.latent_shape):
        raise UsageError(f"The classifier reads {_size(shape)}, but this model diffuses {_size(model.latent_shape)}.")

    def guide(denoise: Denoise, label: Tensor | None, text: Sequence[str] | None) -> Denoise:
        if label is None:
            raise UsageError(f"Classifier guidance needs a class: set {argument('label')}.")
        return classified(denoise, partial(classifier.class_log_prob, label=label), scale)

    return guide


def away_from(model: Model, weaker: Model, scale: float) -> Guide:
    """Autoguidance (Karras et al., arXiv:2406.02507): away from the estimate of a weaker model of the same data.

    Args:
        weaker: a smaller run, or an earlier checkpoint, with the same conditions or fewer.
        scale: 1 is off.
    Raises:
        UsageError: a weaker model that does not fit.
    """
    if tuple(weaker.latent_shape) != tuple(model.latent_shape):
        raise UsageError(
            f"The weaker run diffuses {_size(weaker.latent_shape)}; this model {_size(model.latent_shape)}."
        )
    if not _same_codec(model, weaker):
        raise UsageError("The weaker run uses another codec; autoguidance needs the same codec for both.")
    if not card_of(weaker).conditions.items() <= card_of(model).conditions.items():
        raise UsageError("The weaker run was trained with conditions that this model does not have.")

    def guide(denoise: Denoise, label: Tensor | None, text: Sequence[str] | None) -> Denoise:
        other = denoiser(weaker.conditioned(label, text), weaker.schedule, PREDICTIONS[weaker.prediction])
        return guided(denoise, other, scale)  # both unclamped: the guided estimate is clamped

    return guide


def _same_codec(model: Model, weaker: Model) -> bool:
    """Whether both use the same codec; weights may differ slightly in an earlier checkpoint's average."""
    ours, theirs = (dict(side.named_modules()).get("latent_codec.codec") for side in (model, weaker))
    if ours is None or theirs is None:
        return ours is theirs
    other = theirs.state_dict()
    return all(
        name in other and value.shape == other[name].shape and torch.allclose(value, other[name], 0.05, 1e-3)
        for name, value in ours.state_dict().items()
    )


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, (*shape[1:], *shape[:1])))
