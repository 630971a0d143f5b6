"""`metarl check` finds each planted fault, and nothing where there is none."""

import re
from pathlib import Path

import numpy as np
import pytest
from forked import metarl
from gymnasium.spaces import Box

from metarl.cli import check as cli_check
from metarl.cli.main import main
from metarl.simulation import checks
from metarl.simulation.backends import make_simulation
from metarl.simulation.bounds import FamilyFaultError, outside
from metarl.simulation.checker import Finding, check_family
from metarl.simulation.checks import CHECKS
from metarl.support.errors import UsageError
from metarl.tasks.family import make_family
from metarl.tasks.leak import explained_variance
from metarl.tasks.starter import write_family

PLANTED = {
    "Line": set(),
    "TaskIgnored": {"task takes effect"},
    "Half": {"task takes effect"},
    "Breaks": {"runs"},
    "TaskLost": {"task survives reset"},
    "Leak": {"no task in observations"},
    "LateLeak": {"no task in observations"},
    "FirstReward": set(),
    "WrongSpace": {"spaces hold"},
    "TaskOutside": {"tasks in the space"},
    "Lists": set(),
    "RaggedLists": {"spaces hold"},
    "GlobalTask": {"same seed, same tasks"},
    "NanReward": {"rewards are finite"},
    "RandomReset": {"same seed, same episode"},
    "SplitOverlap": {"splits are disjoint"},
    "VectorDisagrees": {"vector agrees"},
    "WrongHorizon": {"horizon is kept"},
    "OwnNames": set(),
    "WrappedLine": set(),
    "Switched": set(),
    "Loud": set(),
    "Picky": set(),
    "SledDerived": set(),
    "SledStale": {"attributes follow"},
    "HalfSplits": {"a policy fits"},
    "HalfVisible": {"no task in observations"},
    "TextSplits": {"a policy fits"},
    "TextVisible": {"no task in observations"},
    "FourResults": {"runs"},
    "Pixels": {"a policy fits"},
    "TaskAbsent": {"runs"},
    "Running": {"no running statistics"},
    "Frozen": set(),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name, monkeypatch):
    monkeypatch.delitem(CHECKS, "pickles")
    findings = check_family(make_family(f"faulty_families:{name}-v0"))
    faults = {finding.name for finding in findings if not finding.passed}
    assert PLANTED[name] <= faults, findings
    if not PLANTED[name]:
        assert not faults, findings
    for finding in findings:
        assert bool(finding.hint) != finding.passed
    if name == "Running":
        assert len(findings) == 2, "what follows from it is told as well"
        assert "wrapper NormalizeObservation keeps running" in findings[1].detail
        assert "remove it and train with --normalise-rewards" in findings[1].detail
    if name == "Breaks":
        assert len(findings) == 1, "the same error again and again"
        assert "ArithmeticError: there is no bottom here" in findings[0].detail
        assert "faulty_families.py:" in findings[0].hint


def test_a_late_leak_is_told(monkeypatch):
    """Beside an entry that is as still, but drawn at each reset."""
    monkeypatch.delitem(CHECKS, "pickles")
    family = make_family("faulty_families:LateLeak-v0")
    (finding,) = (f for f in check_family(family) if f.name == "no task in observations")
    assert "which no step after the first one changes, explain 100%" in finding.detail
    assert "the variance of goal" in finding.detail


def test_a_field_that_is_not_declared_is_a_finding_at_the_familys_line(tmp_path, monkeypatch):
    family, *_ = write_family("Blind", tmp_path, mujoco=True)
    family.write_text(family.read_text().replace("after.qpos[", "after.xpos["))
    monkeypatch.chdir(tmp_path)
    (finding,) = check_family(make_family("blind:Blind-v0"))
    assert (
        "Blind.reward reads state.xpos, which is not in its fields (qpos, qvel)" in finding.detail
    )
    assert "blind.py:" in finding.hint


def test_tasks_from_another_generator_are_told(monkeypatch):
    monkeypatch.delitem(CHECKS, "pickles")
    faults = [f for f in check_family("faulty_families:GlobalTask-v0") if not f.passed]
    assert [f.name for f in faults] == ["same seed, same tasks"]
    wanted = r"with the same seed, task 0 of split train is goal=.+ and then goal="
    assert re.match(wanted, faults[0].detail)
    assert "the generator that sample_task is given" in faults[0].hint


@pytest.mark.parametrize("form", [list, np.float64])
def test_check_converts_observations_as_training_does(form):
    """Also before it compares them with those of a batch and of a spawned process."""
    findings = check_family(make_family("faulty_families:Lists-v0", form=form))
    assert not [f for f in findings if not f.passed]


def test_what_does_not_pickle_is_found():
    family = make_family("faulty_families:Line-v0", reward=lambda x: x)
    (finding,) = (f for f in check_family(family) if f.name == "pickles")
    assert not finding.passed
    assert "pickle" in finding.detail


