from __future__ import annotations

from pathlib import Path

import pytest

from selfaug.config import FLAGS, TrainConfig, dump_config, load_config
from selfaug.errors import ConfigError

NEEDED = {"--model": "m", "--train": "rows.jsonl"}


def problems(
    file: Path | None = None, flags: dict[str, object] | None = None, sets: tuple[str, ...] = ()
) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(file, NEEDED if flags is None else flags, sets)
    assert error.value.exit_code == 2
    return "\n".join(error.value.problems)


def test_an_empty_name_is_no_name() -> None:
    """As of a variable that is not set, where a path without a name would be the current folder."""
    told = problems(flags={"--model": "m", "--train": ["a.jsonl", ""], "--template": ""}).splitlines()
    assert told == [
        "--train: data.train is an empty text: perhaps a variable is not set",
        "--template: data.template is an empty text: perhaps a variable is not set",
    ]
    assert "data.prepared is an empty text" in problems(flags={"--prepared": ""})
    sets = ("data.eval=['']", "data.replay=['']", "evaluation.data=['']", "lora.start_from=''")
    assert [line.split(":")[0] for line in problems(sets=sets).splitlines()] == [
        f"--set {one.partition('=')[0]}"
        for one in ("data.eval", "data.replay", "lora.start_from", "evaluation.data")
    ]


def test_defaults_need_only_a_model_and_rows() -> None:
    config = load_config(None, NEEDED)
    assert config.model.name == "m"
    assert config.data.train == ["rows.jsonl"]
    assert config.run.output == "runs/first"


def test_set_wins_over_flags_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: {name: from-file}\ndata: {train: a.jsonl}\n"
        "selfaug:\n  alpha: 1\n  divergence: reverse\ntrain:\n  seed: 1\n  epochs: 2\n",
        encoding="utf-8",
    )
    config = load_config(file, {"--alpha": 2.0, "--seed": 2, "--epochs": None}, ["train.seed=3"])
    assert config.train.seed == 3
    assert config.selfaug.alpha == 2.0
    assert config.selfaug.divergence == "reverse"
    assert config.train.epochs == 2
    assert (
        config.train.batch_size
        == TrainConfig.model_validate({"model": {"name": "m"}, "data": {"train": ["a"]}}).train.batch_size
    )


def test_epochs_win_over_steps_that_were_given_before(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train: {steps: 500, epochs: 1}\n", encoding="utf-8")

    def asked(flags: dict[str, object], *sets: str) -> tuple[int | None, float]:
        train = load_config(file, {**NEEDED, **flags}, sets).train
        return train.steps, train.epochs

    assert asked({}) == (500, 1)
    assert asked({"--epochs": 3}) == (None, 3)
    assert asked({"--steps": 7}, "train.epochs=2") == (None, 2)
    assert asked({"--epochs": 3, "--steps": 7}) == (7, 3)
    assert asked({}, "train.epochs=2", "train.steps=9") == (9, 2)


def test_another_prepared_folder_brings_its_own_rows(tmp_path: Path) -> None:
    """Over a run's resolved settings too, which have those of the folder before written out."""
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "config.yaml"
    for folder in (old, new):
        folder.mkdir()
    (old / "validation.jsonl").touch()

    def derived(resolved: TrainConfig, *sets: str, **how: bool) -> list[Path | None]:
        file.write_text(dump_config(resolved), encoding="utf-8")
        data = load_config(file, {"--prepared": str(new)}, sets, **how).data
        found = [*data.train, *(data.eval or [""]), data.template or ""]
        return [Path(one).parent if one else None for one in found]

    run = load_config(None, {"--model": "m", "--prepared": str(old)})
    assert derived(run) == [new, None, new]
    # What was given beside it, or is given now, stays; and so do a deployed run's rows when it is re-aligned.
    assert derived(run, "data.eval=own/dev.jsonl") == [new, Path("own"), new]
    assert derived(load_config(None, {"--model": "m", "--prepared": str(old), "--eval": ["own/dev.jsonl"]})) == [
        new, Path("own"), new,
    ]  # fmt: skip
    assert derived(run, rows_stay=True) == [old, old, old]
    other = load_config(None, {**NEEDED, "--eval": ["dev.jsonl"], "--template": "t.yaml"})
    assert derived(other) == [new, None, new]
    assert derived(other, "data.train=mine.jsonl") == [Path(), None, new]
    # Only a file's rows go: not those of the same command, wherever it names the folder.
    file.write_text(dump_config(other), encoding="utf-8")
    given = ["data.eval=[mine/e.jsonl]", "data.template=mine/t.yaml", f"data.prepared={new}"]
    above = load_config(file, {"--train": ["mine/t.jsonl"]}, given).data
    assert [*above.train, *above.eval, above.template] == ["mine/t.jsonl", "mine/e.jsonl", "mine/t.yaml"]
    assert (
        load_config(file, {"--train": ["mine/t.jsonl"]}, given[-1:]).data.eval == []
    )  # other's dev.jsonl is gone
    # A file without rows, as a recipe, may have others beside them.
    file.write_text(
        "model: {name: m}\ndata: {eval: [own/dev.jsonl], template: own/t.yaml}\n", encoding="utf-8"
    )
    beside = load_config(file, {"--prepared": str(new)}).data
    assert [*beside.train, *beside.eval, beside.template] == [
        str(new / "train.jsonl"), "own/dev.jsonl", "own/t.yaml",
    ]  # fmt: skip
    assert load_config(file, {"--train": ["mine/t.jsonl"]}, given[-1:]).data.eval == ["own/dev.jsonl"]
    (old / "validation.jsonl").unlink()
    (new / "validation.jsonl").touch()
    assert derived(load_config(None, {"--model": "m", "--prepared": str(old)})) == [new, new, new]
    assert load_config(file, sets=["data.prepared=null"]).data.train == [str(old / "train.jsonl")]


def test_a_dumped_config_loads_back_equal(tmp_path: Path) -> None:
    config = load_config(
        None,
        {**NEEDED, "--eval": ["a", "ü b.jsonl"], "--drift-limit": 0.05},
        ["data.chat_template_kwargs={enable_thinking: false}", "train.learning_rate=1e-5", "lora.dora=true"],
    )
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file) == config
    assert config.train.learning_rate == 1e-5
    assert config.data.chat_template_kwargs == {"enable_thinking": False}


