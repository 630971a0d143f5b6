"""N-way K-shot classification of data of one's own: arrays, or a folder of images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from metarl.support.errors import UsageError
from metarl.tasks.samples import Samples

Classes = Sequence[np.ndarray]
"""Samples [number, ...] of each class."""


@dataclass(frozen=True)
class Domain:
    """Classes that belong together; those of `test` are held out."""

    train: Classes
    test: Classes

    @classmethod
    def split(cls, classes: Classes, held_out: float = 0.25, seed: int = 0) -> "Domain":
        """Holds out a share of the classes, drawn with the seed.

        Raises:
            UsageError: that leaves one of the two without a class.

        """
        number = round(held_out * len(classes))
        if not 0 < number < len(classes):
            raise UsageError(
                f"held_out {held_out:g} of {len(classes)} classes is {number}: training and test "
                "need at least one each"
            )
        order = np.random.default_rng(seed).permutation(len(classes))
        return cls([classes[i] for i in order[number:]], [classes[i] for i in order[:number]])


class FewShotClassification:
    """Tasks of several domains in turn, each `ways` classes with `shots` samples to adapt on."""

    measure = "accuracy"
    loss = staticmethod(nn.functional.cross_entropy)

    def __init__(
        self,
        domains: Mapping[str, Domain],
        module: nn.Module,
        head: tuple[str, ...],
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
    ):
        """`queries`: samples of each class on which a task is evaluated.

        Raises:
            UsageError: a domain has fewer classes than `ways`, or a class has too few samples.

        """
        self.name = f"{ways}-way {shots}-shot {', '.join(domains)}"
        self.domains = domains
        self.groups = tuple(domains)
        self.module = module
        self.head = head
        self.ways, self.shots, self.queries = ways, shots, queries
        for name, domain in domains.items():
            for split, classes in (("training", domain.train), ("test", domain.test)):
                self._check(f"{name}, {split}", classes)

    @classmethod
    def of(
        cls,
        domain: Domain,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        module: nn.Module | None = None,
        name: str = "own data",
    ) -> "FewShotClassification":
        """Tasks of one domain.

        Args:
            domain: its classes.
            ways: N, the classes of a task.
            shots: K, the samples of each class to adapt on.
            queries: samples of each class on which a task is evaluated.
            module: maps samples [n, ...] to logits [n, ways]; its last layer is the head. By
                default two convolutions for images, and otherwise a multilayer perceptron.
            name: for people.

        """
        shape = domain.train[0].shape[1:]
        if module is None:
            is_image = len(shape) == 3 and min(shape[1:]) >= 4  # two poolings
            module = convolutional_net(ways, shape=shape)[0] if is_image else _mlp(ways, shape)
        return cls({name: domain}, module, head_of(module), ways, shots, queries)

    def _check(self, where: str, classes: Classes) -> None:
        if len(classes) < self.ways:
            raise UsageError(f"{where}: {len(classes)} classes are too few for {self.ways} ways")
        needed = self.shots + self.queries
        if short := [i for i, samples in enumerate(classes) if len(samples) < needed]:
            i = short[0]
            raise UsageError(
                f"{where}: class {i} has {len(classes[i])} samples; {self.shots} shots and "
                f"{self.queries} queries need {needed}: choose fewer shots or queries"
            )

    def sample(
        self, number: int, generator: Callable[[int], np.random.Generator], split: str
    ) -> tuple[Samples, Samples]:
        """Support [tasks, ways × shots, ...] and query [tasks, ways × queries, ...] sets."""
        parts: list[list[np.ndarray]] = [[], []]
        for task in range(number):
            random = generator(task)
            domain = self.domains[self.groups[task % len(self.groups)]]
            classes: Classes = domain.train if split == "train" else domain.test
            drawn = [
                classes[c][random.permutation(len(classes[c]))[: self.shots + self.queries]]
                for c in random.permutation(len(classes))[: self.ways]
            ]
            parts[0].append(np.concatenate([x[: self.shots] for x in drawn]))
            parts[1].append(np.concatenate([x[self.shots :] for x in drawn]))
        support, query = (
            Samples(
                torch.from_numpy(np.stack(part)).float(),
                torch.arange(self.ways).repeat_interleave(each).expand(number, -1),
            )
            for part, each in zip(parts, (self.shots, self.queries), strict=True)
        )
        return support, query

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Accuracy: [tasks]."""
        return (outputs.argmax(-1) == targets).float().mean(1)


def by_label(inputs: npt.ArrayLike, labels: npt.ArrayLike) -> list[np.ndarray]:
    """Samples [number, ...] with labels [number] as a list of classes, in the order of the labels.

    Raises:
        UsageError: there is not one label for each sample.

    """
    samples, of_each = np.asarray(inputs), np.asarray(labels)
    if of_each.shape != samples.shape[:1]:
        raise UsageError(f"labels {of_each.shape} must be one for each of {len(samples)} samples")
    return [samples[of_each == label] for label in np.unique(of_each)]


def image_folder(folder: str | Path, size: int = 28, grey: bool = False) -> list[np.ndarray]:
    """The classes of FOLDER/CLASS/*, images of any format that Pillow reads.

    Each class is [number, channels, size, size] float32, from −1 to 1; images are scaled, without
    regard to their aspect ratio, to `size`.

    Raises:
        UsageError: there is no folder of images in it, or a file is not an image.

    """
    classes = []
    for own in sorted(path for path in Path(folder).glob("[!.]*") if path.is_dir()):
        files = sorted(path for path in own.glob("[!.]*") if path.is_file())  # none of .DS_Store
        images = [_read(path, size, "L" if grey else "RGB") for path in files]
        if images:
            classes.append(np.stack(images))
    if not classes:
        raise UsageError(f"{folder} has no folders with images: one folder for each class")
    return classes


def _read(path: Path, size: int, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(mode).resize((size, size)), np.float32)
    except (UnidentifiedImageError, OSError) as error:
        raise UsageError(f"{path} is not an image: {error}") from error
    return np.moveaxis(pixels.reshape(size, size, -1), -1, 0) / 127.5 - 1


def with_quarter_turns(classes: Classes) -> list[np.ndarray]:
    """Images [number, 1, side, side] turned by 0, 90, 180 and 270°, each turn a class of its own.

    Otherwise a model memorises the few classes (Santoro et al. 2016, arXiv 1605.06065, section 4).
    """
    return [np.rot90(images, turns, (-2, -1)) for images in classes for turns in range(4)]


def convolutional_net(
    ways: int, channels: int = 32, shape: Sequence[int] = (1, 8, 8)
) -> tuple[nn.Module, tuple[str, ...]]:
    """Two convolutions and a linear head for images [n, *shape], and the head's parameters."""
    colours, height, width = shape
    module = nn.Sequential(
        *(nn.Conv2d(colours, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(channels * (height // 4) * (width // 4), ways),
    )
    return module, head_of(module)


def head_of(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of the last layer that has any."""
    names = [name for name, _ in module.named_parameters()]
    last = names[-1].rpartition(".")[0]
    return tuple(name for name in names if name.rpartition(".")[0] == last)


def _mlp(ways: int, shape: Sequence[int], hidden: int = 64) -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(int(np.prod(shape)), hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, ways)),
    )