def test_brackets_of_a_message_are_text(monkeypatch, capsys):
    finding = Finding("runs", False, "cannot read [/data/table.npy] for [red]", "")
    monkeypatch.setattr(cli_check, "check_apart", lambda _: iter([finding]))
    with pytest.raises(SystemExit):
        cli_check.run(["faulty_families:Line-v0"])
    assert finding.detail in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("name", "status"), [("Line", 0), ("NanReward", 1)])
def test_the_command_prints_a_table_and_says_so_by_its_status(name, status):
    result = metarl("check", f"faulty_families:{name}-v0", cwd=Path(__file__).parent)
    assert result.returncode == status, result.stderr
    for check in CHECKS:
        assert check in result.stdout
    assert ("FAULT" in result.stdout) == bool(status)
    assert result.stderr == ("1 fault found\n" if status else "")


def test_a_vector_environment_without_a_task_is_refused():
    """As Gymnasium's own, whose entry somebody copied."""
    family = make_family("faulty_families:BorrowedVector-v0")
    with pytest.raises(UsageError, match="CartPoleVectorEnv needs task_space, task, a Box"):
        make_simulation(family, 2)


def test_ranges_far_from_one_are_a_caution_and_no_fault(monkeypatch):
    monkeypatch.delitem(CHECKS, "pickles")
    findings = check_family(make_family("faulty_families:Loud-v0"))
    (finding,) = (f for f in findings if f.caution)
    assert finding.name == "scales"
    assert "--normalise-observations" in finding.detail
    assert not any(f.caution for f in check_family(make_family("faulty_families:Line-v0")))


def test_attributes_that_stay_behind_are_named(monkeypatch):
    """Those that a step reads: not what is set in time, nor what nothing reads."""
    monkeypatch.delitem(CHECKS, "pickles")
    findings = check_family(make_family("faulty_families:SledStale-v0"))
    (finding,) = (f for f in findings if not f.passed)
    assert finding.detail.startswith("the environment computes double, total from")
    assert '"derive": "module:function"' in finding.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("HalfSplits", "must contain train and test"),
        ("Pixels", "observation['x'] is a Sequence"),
        ("HalfVisible", "visible names weight, but a task has goal"),
        ("TextSplits", "splits is the text 'train'; it must be a tuple or list of names"),
        ("TextVisible", "visible is the text 'goal'; it must be a tuple or list of names"),
        ("FourResults", "terminated, truncated and info: not enough values to unpack (expected 5"),
        ("RaggedLists", "at step 1 the environment returns an observation of shape (2, 1), not "),
        ("TaskAbsent", r"goal = 3 is outside [-1, 1]"),
    ],
)
def test_check_asks_for_what_training_asks_for(name, message, monkeypatch):
    monkeypatch.delitem(CHECKS, "pickles")
    faults = [f for f in check_family(make_family(f"faulty_families:{name}-v0")) if not f.passed]
    assert message in faults[0].detail


def test_an_effect_of_the_task_is_searched_for_only_so_long(monkeypatch):
    monkeypatch.setattr(checks, "SEARCH_SECONDS", -1.0)
    family = make_family("faulty_families:TaskIgnored-v0")
    (finding,) = [f for f in check_family(family) if f.name == "task takes effect"]
    assert finding.passed
    assert finding.caution
    assert "with 1 of 30 seeds; time is up" in finding.detail


def test_a_leak_is_found_among_more_entries_than_tasks():
    generator = np.random.default_rng(0)
    task = generator.normal(size=(40, 1))
    x = np.concatenate([task + 0.01 * generator.normal(size=(40, 3)), np.zeros((40, 200))], axis=1)
    share, name = explained_variance(x, {"mass": task[:, 0]}, ())
    assert name == "mass"
    assert share > 0.95
    few, _ = explained_variance(x[:, :4], {"mass": task[:, 0]}, ())
    np.testing.assert_allclose(share, few, rtol=1e-9)  # constant entries explain nothing
    image = generator.normal(size=(8, 40_000))  # whose squares' products would take 51 GB
    assert explained_variance(image, {"mass": task[:8, 0]}, ())[0] < 1


def test_a_type_that_training_converts_is_told_and_another_is_a_fault():
    space = Box(-1.0, 1.0, (2,), np.float32)
    assert "observation has type float64, but the space is" in outside(space, np.zeros(2))
    bytes_ = Box(0, 255, (2,), np.uint8)
    assert "observation has type int64" in outside(bytes_, np.array([3, 4]))
    for other, value in ((space, np.zeros(2, complex)), (bytes_, np.array([0.5, 1.0]))):
        with pytest.raises(FamilyFaultError, match="has type"):
            outside(other, value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["envs:Navigation2D-v0", "--horizon", "50"],
            "metarl check has no option --horizon; it takes families, MODULE:ID",
        ),
        (["faulty_families:Sled-v0"], "give max_episode_steps=STEPS to gymnasium.register"),
    ],
)
def test_what_check_cannot_take_is_told_first(words, message, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["check", *words])
    assert exit.value.code == 2
    output, line = capsys.readouterr()
    assert output == ""
    assert message in line