def test_paths_in_the_home_folder_are_found_where_no_shell_has_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise `output: ~/runs` would make a folder that is called `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: {name: ~/model}\ndata: {prepared: ~/prepared, replay: [embedded, ~/old.jsonl]}\n"
        "selfaug: {anchors: ~/anchors.jsonl}\nrun: {output: ~/runs/first}\n",
        encoding="utf-8",
    )
    config = load_config(file)
    home = str(tmp_path)
    assert config.model.name == f"{home}/model"
    assert config.data.train == [f"{home}/prepared/train.jsonl"]
    assert config.data.replay == ["embedded", f"{home}/old.jsonl"]
    assert config.selfaug.anchors == f"{home}/anchors.jsonl"
    assert config.run.output == f"{home}/runs/first"


def test_everything_wrong_is_reported_at_once_each_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "model:\n  nam: x\n  dtype: bf16\nlora:\n  rnak: 8\ntrian:\n  epochs: 3\ntrain:\n  epochs: -1\n",
        encoding="utf-8",
    )
    text = problems(file, {"--rank": 0}, ("selfaug.alhpa=1", "selfaug.divergence=forwrd", "nonsense"))
    assert text.splitlines() == [
        "--set nonsense: should be section.key=value",
        "model.name is missing: give it in the file or with --model",
        f"{file}, line 3: model.dtype should be 'auto', 'float32', 'bfloat16' or 'float16', got 'bf16' "
        "(did you mean bfloat16?)",
        f"{file}, line 2: there is no setting model.nam (did you mean model.name?)",
        "data.train is missing: give it in the file or with --train",
        "--rank: lora.rank should be greater than or equal to 1, got 0",
        f"{file}, line 5: there is no setting lora.rnak (did you mean lora.rank?)",
        "--set selfaug.divergence: selfaug.divergence should be 'forward' or 'reverse', got 'forwrd' "
        "(did you mean forward?)",
        "--set selfaug.alhpa: there is no setting selfaug.alhpa (did you mean selfaug.alpha?)",
        f"{file}, line 9: train.epochs should be greater than 0, got -1",
        f"{file}, line 6: there is no setting trian (did you mean train?)",
    ]


def test_a_setting_in_no_section_or_in_the_wrong_one_is_found_in_the_right_one() -> None:
    assert "did you mean selfaug.alpha?" in problems(sets=("alpha=1",))
    assert "did you mean selfaug.alpha?" in problems(sets=("selfaug.alfa=1",))
    assert "did you mean train.learning_rate?" in problems(sets=("lora.learning_rate=1",))
    assert "did you mean train?" in problems(sets=("trian.epochs=1",))


def test_values_of_the_wrong_kind_are_refused() -> None:
    assert "not true or false" in problems(sets=("lora.rank=yes",))
    assert "unable to parse string as an integer, got 'four'" in problems(sets=("train.batch_size=four",))
    assert "finite number" in problems(sets=("selfaug.alpha=.nan",))
    assert "should be a section with alpha, drift_limit" in problems(sets=("selfaug=5",))
    assert "run.output" in problems(sets=("run.output=",))


def test_a_section_that_is_a_number_is_reported_even_when_a_flag_is_inside_it(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("selfaug: 5\n", encoding="utf-8")
    assert f"{file}, line 1: selfaug should be a section" in problems(file, {**NEEDED, "--alpha": 1})


def test_a_key_given_twice_is_a_problem_and_not_silently_the_last(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  seed: 1\n  seed: 2\n", encoding="utf-8")
    assert problems(file) == f"{file}, line 3: train.seed is given a second time"


def test_a_value_has_no_settings_below_it() -> None:
    given = {"--model": "m", "--train": ["rows.jsonl"]}
    text = problems(flags=given, sets=("data.train.0=x", "model.name.revision=main", "lora.rank=0"))
    assert text.splitlines() == [
        "--set data.train.0: data.train is a list, to be given whole; it has no 0",
        "--set model.name.revision: model.name is one value; it has no revision",
        "--set lora.rank: lora.rank should be greater than or equal to 1, got 0",
    ]


def test_numbers_in_yaml_are_what_they_are_on_the_command_line(tmp_path: Path) -> None:
    """YAML 1.1 takes 010 for eight and 1:30 for ninety."""
    file = tmp_path / "run.yaml"
    file.write_text("train: {seed: 010, batch_size: 0x10, steps: +1_000}\n", encoding="utf-8")
    config = load_config(file, NEEDED)
    assert (config.train.seed, config.train.batch_size, config.train.steps) == (10, 16, 1000)
    assert load_config(None, {**NEEDED, "--seed": "010"}).train.seed == 10
    assert load_config(None, NEEDED, ["train.seed=010"]).train.seed == 10
    assert "--set train.epochs: train.epochs should be a valid number" in problems(
        sets=("train.epochs=1:30",)
    )


@pytest.mark.parametrize("text", ["train: &x\n  seed: *x\n", "[" * 1000])
def test_yaml_without_an_end_is_one_clear_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="a part of it holds itself, or too many others") as error:
        load_config(file)
    assert "*name" in str(error.value.hint)


def test_none_is_no_tracker() -> None:
    assert load_config(None, NEEDED).train.report_to == []
    assert load_config(None, NEEDED, ["train.report_to=none"]).train.report_to == []
    assert load_config(None, NEEDED, ["train.report_to=wandb"]).train.report_to == ["wandb"]


def test_planned_steps_count_the_rows_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    train = load_config(
        None, NEEDED, ["train.batch_size=2", "train.gradient_accumulation=3", "train.epochs=1.5"]
    ).train
    assert train.planned_steps(25) == 8
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train.planned_steps(25) == 5
    assert load_config(None, NEEDED, ["train.steps=7"]).train.planned_steps(25) == 7


@pytest.mark.parametrize(
    ("sets", "setting"),
    [
        (("selfaug.drift_limit=0.1", "selfaug.alpha=0"), "--set selfaug.drift_limit: selfaug.drift_limit"),
        (
            ("selfaug.drift_limit=0.1", "selfaug.row_fraction=0.5"),
            "--set selfaug.drift_limit: selfaug.drift_limit: goes",
        ),
        (("model.quantization=4bit", "lora.method=full"), "--set model.quantization: model.quantization"),
        (("model.quantization=4bit", "model.dtype=float16"), "--set model.quantization: model.quantization"),
        (("lora.method=full", "selfaug.reference=adapter_off"), "--set selfaug.reference: selfaug.reference"),
        (("train.packing=true", "train.group_by_length=true"), "--set train.group_by_length: train"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(sets: tuple[str, ...], setting: str) -> None:
    assert problems(sets=sets).startswith(setting)


def test_all_that_exclude_each_other_are_told_at_once() -> None:
    told = problems(
        sets=("lora.method=full", "selfaug.reference=adapter_off", "model.quantization=4bit")
    ).split("\n")
    assert [line.partition(":")[0] for line in told] == [
        "--set model.quantization",
        "--set selfaug.reference",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train: [1, 2", r"line 1.*not valid YAML"),
        (b"run: {output: 2024-02-30}", "not valid YAML"),
        (b"- a\n- b\n", "is not a file of settings"),
        (b"model: \xff\xfe", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(file, NEEDED)


def test_a_missing_file_is_refused_and_an_empty_one_is_all_defaults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "missing.yaml")
    (tmp_path / "empty.yaml").touch()
    assert load_config(tmp_path / "empty.yaml", NEEDED) == load_config(None, NEEDED)


def test_a_set_value_that_is_no_yaml_is_text() -> None:
    for text in ("a: [b", "2024-02-30"):
        assert load_config(None, NEEDED, [f"model.name={text}"]).model.name == text


def test_every_flag_names_a_setting_that_exists() -> None:
    sections = {name: field.annotation for name, field in TrainConfig.model_fields.items()}
    for target in FLAGS.values():
        section, key = target.split(".")
        assert key in sections[section].model_fields, target  # type: ignore[union-attr]
