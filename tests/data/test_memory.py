"""Data that only Python can pass: each object opens to the very data set of the equal .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_pictures import pixels, save
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import reverie as rv
from reverie.core.errors import ReverieError, UsageError
from reverie.data.intake import TooFew

COUNT = 30
IMAGES = np.stack([pixels(seed, 20, 20) for seed in range(COUNT)])
LABELS = np.arange(COUNT) % 4
TEXTS = [f"number {i}" for i in range(COUNT)]


class Rows(TorchDataset):
    """A map-style data set whose samples ``make(i)`` gives; it raises no IndexError."""

    def __init__(self, make, count: int = COUNT):
        self.make, self.count = make, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return self.make(index)


def tensors(images: np.ndarray = IMAGES) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def pil(index: int) -> Image.Image:
    return Image.fromarray(IMAGES[index])


@pytest.fixture
def npz(tmp_path: Path):
    """Fingerprint of the .npz with these columns."""

    def fingerprint(**columns) -> str:
        np.savez(tmp_path / "equal.npz", **columns)
        return rv.open_data(tmp_path / "equal.npz").fingerprint

    return fingerprint


UNLABELLED = {
    "array": IMAGES,
    "array, channels first": IMAGES.transpose(0, 3, 1, 2),
    "float array": IMAGES / 255.0,
    "array in [-1, 1]": (IMAGES / 127.5 - 1).astype(np.float32),
    "tensor": tensors(),
    "float tensor": tensors() / 255,
    "list of PIL images": [pil(i) for i in range(COUNT)],
    "list of arrays": list(IMAGES),
    "list of tensors": list(tensors()),
    "TensorDataset": TensorDataset(tensors()),
    "DataLoader of tensors": DataLoader(TensorDataset(tensors() / 255), batch_size=7),
    "Dataset of PIL images": Rows(pil),
}
LABELLED = {
    "TensorDataset": TensorDataset(tensors(), torch.from_numpy(LABELS)),
    "Dataset of pairs": Rows(lambda i: (tensors()[i], int(LABELS[i]))),
    "Dataset of PIL pairs": Rows(lambda i: (pil(i), int(LABELS[i]))),
    "Dataset of dicts": Rows(lambda i: {"image": pil(i), "label": int(LABELS[i])}),
    "DataLoader": DataLoader(TensorDataset(tensors(), torch.from_numpy(LABELS)), batch_size=8),
    "DataLoader, labels in a column": DataLoader(
        TensorDataset(tensors(), torch.from_numpy(LABELS)[:, None]), batch_size=8
    ),
    "DataLoader of dicts": DataLoader(Rows(lambda i: {"x": tensors()[i], "label": int(LABELS[i])}), batch_size=4),
    "list of pairs": [(IMAGES[i], LABELS[i]) for i in range(COUNT)],
}


@pytest.mark.parametrize("kind", UNLABELLED)
def test_every_kind_of_object_is_the_equal_npz(kind: str, npz) -> None:
    dataset = rv.open_data(UNLABELLED[kind])
    assert dataset.fingerprint == npz(images=IMAGES)
    assert dataset.spec.shape == (20, 20) and dataset.spec.channels == 3 and dataset.classes == []


@pytest.mark.parametrize("kind", LABELLED)
def test_labels_come_with_the_samples(kind: str, npz) -> None:
    assert rv.open_data(LABELLED[kind]).fingerprint == npz(images=IMAGES, labels=LABELS)


def test_labels_and_texts_are_passed_beside_an_array(npz) -> None:
    dataset = rv.open_data(IMAGES, labels=LABELS, texts=TEXTS)
    assert dataset.fingerprint == npz(images=IMAGES, labels=LABELS, texts=np.array(TEXTS))
    names = np.array(["ant", "bee", "cat", "dog"])[LABELS]
    assert rv.open_data(tensors(), labels=names).fingerprint == npz(images=IMAGES, labels=names)
    assert rv.open_data(IMAGES, labels=[None, *names[1:]]).classes == ["ant", "bee", "cat", "dog"]
    with pytest.raises(ReverieError, match=r"labels have shape \(3,\)"):
        rv.open_data(IMAGES, labels=[1, 2, 3])
    with pytest.raises(UsageError, match="labels and texts go with arrays"):
        rv.open_data("fashion", labels=LABELS)


def test_a_data_set_that_knows_its_classes_names_them() -> None:
    samples = Rows(lambda i: (pil(i), int(LABELS[i])))
    samples.classes = ["ant", "bee", "cat", "dog", "eel"]
    assert rv.open_data(samples).classes == samples.classes
    assert rv.open_data(DataLoader(Rows(lambda i: tensors()[i]), batch_size=5)).classes == []


def test_every_column_of_a_dict_is_kept(npz) -> None:
    masks, attributes = (IMAGES[..., 0] > 127), np.random.default_rng(0).random((COUNT, 3)).astype(np.float32)
    samples = [
        {"x": IMAGES[i], "source": 255 - IMAGES[i], "mask": masks[i], "text": TEXTS[i], "attributes": attributes[i]}
        for i in range(COUNT)
    ]
    dataset = rv.open_data(samples)
    columns = {"sources": 255 - IMAGES, "masks": masks, "texts": np.array(TEXTS), "attributes": attributes}
    assert dataset.fingerprint == npz(images=IMAGES, **columns) != npz(images=IMAGES)
    train = dataset.train
    assert (train["source"] == 255 - train["x"]).all()
    assert (train["mask"] == np.where(train["x"][..., :1] > 127, 255, 0)).all()
    assert train["attributes"].shape == (len(train), 3) and train["text"][0].startswith("number ")


def test_masks_are_resized_by_nearest_neighbour() -> None:
    rows = [{"x": image, "mask": image[..., 0] > 127} for image in IMAGES]
    train = rv.open_data(rows, size=(15, 33), fit="pad").train
    assert train["mask"].shape[1:] == (15, 33, 1) and np.unique(train["mask"]).tolist() == [0, 255]
    assert not train["mask"][:, :, :8].any()  # the padding is not marked


def test_pil_images_of_many_modes_and_sizes_are_brought_to_one() -> None:
    images = [Image.fromarray(pixels(i, 20 + i, 30)) for i in range(12)]
    images += [Image.fromarray(pixels(50 + i, 24, 24)).convert("L") for i in range(6)]
    dataset = rv.open_data(images, size=(16, 24))
    assert str(dataset.spec) == "16x24x3" and "mixed-sizes" in dataset.report.counts()


def test_each_converted_pil_image_is_a_line_of_the_report() -> None:
    images = [pil(i).convert("RGBA") if i % 3 == 0 else pil(i) for i in range(COUNT)]
    report = rv.open_data(images).report
    assert report.counts() == {"rgba": 10} and [problem.file for problem in report.problems][:3] == ["0", "3", "6"]


def test_too_few_samples_of_an_object_are_no_matter_of_files() -> None:
    with pytest.raises(TooFew) as caught:
        rv.open_data([pil(i) for i in range(4)])
    assert str(caught.value) == "list has 4 usable images; at least 8 are needed."


@pytest.mark.parametrize(
    "source",
    [
        DataLoader(TensorDataset(tensors()), batch_size=8, shuffle=True),
        Rows(lambda i: tensors()[i] + torch.rand(3, 1, 1)),
        Rows(lambda i: tensors()[i].flip(2) if torch.rand(()) < 0.5 else tensors()[i]),
    ],
    ids=["shuffles", "jitters", "flips"],
)
def test_what_shuffles_or_augments_is_refused_with_the_remedy(source) -> None:
    with pytest.raises(UsageError, match=r"shuffles or augments.*shuffle=False.*augment="):
        rv.open_data(source)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(tensors())


class KnownStream(Stream):
    def __len__(self) -> int:
        return COUNT


def test_an_iterable_needs_a_length(npz) -> None:
    for source in ((image for image in IMAGES), Stream(), DataLoader(Stream(), batch_size=4)):
        with pytest.raises(UsageError, match=r"has no length|is no data"):
            rv.open_data(source)
    assert rv.open_data(KnownStream()).fingerprint == npz(images=IMAGES)
    assert rv.open_data(DataLoader(KnownStream(), batch_size=4)).fingerprint == npz(images=IMAGES)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ([], "is empty"),
        (7, "is no data"),
        ({"x": IMAGES}, "is no data"),
        ([(image, 1, 2) for image in IMAGES], "a tuple of 3"),
        ([(image, image) for image in IMAGES], "Name its parts"),
        ([{"picture": image} for image in IMAGES], "no x or image"),
        ([IMAGES[0], IMAGES[1][:10]] * 8, "several shapes"),
        (np.zeros((20, 5)), "fits no medium or several"),
        (np.zeros((20, 5, 5, 5)), "medium='volume'"),
        (np.full((20, 5, 5), np.nan), "values that are not finite"),
        ([*IMAGES[:9], IMAGES[9] / 255.0, *IMAGES[10:]], r"x of row 9 is floats, of row 0 uint8\."),
        (
            [image / (255.0 if row % 2 else 1) for row, image in enumerate(IMAGES)],
            r"rows 1, 3, 5 and 12 more .*\[0, 1\]",
        ),
        ([pil(0), *IMAGES[1:]], r"x of rows 1, 2, 3 and 26 more is uint8, of row 0 a PIL image"),
        ([IMAGES[0], *map(pil, range(1, COUNT))], "is a PIL image, of row 0 uint8"),
        (
            [{"x": image, "mask": image[..., 0] > 127 if row else image[..., 0]} for row, image in enumerate(IMAGES)],
            "mask of",
        ),
        (np.ma.masked_equal(IMAGES, 3), "masked values"),
        (tensors().to_sparse(), "sparse_coo tensor"),
        (tensors().to("meta"), "meta tensor"),
        (Rows(lambda i: tensors()[i], COUNT + 5), f"length of {COUNT + 5}, but sample {COUNT} raises"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # an object's own text holds its address
)
def test_an_object_that_cannot_be_used_is_refused_with_the_reason(source, hint: str) -> None:
    with pytest.raises(ReverieError, match=hint):
        rv.open_data(source)


@pytest.mark.parametrize(
    ("column", "value", "hint"),
    [
        ("text", 3, "text of row 4 is 3"),
        ("text", b"\xff", "texts are not UTF-8"),
        ("attributes", [float("nan"), 1.0], "attributes of row 4 are not finite"),
        ("attributes", [1e300, 1.0], "attributes of row 4 are not finite"),
        ("mask", np.full((20, 20), np.nan), "masks are float64, not all of them finite"),
        ("mask", np.zeros((10, 10)), "several shapes of mask"),
        ("label", [1, 2], "not an array"),
    ],
)
def test_a_column_with_one_bad_row_is_refused(column: str, value, hint: str) -> None:
    good = {"text": "a", "attributes": [0.0, 1.0], "mask": np.zeros((20, 20)), "label": 1}[column]
    with pytest.raises(ReverieError, match=hint):
        rv.open_data([{"x": image, column: value if row == 4 else good} for row, image in enumerate(IMAGES)])


def test_a_loader_whose_batches_are_no_columns_is_refused() -> None:
    loader = DataLoader(Rows(lambda i: {"x": IMAGES[i], "attributes": {"a": 1.0}}), batch_size=8)
    with pytest.raises(UsageError, match="columns are no lists of equal length"):
        rv.open_data(loader)


def test_a_pil_image_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    pil(0).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:400])
    closed = Image.open(save(tmp_path / "whole.png", 1))
    closed.close()
    for bad in (Image.open(tmp_path / "cut.png"), closed, Image.new("RGB", (0, 4))):
        with pytest.raises(UsageError, match=r"PIL image.* cannot be read"):
            rv.open_data([*map(pil, range(20)), bad])


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        ({"attributes": ["a"]}, "attributes are <U1"),
        ({"attributes": {"a": 1}}, "attributes are object"),
        ({"mask": np.zeros((4, 4))}, r"masks have shape \(30, 4, 4\)"),
    ],
)
def test_a_column_of_another_kind_is_refused(columns: dict, hint: str) -> None:
    with pytest.raises(ReverieError, match=hint):
        rv.open_data([{"x": image, **columns} for image in IMAGES])


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        ({"labels": np.ones((COUNT // 2, 2), int)}, r"shape \(15, 2\) for 30 images; \(N,\) or \(N, 1\)"),
        ({"labels": 3}, "labels are 3; a list"),
        ({"labels": "a" * COUNT}, "a list with one entry per image"),
        ({"labels": np.ma.masked_equal(LABELS, 1)}, "masked values"),
        ({"texts": "a" * COUNT}, "a list with one entry per image"),
        ({"texts": ["a"]}, r"texts have shape \(1,\)"),
        ({"texts": [*TEXTS[:7], 7, *TEXTS[8:]]}, "text of row 7 is 7"),
    ],
)
def test_labels_and_texts_of_another_shape_or_type_are_refused(columns: dict, hint: str) -> None:
    with pytest.raises(ReverieError, match=hint):
        rv.open_data(IMAGES, **columns)


def test_no_caption_is_none_or_empty() -> None:
    texts = [None if i % 2 else text for i, text in enumerate(TEXTS)]
    dataset = rv.open_data(IMAGES, texts=texts)
    assert dataset.summary()["captions"] == COUNT / 2
    assert dataset.fingerprint == rv.open_data(IMAGES, texts=[text or "" for text in texts]).fingerprint
    samples = [{"x": image, "text": text} for image, text in zip(IMAGES, texts, strict=True)]
    assert dataset.fingerprint == rv.open_data(samples).fingerprint


def test_labels_in_a_column_and_masked_arrays_without_masked_values_are_taken() -> None:
    fingerprint = rv.open_data(IMAGES, labels=LABELS).fingerprint
    assert rv.open_data(IMAGES, labels=LABELS[:, None]).fingerprint == fingerprint
    assert rv.open_data(IMAGES, labels=LABELS[:, None].tolist()).fingerprint == fingerprint
    assert rv.open_data(np.ma.array(IMAGES), labels=np.ma.array(LABELS)).fingerprint == fingerprint
    assert (
        rv.open_data([(image, label[None]) for image, label in zip(IMAGES, LABELS, strict=True)]).fingerprint
        == fingerprint
    )


def test_dark_rows_of_floats_up_to_255_are_taken_where_the_range_is_named() -> None:
    floats = IMAGES.astype(np.float32)
    floats[3] /= 255
    assert rv.open_data(floats, low=0, high=255).report.usable == COUNT
    floats[3] = 0
    assert rv.open_data(floats).report.usable == COUNT


def test_the_users_own_array_stays_writable_and_unchanged() -> None:
    images = IMAGES.copy()
    dataset = rv.open_data(images)
    assert images.flags.writeable and (images == IMAGES).all() and not dataset.train["x"].flags.writeable


VOLUMES = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 5, 2), np.uint8)


def test_five_dimensions_are_volumes_unless_they_are_named() -> None:
    volumes = rv.open_data(VOLUMES)
    assert (volumes.spec.medium, str(volumes.spec)) == ("volume", "4x6x5x2")
    assert volumes.fingerprint == rv.open_data(torch.from_numpy(VOLUMES).movedim(-1, 1)).fingerprint
    assert {row.tobytes() for split in (volumes.train, volumes.held_out) for row in split["x"]} == {
        row.tobytes() for row in VOLUMES
    }
    clips = rv.open_data(VOLUMES[..., :1], medium="video")
    assert clips.spec.medium == "video" and clips.fingerprint != rv.open_data(VOLUMES[..., :1]).fingerprint
    assert str(rv.open_data(VOLUMES[..., 0], medium="volume").spec) == "4x6x5x1"
    assert str(rv.open_data(VOLUMES[..., :1], medium="video", size=(3, 4)).spec) == "4x3x4x1"
    with pytest.raises(UsageError, match="cannot be resized"):
        rv.open_data(VOLUMES, size=8)


def test_floats_of_any_range_are_stored_by_their_ends() -> None:
    scan = VOLUMES.astype(np.float32) * 8 - 1000
    dataset = rv.open_data(scan, low=-1000, high=1040)
    assert dataset.fingerprint == rv.open_data(VOLUMES).fingerprint
    assert "clipped" in rv.open_data(scan, low=-500, high=500).report.problems[0].action
    with pytest.raises(ReverieError, match=r"floats in .*: low, high\."):
        rv.open_data(scan)


def test_sequences_keep_their_type_and_their_ends() -> None:
    rng = np.random.default_rng(0)
    sound = rng.integers(-30000, 30000, (20, 2, 50)).astype(np.int16)
    dataset = rv.open_data(sound, medium="sequence")
    assert (str(dataset.spec), dataset.spec.low, dataset.spec.dtype) == ("50x2", -32768, "int16")
    assert dataset.train["x"].dtype == np.int16 and dataset.train["x"].shape[1:] == (50, 2)
    wave = rng.uniform(-1, 1, (20, 1, 50))
    assert (
        rv.open_data(wave, medium="sequence").spec.low,
        rv.open_data(torch.from_numpy(wave), medium="sequence").spec.high,
    ) == (-1, 1)
    volts = rv.open_data(wave[:, 0] * 60 - 20, medium="sequence", low=-80, high=40)
    assert volts.spec.high == 40 and volts.train["x"].dtype == np.float32
    with pytest.raises(ReverieError, match=r"such as low=-59\.\d+ high=59\.\d+"):
        rv.open_data(wave * 60, medium="sequence")
    with pytest.raises(ReverieError, match="not finite"):
        rv.open_data(np.where(wave > 0, np.nan, wave), medium="sequence")


def test_an_npz_of_another_medium_is_named_and_keeps_its_split(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, (30, 1, 40)).astype(np.float32)
    np.savez(tmp_path / "sound.npz", x_train=sound[:20], x_test=sound[20:])
    dataset = rv.open_data(tmp_path / "sound.npz", medium="sequence")
    assert (len(dataset.train), len(dataset.held_out), str(dataset.spec)) == (20, 10, "40x1")
    assert (dataset.train["x"][..., 0] == sound[:20, 0]).all()
    with pytest.raises(UsageError, match=r"holds images.*npz"):
        rv.open_data("fashion", medium="volume")


def test_a_split_and_a_data_set_are_short_to_read() -> None:
    data = rv.open_data("fashion")
    assert len(repr(data.train)) < 100 and len(repr(data)) < 150 and len(repr(data.report)) < 100
    assert repr(data) == "<Dataset fashion: images 28x28x1, 12,000 to train on, 2,000 held out, 10 classes>"
    assert repr(data.train) == "<Split of 12,000 images 28x28x1: x, label>"
