"""A file of statistics in place of the real images: which scores it allows, and what it leaves open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reverie.core.errors import argument
from reverie.evaluation.features import BACKBONES, Backbone, Features
from reverie.evaluation.passport import Refused
from reverie.evaluation.statistics import Gaussian

FRECHET = ("fid", "fid-infinity", "frechet", "frechet-infinity")  # a mean and a covariance are enough
OF_FEATURES = ("kid", "kernel", "prdc")
OF_IMAGES = (*OF_FEATURES, "is", "is-inception")


@dataclass(frozen=True)
class ReferenceFile:
    """Statistics of real images.

    Attributes:
        name: of the file, as the user wrote it.
        sha256: of the file.
        format: whose files look so.
        gaussian: mean and covariance of features; None in a file of features.
        rank: of the covariance, where its precision lets that be seen.
        features: of each image, where the file has them.
        images: whether images are beside the statistics (``arr_0`` of an ADM reference batch).
        n, size: number of images, and their side in pixels; None where the file does not say.
        backbone: name, sha256, dimension, resize and precision of the network, as far as the file says.
        reference: the passport entry of the images, where reverie wrote the file.
        hint: resize that the file's name suggests.
    """

    name: str
    sha256: str
    format: str
    gaussian: Gaussian | None = field(default=None, repr=False)
    rank: int | None = None
    features: Features | None = field(default=None, repr=False)
    images: bool = False
    n: int | None = None
    size: int | None = None
    backbone: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    hint: str | None = None

    @property
    def network(self) -> str:
        """The backbone that its features are compared with: Inception, unless it names another."""
        return str(self.backbone.get("name", "inception"))

    @property
    def default_metrics(self) -> list[str]:
        """What can be computed from it without the images."""
        return (["frechet"] if self.gaussian or self.features else []) + (["kernel", "prdc"] if self.features else [])

    @property
    def passport(self) -> dict[str, Any]:
        """The passport entry of the reference; None is what the file does not say."""
        names = ("data", "split", "fingerprint", "n", "size", "medium", "channels")
        entry = dict.fromkeys(names) | {"data": self.name, "n": self.n, "size": self.size, "medium": "image"}
        backbone = dict.fromkeys(("name", "sha256", "dimension", "resize", "precision")) | self.backbone
        statistics = {"file": self.name, "sha256": self.sha256, "format": self.format, "backbone": backbone}
        return entry | self.reference | {"statistics": statistics}

    def check(self, metric: str) -> None:
        """Raise Refused unless the file has what a metric needs."""
        if metric in FRECHET or (metric in OF_FEATURES and self.features) or (metric in OF_IMAGES and self.images):
            return
        able = f"fid or {FRECHET[1]}" if self.network == "inception" else f"{FRECHET[2]} or {FRECHET[3]}"
        has = "features" if self.features else "a mean and a covariance of features"
        needs = "the features of each image" if metric in OF_FEATURES else "images"
        raise Refused(
            f"{self.name} has {has} alone, and {metric} needs {needs}.",
            f"Use {able}; or leave out {argument('reference')}: then the reference is images.",
        )

    def check_backbone(self, backbone: str, resize: str | None) -> None:
        """Raise Refused unless the generated images get features of the same network and resize."""
        if backbone != self.network:
            source = "of" if self.backbone.get("name") else "taken as of"
            other = "fid, or frechet with" if self.network == "inception" else "frechet with"
            raise Refused(
                f"The features of {self.name} are {source} {self.network}, not of {backbone}.",
                f"Use {other} {argument('backbone', self.network)}.",
            )
        used, stated = resize or BACKBONES[backbone].resize, self.backbone.get("resize")
        if stated and used != stated:
            raise Refused(
                f"The images of {self.name} were resized by {stated}, the generated ones would be by {used}: the "
                "distance would include that of the two methods.",
                f"Use {argument('resize', stated)}.",
            )

    def check_weights(self, backbone: Backbone) -> None:
        """Raise Refused if the file states other weights of the network."""
        stated = self.backbone.get("sha256")
        if stated and stated != backbone.sha256:
            raise Refused(
                f"{self.name} is of other weights of {backbone.name} ({stated:.12}, here {backbone.sha256:.12}).",
                f"Write it again from the images ({argument('save_stats')}).",
            )

    def remarks(self, resize: str, precision: str, side: int | list[int]) -> list[str]:
        """Sentences beside the scores: what the file leaves open, and what does not fit the generated images.

        Args:
            resize, precision: of the features of the generated images.
            side: of the generated images in pixels, or [height, width].
        """
        open_ = [] if self.backbone.get("name") else ["network"]
        open_ += [] if self.backbone.get("resize") else ["resizing"]
        open_ += [] if self.n else ["number of images"]
        open_ += [] if self.size or self.reference else ["size of images"]
        lines = []
        if open_:
            lines.append(
                f"Reference: {self.name} ({self.format}) does not state its {', '.join(open_)}. The score uses "
                f"{self.network}'s features of images resized by {resize}, and compares with published ones only if "
                "the file was computed in the same way."
            )
        if self.hint and self.hint != resize:
            lines.append(
                f"Caution: by its name, {self.name} is of images resized by {self.hint}. For the same, use "
                f"{argument('resize', self.hint)}."
            )
        if (stated := self.backbone.get("precision")) and stated != precision:
            lines.append(f"Caution: {self.name} was computed in {stated}, the other features in {precision}.")
        size = self.reference.get("size", self.size)
        if size and size != side:
            here, there = ("x".join(map(str, s)) if isinstance(s, list) else str(s) for s in (side, size))
            lines.append(
                f"Caution: the generated images have {here} pixels a side, those of the reference {there}; the score "
                "includes this difference."
            )
        if self.gaussian and not self.n and self.rank is not None and self.rank < len(self.gaussian.mean):
            lines.append(
                f"Caution: the covariance of {self.name} has rank {self.rank} of {len(self.gaussian.mean)}, as if of "
                f"{self.rank + 1} images. With so few, the score depends on their number."
            )
        return lines
