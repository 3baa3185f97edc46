"""Training presets: the figures are the sources' own, they mean what is said, and what is written wins over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sae_pipeline.errors import StudyError
from sae_pipeline.saes.arm import Arm
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.preflight import preflight
from sae_pipeline.store import Home
from sae_pipeline.study import Study, cells, load_study
from sae_pipeline.study.manual import page
from sae_pipeline.study.training_presets import adjustments, as_json, factor_readings, lines, readings, training_presets
from sae_pipeline.study.training_sections import ArmGroup, TrainingDefaults

# Typed from the tables: share of the width, k, learning rate, sequences per batch, and what else the row has.
BY_DOMAIN = {
    "s1.general_language": (0.50, 64, 0.001, 32, 4096, 2048),
    "s1.domain_specific": (0.30, 32, 0.005, 64, 768, 230),
    "s1.code": (0.40, 48, 0.0005, 16, 1024, 410),
    "s1.multimodal": (0.60, 96, 0.0001, 8, 2048, 1229),
}
BY_SIZE = {
    "s1.model_small": (0.20, [16, 32], 0.01, 128, [50, 100], [0.40, 0.60], [20, 80], [0.05, 0.20], [0, 100e6]),
    "s1.model_medium": (0.30, [32, 64], 0.005, 64, [30, 50], [0.50, 0.70], [40, 120], [0.03, 0.15], [100e6, 1e9]),
    "s1.model_large": (0.40, [64, 128], 0.001, 32, [20, 30], [0.60, 0.80], [60, 150], [0.02, 0.10], [1e9, 10e9]),
    "s1.model_very_large": (0.50, [128, 256], 0.0005, 16, [15, 25], [0.70, 0.90], [80, 200], [0.01, 0.08], [10e9, None]),
}
BY_LAYER = {  # share of the width, sparsity penalty, diversity; the rest is the general row's
    "s4.general": (0.25, 0.001, 0.01),
    "s4.domain_specific": (0.2, 0.002, 0.02),
    "s4.early_layers": (0.3, 0.0005, 0.02),
    "s4.late_layers": (0.15, 0.002, 0.02),
}
BY_DATA = {  # learning rate, batch size, epochs, regularisation
    "s1.dataset_small": (0.5, 0.5, 2, 1.5),
    "s1.dataset_medium": (1.0, 1.0, 1, 1.0),
    "s1.dataset_large": (1.2, 1.5, 0.7, 0.8),
}


def study(folder: Path, saes: dict[str, Any], **activations: Any) -> Study:
    """A study with this section ``saes``; widths and layers only where they are given."""
    content = {
        "name": "example",
        "subject": {"model": "bundled"},
        "sources": {"prose": {"kind": "installed_docs"}},
        "mixes": {"PROSE": {"prose": 1.0}},
        "held_out": {"prose": {"shares": {"prose": 1.0}, "kind": "in_sample"}},
        "activations": {"tokens": 800_000, **activations},
        "saes": saes,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return load_study(folder / "study.yaml")


def arms(found: Study) -> list[Arm]:
    return [arm for cell in cells(found) for arm in cell.arms.values()]


def only_arm(folder: Path, saes: dict[str, Any], **activations: Any) -> Arm:
    (arm,) = arms(study(folder, saes, **({"layers": [1]} | activations)))
    return arm


# ------------------------------------------------------------------------------------------------ figures


def test_every_preset_of_the_tables_is_there_and_no_other():
    assert set(training_presets()) == {*BY_DOMAIN, *BY_SIZE, *BY_LAYER, "s3.baseline"}
    assert set(adjustments()) == set(BY_DATA)


@pytest.mark.parametrize("name", BY_DOMAIN)
def test_figures_by_domain(name):
    share, k, rate, sequences, width, latents = BY_DOMAIN[name]
    figures = training_presets()[name].figures
    assert figures == {
        "architecture": "topk",
        "model_width": width,
        "sae_dim_share": share,
        "top_k": k,
        "learning_rate": rate,
        "batch_sequences": sequences,
    }
    assert round(width * share) == latents  # the table's number of latents is that share of its width


@pytest.mark.parametrize("name", BY_SIZE)
def test_figures_by_model_size(name):
    names = ("sae_dim_share", "top_k", "learning_rate", "batch_sequences", "epochs", "expected_loss_recovered", "expected_l0", "expected_dead_share")
    expected = dict(zip((*names, "model_parameters"), BY_SIZE[name], strict=True))
    assert training_presets()[name].figures == {"architecture": "topk", **expected}


@pytest.mark.parametrize("name", BY_LAYER)
def test_figures_for_better_saes(name):
    share, penalty, diversity = BY_LAYER[name]
    figures = dict(training_presets()[name].figures)
    assert figures.pop("training_text", None) == (None if name == "s4.general" else "financial_corpus")
    assert figures == {
        "architecture": "topk", "sae_dim_share": share, "sparsity_penalty": penalty, "diversity_weight": diversity, "top_k": 16, "l1_penalty": 1e-4,
        "learning_rate": 1e-4, "batch_sequences": 8, "gradient_accumulation": 4, "dead_feature_threshold": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize("name", BY_DATA)
def test_factors_by_data_set_size(name):
    assert adjustments()[name].factors == dict(zip(("learning_rate", "batch_size", "epochs", "regularisation"), BY_DATA[name], strict=True))


def test_every_figure_is_read_or_told_why_not():
    for preset in training_presets().values():
        assert set(preset.figures) <= set(readings())
    for adjustment in adjustments().values():
        assert set(adjustment.factors) <= set(factor_readings())
    keys = {
        "defaults": TrainingDefaults.model_fields,
        "arms": ArmGroup.model_fields,
        "saes": {"expansions"},
        "activations": {"layers", "context_length"},
    }
    for reading in readings().values():
        assert reading["how"]
        for section, key in (place.split(".") for place in reading["sets"]):
            assert key in keys[section]
    assert all(setting in TrainingDefaults.model_fields for factor in factor_readings().values() for setting in factor["multiplies"])


# ------------------------------------------------------------------------------------------------ use


@pytest.mark.parametrize("name", [*BY_DOMAIN, *BY_SIZE, *BY_LAYER])
@pytest.mark.parametrize("place", ["defaults", "arms"])
def test_a_preset_alone_makes_a_whole_study(tmp_path, name, place):
    saes = {"defaults": {"preset": name}, "arms": [{}]} if place == "defaults" else {"arms": [{"preset": name}]}
    found = study(tmp_path, saes, layers=[1], context_length=64)
    figures = training_presets()[name].figures
    assert found.saes.expansions == (figures["sae_dim_share"],)
    ks = figures["top_k"] if isinstance(figures["top_k"], list) else [figures["top_k"]]
    assert [arm.k for arm in arms(found)] == ks
    for arm in arms(found):
        assert (arm.architecture, arm.learning_rate, arm.learning_rate_scaling) == ("topk", figures["learning_rate"], "fixed")
        # Sequences of 64 tokens, times the accumulation: an effective batch.
        assert (arm.batch_size, arm.accumulate) == (
            figures["batch_sequences"] * 64 * (4 if name.startswith("s4") else 1),
            4 if name.startswith("s4") else 1,
        )
        diversity = BY_LAYER[name][2] if name in BY_LAYER else 0.0
        assert (arm.l1_coefficient, arm.diversity_coefficient) == (1e-4 if name in BY_LAYER else 0.0, diversity)


def test_the_baseline_brings_its_layer_context_and_both_seeds(tmp_path):
    found = study(tmp_path, {"expansions": [16], "defaults": {"preset": "s3.baseline"}, "arms": [{}]})
    assert (found.activations.layers, found.activations.context_length) == ((8,), 128)
    (arm,) = arms(found)
    assert (arm.architecture, arm.k, arm.learning_rate, arm.init_seed, arm.data_seed) == ("topk", 16, 3e-4, 49, 49)
    written = study(tmp_path, {"expansions": [16], "defaults": {"preset": "s3.baseline"}, "arms": [{"seeds": [1]}]}, layers=[2], context_length=32)
    assert (written.activations.layers, written.activations.context_length, arms(written)[0].init_seed) == ((2,), 32, 1)


def test_what_is_written_beside_a_preset_wins(tmp_path):
    saes = {
        "expansions": [2],
        "defaults": {"preset": "s4.general", "learning_rate": 0.003, "accumulate": 1},
        "arms": [{"architecture": "batchtopk", "k": 5}],
    }
    arm = only_arm(tmp_path, saes)
    assert (arm.architecture, arm.k, arm.learning_rate, arm.accumulate) == ("batchtopk", 5, 0.003, 1)
    assert (arm.batch_size, arm.l1_coefficient) == (8 * 4 * 128, 1e-4)


def test_a_target_takes_the_place_of_k_where_sparsity_is_steered(tmp_path):
    saes = {"defaults": {"preset": "s4.general"}, "arms": [{"architecture": "jumprelu"}]}
    arm = only_arm(tmp_path, saes)
    assert (arm.k, arm.target_l0) == (None, 16)


def test_groups_are_trained_at_the_widths_of_their_own_presets(tmp_path):
    groups = [{"only": {"layers": [0]}, "preset": "s4.early_layers"}, {"only": {"layers": [3]}, "preset": "s4.late_layers"}, {"k": 7}]
    found = study(tmp_path, {"defaults": {"preset": "s4.general"}, "arms": groups}, layers=[0, 3])
    trained = {(cell.point.layer, cell.expansion, arm.k) for cell in cells(found) for arm in cell.arms.values()}
    assert trained == {(0, 0.3, 16), (3, 0.15, 16), (0, 0.25, 7), (3, 0.25, 7)}


def test_a_preset_is_the_same_study_as_its_settings_written_out(tmp_path):
    short = only_arm(
        tmp_path, {"defaults": {"preset": "s1.code", "adjust": "s1.dataset_small", "tokens": 100_000}, "arms": [{"architecture": "topk"}]}
    )
    saes = {
        "expansions": [0.4],
        "defaults": {"tokens": 200_000, "learning_rate": 0.00025, "batch_size": 1024},
        "arms": [{"architecture": "topk", "k": 48}],
    }
    assert short == only_arm(tmp_path, saes)


# ------------------------------------------------------------------------------------------------ adjustments


@pytest.mark.parametrize("name", BY_DATA)
def test_an_adjustment_multiplies_on_top(tmp_path, name):
    rate, batch, epochs, regularisation = BY_DATA[name]
    arm = only_arm(tmp_path, {"defaults": {"preset": "s4.general", "adjust": name}, "arms": [{}]})
    assert arm.learning_rate == pytest.approx(1e-4 * rate)
    assert arm.batch_size == 4096 * batch
    assert arm.tokens == 200_000 * epochs
    assert (arm.l1_coefficient, arm.diversity_coefficient) == (pytest.approx(1e-4 * regularisation), pytest.approx(0.01 * regularisation))


def test_without_a_rate_the_one_that_follows_from_the_width_is_multiplied(tmp_path):
    arm = only_arm(tmp_path, {"expansions": [2], "defaults": {"adjust": "s1.dataset_large"}, "arms": [{"architecture": "topk", "k": 4}]})
    assert (arm.learning_rate, arm.learning_rate_scaling) == (2.4e-4, "inverse_sqrt_width")
    same = only_arm(tmp_path, {"expansions": [2], "defaults": {"adjust": "s1.dataset_medium"}, "arms": [{"architecture": "topk", "k": 4}]})
    assert (same.learning_rate, same.learning_rate_scaling) == (None, "fixed")


def test_batches_stay_whole_multiples_of_their_parts(tmp_path):
    defaults = {"adjust": "s1.dataset_large", "batch_size": 100, "accumulate": 4}
    assert only_arm(tmp_path, {"expansions": [2], "defaults": defaults, "arms": [{"architecture": "topk", "k": 4}]}).batch_size == 152


def test_a_group_is_adjusted_by_its_own_factors_and_not_twice(tmp_path):
    groups = [{"k": 1}, {"k": 2, "adjust": "s1.dataset_large"}, {"k": 3, "tokens": 1000}]
    defaults = {"adjust": "s1.dataset_small", "tokens": [100, 200], "learning_rate": 0.01}
    found = arms(study(tmp_path, {"expansions": [2], "defaults": defaults, "arms": [{"architecture": "topk", **g} for g in groups]}, layers=[1]))
    assert [(arm.k, arm.tokens, arm.learning_rate) for arm in found] == [
        (1, 200, 0.005), (1, 400, 0.005), (2, 70, 0.012), (2, 140, 0.012), (3, 1000, 0.005),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("defaults", "group", "words"),
    [
        (
            {"preset": "s4.generl"},
            {},
            ["saes.defaults.preset: expected a training preset, found 's4.generl'; did you mean 's4.general'? there are: s1."],
        ),
        ({}, {"preset": "s4"}, ["saes.arms[0].preset: expected a training preset, found 's4'"]),
        ({"preset": ["s4.general"]}, {}, ["saes.defaults.preset: expected a training preset, found '['s4.general']'"]),
        ({"preset": "s1.dataset_small"}, {}, ["found 's1.dataset_small'; that one goes with the key 'adjust'"]),
        ({"adjust": "s4.general"}, {}, ["saes.defaults.adjust: expected an adjustment", "that one goes with the key 'preset'"]),
        ({"adjust": "s1.dataset_tiny"}, {}, ["did you mean 's1.dataset_"]),
        ({"preset": "s4.general", "learning_rte": 1}, {}, ["unknown key 'learning_rte'; did you mean 'learning_rate'"]),
        ({"preset": "s4.general", "batch_size": "many", "adjust": "s1.dataset_small"}, {}, ["saes.defaults.batch_size", "found 'many'"]),
        ({"adjust": "s1.dataset_large", "batch_size": -100}, {}, ["saes.defaults.batch_size", "found -100"]),
        ({"adjust": "s1.dataset_large", "batch_size": True}, {}, ["expected a value other than true or false"]),
        ({"adjust": "s1.dataset_small", "tokens": 700_000}, {}, ["asks for 1400000 training tokens (adjust s1.dataset_small)"]),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path, defaults, group, words):
    with pytest.raises(StudyError) as error:
        study(tmp_path, {"expansions": [2], "defaults": defaults, "arms": [{"architecture": "topk", "k": 4, **group}]}, layers=[1])
    assert str(error.value).count("\n") == 0
    for word in words:
        assert word in str(error.value)
    assert ":" in str(error.value).removeprefix(str(tmp_path))


def test_a_line_number_leads_to_the_name(tmp_path):
    with pytest.raises(StudyError, match=r"study\.yaml:(\d+): saes\.defaults\.preset") as error:
        study(tmp_path, {"expansions": [2], "defaults": {"preset": "nothing"}, "arms": [{"architecture": "topk", "k": 4}]}, layers=[1])
    line = int(str(error.value).split("study.yaml:")[1].split(":")[0])
    assert "preset: nothing" in (tmp_path / "study.yaml").read_text().splitlines()[line - 1]


def test_an_error_tells_which_preset_gave_the_value(tmp_path):
    with pytest.raises(StudyError, match=r"saes\.defaults: expected greater than or equal to 1, found 0; batch_size comes from preset s1\.code"):
        study(tmp_path, {"defaults": {"preset": "s1.code"}, "arms": [{}]}, layers=[1], context_length=0)


def test_a_sparsity_that_does_not_fit_the_subject_names_its_preset(tmp_path):
    found = study(tmp_path, {"defaults": {"preset": "s1.general_language"}, "arms": [{}]}, layers=[1])
    narrow = found.model_copy(
        update={"subject": found.subject.model_copy(update={"bundled": found.subject.bundled.model_copy(update={"d_model": 64})})}
    )
    with pytest.raises(StudyError, match=r"found 64 \(from preset s1\.general_language\)"):
        preflight(StudyContext.open(narrow, Home(tmp_path / "home")))


# ------------------------------------------------------------------------------------------------ telling


def test_presets_are_listed_with_what_is_not_applied():
    told = {line.split(":")[0].split(" ")[0]: line for line in lines()}
    assert set(told) == {*training_presets(), *adjustments()}
    assert told["s1.model_small"].endswith("epochs 50–100, expected_loss_recovered 0.4–0.6, expected_l0 20–80, expected_dead_share 0.05–0.2.")
    assert "Not applied: model_parameters 0–1e+08, epochs" in told["s1.model_small"]
    assert set(as_json()["training"]) == set(training_presets())


def test_the_manual_has_every_preset_and_every_rule():
    manual = page()
    for name in (*training_presets(), *adjustments()):
        assert f"| `{name}` |" in manual
    for name in readings():
        assert f"| {name} |" in manual
