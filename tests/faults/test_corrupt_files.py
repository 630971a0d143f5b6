"""Files of a run folder that are damaged: one line says so, or nothing differs."""

import functools
import hashlib
import io
import json
import shutil
import warnings
from importlib.metadata import entry_points

import numpy as np
import pytest
import safetensors.torch
import torch
from damage import damaged_bytes, wrong_json
from forked import metarl
from matplotlib.figure import Figure
from trained import OPTIONS

from metarl import Config, UsageError, evaluate, load
from metarl.learners.registry import make_learner
from metarl.runs import loading, run
from metarl.runs.checkpoint import MANIFEST, STATE, checkpoints_in, load_checkpoint
from metarl.runs.folder import CONFIG, EVALUATION
from metarl.runs.loading import read_config
from metarl.runs.metrics import METRICS
from metarl.studies.comparison import Comparison, is_finished
from metarl.studies.curves import draw, group, read_run, rows
from metarl.studies.tuning import STUDY, Tuning, open_study, results
from metarl.support.text import json_text

FEW = 6
"""Damaged files of each kind in the default suite."""
NUMBERS = pytest.mark.parametrize(
    "number", [FEW, pytest.param(400, marks=pytest.mark.faults)], ids=["sample", "all"]
)


@pytest.fixture(scope="module", autouse=True)
def faster():
    """Without what takes most of the time of a small run: figures, the disk, Git, a search."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("metarl.runs.run", "metarl.runs.report"):
            patch.setattr(f"{module}.evaluation_figures", lambda *_: {"test": Figure((0.2, 0.2))})
        patch.setattr("metarl.runs.run._git_commit", lambda: None)
        patch.setattr("os.fsync", lambda descriptor: None)
        patch.setattr("importlib.metadata.entry_points", functools.cache(entry_points))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was evaluated and a policy of it, all files of which are intact."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    options = {name: value for name, value in OPTIONS.items() if name != "algorithm"}
    run.train(Config.of("maml-pg", **options, run_dir=folder))
    evaluate(folder, tasks=3, splits=("test",))
    load(folder).adapt({"goal": np.array([0.1, 0.2])}, 1).export(folder / "policy")
    return folder


def parameters_of(state):
    return {name: value.tolist() for name, value in state["parameters"].items()}


class Try:
    """What metarl does with a copy of the run, one file of which is damaged."""

    def __init__(self, whole, folder, file, data):
        self.whole, self.folder, self.file = whole, folder, file
        shutil.copytree(whole, folder)
        (folder / file).write_bytes(data)
        self.signed = False
        """Whether the checksum is that of the damaged file: then it says nothing of the numbers."""

    def count(self, counts, actions, seed):
        """Counts what came of it over all actions: the worst."""
        self.draws = seed % 10 == 0  # what takes most of the time
        outcome, about = "survived", ""
        for action in actions:
            try:
                action(self)
            except UsageError as error:
                text = str(error)
                if "\n" in text or len(text) > 1500:
                    outcome, about = "traceback", f"many lines: {text[:1000]}"
            except AssertionError as error:
                outcome, about = "silent", str(error)[:1000]
            except Exception as error:
                outcome, about = "traceback", f"{type(error).__name__}: {error}"[:1000]
            if outcome != "survived":
                name = getattr(action, "__name__", str(action))
                about = f"{self.file}, seed {seed}, {name}: {about}"
                break
        counts.add(outcome, about)
        shutil.rmtree(self.folder)

    def plot(self):
        """The figure is of what the files hold, read plainly."""
        read = read_run(self.folder)
        lines = (self.folder / METRICS).read_text().split("\n")[:-1]
        assert json_text(read.metrics) == json_text([json.loads(line) for line in lines])
        if read.returns is not None:
            plain = json.loads((self.folder / EVALUATION).read_text())
            tasks = plain["splits"]["test"]["tasks"]
            assert read.returns.T.tolist() == [task["returns"] for task in tasks]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # returns of 1e308 are what the file says
            figure = draw(group([read]))
            list(rows(group([read])))
            if self.draws:
                figure.savefig(io.BytesIO())

    def load(self):
        """What is loaded is what a checkpoint of the run holds, with its own options."""
        self.expect_own(load(self.folder))

    def expect_own(self, learner):
        """The learner has the parameters and the options that were trained."""
        if self.signed:
            return
        intact = load_checkpoint(self.whole / "checkpoints" / f"{learner.iteration:06d}")
        assert parameters_of(learner.state()) == parameters_of(intact), "other parameters"
        trained = read_config(self.whole)
        differing = loading.differences(
            loading.as_json(trained.to_json()), learner.config.to_json(), learner.config
        )
        assert not differing, f"other options: {differing}"

    def evaluate(self):
        """As `metarl evaluate` does; its report is whole."""
        evaluate(self.folder, tasks=2, adaptations=1, splits=("test",), threads=1)
        self.load()

    def resume(self):
        """As `metarl train --resume --run-dir` does: all iterations are done already."""
        learner = make_learner(self.resumed())
        run.run(learner)
        self.expect_own(learner)
        read_run(self.folder)  # the metrics are whole again
        assert len(checkpoints_in(self.folder / "checkpoints")) >= 1

    def resumed(self):
        options = {"resume": True, "iterations": OPTIONS["iterations"], "threads": 1}
        return loading.dataclasses.replace(read_config(self.folder), **options)

    def compare(self):
        """As `metarl compare` looks whether a run is finished."""
        comparison = Comparison(OPTIONS["family"], algorithms=("maml-pg",), seeds=1)
        comparison = loading.dataclasses.replace(comparison, run_dir=self.folder.parent)
        place = comparison.run_folder("maml-pg", 1)
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(self.folder)
        is_finished(comparison, "maml-pg", 1)


def damages(data, number, seed, make_wrong):
    """So many damaged contents: half are accidents to bytes, half are of other types."""
    for i in range(number):
        generator = np.random.default_rng((seed, i))
        try:
            yield i, (damaged_bytes(data, generator) if i % 2 else make_wrong(generator))
        except (TypeError, ValueError, OverflowError):  # the wrong value cannot be written
            yield i, damaged_bytes(data, generator)


def tried(whole, tmp_path, file, number, make_wrong, actions, counts):
    """Tries so many damages of one file."""
    data = (whole / file).read_bytes()
    for i, content in damages(data, number, len(file), make_wrong):
        if content != data:
            Try(whole, tmp_path / str(i), file, content).count(counts, actions, i)
    counts.expect_survival(at_least=number * 9 // 10)


@NUMBERS
def test_damaged_metrics(whole, number, tmp_path, counts):
    lines = (whole / METRICS).read_bytes().split(b"\n")

    def make_wrong(generator):
        other = list(lines)
        i = int(generator.integers(len(lines) - 1))
        other[i] = wrong_json(json.loads(lines[i]), generator)
        return b"\n".join(other)

    tried(whole, tmp_path, METRICS, number, make_wrong, [Try.plot, Try.resume], counts)


@NUMBERS
def test_damaged_configurations(whole, number, tmp_path, counts):
    make_wrong = functools.partial(wrong_json, json.loads((whole / CONFIG).read_text()))
    actions = [Try.load, Try.plot, Try.compare, Try.resume]
    tried(whole, tmp_path, CONFIG, number, make_wrong, actions, counts)


@NUMBERS
def test_damaged_evaluations(whole, number, tmp_path, counts):
    make_wrong = functools.partial(wrong_json, json.loads((whole / EVALUATION).read_text()))
    actions = [Try.plot, Try.compare, Try.resume]
    tried(whole, tmp_path, EVALUATION, number, make_wrong, actions, counts)


def newest(whole, name):
    return str((checkpoints_in(whole / "checkpoints")[-1] / name).relative_to(whole))


@NUMBERS
def test_damaged_manifests(whole, number, tmp_path, counts):
    file = newest(whole, MANIFEST)
    manifest = json.loads((whole / file).read_text())

    def make_wrong(generator):
        if generator.integers(4):
            return wrong_json(manifest, generator)
        outside = "../" * int(generator.integers(1, 9)) + "etc/passwd"
        return json.dumps({"files": {outside: manifest["files"][STATE]}}).encode()

    tried(whole, tmp_path, file, number, make_wrong, [Try.load, Try.resume], counts)


@NUMBERS
def test_damaged_states(whole, number, tmp_path, counts):
    """The checksum is often that of the damaged file, as if it had been written so."""
    file, manifest = newest(whole, STATE), newest(whole, MANIFEST)
    data = (whole / file).read_bytes()

    def make_wrong(generator):
        state = torch.load(io.BytesIO(data), weights_only=True)
        names = [(name,) for name in state] + [("parameters", n) for n in state["parameters"]]
        *way, last = names[int(generator.integers(len(names)))]
        parent = state["parameters"] if way else state
        others = [
            *(None, 3, -1.5, "x", [], {}, float("nan"), 2**80, torch.zeros(0), torch.zeros(3, 3)),
            torch.full((2, 4), float("nan")),
            torch.zeros(2, 4, dtype=torch.int8),
            torch.zeros(2, 4).to_sparse(),
            torch.zeros(2, 4, device="meta"),
        ]
        if generator.integers(3):
            parent[last] = others[int(generator.integers(len(others)))]
        else:
            del parent[last]
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    for i, content in damages(data, number, 0, make_wrong):
        one = Try(whole, tmp_path / str(i), file, content)
        one.signed = i % 4 == 1  # of the accidents to bytes; the others are other values
        if one.signed or i % 2 == 0:
            files = {STATE: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}}
            (one.folder / manifest).write_text(json.dumps({"files": files}))
        one.count(counts, [Try.load, Try.resume], i)
    counts.expect_survival(at_least=number)


def read_policy(folder):
    """What a program without metarl reads of an exported policy; a ValueError if it is damaged."""
    try:
        description = json.loads((folder / "policy.json").read_bytes())
        for name in ("policy.safetensors", "policy.pt2"):
            data = (folder / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != description["sha256"][name]:
                raise ValueError(f"{folder / name} has changed since it was written")
        weights = safetensors.torch.load_file(folder / "policy.safetensors")
        layers = []
        for kind, *sizes in description["layers"]:
            layers.append(getattr(torch.nn, kind)(*sizes))
        network = torch.nn.Sequential(*layers)
        network.load_state_dict(weights)
        low, high = (torch.tensor(description[name]) for name in ("low", "high"))
        program = torch.export.load(folder / "policy.pt2").module()
        observation = torch.zeros(1, description["observation_size"])
        return network(observation).clamp(low, high), program(observation)
    except (KeyError, TypeError, AttributeError, RuntimeError, RecursionError, IndexError) as error:
        raise ValueError(f"{folder} is damaged: {error}") from error


@NUMBERS
def test_damaged_policies(whole, number, tmp_path, counts):
    """No damage of the weights or of the program is without a word."""
    expected = read_policy(whole / "policy")
    torch.testing.assert_close(*expected)
    for file in ("policy.safetensors", "policy.pt2"):
        data = (whole / "policy" / file).read_bytes()
        for i in range(number // 4):
            content = damaged_bytes(data, np.random.default_rng((7, i)))
            folder = tmp_path / f"{file}-{i}"
            shutil.copytree(whole / "policy", folder)
            (folder / file).write_bytes(content)
            try:
                read_policy(folder)
                outcome = "survived" if content == data else "silent"
            except ValueError:
                outcome = "survived"
            except Exception as error:
                outcome = "traceback"
                file = f"{file}: {error!r}"
            counts.add(outcome, f"{file}, seed {i}")
    counts.expect_survival(at_least=number // 4)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The file of a study with three trials."""
    optuna = pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("studies") / "study"
    folder.mkdir()
    made = open_study(folder, Tuning(search=("inner_lr=0.1:1",)), create=True)
    for value in (1.0, 2.0, 3.0):
        trial = made.ask({"inner_lr": optuna.distributions.FloatDistribution(0.1, 1.0)})
        trial.report(value, 1)
        made.tell(trial, value)
    return folder / STUDY


