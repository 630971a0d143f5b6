"""`metarl compare`: compares algorithms and controls on one family."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import tyro
from rich.console import Console
from rich.table import Table

from metarl.cli.config_file import expanded, naming_file
from metarl.cli.parsing import name_of, parse, parse_known, words_of_options
from metarl.studies.comparison import Comparison, compare, table_rows
from metarl.support.errors import UsageError
from metarl.support.types import Json

ABOUT = f"""{Comparison.__doc__}

All other options are those of `metarl train`, for every run whose learner has them, such as
--policy, --workers and --device. --config FILE takes options from a .yaml, .toml or .json file."""


@dataclass(frozen=True)
class _Compare(Comparison):
    options: tyro.conf.SuppressFixed[Json] = field(default_factory=dict)


def run(arguments: Sequence[str]) -> None:
    """Compares algorithms and controls, and prints a table of their returns."""
    options = parse_comparison(arguments)
    lines = compare(options)
    rows = table_rows(lines)
    steps = (f"step {k}" for k in range(len(rows[0]) - 4))
    table = Table("", *steps, "end of each seed", "env steps", "minutes", box=None)
    for row in rows:
        table.add_row(*row)
    print(
        f"{options.family}: mean return on {options.eval_tasks} held-out tasks for each of "
        f"{options.seeds} seeds, 95 % interval over tasks"
    )
    Console(width=max(Console().width, 140), markup=False).print(table)
    print(
        f"wrote {options.folder}/comparison.png, .pdf and .csv; next: tensorboard --logdir "
        f"{options.folder}"
    )


def parse_comparison(arguments: Sequence[str]) -> Comparison:
    """The comparison of a command line, with the options of `metarl train` that it has."""
    with naming_file(arguments):
        words = expanded(arguments)
        comparison, others = parse_known(_Compare, words, ABOUT, command="compare")
        return dataclasses.replace(comparison, options=_shared(comparison, others))


def _shared(comparison: Comparison, words: Sequence[str]) -> Json:
    """The options of runs in the rest of a command line, with the types that the runs have."""
    given: dict[str, list[str]] = {}  # the words of each option
    for part in words_of_options(words):
        if not part[0].startswith("--"):
            raise UsageError(f"metarl compare: {part[0]} belongs to no option")
        comparison.expect_option(name := name_of(part[0]))
        given.setdefault(name, []).extend(part)
    # A comparison refuses some: that comes before what the values are.
    dataclasses.replace(comparison, options=dict.fromkeys(given))
    shared: Json = {}
    for name in comparison.names:
        has = [n for n in given if n in comparison.option_names(name)]
        config = comparison.config(name, 1)
        own = [word for n in has for word in given[n]]
        parsed = parse(type(config), own, None, config, "compare")
        shared |= {n: getattr(parsed, n) for n in has}
    return shared
