"""The page of results, from the records that results.py makes."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from results_targets import half_width, share_of_way
from results_targets import lines as lines_of_targets

from metarl.studies.comparison import Comparison
from metarl.support.options import option
from metarl.support.types import Json

BLOCK = 10
"""Iterations whose mean return is one number of a long run."""
SHOWN = (10, 20, 30, 40, 60, 80, 100, 150, 200)
"""Iterations of a long run that the page shows, beside the last ones."""

FINN = "Finn et al. 2017: horizon 200, other physics"
PUBLISHED = {
    "Navigation2D": (
        ("MAML", FINN, (-40.4, -11.7, -3.3, -3.2)),
        ("pretrained", FINN, (-40.8, None, None, -8.5)),
        ("random", FINN, (-82.7, None, None, -46.8)),
        ("oracle", FINN, (-2.3,)),
    ),
    "HalfCheetahDir": (
        ("MAML", FINN, (-50.7, 293.2, 313.5, 315.7)),
        ("pretrained", FINN, (-43.0, None, None, 19.6)),
        ("random", FINN, (-35.7, None, None, 86.2)),
        ("oracle", FINN, (442.7,)),
        ("MAML", "RLlib, 211M steps, horizon 100", (-14.0, 255.0)),
    ),
    "HalfCheetahVel": (
        ("MAML", FINN, (-129.5, -78.6, -66.6, -60.8)),
        ("pretrained", FINN, (-158.0, None, None, -133.6)),
        ("random", FINN, (-254.8, None, None, -230.8)),
        ("oracle", FINN, (-54.5,)),
        ("MAML", "pytorch-maml-rl, 9.6M steps, horizon 100, trained here", (-60.1, -39.1)),
    ),
    "AntDir": (
        ("MAML", FINN, (8.7, 499.2, 500.7, 499.1)),
        ("pretrained", FINN, (3.2, None, None, 6.9)),
        ("random", FINN, (3.1, None, None, 26.1)),
        ("oracle", FINN, (524.8,)),
    ),
    "AntVel": (
        ("MAML", FINN, (30.6, 96.7, 100.1, 101.4)),
        ("pretrained", FINN, (-1.8, None, None, 9.5)),
        ("random", FINN, (-78.6, None, None, -35.6)),
        ("oracle", FINN, (107.9,)),
    ),
    "AntGoal": (("MAML", "RLlib, 372M steps, horizon 200", (None, -540.0)),),
}
"""(name, source, return after each inner step) of published results."""
NOTES = {
    "HalfCheetahVel": "Seeds 4 to 6, and then 7 to 9, were added because fewer did not decide "
    "whether MAML is above the pretrained policy; the interval of that target is not corrected for "
    "these looks."
}
"""What a reader must know beside a table."""


INTRODUCTION = """# Results

Written by `experiments/results.py page` from the records in `experiments/results`; a test compares
the two.

