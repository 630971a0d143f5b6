"""N-way K-shot classification on data that packages ship, and on generated graphs.

A task of a domain of images is N of its classes with new labels; classes of the test split are
never seen in training. A task on graphs is a property whose value tells two classes apart.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from metarl.support.errors import UsageError
from metarl.tasks.classification import (
    Domain,
    FewShotClassification,
    convolutional_net,
    with_quarter_turns,
)
from metarl.tasks.samples import Samples

PATCH = 8
"""Side of an image in pixels."""


def digits() -> Domain:
    """Scikit-learn's handwritten digits (UCI, 8 × 8 pixels).

    The training split has the digits 0 to 4 in quarter turns, the test split 5 to 9 unturned.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = data.images[:, None] / 8.0 - 1.0  # [number, 1, 8, 8], −1 to 1
    classes = [images[data.target == digit] for digit in range(10)]
    return Domain(with_quarter_turns(classes[:5]), classes[5:])


def photographs() -> Domain:
    """Patches of scikit-learn's two photographs; a class is a field of a photograph.

    Every other field is held out, and those for training are in quarter turns. The fields are
    80 × 80 pixels; those without contrast, such as empty sky, are left out.
    """
    from sklearn.datasets import load_sample_images

    size, classes = 80, []
    for photograph in load_sample_images().images:
        grey = photograph.mean(-1) / 127.5 - 1.0
        for top in range(0, grey.shape[0] - size + 1, size):
            for left in range(0, grey.shape[1] - size + 1, size):
                field = grey[top : top + size, left : left + size]
                tiles = field.reshape(size // PATCH, PATCH, size // PATCH, PATCH)
                patches = tiles.swapaxes(1, 2).reshape(-1, 1, PATCH, PATCH)
                if patches.std() > 0.1:
                    classes.append(patches)
    return Domain(with_quarter_turns(classes[::2]), classes[1::2])


DOMAINS: dict[str, Callable[[], Domain]] = {"digits": digits, "photographs": photographs}


def classification(
    domains: str = "digits photographs", ways: int = 5, shots: int = 1
) -> "FewShotClassification | GraphProperties":
    """The problem of `experiments/few_shot.py`: images of some domains, or `graphs`.

    Raises:
        UsageError: there is no such domain.

    """
    if domains == "graphs":
        return GraphProperties(shots)
    if unknown := [name for name in domains.split() if name not in DOMAINS]:
        known = ", ".join(DOMAINS)
        raise UsageError(f"domain {unknown[0]} must be one of {known}, or graphs alone")
    chosen = {name: DOMAINS[name]() for name in domains.split()}
    module, head = convolutional_net(ways)
    return FewShotClassification(chosen, module, head, ways, shots)


def graph_properties(adjacency: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers that describe graphs [number, nodes, nodes], by name: [number]."""
    degrees = adjacency.sum(-1)
    cube = adjacency @ adjacency @ adjacency
    wedges = (degrees * (degrees - 1)).sum(-1)
    eigenvalues = np.linalg.eigvalsh(adjacency)
    laplacian = np.linalg.eigvalsh(degrees[..., None] * np.eye(adjacency.shape[-1]) - adjacency)
    triangles = np.trace(cube, axis1=1, axis2=2) / 6
    return {
        "edges": degrees.sum(-1) / 2,
        "largest degree": degrees.max(-1),
        "spread of degrees": degrees.std(-1),
        "leaves": (degrees == 1).sum(-1),
        "isolated nodes": (degrees == 0).sum(-1),
        "triangles": triangles,
        "clustering": 6 * triangles / np.maximum(wedges, 1),
        "components": (laplacian < 1e-8).sum(-1),
        "spectral radius": eigenvalues[:, -1],
        "smallest eigenvalue": eigenvalues[:, 0],
    }


class GraphProperties:
    """Which of two kinds is a graph? A task is a property: above its median or not above it."""

    name = "graph properties"
    measure = "accuracy"
    groups = ()
    loss = staticmethod(nn.functional.cross_entropy)
    held_out = ("clustering", "leaves", "spectral radius")

    def __init__(self, shots: int = 10, queries: int = 15, nodes: int = 12, graphs: int = 4000):
        """`shots`, `queries`: graphs of each kind; `graphs`: random graphs to draw from."""
        self.shots, self.queries = shots, queries
        self.module = GraphNet()
        self.head = ("head.weight", "head.bias")
        random = np.random.default_rng(0)
        density = random.uniform(0.05, 0.5, (graphs, 1, 1))
        upper = np.triu(random.random((graphs, nodes, nodes)) < density, 1)
        self._adjacency = (upper | upper.swapaxes(1, 2)).astype(np.float64)
        properties = graph_properties(self._adjacency)
        kinds = {name: value > np.median(value) for name, value in properties.items()}
        self._pools = {
            "train": [kind for name, kind in kinds.items() if name not in self.held_out],
            "test": [kinds[name] for name in self.held_out],
        }

    def sample(
        self, number: int, generator: Callable[[int], np.random.Generator], split: str
    ) -> tuple[Samples, Samples]:
        """Support and query sets of adjacency matrices: [tasks, graphs, nodes, nodes]."""
        index, labels = [], []
        for task in range(number):
            random = generator(task)
            pool = self._pools["train" if split == "train" else "test"]
            kind = pool[random.integers(len(pool))] ^ bool(random.integers(2))
            each = self.shots + self.queries
            drawn = [random.choice(np.flatnonzero(kind == k), each, False) for k in (0, 1)]
            index.append(np.stack(drawn, 1).reshape(-1))  # the two kinds alternate
            labels.append(np.tile([0, 1], each))
        x = torch.from_numpy(self._adjacency[np.stack(index)]).float()
        y = torch.from_numpy(np.stack(labels))
        k = 2 * self.shots
        return Samples(x[:, :k], y[:, :k]), Samples(x[:, k:], y[:, k:])

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Accuracy: [tasks]."""
        return (outputs.argmax(-1) == targets).float().mean(1)


class GraphNet(nn.Module):
    """A small graph network: h ← tanh(A h W + h U) twice from degrees, then the sum over nodes."""

    def __init__(self, hidden: int = 32):
        super().__init__()
        self.first = nn.Linear(2, hidden)
        self.neighbours = nn.Linear(hidden, hidden, bias=False)
        self.own = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 2)

    def forward(self, adjacency: Tensor) -> Tensor:
        """Adjacency matrices [graphs, nodes, nodes] -> logits [graphs, 2]."""
        degree = adjacency.sum(-1, keepdim=True) / 4
        h = torch.tanh(self.first(torch.cat([degree, torch.ones_like(degree)], -1)))
        for _ in range(2):
            h = torch.tanh(self.neighbours(adjacency @ h / 4) + self.own(h))
        logits: Tensor = self.head(h.mean(-2))
        return logits
