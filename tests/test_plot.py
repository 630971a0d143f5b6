"""`metarl plot`: hand-made run folders with known numbers, and the figures and rows of them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from metarl import UsageError
from metarl.cli.main import main
from metarl.studies.curves import (
    Line,
    adaptation_curve,
    draw,
    group,
    read_run,
    training_curves,
    write_figures,
)


def make_run(path, seed=1, curve=(), tasks=None, splits=("test",), **config):
    """A run folder: (env_steps, before, after) of each iteration, [tasks, steps + 1] returns."""
    path.mkdir(parents=True)
    config = {"family": "envs:Hill-v0", "algorithm": "promp", "seed": seed} | config
    config = {name: value for name, value in config.items() if value is not None}
    (path / "config.json").write_text(json.dumps({"config": config}))
    metrics = [
        {"iteration": i, "env_steps": steps, "return/before": before, "return/after": after}
        for i, (steps, before, after) in enumerate(curve, 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    if tasks is not None:
        own = {"steps": [], "tasks": [{"task": {}, "returns": returns} for returns in tasks]}
        (path / "evaluation.json").write_text(json.dumps({"splits": dict.fromkeys(splits, own)}))
    return path


@pytest.fixture
def folders(tmp_path):
    """Two seeds of one line and one of another; the second seed has an iteration more."""
    return [
        make_run(tmp_path / "a", 1, [(100, 1, 2), (200, 3, 4)], [[0.0, 1.0, 2.0], [0.0, 3.0, 4.0]]),
        make_run(
            tmp_path / "b",
            2,
            [(120, 5, 6), (220, 7, 9), (320, 9, 9)],
            [[4.0, 5.0, 6.0], [4.0, 7.0, 8.0]],
        ),
        make_run(tmp_path / "c", 1, [(90, -1, -1)], [[8.0], [8.0]], algorithm="oracle"),
    ]


def lines_of(folders):
    return group([read_run(folder) for folder in folders])


def test_a_run_is_what_its_folder_says(folders):
    run = read_run(folders[1])
    assert (run.path, run.name, run.seed) == (folders[1], "promp, Hill-v0", 2)
    assert [m["return/after"] for m in run.metrics] == [6, 9, 9]
    assert run.returns.tolist() == [[4, 4], [5, 7], [6, 8]]


def test_a_last_line_that_was_cut_off_is_left_out(folders):
    with open(folders[0] / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 3, "env_st')
    assert [m["iteration"] for m in read_run(folders[0]).metrics] == [1, 2]


def test_another_split_is_read_where_it_is_there(tmp_path):
    folder = make_run(tmp_path / "a", tasks=[[1.0, 2.0]], splits=("test", "beyond"))
    assert read_run(folder, "beyond").returns.tolist() == [[1], [2]]
    with pytest.raises(UsageError, match=r"evaluation\.json has no split train"):
        read_run(folder, "train")


def test_runs_are_grouped_by_algorithm_and_seeds_stay_together(folders):
    lines = lines_of([folders[0], folders[2], folders[1]])
    assert [(line.name, [run.seed for run in line.runs]) for line in lines] == [
        ("promp", [1, 2]),
        ("oracle", [1]),
    ]


def test_several_families_stay_in_the_names_of_the_lines(tmp_path, folders):
    other = make_run(tmp_path / "other", family="mine:Slope-v0")
    rl2 = make_run(tmp_path / "rl2", learner="rl2", algorithm=None)
    assert [line.name for line in lines_of([*folders, other, rl2])] == [
        *("promp, Hill-v0", "oracle, Hill-v0", "promp, Slope-v0", "rl2, Hill-v0")
    ]
    assert [line.name for line in lines_of([rl2])] == ["rl2, Hill-v0"]
    assert [line.name for line in lines_of([rl2, folders[0]])] == ["rl2", "promp"]


def test_runs_that_differ_in_more_than_seeds_are_lines_of_their_own(tmp_path):
    made = [
        make_run(tmp_path / "a", 1, inner_lr=0.1, hidden_sizes=[8], iterations=3),
        make_run(tmp_path / "b", 2, inner_lr=0.1, hidden_sizes=[8], iterations=5, device="cuda"),
        make_run(tmp_path / "c", 1, inner_lr=0.5, hidden_sizes=[8], iterations=3),
        make_run(tmp_path / "d", 3, inner_lr=0.1, iterations=3),  # of an earlier version
    ]
    lines = lines_of(made)
    assert [(line.name, [run.seed for run in line.runs]) for line in lines] == [
        ("promp, inner_lr 0.1", [1, 2, 3]),
        ("promp, inner_lr 0.5", [1]),
    ]
    wider = make_run(tmp_path / "e", 4, inner_lr=0.1, hidden_sizes=[64], init_from="other")
    lines = lines_of([made[3], made[0], wider])
    assert [(line.name, [run.seed for run in line.runs]) for line in lines] == [
        ("promp, hidden_sizes [8]", [3, 1]),
        ("promp, hidden_sizes [64]", [4]),
    ]


def test_a_seed_cannot_stand_twice_in_a_line(tmp_path, folders):
    again = make_run(tmp_path / "again")
    message = f"{folders[0]} and {again} are both promp, Hill-v0, seed 1"
    with pytest.raises(UsageError, match=message):
        lines_of([*folders, again])


def test_training_curves_are_of_the_iterations_that_all_seeds_have(folders):
    curves = training_curves(lines_of(folders)[0])
    assert curves["env_steps"].tolist() == [110, 210]
    assert curves["before"].tolist() == [[1, 3], [5, 7]]
    assert curves["after"].tolist() == [[2, 4], [6, 9]]


def test_the_adaptation_curve_is_of_all_seeds_tasks(folders):
    """Of two tasks each, a seed's resampled mean is a task's with probability ¼ at each end."""
    evaluation = lines_of(folders)[0].evaluation()
    assert evaluation.runs == 2
    assert evaluation.returns.tolist() == [[0, 0, 4, 4], [1, 3, 5, 7], [2, 4, 6, 8]]
    # Both ends in both seeds have probability 1/16, more than 2.5 %.
    assert adaptation_curve(evaluation).tolist() == [[2, 2, 2], [4, 3, 5], [5, 4, 6]]


def test_the_figure_draws_means_seeds_and_intervals(folders):
    figure = draw(lines_of(folders), "Hills")
    training, adaptation = figure.axes
    assert figure.get_suptitle() == "Hills"
    assert [(line.get_linestyle(), line.get_ydata().tolist()) for line in training.lines] == [
        *(("-", [4, 6.5]), (":", [3, 5])),  # after, and dotted before adaptation
        *(("-", [2, 4]), ("-", [6, 9])),  # each seed, thin
        *(("-", [-1]), (":", [-1])),
    ]
    widths = [line.get_linewidth() for line in training.lines]
    assert max(widths[2:4]) < min(widths[:2])
    assert training.lines[0].get_xdata().tolist() == [110e-6, 210e-6]
    (whole,) = adaptation.containers
    assert whole[0].get_xydata().tolist() == [[0, 2], [1, 4], [2, 5]]
    bars = whole[2][0].get_segments()
    assert [bar[:, 1].tolist() for bar in bars] == [[2, 2], [3, 5], [4, 6]]
    level = next(line for line in adaptation.lines if line.get_label() == "oracle")
    assert level.get_ydata() == [8, 8]  # across all steps, as it takes none
    for axes in (training, adaptation):
        assert {text.get_text() for text in axes.get_legend().get_texts()} == {"promp", "oracle"}


def test_a_seed_without_an_iteration_leaves_nothing_to_draw_of_its_line(tmp_path, folders):
    early = make_run(tmp_path / "d", 7, [])
    figure = draw(lines_of([early, folders[0], folders[2]]), "Hills")
    promp, _, oracle = (line.get_ydata().tolist() for line in figure.axes[0].lines[::2])
    assert (promp, oracle) == ([], [-1])


def test_a_line_alone_names_its_curve_before_adaptation(folders):
    training, _ = draw(lines_of(folders[:2])).axes
    names = [text.get_text() for text in training.get_legend().get_texts()]
    assert names == ["promp, Hill-v0", "promp, Hill-v0, before"]


def test_the_command_writes_the_figures_and_the_numbers_behind_them(folders, tmp_path, capsys):
    out = tmp_path / "figures" / "hill"
    main(["plot", *map(str, folders), "--out", str(out)])
    assert f"wrote {out}.png, {out}.pdf, {out}.csv" in capsys.readouterr().out
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert out.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")
    with open(out.with_suffix(".csv"), newline="") as file:
        heading, *rows = csv.reader(file)
    assert heading == ["line", "seed", "curve", "x", "value", "low", "high"]
    numbers = [(*row[:3], *(float(x) if x else None for x in row[3:])) for row in rows]
    of_training = [
        (line, seed, curve, steps, value, None, None)
        for line, seed, steps, before, after in (
            *(("promp", "1", 100, 1, 2), ("promp", "1", 200, 3, 4)),
            *(("promp", "2", 120, 5, 6), ("promp", "2", 220, 7, 9), ("promp", "2", 320, 9, 9)),
            ("oracle", "1", 90, -1, -1),
        )
        for curve, value in (("before", before), ("after", after))
    ]
    of_evaluation = [
        ("promp", "all", "inner steps", 0, 2, 2, 2),
        ("promp", "all", "inner steps", 1, 4, 3, 5),
        ("promp", "all", "inner steps", 2, 5, 4, 6),
        ("oracle", "all", "inner steps", 0, 8, 8, 8),
    ]
    assert sorted(numbers, key=str) == sorted(of_training + of_evaluation, key=str)


def test_a_run_without_an_evaluation_has_training_curves_alone(tmp_path, folders):
    bare = make_run(tmp_path / "bare", 3, [(100, 1, 2), (200, 3, 4)])
    lines = lines_of([folders[0], bare])
    (training,) = draw(lines).axes  # no panel is empty
    assert training.lines[0].get_ydata().tolist() == [2, 4]
    paths = write_figures(lines, tmp_path / "curves")
    text = paths[2].read_text()
    assert text.count("after") == 4
    assert "inner steps" not in text


def test_a_run_without_training_has_its_evaluation_alone(tmp_path):
    lines = lines_of([make_run(tmp_path / "random", tasks=[[1.0, 3.0]], algorithm="random")])
    (adaptation,) = draw(lines).axes
    assert adaptation.containers[0][0].get_ydata().tolist() == [1, 3]
    (tmp_path / "random" / "metrics.jsonl").unlink()
    assert read_run(tmp_path / "random").metrics == []


def test_a_run_that_was_not_evaluated_shows_the_evaluations_in_training(tmp_path):
    folders = []
    for seed, values in ((1, (5, 7)), (2, (6, 9))):
        folder = make_run(tmp_path / str(seed), seed, [(10, 0, 1), (20, 0, 1), (30, 0, 1)])
        metrics = read_run(folder).metrics
        for m, value in zip(metrics[::2], values, strict=True):  # every other iteration
            m |= {"test/step_0/mean": -1.0, "test/step_2/mean": value, "train/step_3/mean": 8}
        text = "".join(json.dumps(m) + "\n" for m in metrics)
        (folder / "metrics.jsonl").write_text(text)
        folders.append(folder)
    _, held_out = draw(lines_of(folders)).axes
    assert [line.get_ydata().tolist() for line in held_out.lines] == [
        *([5.5, 8], [-1, -1], [5, 7], [6, 9])
    ]
    assert held_out.lines[0].get_xdata().tolist() == [10e-6, 30e-6]


def few_shot(tmp_path):
    folder = make_run(tmp_path / "digits", family=None, learner="few_shot", algorithm=None)
    metrics = {"iteration": 1, "accuracy/before": 0.2, "accuracy/after": 0.9}
    (folder / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    return [folder]


def test_few_shot_runs_are_drawn_over_iterations(tmp_path):
    (axes,) = draw(lines_of(few_shot(tmp_path))).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iterations", "accuracy after adaptation")
    assert axes.lines[0].get_xydata().tolist() == [[1, 0.9]]


def of_two_measures(tmp_path):
    return [*few_shot(tmp_path), make_run(tmp_path / "return", 1, [(1, 2, 3)])]


def without_iterations(tmp_path):
    return [make_run(tmp_path / "new")]


def unequal(tmp_path):
    return [
        make_run(tmp_path / "one", 1, tasks=[[1.0, 2.0], [1.0, 2.0]]),
        make_run(tmp_path / "two", 2, tasks=[[1.0, 2.0]]),
    ]


def without_test_split(tmp_path):
    return [make_run(tmp_path / "one", tasks=[[1.0, 2.0]], splits=("train",))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: [], "metarl plot RUN"),
        (lambda path: [path / "none"], "/none is not a run folder: it has no config.json"),
        (of_two_measures, "few_shot, digits: accuracy, promp, Hill-v0: return"),
        (without_iterations, "/new has nothing to draw yet: no iteration is done"),
        (
            unequal,
            "evaluations of promp, Hill-v0 differ in [steps + 1, tasks]: {0}/one (2, 2), "
            "{0}/two (2, 1)",
        ),
        (without_test_split, "/one/evaluation.json has no split test"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, capsys, make, message):
    runs, out = make(tmp_path), tmp_path / "out" / "curves"
    with pytest.raises(SystemExit) as exit:
        main(["plot", *map(str, runs), "--out", str(out)])
    assert exit.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message.format(tmp_path) in lines[0]
    assert not out.parent.exists()


def test_figures_that_cannot_be_written_are_an_error(folders):
    with pytest.raises(UsageError, match="/dev/null/here cannot be written: Not a directory"):
        write_figures(lines_of(folders), Path("/dev/null/here/curves"))


def test_equal_returns_have_an_interval_of_no_width(tmp_path):
    folder = make_run(tmp_path / "a", tasks=[[0.1, 0.7]] * 9)
    (line,) = lines_of([folder])
    np.testing.assert_allclose(adaptation_curve(line.evaluation()), [[0.1] * 3, [0.7] * 3])
    draw([line])


@pytest.mark.parametrize("out", ["", "."])
def test_figures_need_a_name(out):
    with pytest.raises(UsageError, match="no name of a file"):
        write_figures([], Path(out))


@pytest.mark.parametrize("parent", ["", "promp"])  # of a sweep, and of a comparison
def test_a_folder_of_runs_names_them(tmp_path, capsys, parent):
    folder, tmp_path = tmp_path, tmp_path / parent
    for seed in (1, 2):
        make_run(tmp_path / f"seed-{seed}", seed, [(1, 2, 3)])
    with pytest.raises(SystemExit):
        main(["plot", str(folder)])
    line = capsys.readouterr().err
    assert line.endswith(f"there are runs in it: {tmp_path}/seed-1 {tmp_path}/seed-2\n")


def test_the_name_of_figures_may_have_a_suffix(folders, tmp_path):
    paths = write_figures(lines_of(folders), tmp_path / "q.png")
    assert [path.name for path in paths] == ["q.png", "q.pdf", "q.csv"]
    assert write_figures(lines_of(folders), tmp_path / "v1.2")[0].name == "v1.2.png"


def test_long_names_of_lines_leave_the_axes_their_size(tmp_path):
    def sizes(lines):
        figure = draw(lines)
        figure.draw_without_rendering()
        boxes = [axes.get_window_extent() for axes in figure.axes]
        ends = [axes.get_legend().get_window_extent().y0 for axes in figure.axes]
        assert min(ends) > 0, "names are cut off"
        return np.array([(box.width, box.height) for box in boxes])

    curve, tasks = [(100, 1, 2), (200, 3, 4)], [[0.0, 1.0, 2.0]]
    options = [f"option_{k}" for k in range(12)]

    def lines(value):
        made = [
            make_run(tmp_path / f"{value}{i}", 1, curve, tasks, **dict.fromkeys(options, value * i))
            for i in (1, 2, 3)
        ]
        return lines_of(made)

    short = [Line(f"line {i}", line.runs) for i, line in enumerate(lines(1))]
    np.testing.assert_allclose(sizes(short), sizes(lines(10**9)), atol=1)