The tables are comparisons of `metarl compare`, of equally many episodes for all names of a table.
A cell is the mean return on the tasks of the split test (those of training in HalfCheetahDir and
AntDir, which have two) after that many inner steps (for rl2, episodes of experience), the half
width of its 95 % interval over seeds (Student's *t*, which holds the noise of tasks too), and in
parentheses that of its 95 % interval over tasks. Means over fewer than two seeds have no
interval over seeds. Published results stand below; they are of other physics or horizons where the
source says so, and comparable in shape alone. The minutes are those of one core of a machine that
did other work at the same time.

`python experiments/results.py run FAMILY` trains the runs of a table that its folder lacks,
`run FAMILY NAME` those of one of its rows, and `--seeds 2 3` those seeds alone.
[Comparison](../experiments/benchmarks/results/comparison.txt) and
[outer update](../experiments/benchmarks/results/outer_update.txt) discuss earlier measurements.
"""


def page(tables: Mapping[str, Comparison], records: Path) -> str:
    """The page of the records in a folder."""
    held = {
        str(path.relative_to(records).with_suffix("")): json.loads(path.read_text())
        for path in sorted(records.rglob("*.json"))
    }
    parts = [INTRODUCTION, *targets(held)]
    for family in filter(held.get, tables):
        parts += table(family, tables[family], held[family])
    if missing := [family for family in tables if family not in held]:
        parts.append(f"Not trained yet: {', '.join(missing)}.\n")
    prefix = "long/"
    long = {n.removeprefix(prefix): run for n, run in held.items() if n.startswith(prefix)}
    return "\n".join(parts + (long_runs(long) if long else []))


def targets(held: Mapping[str, Json]) -> list[str]:
    """The section of the targets."""
    rows = [("target", "found"), ("---", "---"), *lines_of_targets(held)]
    return ["## Targets\n", "\n".join(map(cells, rows)) + "\n"]


def command_of(whole: Comparison) -> str:
    """The command line of a comparison."""
    words = ["metarl compare"]
    own = {field.name: field.default for field in dataclasses.fields(whole)}
    given = {n: getattr(whole, n) for n in own if n not in ("run_dir", "options")}
    for name, value in (given | whole.options).items():
        if value == own.get(name, dataclasses.MISSING):
            continue
        if isinstance(value, dict):
            value = tuple(word for pair in value.items() for word in pair)
        values = value if isinstance(value, tuple) else (value,)
        if values:
            words.append(" ".join((option(name), *map(str, values))))
    return " ".join(words)


def table(family: str, whole: Comparison, record: Json) -> list[str]:
    """The section of a family."""
    rows = {name: record["rows"][name] for name in whole.names if name in record["rows"]}
    steps = range(whole.inner_steps + 1)
    digits = 3 if max(np.abs(r["means"]).max() for r in rows.values()) < 10 else 1
    header = ("", *(f"step {k}" for k in steps), "seeds at the end", "env steps", "minutes")
    lines = [cells(header), cells(["---"] * len(header))]
    for name, held in rows.items():
        means = np.array(held["means"])
        shown = [cell(means, np.array(held["standard_errors"]), k, digits) for k in steps]
        ends = ", ".join(f"{end:.{digits}f}" for end in means[:, -1])
        env_steps = f"{np.mean(held['env_steps']) / 1e6:.2f}M"
        lines.append(cells((name, *shown, ends, env_steps, f"{np.mean(held['minutes']):.0f}")))
    for name, source, values in PUBLISHED.get(family, ()):
        padded = (*values, *(None for _ in steps))[: len(steps)]
        numbers = ("" if value is None else f"{value:.{digits}f}" for value in padded)
        lines.append(cells((f"*{name}*", *numbers, f"*{source}*", "", "")))
    missing = [name for name in whole.names if name not in rows]
    fewer = [f"{name} ({len(r['seeds'])})" for name, r in rows.items()
             if len(r["seeds"]) < whole.seeds]  # fmt: skip
    notes = [f"Commits {', '.join(sorted({c for r in rows.values() for c in r['commits']}))}; "
             f"{record['machine']}."]  # fmt: skip
    notes += [f"Not trained yet: {', '.join(missing)}."] if missing else []
    notes += [f"Fewer than {whole.seeds} seeds: {', '.join(fewer)}."] if fewer else []
    notes += shares(rows)
    notes += [NOTES[family]] if family in NOTES else []
    command = f"```text\n{command_of(whole)}\n```\n"
    return [f"## {family}\n", command, "\n".join(lines) + "\n", " ".join(notes) + "\n"]


def cell(means: np.ndarray, errors: np.ndarray, step: int, digits: int) -> str:
    """A mean with its intervals; `means` and `errors` are [seeds, steps + 1]."""
    if step >= means.shape[1]:
        return ""
    ends, seeds = means[:, step], len(means)
    tasks = 1.96 * float((errors[:, step] ** 2).sum()) ** 0.5 / seeds
    over_seeds = f" ± {half_width(ends):.{digits}f}" if seeds > 1 else ""
    return f"{ends.mean():.{digits}f}{over_seeds} ({tasks:.{digits}f})"


def shares(rows: Json) -> list[str]:
    """The share of the way from an untrained policy to the oracle that each row has gone."""
    if not {"random", "oracle"} <= set(rows):
        return []
    names = [name for name in rows if name not in ("random", "oracle")]
    listed = ", ".join(f"{name} {share_of_way(rows, name):.0%}" for name in names)
    over = "after the last step, over the seeds that a row and both have"
    return [f"Way from the untrained policy to the oracle, {over}: {listed}."]


def long_runs(records: Mapping[str, Json]) -> list[str]:
    """The section of the long training runs."""
    parts = [
        "## Long runs\n\n"
        f"Training returns of single runs before / after adaptation: means of {BLOCK} iterations "
        "that end with the one named.\n"
    ]
    for name, run in records.items():
        last = BLOCK * len(run["after"])
        shown = sorted({i for i in SHOWN if i < last} | {last})
        at = [i // BLOCK - 1 for i in shown]
        lines = [
            cells(("iteration", *map(str, shown))),
            cells(["---"] * (1 + len(shown))),
            cells(("env steps", *(f"{run['env_steps'][i] / 1e6:.1f}M" for i in at))),
            cells(("return", *(f"{run['before'][i]:.1f} / {run['after'][i]:.1f}" for i in at))),
        ]
        if "success" in run:
            rates = zip(run["success"]["before"], run["success"]["after"], strict=True)
            shares = [f"{before:.0%} / {after:.0%}" for before, after in rates]
            lines.append(cells(("success", *(shares[i] for i in at))))
        about = f"Commit {run['commit']}; {run['minutes']:.0f} minutes; {run['machine']}.\n"
        if "held_out" in run:
            about = f"{tested(run['held_out'])}\n\n{about}"
        command = f"```text\n{run['command']}\n```\n"
        parts += [f"### {name}\n", command, "\n".join(lines) + "\n", about]
    return parts


def tested(held_out: Json) -> str:
    """What an evaluation of a long run found."""
    after = ", ".join(map(str, held_out["episodes"]))
    found = f"return {', '.join(f'{mean:.1f}' for mean in held_out['means'])}"
    if held_out["success"]:
        found += f"; success {', '.join(f'{rate:.1%}' for rate in held_out['success'])}"
    tasks = f"{held_out['tasks']} tasks of the split test"
    return f"On {tasks}, after learning from {after} episodes: {found}."


def cells(row: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(row)} |"
