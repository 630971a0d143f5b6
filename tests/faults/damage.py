"""Damaged files: bytes that changed, and JSON of other types."""

import copy
import json

WRONG = [
    *(None, True, False, 0, 3, -1, 1.5, 1e308, -1e308, 2**63, 10**30, float("nan"), float("inf")),
    *("", "x", "nan", "\0", "\ud800", "../../../etc/passwd", "/etc/passwd", "x" * 100_000),
    *([], {}, [1], ["a"], [[]], {"a": 1}, {"": None}),
]
"""Values that a JSON file may have in place of what is right."""


def nested(depth=100_000):
    """A text of JSON that is nested too deeply."""
    return "[" * depth + "]" * depth


def damaged_bytes(data, generator):
    """The bytes after one accident."""
    position = int(generator.integers(max(1, len(data))))
    kind = int(generator.integers(9))
    if kind == 0:
        return data[:position]
    if kind == 1:
        return b""
    if kind == 2:
        return data[:position] + b"\0" * int(generator.integers(1, 4096)) + data[position + 1 :]
    if kind == 3:
        return data[:position] + data[position // 2 :]
    if kind == 4:
        return data[:position] + generator.bytes(int(generator.integers(1, 64))) + data[position:]
    if kind == 5:
        return generator.bytes(len(data))
    flipped = bytearray(data)
    for _ in range(1 if kind < 8 else 5):
        flipped[int(generator.integers(len(flipped)))] ^= 1 << int(generator.integers(8))
    return bytes(flipped)


def places(value, path=()):
    """The paths of all entries of a JSON value, the root first."""
    yield path
    items = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = list(enumerate(value))[:3]
    for key, entry in items:
        yield from places(entry, (*path, key))


def wrong_json(value, generator):
    """The JSON of the value with one entry deleted, renamed or of another type, as bytes."""
    value = copy.deepcopy(value)
    paths = list(places(value))
    path = paths[int(generator.integers(len(paths)))]
    if generator.integers(30) == 0:
        return nested().encode()
    other = WRONG[int(generator.integers(len(WRONG)))]
    if not path:
        return json.dumps(other).encode()
    *way, last = path
    parent = value
    for key in way:
        parent = parent[key]
    kind = int(generator.integers(8))
    if kind == 0:
        del parent[last]
    elif kind == 1 and isinstance(parent, dict):
        parent[f"{last}x"] = parent.pop(last)
    elif kind == 2:
        parent[last] = [parent[last]]
    elif kind == 3:
        parent[last] = "DEEP"
        return json.dumps(value).replace('"DEEP"', nested()).encode()
    else:
        parent[last] = other
    return json.dumps(value).encode()
