from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from selfaug.config import TrainConfig
from selfaug.errors import ConfigError, SelfAugError, StorageError
from selfaug.model.loading import load_model_config
from selfaug.phases.estimate import Estimate, estimate
from selfaug.phases.inputs import adapter_config, load_training_data
from selfaug.phases.pass_cost import pass_cost
from selfaug.phases.sample_pass import SamplePass
from selfaug.phases.train import train
from selfaug.records import write_lines

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers about itself

Settings = Callable[..., TrainConfig]


def test_an_estimate_counts_what_the_run_counts_and_writes_nothing(
    tmp_path: Path, settings: Settings
) -> None:
    needs = estimate(settings(tmp_path / "run"))
    assert (needs.parameters, needs.trainable, needs.steps, needs.rows) == (28_000, 16_384, 6, 24)
    assert needs.weights_bytes == 28_000 * 4
    assert needs.optimizer_bytes == 16_384 * 12
    assert needs.activations_bytes > 0
    assert needs.seconds is not None
    assert needs.seconds > 0
    assert len(needs.how) >= 5
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_at_the_end_is_said_not_to_be_counted(tmp_path: Path, settings: Settings) -> None:
    said = "the evaluation at the end is not counted"
    assert said in estimate(settings(tmp_path / "run", "evaluation.at_end=fast")).how
    assert said not in estimate(settings(tmp_path / "run")).how


