"""Other trained models that guide a diffusion model: a classifier towards a class, a weaker run away from its mistakes.

A guide is a function (denoise, label, text) -> denoise: a denoiser made of a denoiser, for the condition of these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from reverie.core.card import card_of
from reverie.core.errors import UsageError
from reverie.core.verbs import Model
from reverie.diffusion.denoiser import denoiser
from reverie.diffusion.guidance import classified, guided
from reverie.diffusion.prediction import PREDICTIONS
from reverie.diffusion.samplers import Denoise

Guide = Callable[[Denoise, Tensor | None, Sequence[str] | None], Denoise]  # (denoiser, label, text) -> a denoiser


def guide_of(model: Model, classifier: Model | None, weaker: Model | None, scale: float) -> Guide | None:
    """The guide that sampling was given, if any.

    Raises:
        UsageError: two of them, one that does not fit, or autoguidance without a strength.
    """
    if classifier is not None and weaker is not None:
        raise UsageError("A classifier or a weaker run may guide, not both.")
    if classifier is not None:
        return towards_class(model, classifier, scale)
    if weaker is None:
        return None
    if scale == 1:
        raise UsageError("Autoguidance needs a strength: --guidance above 1, for example 1.5 (1 is off).")
    return away_from(model, weaker, scale)


def towards_class(model: Model, classifier: Model, scale: float = 1.0) -> Guide:
    """Classifier guidance (Dhariwal and Nguyen, arXiv:2105.05233): labels are the classifier's.

    Args:
        model: a diffusion model that does not know classes itself.
        classifier: a ``noisy-classifier`` of pictures of the same size.
        scale: 0 is off, 1 is Bayes' rule, above it is sharper.
    Raises:
        UsageError: a classifier that does not fit.
    """
    if card_of(model).classes:
        raise UsageError("This model knows classes itself: --label and --guidance need no classifier.")
    reads = card_of(classifier).output
    seen = (reads.channels, *reads.shape) if reads else ()
    if seen != tuple(model.code_shape):
        raise UsageError(f"The classifier reads {_said(seen)}; this model diffuses {_said(model.code_shape)}.")

    def guide(denoise: Denoise, label: Tensor | None, text: Sequence[str] | None) -> Denoise:
        if label is None:
            raise UsageError("A classifier steers towards a class: name one with --label.")
        return classified(denoise, partial(classifier.class_log_prob, label=label), scale)

    return guide


def away_from(model: Model, weaker: Model, scale: float) -> Guide:
    """Autoguidance (Karras et al., arXiv:2406.02507): away from what a weaker model of the same data would say.

    Args:
        weaker: a smaller run, or an earlier checkpoint; it knows the same conditions, or none.
        scale: 1 is off.
    Raises:
        UsageError: a weaker model that does not fit.
    """
    if tuple(weaker.code_shape) != tuple(model.code_shape):
        raise UsageError(f"The weaker run diffuses {_said(weaker.code_shape)}; this model {_said(model.code_shape)}.")
    if not _same_codec(model, weaker):
        raise UsageError("The weaker run works on codes of another codec; autoguidance needs the same for both.")
    ours, theirs = card_of(model).conditions, card_of(weaker).conditions
    if not theirs.items() <= ours.items():
        raise UsageError("The weaker run was trained with conditions that this model does not know.")

    def guide(denoise: Denoise, label: Tensor | None, text: Sequence[str] | None) -> Denoise:
        other = denoiser(weaker.bind(label, text), weaker.schedule, PREDICTIONS[weaker.prediction])
        return guided(denoise, other, scale)  # both as they come: what is clamped is the guided estimate

    return guide


def _same_codec(model: Model, weaker: Model) -> bool:
    """Whether both diffuse codes of one codec; that of an earlier checkpoint's average may be off by a little."""
    ours, theirs = (dict(one.named_children()).get("codec") for one in (model, weaker))
    if ours is None or theirs is None:
        return ours is theirs
    other = theirs.state_dict()
    return all(
        name in other and value.shape == other[name].shape and torch.allclose(value, other[name], 0.05, 1e-3)
        for name, value in ours.state_dict().items()
    )


def _said(shape: Sequence[int]) -> str:
    return "x".join(map(str, (*shape[1:], *shape[:1])))
