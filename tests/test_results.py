"""The page of results comes from its records, and the records from runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import results
import results_targets
from results_page import cell, command_of, long_runs, page

import metarl
from metarl.cli.parsing import parse
from metarl.cli.train import parse_config
from metarl.learners.rl2 import RL2Config
from metarl.studies.comparison import Comparison, with_horizon


def test_the_page_is_that_of_the_records():
    assert page(results.TABLES, results.RECORDS) == results.PAGE.read_text()


def test_the_command_of_a_table_is_its_comparison():
    assert len(results.TABLES) == 11
    for whole in results.TABLES.values():
        words = command_of(whole).split()
        assert words[:2] == ["metarl", "compare"]
        assert parse(Comparison, words[2:], "", command="compare") == whole


def test_a_cell_has_the_interval_over_seeds_and_that_over_tasks():
    means, errors = np.array([[1.0], [3.0], [5.0]]), np.full((3, 1), 0.3)
    # Student's t with 2 degrees of freedom: 4.303 · 2 / √3; tasks: 1.96 · √(3 · .09) / 3.
    assert cell(means, errors, 0, 2) == "3.00 ± 4.97 (0.34)"
    assert cell(means[:1], errors[:1], 0, 2) == "1.00 (0.59)"
    assert cell(means, errors, 1, 2) == ""


def rows(**means):
    return {
        "rows": {
            name.replace("_", "-"): {"seeds": [*range(1, len(own) + 1)], "means": own}
            for name, own in means.items()
        }
    }


def test_targets_are_judged_by_the_records():
    held = {
        f"long/half_cheetah_vel_{seed}": {"after": [-90] * 3 + [value] * 3}
        for seed, value in ((1, -40), (2, -35), (3, -34))
    }
    held |= {
        "Navigation2D": rows(
            random=[[-50, -40], [-90, -40]],
            oracle=[[-10], [-10]],
            maml_trpo=[[-40, -14], [-40, -12]],
            rl2=[[-20, -18]],
        ),
        "HalfCheetahDir": rows(
            maml_trpo=[[0, 8, 20], [0, 9, 30], [0, 0, 90]], pretrained=[[0, 6, 1], [0, 5, 9]]
        ),
        "HalfCheetahVel": rows(maml_trpo=[[0, 10], [0, 20]], pretrained=[[0, 1], [0, 9]]),
        "AntDir": rows(maml_trpo=[[0, 250, 0], [10, 205, 0], [0, 300, 0]]),
        "AntVel": rows(maml_trpo=[[0, 10, 0], [0, 9, 0]], pretrained=[[0, 1, 0]]),
        "long/half_cheetah_dir_tuned": {"env_steps": [2e7, 3e7, 4e7], "after": [200, 254, 260]},
    }
    found = dict(results_targets.lines(held))
    (dir255, *_), missing = found.values(), results_targets.MISSING
    assert dir255 == "260.0 at 40.0M steps, one seed: not reached"
    assert found["Navigation2D: 90 % of the way to the oracle after 3 steps"] == "95%: reached"
    beside = "RL² adapts as far as MAML, less a tenth, with as many steps"
    way = "80% of the way to the oracle, MAML 90%, seed 1: not reached"
    assert (found[f"Navigation2D: {beside}"], found[f"HalfCheetahVel: {beside}"]) == (way, missing)
    margin = "above the pretrained policy after 3 steps, by more than the interval"
    assert found[f"Navigation2D: {margin}"] == missing
    # Student's t with 1 degree of freedom: 12.706 · √2 / √2 about the mean of 19 and 21.
    last, first = "20.0 ± 12.7 (19.0, 21.0): reached", "3.0 ± 12.7"
    assert found[f"HalfCheetahDir: {margin}"] == f"{last}; after one step {first}"
    assert found[f"HalfCheetahVel: {margin}"].startswith("10.0 ± 12.7 (9.0, 11.0): not reached;")
    assert found["AntDir: a gain of 200 after one step"] == ("250.0, 195.0, 300.0: not reached")
    gain = "AntVel: a gain after one step in each seed"
    assert found[gain] == "10.0, 9.0: 2 of 3 seeds, not judged"
    assert found[f"AntVel: {margin}"] == "0.0: 1 of at least 2 seeds, not judged"
    (by_40, by_60) = (text for name, text in found.items() if "40 tasks" in name)
    assert by_40 == "-35.0 (-40.0, -35.0, -34.0): reached"
    assert by_60 == "-35.0 (-40.0, -35.0, -34.0): not reached"


def fake_run(whole, name, seed, returns, commit, **report):
    """A run of a comparison whose held-out tasks have `returns` [tasks, steps + 1]."""
    folder, config = whole.run_folder(name, seed), with_horizon(whole).config(name, seed)
    folder.mkdir(parents=True)
    tasks = [{"task": {}, "returns": list(own)} for own in returns]
    steps = [{"step": k} for k in range(len(returns[0]))]
    report |= {"iteration": config.iterations, "splits": {"test": {"tasks": tasks, "steps": steps}}}
    (folder / "evaluation.json").write_text(json.dumps(report))
    held = {"git_commit": commit, "config": config.to_json()}
    (folder / "config.json").write_text(json.dumps(held, default=str))
    (folder / "metrics.jsonl").write_text('{"env_steps": 2000000, "seconds": 120.0}\n')


def test_a_table_is_recorded_from_its_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RECORDS", tmp_path / "records")
    whole = replace(results.TABLES["Navigation2D"], run_dir=tmp_path, inner_steps=1, eval_tasks=2)
    monkeypatch.setitem(results.TABLES, "Navigation2D", whole)
    for name, offset in (("random", 0.0), ("oracle", 10.0), ("maml-trpo", 4.0)):
        for seed in (1, 2):
            returns = [[offset + seed, offset + seed + 1.0], [offset + seed + 2, offset + seed + 4]]
            shown = np.array(returns)[:, :1] if name == "oracle" else returns
            tuned = {"fine_tuned_lr": 0.1} if name == "random" else {}
            fake_run(whole, name, seed, np.array(shown).tolist(), "abcdefg" + str(seed), **tuned)
    # `metarl evaluate` has evaluated this one in its own way.
    fake_run(whole, "maml-trpo", 3, [[0.0, 0.0]] * 2, "abcdefg3", actions="sampled")
    results.main(["record", "Navigation2D", "--run-dir", str(tmp_path)])
    record = json.loads((tmp_path / "records" / "Navigation2D.json").read_text())
    held = record["rows"]["maml-trpo"]
    assert held["means"] == [[6.0, 7.5], [7.0, 8.5]]
    np.testing.assert_allclose(held["standard_errors"], [[1.0, 1.5]] * 2, atol=1e-4)
    assert (held["seeds"], held["tasks"], held["commits"]) == ([1, 2], 2, ["abcdefg"])
    text = page(results.TABLES, results.RECORDS)
    assert "| maml-trpo | 6.5 ± 6.4 (1.4) | 8.0 ± 6.4 (2.1) |" in text
    assert "Fewer than 3 seeds: maml-trpo (2), random (2), oracle (2)." in text
    assert "Not trained yet: promp, e-maml, pretrained, rl2." in text
    assert "maml-trpo 55%" in text  # 8.0 of the way from 2.5 to 12.5, at step 1


def test_the_share_of_the_way_is_that_of_common_seeds():
    """Those of seed 3, for which there is no oracle, are of other tasks."""
    held = rows(
        random=[[0.0], [10.0], [90.0]],
        oracle=[[10.0], [30.0]],
        maml_trpo=[[5.0], [20.0]],
        rl2=[[9]],
    )["rows"]
    assert results_targets.share_of_way(held, "maml-trpo") == pytest.approx(7.5 / 15)
    assert results_targets.share_of_way(held, "maml-trpo", ["rl2"]) == pytest.approx(0.5)
    held["rl2"]["seeds"] = [4]
    with pytest.raises(KeyError, match="no seed has all of maml-trpo, random, oracle, rl2"):
        results_targets.share_of_way(held, "maml-trpo", ["rl2"])


def test_a_folder_without_finished_runs_writes_no_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RECORDS", tmp_path / "records")
    with pytest.raises(SystemExit):
        results.main(["record", "Navigation2D", "--run-dir", str(tmp_path)])
    assert f"no run of {tmp_path} is finished" in capsys.readouterr().err
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("config", "command"),
    [
        (
            metarl.Config(
                family="envs:Navigation2D-v0", normalise_observations=True, hidden_sizes=(8, 8)
            ),
            "--hidden-sizes 8 8 --normalise-observations",
        ),
        (
            RL2Config(family="envs:Navigation2D-v0", family_options={"variant": "sparse"}),
            "--learner rl2 --family-options variant sparse",
        ),
    ],
    ids=["maml", "rl2"],
)
def test_the_command_of_a_run_repeats_it(config, command):
    line = results.command_of_run(config)
    assert line == f"metarl train --family envs:Navigation2D-v0 {command}"
    assert parse_config(None, None, line.split()[2:], "train") == config


def test_a_long_run_is_recorded_with_its_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RECORDS", tmp_path / "records")
    config = metarl.Config(family="envs:Navigation2D-v0", iterations=20)
    held = {"git_commit": "0123456789", "config": config.to_json()}
    (tmp_path / "config.json").write_text(json.dumps(held, default=str))
    lines = [
        {"env_steps": 100 * i, "seconds": 6.0 * i, "return/before": -i, "return/after": i,
         "success/before": 0.0, "success/after": 0.5 * (i > 10)}
        for i in range(1, 21)
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps = [
        {"episodes": 10 * k, "mean": {"value": float(k)}, "success": 0.25 * k} for k in range(2)
    ]
    report = {"splits": {"test": {"tasks": [{}] * 200, "steps": steps}}}
    (tmp_path / "evaluation.json").write_text(json.dumps(report))
    results.main(["add", str(tmp_path), "ours"])
    record = json.loads((tmp_path / "records" / "long" / "ours.json").read_text())
    text = "\n".join(long_runs({"ours": record}))
    assert "| env steps | 0.0M | 0.0M |" in text
    assert "| return | -5.5 / 5.5 | -15.5 / 15.5 |" in text
    assert "| success | 0% / 0% | 0% / 50% |" in text
    assert (
        "On 200 tasks of the split test, after learning from 0, 10 episodes: return 0.0, 1.0; "
        in text
    )
    assert "success 0.0%, 25.0%." in text
    assert "Commit 0123456; 2 minutes" in text


def test_rows_that_another_machine_recorded_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RECORDS", tmp_path)
    whole = replace(results.TABLES["AntDir"], run_dir=tmp_path, eval_tasks=2)
    monkeypatch.setitem(results.TABLES, "AntDir", whole)
    results.write(tmp_path / "AntDir.json", {"machine": "", "rows": {"promp": {"seeds": [1]}}})
    fake_run(whole, "oracle", 1, [[2.0], [3.0]], "abcdefg")
    results.main(["record", "AntDir", "--run-dir", str(tmp_path)])
    held = json.loads((tmp_path / "AntDir.json").read_text())["rows"]
    assert (held.keys(), held["promp"]) == ({"promp", "oracle"}, {"seeds": [1]})


def test_seeds_that_another_machine_recorded_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RECORDS", tmp_path)
    whole = replace(results.TABLES["AntDir"], inner_steps=1, eval_tasks=2)

    def record(folder, commit, eval_tasks=2, **ends):
        own = replace(whole, run_dir=tmp_path / folder, eval_tasks=eval_tasks)
        monkeypatch.setitem(results.TABLES, "AntDir", own)
        for seed, end in ends.items():
            fake_run(own, "promp", int(seed[1:]), [[0.0, end]] * eval_tasks, commit)
        results.main(["record", "AntDir", "--run-dir", str(own.folder)])
        row = json.loads((tmp_path / "AntDir.json").read_text())["rows"]["promp"]
        return row["seeds"], [end for _, end in row["means"]], row["commits"], row

    record("first", "aaaaaaa", s1=1.0, s3=3.0)
    seeds, ends, commits, row = record("second", "bbbbbbb", s2=2.0, s3=30.0)
    assert (seeds, ends, commits) == ([1, 2, 3], [1.0, 2.0, 30.0], ["aaaaaaa", "bbbbbbb"])
    assert all(len(own) == 3 for own in (*row["training"].values(), row["minutes"]))
    # Runs of other sizes are not put together.
    assert record("third", "ccccccc", eval_tasks=3, s2=4.0)[:3] == ([2], [4.0], ["ccccccc"])


def test_seeds_outside_the_table_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        results.main(["run", "AntDir", "--seeds", "3", "4", "--run-dir", str(tmp_path / "runs")])
    assert "--seeds: those of this table are 1 to 3" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
