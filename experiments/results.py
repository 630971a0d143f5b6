"""The page of results: trains what its tables show, records it, and writes the page.

    python experiments/results.py run FAMILY [NAME ...]   trains what is missing of one table
    python experiments/results.py record FAMILY           records the runs that are finished
    python experiments/results.py add RUN_FOLDER NAME     records one long training run
    python experiments/results.py page                    writes docs/results.md from the records

A table is a comparison of `metarl compare`, in the folder `comparisons`. Its record is a file of
experiments/results, from which alone the page is written.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from metarl.learners.maml_config import MAMLConfig
from metarl.runs.folder import CONFIG, EVALUATION, METRICS
from metarl.studies.comparison import Comparison, compare
from metarl.support.files import replace_durably
from metarl.support.options import option

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "experiments" / "results"
LONG = RECORDS / "long"
PAGE = ROOT / "docs" / "results.md"
BLOCK = 10
"""Iterations whose mean return is one number of a long run."""
SHOWN = (10, 20, 30, 40, 60, 80, 100, 150, 200)
"""Iterations of a long run that the page shows."""

STUDENT = dict(enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262), 1))
"""Quantiles of Student's t at .975, by the degrees of freedom."""

NAMES = ("maml-trpo", "promp", "e-maml")
CONTROLS = ("random", "pretrained", "oracle", "rl2")


def comparison(family: str, **sizes: int) -> Comparison:
    """The comparison behind the table of a family."""
    return Comparison(f"envs:{family}-v0", preset="tuned", algorithms=NAMES, controls=CONTROLS,
                      **sizes)  # fmt: skip


TABLES = {
    "Navigation2D": comparison("Navigation2D"),
    "HalfCheetahDir": comparison("HalfCheetahDir", iterations=60),
    "HalfCheetahVel": comparison("HalfCheetahVel", iterations=60),
    "AntDir": comparison("AntDir", iterations=60, meta_batch_size=10),
    "AntVel": comparison("AntVel", iterations=60, meta_batch_size=10),
    "AntGoal": comparison("AntGoal", iterations=60, meta_batch_size=10),
    "Walker2dParams": comparison("Walker2dParams", iterations=40, episodes=10),
    "HopperParams": comparison("HopperParams", iterations=40, episodes=10),
    "SwimmerVel": comparison("SwimmerVel", iterations=40, episodes=10),
    "BernoulliBandit": comparison(
        "BernoulliBandit", iterations=150, meta_batch_size=40, episodes=10, eval_tasks=400
    ),
    "TabularMDP": comparison("TabularMDP", iterations=200, meta_batch_size=40, eval_tasks=200),
}

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and does what it asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "record"):
        command = commands.add_parser(name)
        command.add_argument("family", choices=TABLES)
        command.add_argument("names", nargs="*", choices=(*NAMES, *CONTROLS, []))
        command.add_argument("--run-dir", type=Path, help="folder of the comparison")
    add = commands.add_parser("add")
    add.add_argument("run", type=Path)
    add.add_argument("name")
    commands.add_parser("page")
    options = parser.parse_args(arguments)
    if options.command == "page":
        PAGE.write_text(page())
    elif options.command == "add":
        write(LONG / f"{options.name}.json", long_record(options.run))
    else:
        whole = dataclasses.replace(TABLES[options.family], run_dir=options.run_dir)
        if options.command == "run":
            compare(chosen(whole, options.names))
        path = RECORDS / f"{options.family}.json"
        before = json.loads(path.read_text())["rows"] if path.exists() else {}
        rows = {**before, **{n: row(whole, n) for n in whole.names if finished_seeds(whole, n)}}
        write(path, {"machine": machine(), "rows": rows})


def chosen(whole: Comparison, names: Sequence[str]) -> Comparison:
    """The part of a comparison that trains these names, all if there are none."""
    if not names:
        return whole
    return dataclasses.replace(
        whole,
        algorithms=tuple(n for n in whole.algorithms if n in names),
        controls=tuple(n for n in whole.controls if n in names),
    )


