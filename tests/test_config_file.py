"""`--config FILE`: options from YAML, TOML, JSON and from the config.json of a run."""

import json

import pytest

from metarl import Config, UsageError
from metarl.cli.config_file import expanded
from metarl.cli.main import main
from metarl.cli.parsing import parse, without_repeats

OPTIONS = {
    "family": "envs:HalfCheetahDir-v0",
    "family_options": {"observation": "finn", "action_scale": 5.0},
    "algorithm": "promp",
    "hidden_sizes": [16, 16],
    "inner-lr": 0.2,
    "normalise_observations": True,
    "horizon": None,
    "meta_batch_size": 2,
    "episodes": 2,
    "iterations": 1,
    "eval_every": 0,
}
YAML = """
family: envs:HalfCheetahDir-v0
family_options: {observation: finn, action_scale: 5.0}
algorithm: promp
hidden_sizes: [16, 16]
inner-lr: 0.2
normalise_observations: true
horizon:
meta_batch_size: 2
episodes: 2
iterations: 1
eval_every: 0
"""
TOML = """
family = "envs:HalfCheetahDir-v0"
algorithm = "promp"
hidden_sizes = [16, 16]
inner-lr = 0.2
normalise_observations = true
meta_batch_size = 2
episodes = 2
iterations = 1
eval_every = 0
[family_options]
observation = "finn"
action_scale = 5.0
"""


@pytest.mark.parametrize(
    ("name", "text"), [("a.yaml", YAML), ("a.yml", YAML), ("a.toml", TOML), ("a.json", OPTIONS)]
)
def test_the_formats_say_the_same(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text if isinstance(text, str) else json.dumps(text))
    assert expanded([f"--config={file}"]) == expanded(["--config", str(file)])
    words = " ".join(expanded(["--config", str(file), "--seed", "7"]))
    assert "--family-options observation finn action_scale 5.0" in words
    assert "--algorithm promp --hidden-sizes 16 16 --inner-lr 0.2" in words.replace(
        "--family-options observation finn action_scale 5.0 ", ""
    )
    assert "--normalise-observations" in words
    assert "horizon" not in words
    assert words.endswith("--seed 7")


