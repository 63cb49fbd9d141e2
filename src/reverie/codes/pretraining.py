"""What unlabelled training is worth to a classifier with few labels.

Hinton, Osindero and Teh, "A fast learning algorithm for deep belief nets", 2006; Erhan et al., "Why does unsupervised
pre-training help deep learning?", JMLR 2010.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.codes import classifier as training
from reverie.codes.accuracies import METHODS, Accuracy, Pretraining
from reverie.codes.classifier import Classifier
from reverie.codes.encoders import BLIND, common_data, encoders, evenly_with_rows, origin_of_codes
from reverie.core.cache import Progress
from reverie.core.errors import Stopped, UsageError, argument
from reverie.core.options import listed
from reverie.core.values import check_seeds, integer, integers
from reverie.core.verbs import Model
from reverie.data.batches import in_order
from reverie.data.types import Dataset, Split
from reverie.evaluation.estimate import shuffled
from reverie.evaluation.likelihood import evenly
from reverie.inference.load import Source
from reverie.inference.rows import device_of, encoded

EPOCHS, LEAST_STEPS = 10, 50  # of training
UNLABELLED, TEST = 2000, 5000  # training images that standardise codes, and held-out images, at most


def pretrain(
    runs: Source | Sequence[Source],
    labels: Sequence[int] = (10, 100, 1000),
    seeds: int = 5,
    seed: int = 0,
    data: Any = None,
    steps: int | None = None,
    space: str | None = None,
    progress: Progress | None = None,
) -> Pretraining:
    """Classify with few labels: does it help to begin with the encoder of a run?

    The classifier is the encoder and one linear layer on its standardised codes. Three ways to train it, on the same
    labelled images: all weights from those of the run, the linear layer alone (the encoder is frozen), and all weights
    from random ones, as ``rv.build`` makes them. Each is tested on held-out images.

    Nothing is chosen by accuracy: steps and learning rate are the same for all, and the last weights are tested.

    Args:
        runs: a loaded model or a run, or several, each with an encoder that passes gradients.
        labels: numbers of labelled training images: of each class equally many (to one), drawn by the seed. The images
            of a smaller number are among those of a larger one.
        seeds: how often each is repeated: other labelled images, initial weights and batches. At least 2.
        seed: the first of the seeds.
        data: other data than that of the runs, in their form.
        steps: of training; by default those of ten epochs in batches of 100, at least 50.
        space: the latent space of the codes, see a model's ``card.latents``; by default the first of each model.
        progress: called after each training, (done, total, description).
    Raises:
        UsageError: a model without such an encoder or space, data without labels, more labels than the data has of a
            class, or fewer than classes.
        Stopped: Ctrl-C after at least two seeds; it holds the result of these.
    """
    budgets, count = _budgets(labels), integer(argument("seeds"), seeds, 2, 1000)
    models = encoders(runs, space)
    dataset = common_data(models, data)
    check_seeds(seed, seed + count - 1)
    lengths = {b: integer(argument("steps"), _steps(b) if steps is None else steps, 1) for b in budgets}
    labels_ = np.asarray(dataset.train.labels)
    unlabelled, (test, _) = (
        evenly(dataset.train, UNLABELLED),
        evenly_with_rows(dataset.unseen("Its test"), TEST, labelled=True),
    )
    _check_labels(dataset, labels_, len(test), budgets)
    for name, model in models.items():
        training.check_trainable(name, model, _image(unlabelled, model), space)
    trials = [_Trial(name, model, dataset, unlabelled, test, space) for name, model in models.items()]
    cells = [(name, method, budget) for name in models for budget in budgets for method in METHODS]
    values: dict[tuple[str, str, int], list[float]] = {cell: [] for cell in cells}
    options = {"labels": budgets, "seed": seed, "seeds": count, "steps": steps, "space": space}
    made_by = origin_of_codes("pretrain", models, dataset, **options)
    try:
        for number, (current, trial, budget, method) in enumerate(
            itertools.product(range(seed, seed + count), trials, budgets, METHODS), 1
        ):
            labelled = dataset.train.take(draw_labelled(labels_, budget, current))
            values[trial.name, method, budget].append(trial.accuracy(method, labelled, lengths[budget], current))
            if progress:
                progress(number, count * len(cells), f"{trial.name}, {budget:,} labels, {method}")
    except KeyboardInterrupt:
        count = min(map(len, values.values()))
        if count < 2:
            raise
        made_by["stopped"] = f"seed {count} of {seeds}"
    accuracies = [Accuracy(*cell, tuple(of_cell[:count])) for cell, of_cell in values.items()]
    result = Pretraining(accuracies, _notes(dataset, len(test), lengths), made_by)
    if "stopped" in made_by:
        raise Stopped(result)
    return result


def draw_labelled(labels: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """Rows of so many images, of each class equally many to one, drawn by a seed; those of a smaller budget are among
    them.

    Args:
        labels: (N,) class indices, -1 for none.
    """
    order = shuffled(len(labels), seed).numpy()
    order = order[labels[order] >= 0]
    classes, of_row = np.unique(labels[order], return_inverse=True)
    turn = np.empty(len(order), np.int64)  # of each row: the how manieth of its class it is
    for index in range(len(classes)):
        members = np.flatnonzero(of_row == index)
        turn[members] = np.arange(len(members))
    first = shuffled(len(classes), seed).numpy()[of_row]  # which class comes first in a turn
    return order[np.lexsort((first, turn))[:budget]]


class _Trial:
    """An encoder, and the images that standardise and test it."""

    def __init__(self, name: str, model: Model, dataset: Dataset, unlabelled: Split, test: Split, space: str | None):
        self.name, self.model, self.dataset, self.unlabelled, self.test = name, model, dataset, unlabelled, test
        self.space = space
        self.codes, self.test_codes = (self._encoded(model, split) for split in (unlabelled, test))

    def _encoded(self, model: Model, split: Split) -> Tensor:
        return encoded(model, split, BLIND, space=self.space)

    def accuracy(self, method: str, labelled: Split, steps: int, seed: int) -> float:
        """On the test images, after training on labelled ones."""
        model, codes = self.model, self.codes
        if method == "random":
            model = training.rebuilt(model, seed)
            codes = self._encoded(model, self.unlabelled)
        labels = torch.from_numpy(np.array(labelled.labels))
        probe = training.linear_probe(self._encoded(model, labelled), labels, codes, len(self.dataset.classes))
        if method == "frozen":
            return probe.accuracy(self.test_codes, torch.from_numpy(np.array(self.test.labels)))
        model = training.rebuilt(model) if method == "pretrained" else model
        parameters = training.model_parameters(model, _image(labelled, model), self.space)
        classifier = Classifier(model, probe, parameters, self.space).to(device_of(model))
        training.train(classifier, self.dataset, labelled, steps, seed)
        return training.accuracy(classifier, self.test)


def _image(split: Split, model: Model) -> Tensor:
    """The first image of a split, (1, C, *shape)."""
    return next(in_order(split.take(slice(1)), 1, device_of(model)))["x"]


def _budgets(labels: Sequence[int]) -> list[int]:
    numbers = integers(labels) if isinstance(labels, Sequence) and not isinstance(labels, str) else None
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{argument('labels')} must be whole numbers above 0, such as 10, 100, 1000, not {labels!r}.")
    return sorted(set(numbers))


def _steps(budget: int) -> int:
    return max(LEAST_STEPS, EPOCHS * budget // training.BATCH)


def _check_labels(dataset: Dataset, labels: np.ndarray, test: int, budgets: Sequence[int]) -> None:
    """Raise a UsageError unless each class has its part of the largest number of labels, and the smallest has all."""
    source, name = dataset.source, argument("labels")
    counts = {kind: int((labels == index).sum()) for index, kind in enumerate(dataset.classes)}
    if len(counts) < 2 or not test or not any(counts.values()):
        raise UsageError(
            f"A classifier needs labels of at least two classes, and {source} has none. Each sub-folder of a folder is "
            f"a class; {argument('data', 'fashion')} has classes."
        )
    fewest = min(counts, key=counts.__getitem__)
    most = counts[fewest] * len(counts)
    if budgets[0] < len(counts):
        raise UsageError(
            f"{name}: {budgets[0]} labels do not cover the {len(counts)} classes of {source}. Take at least "
            f"{len(counts)}."
        )
    if -(-budgets[-1] // len(counts)) > counts[fewest]:
        raise UsageError(
            f"{name}: {budgets[-1]:,} labels are {-(-budgets[-1] // len(counts)):,} images of each of {len(counts)} "
            f"classes, and {source} has {counts[fewest]:,} training images of {fewest!r}. Take at most {most:,}."
        )


def _notes(dataset: Dataset, test: int, lengths: Mapping[int, int]) -> list[str]:
    steps = listed(f"{steps:,} steps with {budget:,} labels" for budget, steps in lengths.items())
    return [
        f"Labels: equally many of each of {len(dataset.classes)} classes, of the training images of {dataset.source}. "
        f"Test: {test:,} held-out images, looked at once, after training.",
        f"Frozen: logistic regression on codes, penalty {training.DECAY:g} / 2 |w|^2. Pretrained and random begin with "
        f"theirs and train all weights by AdamW: {steps}, batches of at most {training.BATCH}.",
        "Intervals: 95 %, Student's t over seeds; over random: of the differences by seed.",
    ]