def command_of(whole: Comparison) -> str:
    """The command line of a comparison."""
    words = ["metarl compare"]
    for item in dataclasses.fields(whole):
        value = getattr(whole, item.name)
        if item.name == "run_dir" or value == item.default:
            continue
        if item.name == "family_options":
            value = tuple(word for pair in value.items() for word in pair)
        values = value if isinstance(value, tuple) else (value,)
        if values:
            words.append(" ".join((option(item.name), *map(str, values))))
    return " ".join(words)


def finished_seeds(whole: Comparison, name: str) -> list[int]:
    """Seeds whose run was trained and evaluated."""
    seeds = range(1, whole.seeds + 1)
    return [s for s in seeds if (whole.run_folder(name, s) / EVALUATION).exists()]


def row(whole: Comparison, name: str) -> dict[str, object]:
    """What the page shows of the runs of one name."""
    seeds = finished_seeds(whole, name)
    folders = [whole.run_folder(name, seed) for seed in seeds]
    reports = [json.loads((folder / EVALUATION).read_text()) for folder in folders]
    configs = [json.loads((folder / CONFIG).read_text()) for folder in folders]
    last = [lines[-1] if (lines := metrics(folder)) else {} for folder in folders]
    returns = np.array(
        [[task["returns"] for task in r["splits"]["test"]["tasks"]] for r in reports]
    )  # [seeds, tasks, steps + 1]
    errors = returns.std(1, ddof=1) / returns.shape[1] ** 0.5
    return {
        "seeds": seeds,
        "tasks": returns.shape[1],
        "means": returns.mean(1).round(4).tolist(),
        "standard_errors": errors.round(4).tolist(),
        "env_steps": [line.get("env_steps", 0) for line in last],
        "minutes": [round(line.get("seconds", 0.0) / 60, 1) for line in last],
        "iterations": [report["iteration"] for report in reports],
        "commits": sorted({config["git_commit"][:7] for config in configs}),
    }


def long_record(folder: Path) -> dict[str, object]:
    """What the page shows of a long training run."""
    config = json.loads((folder / CONFIG).read_text())
    lines = metrics(folder)
    blocks = [lines[i : i + BLOCK] for i in range(0, len(lines) - BLOCK + 1, BLOCK)]
    return {
        "machine": machine(),
        "commit": config["git_commit"][:7],
        "command": command_of_run(config["config"]),
        "env_steps": [block[-1]["env_steps"] for block in blocks],
        "minutes": round(lines[-1]["seconds"] / 60, 1),
        **{
            name: [round(float(np.mean([m[f"return/{name}"] for m in b])), 2) for b in blocks]
            for name in ("before", "after")
        },
    }


def command_of_run(config: dict[str, object]) -> str:
    """The command line of a training run of MAML, without options that change no number."""
    default = MAMLConfig.of(str(config["algorithm"]), family=str(config["family"]))
    defaults = json.loads(json.dumps(default.to_json()))
    words = [f"metarl train --family {config['family']}"]
    for name, value in config.items():
        if name in {"family", *MAMLConfig.changeable} - {"iterations"} or value == defaults[name]:
            continue
        values = value if isinstance(value, list) else [value]
        if isinstance(value, dict):
            values = [word for pair in value.items() for word in pair]
        words.append(" ".join((option(name), *map(str, values))))
    return " ".join(words)


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    path = folder / METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def machine() -> str:
    """The processor of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{model}, {os.cpu_count()} cores"


def write(path: Path, record: dict[str, object]) -> None:
    """Writes a record with one line for each entry of it, and of a table's rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {name: json.dumps(value) for name, value in record.items()}
    if isinstance(rows := record.get("rows"), dict):
        entries["rows"] = block({name: json.dumps(held) for name, held in rows.items()}, 1)
    replace_durably(path, (block(entries, 0) + "\n").encode())


def block(entries: dict[str, str], depth: int) -> str:
    """A JSON object of texts that are JSON, one line each."""
    lines = ",\n".join(f"{' ' * depth} {json.dumps(n)}: {text}" for n, text in entries.items())
    return f"{{\n{lines}\n{' ' * depth}}}"