def test_the_command_line_wins_and_a_run_can_be_repeated(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text(YAML)
    first, second = tmp_path / "first", tmp_path / "second"
    common = ["--horizon", "3", "--inner-lr", "0.3"]
    main(["train", "--config", str(file), *common, "--run-dir", str(first)])
    config = json.loads((first / "config.json").read_text())["config"]
    assert (config["inner_lr"], config["outer"], config["horizon"]) == (0.3, "ppo", 3)
    assert config["family_options"] == {"observation": "finn", "action_scale": 5.0}
    main(["train", "--config", str(first / "config.json"), "--run-dir", str(second)])
    again = json.loads((second / "config.json").read_text())["config"]
    assert again == config | {"run_dir": str(second)}

    def returns(folder):
        metrics = json.loads((folder / "metrics.jsonl").read_text())
        return [value for name, value in metrics.items() if name.startswith(("return/", "outer/"))]

    assert returns(first) == returns(second)
    run = ["--config", str(first / "config.json")]
    for words in (["--algorithm", "reptile"], ["--preset=tuned"]):
        with pytest.raises(UsageError, match="has every option of a run, with its --"):
            expanded([*run, *words])
    with pytest.raises(UsageError, match="give a file with the options that are to stay"):
        expanded([*run, "--search", "algorithm=promp,reptile"])
    expanded([*run, "--algorithm", "promp"])
    file.write_text("algorithm: reptile")
    with pytest.raises(UsageError, match="every option of a run, with its --algorithm promp"):
        expanded([*run, "--config", str(file)])
    held = json.loads((first / "config.json").read_text())
    assert "max_kl" not in held["config"]
    held["config"]["max_kl"] = 0.02  # as an earlier version wrote it
    (first / "config.json").write_text(json.dumps(held))
    assert "--max-kl" not in expanded(run)
    held["config"]["preset"] = "tuned"
    (first / "config.json").write_text(json.dumps(held))
    with pytest.raises(UsageError, match="every option of a run, with its --family"):
        expanded([*run, "--family", "envs:Navigation2D-v0"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "family: [", "cannot be read"),
        ("a.toml", "family =", "cannot be read"),
        ("a.json", "[1]", "must hold names and values"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.yaml", "family: 2020-01-01", "family is a date, not an option"),
        ("a.txt", "", "must end in one of .json, .toml"),
        ("a.yaml", "seed: 1\nseed: 2", "cannot be read: it names seed twice"),
        ("a.yaml", "family_options: {a: 1, a: 2}", "cannot be read: it names a twice"),
        ("a.yaml", "inner_lr: 1\ninner-lr: 2", "cannot be read: it names --inner-lr twice"),
        ("a.json", '{"seed": 1, "seed": 2}', "cannot be read: it names seed twice"),
        ("a.toml", "seed = 1\nseed = 2", "cannot be read: Cannot overwrite"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, name, text, message):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        expanded(["--config", str(file)])
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config"], "--config needs a file"),
        (["--config", "--seed", "1"], "--config needs a file"),
        (["--config", "none.yaml"], "none.yaml cannot be read: No such file"),
    ],
)
def test_a_file_that_is_missing_is_told(arguments, message):
    with pytest.raises(UsageError, match=message):
        expanded(arguments)


def test_a_file_that_is_missing_is_told_by_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--family", "envs:Navigation2D-v0", "--config"])
    assert capsys.readouterr().err.startswith("error: --config needs a file: .json")


def test_an_unknown_option_in_a_file_is_refused(tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_text("family: envs:Navigation2D-v0\niteratons: 1\n")
    for command in ("train", "compare", "tune"):
        more = ["--search", "inner-lr=0.1:1"] if command == "tune" else []
        with pytest.raises(SystemExit):
            main([command, "--config", str(file), "--run-dir", str(tmp_path / "run"), *more])
        assert "iteratons" in (message := capsys.readouterr().err)
        assert f"({file} has --iteratons)" in message


@pytest.mark.parametrize(
    ("text", "learner", "message"),
    [
        ("meta_batch_size: two", "maml", "(FILE has --meta-batch-size)"),
        ("meta_batch_size: 2", "rl2", "--meta-batch-size is an option of --learner maml, not of "
         "rl2: metarl train --learner rl2 --help lists its options (FILE has --meta-batch-size)"),
        ("trials: 2", "maml", "--trials is an option of --learner rl2, not of maml"),
    ],
)  # fmt: skip
def test_a_message_says_whose_option_it_is(tmp_path, capsys, text, learner, message):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit):
        main(["train", "--family", "envs:Navigation2D-v0", "--learner", learner,
              "--config", str(file)])  # fmt: skip
    assert message.replace("FILE", str(file)) in capsys.readouterr().err


def test_pairs_that_are_given_twice_are_put_together():
    words = ["--family-options", "a", "1", "b", "2", "--seed", "3", "--family-options=b", "4"]
    default = Config(family="envs:Navigation2D-v0")
    parsed = parse(Config, words, "", default)
    assert (parsed.family_options, parsed.seed) == ({"a": 1, "b": 4}, 3)
    more = [*words, "--no-resume", "--seed", "5", "--resume"]
    assert without_repeats(Config, more) == [
        *("--family-options", "a", "1", "b", "2", "b", "4"), *("--seed", "5", "--resume")
    ]  # fmt: skip


def test_a_run_with_pairs_of_options_is_resumed_by_the_same_command(tmp_path):
    pairs = ["--family-options", "variant", "sparse", "goal_range", "0.4"]
    small = ["--family", "envs:Navigation2D-v0", "--meta-batch-size", "2", "--episodes", "2"]
    small += ["--horizon", "4", "--iterations", "1", "--eval-every", "0", "--device", "cpu"]
    command = ["train", *small, *pairs, "--resume", "--run-dir", str(tmp_path / "run")]
    main(command)
    main([*command, "--iterations", "2"])
    config = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert config["family_options"] == {"variant": "sparse", "goal_range": 0.4}
    assert config["iterations"] == 2
    one = ["train", "--resume", "--run-dir", str(tmp_path / "run"), "--iterations", "2"]
    main([*one, "--family-options", "goal_range", "0.4"])  # the others are those of the run
    with pytest.raises(SystemExit):
        main([*one, "--family-options", "goal_range", "0.3"])
