"""`--config FILE`: options from a file, before those of the command line, which come after them."""

import contextlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from metarl.outer.registry import OUTER_LOOPS, options_of_others
from metarl.support.errors import UsageError
from metarl.support.options import option
from metarl.support.types import Json

OPTION = "--config"
OF_A_RUN = ("run_dir", "resume")
"""Options in the config.json of a run that its repetition does not take over."""
CHOOSING = {"algorithm": "maml-trpo", "preset": "none"}
"""Options that choose others, all of which the config.json of a run has, and their defaults."""


def _once(names: Sequence[str]) -> None:
    """Checks that no name is there twice: readers would take the last one."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"it names {twice[0]} twice")


def _read_json(text: str) -> Any:
    def mapping(pairs: Sequence[tuple[str, Any]]) -> Json:
        _once([name for name, _ in pairs])
        return dict(pairs)

    return json.loads(text, object_pairs_hook=mapping)


def _read_yaml(text: str) -> Any:
    _check_nodes(yaml.compose(text, yaml.SafeLoader))
    return yaml.safe_load(text)


def _check_nodes(node: object) -> None:
    """Checks the mappings in a node of YAML."""
    if isinstance(node, yaml.MappingNode):
        _once([str(name.value) for name, _ in node.value])
        for _, value in node.value:
            _check_nodes(value)


READERS: dict[str, Callable[[str], Any]] = {
    ".json": _read_json,
    ".toml": tomllib.loads,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}


def expanded(arguments: Sequence[str]) -> list[str]:
    """The command line with the options of its `--config` file in front.

    Raises:
        UsageError: the file cannot be read, or it does not hold options.

    """
    words: list[str] = []
    others: list[str] = []
    runs: list[tuple[Json, str]] = []
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name != OPTION:
            others.append(word)
            continue
        path = value if equals else next(rest, None)
        if not path or path.startswith("--"):
            raise UsageError(f"{OPTION} needs a file: {', '.join(READERS)}")
        options, is_run = _read(Path(path))
        runs += [(options, path)] if is_run else []
        words += _words(options, path)
    every = [*words, *others]
    for options, path in runs:
        _expect_same_choices(options, path, every)
    return every


def _expect_same_choices(options: Json, path: str, words: Sequence[str]) -> None:
    """Checks that no word chooses other options, before all of which those of a run would come."""
    choosing = {name: options.get(name, default) for name, default in CHOOSING.items()}
    if choosing["preset"] != CHOOSING["preset"]:  # of which the options are those of the family
        choosing["family"] = options.get("family")
    for word, after in zip(words, (*words[1:], ""), strict=False):
        name, equals, value = word.partition("=")
        chosen = name.removeprefix("--")
        is_option = chosen in choosing and (equals or name.startswith("--"))
        if is_option and (value if equals else after) != choosing[chosen]:
            raise UsageError(
                f"--{chosen}: {path} has every option of a run, with its --{chosen} "
                f"{choosing[chosen]}; give a file with the options that are to stay"
            )


@contextlib.contextmanager
def naming_file(arguments: Sequence[str]) -> Iterator[None]:
    """In the block, a message about an option of the `--config` file names the file too."""
    try:
        yield
    except UsageError as error:
        text = str(error)
        for path, words in _files(arguments):
            given = [word for word in words if re.search(rf"{re.escape(word)}(?![\w-])", text)]
            if given and path not in text:
                raise type(error)(f"{text} ({path} has {', '.join(given)})") from error
        raise


def _files(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The path of each `--config` file, and the options in it."""
    for word, after in zip(arguments, (*arguments[1:], ""), strict=False):
        name, equals, value = word.partition("=")
        if name == OPTION:
            path = value if equals else after
            yield path, [w for w in expanded([OPTION, path]) if w.startswith("--")]


def _read(path: Path) -> tuple[Json, bool]:
    """The options that a file holds, and whether it is the config.json of a run."""
    if path.suffix not in READERS:
        raise UsageError(f"{OPTION} {path} must end in one of {', '.join(READERS)}")
    try:
        content = READERS[path.suffix](path.read_text())
    except OSError as error:
        raise UsageError(f"{OPTION} {path} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{OPTION} {path} cannot be read: {reason}") from error
    if isinstance(content, dict) and isinstance(content.get("config"), dict):
        options: Json = content["config"]
        dropped = set(OF_A_RUN)
        if (outer := str(options.get("outer"))) in OUTER_LOOPS.own:
            dropped |= options_of_others(outer).keys()  # an earlier version wrote them
        return {n: value for n, value in options.items() if n not in dropped}, True
    if not isinstance(content, dict):
        raise UsageError(f"{OPTION} {path} must hold names and values of options")
    return content, False


def _words(options: Json, path: str) -> list[str]:
    """Options as words of a command line."""
    words: list[str] = []
    try:
        _once([option(str(name)) for name in options])  # a_b and a-b
    except ValueError as error:
        raise UsageError(f"{OPTION} {path} cannot be read: {error}") from None
    for name, value in options.items():
        own = option(str(name))
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(own if value else option(f"no_{name}"))
        elif isinstance(value, dict):
            words += [own, *(_word(part) for pair in value.items() for part in pair)]
        elif isinstance(value, list):
            words += [own, *map(_word, value)]
        elif isinstance(value, (int, float, str)):
            words += [own, _word(value)]
        else:
            raise UsageError(f"{OPTION} {path}: {name} is a {type(value).__name__}, not an option")
    return words


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