INTRODUCTION = """# Results

Written by `experiments/results.py page` from the records in `experiments/results`; a test compares
the two.

The tables are comparisons of `metarl compare`, at equal environment steps for all names of a table.
A cell is the mean return on held-out tasks after that many inner steps (for rl2, episodes of
experience), the half width of its 95 % interval over seeds (Student's *t*, which holds the noise of
tasks too), and in parentheses that of its 95 % interval over held-out tasks. Means over fewer than
two seeds have no interval over seeds. Published results stand below; they are of other physics or
horizons where the source says so, and comparable in shape alone. The minutes are those of one core
of a machine that did other work at the same time.

`python experiments/results.py run FAMILY` trains what is missing of a table, `run FAMILY NAME` what
is missing of one of its rows. [Comparison](results/comparison.md) and
[outer update](results/outer_update.md) discuss earlier measurements.
"""


def page() -> str:
    """The page of results."""
    parts = [INTRODUCTION]
    for family, whole in TABLES.items():
        path = RECORDS / f"{family}.json"
        if path.exists():
            parts += table(family, whole, json.loads(path.read_text()))
    missing = [family for family in TABLES if not (RECORDS / f"{family}.json").exists()]
    if missing:
        parts.append(f"Not trained yet: {', '.join(missing)}.\n")
    if LONG.exists():
        parts += long_runs()
    return "\n".join(parts)


def table(family: str, whole: Comparison, record: dict) -> list[str]:
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
    command = f"```text\n{command_of(whole)}\n```\n"
    return [f"## {family}\n", command, "\n".join(lines) + "\n", " ".join(notes) + "\n"]


def cell(means: np.ndarray, errors: np.ndarray, step: int, digits: int) -> str:
    """A mean with its intervals; `means` and `errors` are [seeds, steps + 1]."""
    if step >= means.shape[1]:
        return ""
    ends, seeds = means[:, step], len(means)
    tasks = 1.96 * float((errors[:, step] ** 2).sum()) ** 0.5 / seeds
    over_seeds = ""
    if seeds > 1:
        half = STUDENT[seeds - 1] * ends.std(ddof=1) / seeds**0.5
        over_seeds = f" ± {half:.{digits}f}"
    return f"{ends.mean():.{digits}f}{over_seeds} ({tasks:.{digits}f})"


def shares(rows: dict) -> list[str]:
    """The share of the way from an untrained policy to the oracle that each row has gone."""
    if not {"random", "oracle"} <= set(rows):
        return []
    low, high = (np.mean(np.array(rows[name]["means"])[:, 0]) for name in ("random", "oracle"))
    gone = {
        name: (np.array(held["means"])[:, -1].mean() - low) / (high - low)
        for name, held in rows.items()
        if name not in ("random", "oracle")
    }
    listed = ", ".join(f"{name} {share:.0%}" for name, share in gone.items())
    return [f"Way from the untrained policy to the oracle, after the last step: {listed}."]


def long_runs() -> list[str]:
    """The section of the long training runs."""
    parts = [
        "## Long runs\n\n"
        f"Training returns of single runs before / after adaptation: means of {BLOCK} iterations "
        "that end with the one named.\n"
    ]
    for path in sorted(LONG.glob("*.json")):
        run = json.loads(path.read_text())
        shown = [i for i in SHOWN if i <= BLOCK * len(run["after"])]
        at = [i // BLOCK - 1 for i in shown]
        lines = [
            cells(("iteration", *map(str, shown))),
            cells(["---"] * (1 + len(shown))),
            cells(("env steps", *(f"{run['env_steps'][i] / 1e6:.1f}M" for i in at))),
            cells(("return", *(f"{run['before'][i]:.1f} / {run['after'][i]:.1f}" for i in at))),
        ]
        about = f"Commit {run['commit']}; {run['minutes']:.0f} minutes; {run['machine']}.\n"
        command = f"```text\n{run['command']}\n```\n"
        parts += [f"### {path.stem}\n", command, "\n".join(lines) + "\n", about]
    return parts


def cells(row: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