def test_measuring_the_loss_on_many_rows_takes_longer_than_training(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = tmp_path / "held.jsonl"
    row = json.dumps({"prompt": "one two three", "completion": "yes"}) + "\n"
    held_out.write_text(row * 200)
    monkeypatch.setattr(
        "selfaug.phases.estimate.time_sample_pass", lambda *_: SamplePass(0.75, 0.25, 1.0, 10)
    )

    def needs(*sets: str) -> Estimate:
        return estimate(settings(tmp_path / "run", f"data.eval={held_out}", "train.steps=6", *sets))

    never, often, last = (needs(f"train.eval_steps={steps}") for steps in (0, 2, 100))
    assert never.seconds is not None
    assert often.seconds is not None
    assert last.seconds is not None
    assert often.seconds - never.seconds == pytest.approx(3 * (last.seconds - never.seconds))
    assert any("measuring the loss on 200 held-out rows 3 times takes" in told for told in often.warnings)
    assert not any("measuring the loss" in told for told in never.warnings)
    # Both models run over them; without alignment one does.
    alone, alone_never = (needs(f"train.eval_steps={steps}", "selfaug.alpha=0").seconds for steps in (2, 0))
    assert alone is not None
    assert alone_never is not None
    assert often.seconds - never.seconds == pytest.approx(2 * (alone - alone_never))


def test_the_reference_reads_drawn_rows_and_anchors_alone(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "selfaug.phases.estimate.time_sample_pass", lambda *_: SamplePass(0.75, 0.25, 1.0, 10)
    )

    def seconds(*sets: str) -> float:
        return estimate(settings(tmp_path / "run", "train.eval_steps=0", *sets)).seconds or 0.0

    plain, every, some = (
        seconds(one) for one in ("selfaug.alpha=0", "selfaug.row_fraction=1", "selfaug.row_fraction=0.25")
    )
    assert some - plain == pytest.approx((every - plain) / 4)
    anchors = "selfaug.anchors=self"
    assert seconds(anchors) - seconds(anchors, "selfaug.row_fraction=0.25") == pytest.approx(every - some)


def test_attention_in_long_rows_is_counted(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = []
    for tokens in (10_000, 5):  # of the timed row
        timed = SamplePass(0.75, 0.25, 1.0, tokens)
        monkeypatch.setattr("selfaug.phases.estimate.time_sample_pass", lambda *_, timed=timed: timed)
        seconds.append(estimate(settings(tmp_path / "run")).seconds or 0)
    assert 0 < 2 * seconds[0] < seconds[1]


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_multiplications_are_those_that_the_model_makes(kind: str) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
    made = CONFIG_MAPPING[kind](**sizes, **heads, **(experts if kind == "mixtral" else {}))
    model = AutoModelForCausalLM.from_config(
        made, attn_implementation="eager", experts_implementation="eager"
    )
    cost = pass_cost(model, made)
    for length in (8, 64):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.arange(length)[None] % 64)
        of_attention = float(cost.per_token(length)) - cost.weights
        # Plain attention multiplies with what stands behind a token, too. Norms aren't counted there.
        made_ones = counter.get_total_flops() / 2 / length
        assert made_ones == pytest.approx(cost.weights + 2 * of_attention, rel=0.02)


def test_layers_that_look_back_no_further_or_have_a_state() -> None:
    made = CONFIG_MAPPING["gemma3_text"](num_hidden_layers=6, sliding_window=100)
    full, sliding = made.layer_types.count("full_attention"), made.layer_types.count("sliding_attention")
    assert (full, sliding) == (1, 5)
    with torch.device("meta"):
        cost = pass_cost(AutoModelForCausalLM.from_config(made), made)
    before = (cost.per_token([100, 1_000_000]) - cost.weights) / 2 / made.num_attention_heads / made.head_dim
    assert before == pytest.approx([50 * (full + sliding), 500_000 * full + 100 * sliding], rel=1e-3)
    states = CONFIG_MAPPING["mamba2"](
        num_hidden_layers=1, hidden_size=32, num_heads=2, head_dim=32, vocab_size=64
    )
    with torch.device("meta"):
        flat = pass_cost(AutoModelForCausalLM.from_config(states), states)
    assert flat.per_token([1, 1_000_000]) == pytest.approx([flat.weights] * 2)


def test_steps_follow_from_rows_and_epochs(tmp_path: Path, settings: Settings) -> None:
    assert estimate(settings(tmp_path / "run", "train.steps=null", "train.epochs=2")).steps == 12


def test_packed_rows_are_counted_as_training_packs_them(tmp_path: Path, settings: Settings) -> None:
    file = tmp_path / "short.jsonl"
    rows = [{"prompt": "word " * (1 + number % 5), "completion": "yes"} for number in range(24)]
    write_lines(file, rows)
    once = ("train.steps=null", "train.epochs=1", f'data.train=["{file}"]')
    packing = (*once, "train.packing=true")
    apart, together = (
        estimate(settings(tmp_path / "run", *once)),
        estimate(settings(tmp_path / "run", *packing)),
    )
    assert together.rows == apart.rows == 24
    assert together.activations_bytes > apart.activations_bytes
    assert any("24 rows are packed into" in line for line in together.how)
    assert together.steps == train(settings(tmp_path / "run", *packing)).record["steps"] < apart.steps


def test_a_cache_is_estimated_for_rows_that_are_evaluated(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "selfaug.phases.estimate.time_sample_pass", lambda *_: SamplePass(0.75, 0.25, 1.0, 10)
    )
    held_out = tmp_path / "held.jsonl"
    held_out.write_text(json.dumps({"prompt": "one two three", "completion": "yes"}) + "\n")
    few = ("selfaug.reference=cache", f"selfaug.reference_cache_dir={tmp_path / 'cache'}")
    plain, never, once, twice = (
        estimate(settings(tmp_path / "run", *few, *more))
        for more in ((), *((f"data.eval={held_out}", f"train.eval_steps={steps}") for steps in (0, 6, 3)))
    )
    assert plain.cache_bytes == never.cache_bytes < once.cache_bytes == twice.cache_bytes
    assert plain.seconds == never.seconds
    assert never.seconds is not None
    assert once.seconds is not None
    assert twice.seconds is not None
    # The reference model runs over them once, for the cache.
    assert once.seconds - never.seconds == pytest.approx(2 * (twice.seconds - once.seconds))


def test_replayed_rows_are_counted(tmp_path: Path, settings: Settings, tiny_rows: Path) -> None:
    few = ("train.steps=null", "train.epochs=1", "selfaug.reference=cache")
    few = (*few, f"selfaug.reference_cache_dir={tmp_path / 'cache'}")
    plain = estimate(settings(tmp_path / "run", *few))
    # Short rows, and one that is longer than all of the job's.
    replayed = ["".join(f"{number} words " for number in range(count)) for count in (2, 3, 4, 26)]
    file = tmp_path / "replayed.jsonl"
    write_lines(file, ({"prompt": text, "completion": "yes"} for text in replayed))
    mixed = estimate(settings(tmp_path / "run", *few, f'data.replay=["{file}"]', "data.replay_share=0.2"))
    assert (plain.rows, mixed.rows) == (24, 24 + 6)
    assert (plain.steps, mixed.steps) == (6, 8)
    assert mixed.tokens > plain.tokens
    assert mixed.cache_bytes > plain.cache_bytes
    assert mixed.activations_bytes > plain.activations_bytes


def test_processes_of_a_launcher_share_the_rows(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ("train.steps=null", "train.epochs=2", "train.gradient_accumulation=1", "selfaug.alpha=0")
    measured = SamplePass(0.5, 0.25, 100.0, 10)
    monkeypatch.setattr("selfaug.phases.estimate.time_sample_pass", lambda *_: measured)
    one = estimate(settings(tmp_path / "run", *whole))
    monkeypatch.setenv("WORLD_SIZE", "3")
    three = estimate(settings(tmp_path / "run", *whole))
    assert (one.processes, three.processes) == (1, 3)
    assert (one.steps, three.steps) == (24, 8)
    assert one.seconds is not None
    assert three.seconds == pytest.approx(one.seconds / 3)
    # DDP exchanges gradients in buffers of its own.
    assert three.optimizer_bytes == one.optimizer_bytes + 4 * one.trainable
    assert (three.weights_bytes, three.activations_bytes) == (one.weights_bytes, one.activations_bytes)
    assert any("3 share the rows" in line for line in three.how)
    # With steps given, it is the passes that there are more of.
    steps = ("train.steps=6", "selfaug.reference_cache_dir=" + str(tmp_path / "cache"))
    assert estimate(settings(tmp_path / "run", *steps)).cache_bytes > 0
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert estimate(settings(tmp_path / "run", *steps)).cache_bytes == 0


def test_a_cache_takes_what_was_estimated(tmp_path: Path, settings: Settings, tiny_rows: Path) -> None:
    cached = ("selfaug.reference=cache", f"selfaug.reference_cache_dir={tmp_path / 'cache'}", "train.steps=1")
    evaluated = tmp_path / "eval.jsonl"
    evaluated.write_text('{"prompt": "the revenue of the year", "completion": "million"}\n')
    config = settings(tmp_path / "run", *cached, f"data.eval={evaluated}")
    estimated = estimate(config).cache_bytes
    assert train(config).record["reference_cache_bytes"] == estimated > 0


def test_full_fine_tuning_with_its_frozen_reference_needs_twice_the_weights(
    tmp_path: Path, settings: Settings
) -> None:
    needs = estimate(settings(tmp_path / "run", "lora.method=full"))
    assert needs.trainable == 28_000
    assert needs.weights_bytes == 2 * 28_000 * 4
    plain = estimate(settings(tmp_path / "run", "lora.method=full", "selfaug.alpha=0"))
    assert plain.weights_bytes == 28_000 * 4


def test_copies_of_weights_in_16_bits_are_no_activations(tmp_path: Path, settings: Settings) -> None:
    full = ("lora.method=full", "train.batch_size=64")
    whole, half = (
        estimate(settings(tmp_path / "run", *full, f"model.dtype={dtype}")).activations_bytes
        for dtype in ("float32", "bfloat16")
    )
    assert half < whole


def test_full_fine_tuning_in_16_bits_has_copies_of_all_weights(tmp_path: Path, settings: Settings) -> None:
    full = ("lora.method=full", "model.dtype=bfloat16")
    assert estimate(settings(tmp_path / "run", *full)).weights_bytes == 28_000 * (4 + 4 + 2)
    assert estimate(settings(tmp_path / "run", *full, "selfaug.alpha=0")).weights_bytes == 28_000 * (4 + 2)


def test_logits_of_a_chunk_and_the_gradient_of_the_head_are_counted(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfaug.phases.estimate.time_sample_pass", lambda *_: SamplePass(0.5, 0.25, 0.0, 10))
    rows = load_training_data(settings(tmp_path / "run")).train.rows
    longest = max(len(row.input_ids) for row in rows)
    config = load_model_config(settings(tmp_path / "run").model.name)
    few = ("train.batch_size=1",)
    logits = 4 * config.vocab_size * longest
    assert estimate(settings(tmp_path / "run", *few)).activations_bytes == 4 * logits
    assert estimate(settings(tmp_path / "run", *few, "selfaug.alpha=0")).activations_bytes == 2 * logits
    # From some size on, a chunk doesn't grow with the batch.
    many = estimate(settings(tmp_path / "run", "train.batch_size=10000")).activations_bytes
    assert many == pytest.approx(4 * 2**25, rel=1e-3)
    head = config.vocab_size * config.hidden_size
    for dtype, each in (("float32", 8), ("bfloat16", 10)):
        full = estimate(settings(tmp_path / "run", *few, "lora.method=full", f"model.dtype={dtype}"))
        assert full.activations_bytes == 4 * logits + each * head


def test_the_adapter_is_counted_for_the_targets_that_it_has(tmp_path: Path, settings: Settings) -> None:
    # q_proj: 32 to 32, rank 16, two layers.
    needs = estimate(settings(tmp_path / "run", "lora.target_modules=[q_proj]"))
    assert needs.trainable == 2 * 16 * (32 + 32)


@pytest.mark.parametrize("preserved", [0.5, 0.3])
def test_osf_is_counted_as_peft_makes_it(tmp_path: Path, settings: Settings, preserved: float) -> None:
    config = settings(tmp_path / "run", "lora.method=osf", f"lora.preserved={preserved}")
    base = AutoModelForCausalLM.from_pretrained(config.model.name)
    model = get_peft_model(base, adapter_config(config.lora, base))
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    frozen = sum(buffer.numel() for name, buffer in model.named_buffers() if "osf" in name)
    needs = estimate(config)
    assert needs.trainable == trained
    assert needs.weights_bytes == 4 * (28_000 + trained + frozen)
    assert needs.optimizer_bytes == 12 * trained
    assert any("OSF" in line for line in needs.how)


def test_osf_keeps_its_joined_factors_once_and_not_for_each_token(tmp_path: Path, settings: Settings) -> None:
    small, large = (
        estimate(settings(tmp_path / "run", "lora.method=osf", f"train.batch_size={size}")).activations_bytes
        for size in (1, 100)
    )
    # Of both layers, q and o: 32 to 32; k and v: 32 to 16; three of the MLP: 32 to 64. Half of the directions train.
    joined = 4 * 2 * 2 * (2 * 16 * 64 + 2 * 8 * 48 + 3 * 16 * 96)
    per_row = (large - small) / 99
    assert small == pytest.approx(joined + per_row, rel=1e-3)
    lora = [
        estimate(settings(tmp_path / "run", f"train.batch_size={size}")).activations_bytes
        for size in (1, 100)
    ]
    assert per_row == pytest.approx((lora[1] - lora[0]) / 99, rel=0.3)


def test_a_reference_cache_is_sized(tmp_path: Path, settings: Settings) -> None:
    folder = f"selfaug.reference_cache_dir={tmp_path / 'cache'}"
    needs = estimate(settings(tmp_path / "run", "selfaug.reference=cache", folder))
    assert needs.cache_bytes > 0
    assert needs.cache_bytes % (32 * 4) == 0


def test_a_cache_that_auto_takes_is_sized_and_computed_once(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path / "cache"))
    few, many = (
        estimate(settings(tmp_path / "run", "train.steps=null", f"train.epochs={epochs}"))
        for epochs in (2, 3)
    )
    assert few.cache_bytes == 0
    assert many.cache_bytes > 0
    some = ("train.steps=null", "train.epochs=3", "selfaug.row_fraction=0.5")
    assert estimate(settings(tmp_path / "run", *some)).cache_bytes == 0
    assert any("once, for the cache" in line for line in many.how)
    assert not (tmp_path / "cache").exists()
    full = estimate(settings(tmp_path / "run", "lora.method=full", "train.steps=null", "train.epochs=3"))
    assert full.cache_bytes > 0
    assert full.weights_bytes == 28_000 * 4  # no frozen copy


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_shards_without_an_adapter_take_the_cache_as_training_does(
    name: str, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "true")
    monkeypatch.setattr(
        "selfaug.phases.estimate.time_sample_pass", lambda *_: SamplePass(0.5, 0.25, 100.0, 10)
    )
    once = ("train.steps=null", "train.epochs=1", f"selfaug.reference_cache_dir={tmp_path / 'cache'}")
    full = estimate(settings(tmp_path / "run", *once, "lora.method=full"))
    assert full.cache_bytes > 0
    assert full.weights_bytes == 28_000 * 4  # no frozen copy
    assert estimate(settings(tmp_path / "run", *once)).cache_bytes == 0
    assert estimate(settings(tmp_path / "run", *once, "lora.method=full", "selfaug.alpha=0")).cache_bytes == 0


def test_no_cache_is_taken_where_rows_depend_on_their_batch(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFAUG_CACHE", str(tmp_path / "cache"))
    config = settings(tmp_path / "run", "train.steps=null", "train.epochs=3")
    model = shutil.copytree(config.model.name, tmp_path / "model")
    for original, expected in ((8, False), (256, True)):
        described = json.loads((model / "config.json").read_text())
        described["rope_parameters"] = {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "factor": 2.0,
            "original_max_position_embeddings": original,
        }
        (model / "config.json").write_text(json.dumps(described))
        named = settings(tmp_path / "run", f"model.name={model}", "train.steps=null", "train.epochs=3")
        assert (estimate(named).cache_bytes > 0) == expected
        if not expected:
            cached = (f"model.name={model}", "selfaug.reference=cache")
            with pytest.raises(ConfigError, match="of another model than the one that trains"):
                estimate(settings(tmp_path / "run", *cached))
            monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
            with pytest.raises(ConfigError) as error:
                estimate(settings(tmp_path / "run", *cached, "lora.method=full"))
            assert error.value.hint == "leave longer rows out."
            monkeypatch.delenv("ACCELERATE_USE_FSDP")


def test_a_cache_that_is_there_is_taken_and_not_counted_again(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"selfaug.reference_cache_dir={tmp_path / 'cache'}"
    passes = (folder, "train.steps=null", "train.epochs=3")
    train(settings(tmp_path / "built", folder, "selfaug.reference=cache", "train.steps=1"))
    assert estimate(settings(tmp_path / "run", folder, "selfaug.reference=cache")).cache_bytes == 0
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("selfaug.model.disk_room.shutil.disk_usage", lambda _: usage)
    needs = estimate(settings(tmp_path / "run", *passes))
    assert needs.cache_bytes == 0
    assert any("once, for the cache" in line for line in needs.how)
    assert any(f"{tmp_path / 'cache'} has 24 of 24 different rows already" in line for line in needs.how)
    evaluated = tmp_path / "eval.jsonl"
    evaluated.write_text('{"prompt": "the revenue of the year", "completion": "million"}\n')
    more = estimate(settings(tmp_path / "run", *passes, f"data.eval={evaluated}"))
    assert not any("for the cache" in line for line in more.how)
    none = estimate(
        settings(tmp_path / "run", *passes[1:], f"selfaug.reference_cache_dir={tmp_path / 'none'}")
    )
    assert not any("for the cache" in line for line in none.how)


def test_in_4_bits_are_only_the_linear_layers_without_the_head(
    tmp_path: Path, settings: Settings, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "selfaug.phases.estimate.time_sample_pass", lambda *_: SamplePass(0.5, 0.25, 100.0, 10)
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    linear = sum(
        module.weight.numel() for module in model.model.modules() if isinstance(module, torch.nn.Linear)
    )
    needs = estimate(settings(tmp_path / "run", "model.quantization=4bit"))
    assert needs.weights_bytes == int(linear * 0.55 + (28_000 - linear) * 4)
    assert any("0.55 bytes a parameter of linear layers, 4 of embeddings" in line for line in needs.how)


@pytest.mark.parametrize("stored_quantized", [False, True])
def test_a_model_that_is_stored_quantised_is_said_to_be_counted_as_if_it_were_not(
    tmp_path: Path,
    settings: Settings,
    quantized_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored_quantized: bool,
) -> None:
    monkeypatch.setattr(
        "selfaug.phases.estimate._free_memory", lambda _: 1000
    )  # too little to load the model
    needs = estimate(settings(tmp_path / "run", *[f"model.name={quantized_model_dir}"] * stored_quantized))
    said = "weights: the model is stored quantised, and is counted as if it were not: it takes less"
    assert (said in needs.how) == stored_quantized
    (warning,) = [line for line in needs.warnings if "of memory" in line]
    assert ("model.quantization=4bit" in warning) == (not stored_quantized)
    assert (
        "lower train.batch_size, or set train.gradient_checkpointing=true." in warning
    ) == stored_quantized


def test_a_folder_that_is_taken_is_a_note(finished_run: Path, settings: Settings) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished_run.rglob("*") if file.is_file()}
    needs = estimate(settings(finished_run))
    assert any(
        "training would refuse" in line and "already holds a run" in line and "--overwrite" in line
        for line in needs.warnings
    )
    assert {file: file.stat().st_mtime_ns for file in finished_run.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("refused", "kind"),
    [
        ("selfaug.anchors=missing.jsonl", ConfigError),
        ("train.report_to=nonsense", ConfigError),
        ("train.best_scorer=unheard-of", ConfigError),
        ("model.device=mps", ConfigError),
        ("run.output=/proc/selfaug/run", StorageError),
    ],
)
def test_what_training_refuses_before_its_model_an_estimate_refuses_too(
    refused: str,
    kind: type[SelfAugError],
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_reached(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded first")

    for module in ("trainer_setup", "sample_pass"):
        monkeypatch.setattr(f"selfaug.phases.{module}.load_base_model", not_reached)
    config = settings(tmp_path / "run", refused)
    for work in (estimate, train):
        with pytest.raises(kind):
            work(config)
    assert list(tmp_path.iterdir()) == []


def test_an_estimate_refuses_an_evaluation_that_training_refuses(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(ConfigError, match="needs held-out rows"):
        estimate(settings(tmp_path / "run", "evaluation.at_end=fast", "evaluation.also_score=f1"))