@NUMBERS
def test_damaged_studies(study, number, tmp_path, counts):
    data = study.read_bytes()
    lines = data.split(b"\n")

    def make_wrong(generator):
        other = list(lines)
        i = int(generator.integers(len(lines) - 1))
        other[i] = wrong_json(json.loads(lines[i]), generator)
        return b"\n".join(other)

    for i, content in damages(data, number // 4, 3, make_wrong):
        folder = tmp_path / str(i) / "study"
        folder.mkdir(parents=True)
        (folder / STUDY).write_bytes(content)
        outcome, about = "survived", ""
        try:
            results(open_study(folder, Tuning(search=("inner_lr=0.1:1",)), create=True), folder)
        except UsageError:
            pass
        except Exception as error:
            outcome, about = "traceback", f"seed {i}: {error!r}"
        counts.add(outcome, about)
    counts.expect_survival(at_least=number // 5)


COMMANDS = {
    METRICS: (b'{"iteration": 1}\n{"iter', ["plot", "{run}"]),
    CONFIG: (b'{"config": 3}', ["adapt", "{run}"]),
    EVALUATION: (b"[[[", ["plot", "{run}"]),
    MANIFEST: (b"7", ["train", "--resume", "--run-dir", "{run}"]),
    STATE: (b"", ["evaluate", "{run}"]),
}


@pytest.mark.faults
@pytest.mark.parametrize("file", COMMANDS)
def test_the_commands_say_it_in_one_line(whole, file, tmp_path, counts):
    data, command = COMMANDS[file]
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    found = list(folder.rglob(file))
    for path in found:  # of every checkpoint
        path.write_bytes(data)
    if file == CONFIG:
        shutil.rmtree(folder / "checkpoints")
    result = metarl(*(word.format(run=folder) for word in command), cwd=tmp_path)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    good = result.returncode == 2 and len(errors) == 1 and "Traceback" not in result.stderr
    counts.add("survived" if good else "traceback", f"{command}: {result.stderr[-1000:]}")
    counts.expect_survival(at_least=1)
