"""What a recipe accepts, and what its errors say."""

from pathlib import Path

import pytest

from tfcompress.recipe import Recipe, RecipeError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))

GOOD = """\
version: 1
name: quick
data: {source: digits}
model: {architecture: digits_cnn}
train: {epochs: 3, learning_rate: 1e-3}
prune: {sparsity: 0.8, begin: 100, end: 1.0}
"""


def error_of(text):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(text, "r.yaml")
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_config_is_a_valid_recipe_named_after_its_file(path):
    assert Recipe.load(path).name == path.stem


def test_the_configs_are_there():
    assert [p.stem for p in CONFIGS] == [
        "cifar10_resnet8_prune_int8",
        "digits_iterative",
        "digits_prune_int8",
        "mnist_cnn_prune_int8",
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_yaml_round_trip_is_exact(path):
    recipe = Recipe.load(path)
    again = Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()


def test_steps_stay_whole_numbers_and_shares_stay_fractions_through_yaml():
    prune = Recipe.from_yaml(Recipe.from_yaml(GOOD).to_yaml()).prune
    assert (prune.begin, type(prune.begin)) == (100, int)
    assert (prune.end, type(prune.end)) == (1.0, float)


def test_a_number_without_a_dot_before_its_exponent_is_a_number():
    assert Recipe.from_yaml(GOOD).train.learning_rate == 1e-3


def test_a_mapping_and_a_recipe_load_like_yaml():
    recipe = Recipe.from_yaml(GOOD)
    assert Recipe.load(recipe) is recipe
    assert Recipe.load(recipe.model_dump()) == recipe


def test_recipes_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Recipe.from_yaml(GOOD).seed = 3


def test_unknown_key_names_the_nearest_one_and_its_line_once():
    message = error_of(GOOD.replace("sparsity: 0.8", "sparcity: 0.8"))
    assert message.startswith(
        "r.yaml, line 6: unknown key `sparcity` in `prune`; did you mean `sparsity`?"
    )
    assert "\n" not in message


def test_unknown_key_of_another_section_names_that_section():
    assert "it belongs in `shrink` or `prune`" in error_of(GOOD + "sparsity: 0.5\n")


def test_unknown_key_like_nothing_still_names_the_nearest():
    assert "the nearest known key is" in error_of(GOOD + "zzzz: 1\n")


def test_unknown_key_in_a_nested_section_has_its_own_line():
    text = GOOD.replace("{source: digits}", "\n  source: digits\n  preprocessing:\n    scael: 2.0")
    message = error_of(text)
    assert "r.yaml, line 6: unknown key `scael` in `data.preprocessing`" in message
    assert "did you mean `scale`?" in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.8", "high", "line 6: `prune.sparsity` must be a number. Received: 'high'"),
        ("0.8", "1.0", "line 6: `prune.sparsity` must be below 1.0. Received: 1.0"),
        ("0.8", "-0.1", "line 6: `prune.sparsity` must be at least 0.0. Received: -0.1"),
        ("0.8", ".nan", "line 6: `prune.sparsity` must be below 1.0. Received: nan"),
        ("begin: 100", "begin: 1.5", "must be a step (a whole number) or a share"),
        ("begin: 100", "begin: -1", "must be a step (a whole number) or a share"),
        ("begin: 100", "begin: true", "must be a step (a whole number) or a share"),
        ("begin: 100, end: 1.0", "begin: 0.8, end: 0.2", "line 6: `prune` needs an `end` (0.2)"),
        ("epochs: 3", "epochs: 3.0", "line 5: `train.epochs` must be a whole number. Received: 3"),
        ("epochs: 3", "epochs: true", "line 5: `train.epochs` must be a whole number."),
        ("epochs: 3", "epochs: 0", "line 5: `train.epochs` must be at least 1. Received: 0"),
        ("epochs: 3", "decay: step", "`train.decay` must be 'constant' or 'cosine'."),
        ("version: 1", "version: 2", "line 1: `version` must be 1. Received: 2"),
        ("version: 1\n", "", "`version` is required"),
        ("name: quick", "name: ../up", "letters, digits, `.`, `_` and `-`"),
        ("{source: digits}", "digits", "line 3: `data` must be a mapping of settings."),
        ("{architecture: digits_cnn}", "{}", "exactly one of `architecture`, `path` and"),
        ("digits_cnn}", "digits_cnn, path: m.keras}", "given: architecture, path."),
        ("architecture: digits_cnn", "function: builder", "form `module:function`"),
        ("train: {epochs: 3, learning_rate: 1e-3}", "train: null", "a `train` section, because"),
        (
            "prune: {sparsity: 0.8, begin: 100, end: 1.0}",
            "iterative: {max_drop: 0.01}",
            "a `prune`",
        ),
        ("prune:", "iterative: {rounds: 3}\nprune:", "line 6: `iterative` needs at least one of"),
        ("prune:", "shrink: {macs: 0.5, bytes: 9}\nprune:", "exactly one of `macs`, `parameters`"),
        ("prune:", "remove_layers: {}\nprune:", "exactly one of `n`, `parameters`"),
        ("prune:", "iterative: {bites: 3}\nprune:", "did you mean `bytes`?"),
        (
            "{source: digits}",
            "{source: digits, preprocessing: {std: [0.0]}}",
            "`data.preprocessing` needs `std` must be finite and not zero",
        ),
    ],
)
def test_wrong_values_name_line_key_and_what_is_allowed(old, new, said):
    assert old in GOOD
    assert said in error_of(GOOD.replace(old, new, 1))


def test_all_problems_are_told_at_once():
    message = error_of(GOOD.replace("0.8", "high").replace("epochs: 3", "epochs: 0"))
    assert "line 5" in message
    assert "line 6" in message


def test_a_model_file_may_skip_training():
    text = GOOD.replace("architecture: digits_cnn", "path: m.keras")
    text = text.replace("train: {epochs: 3, learning_rate: 1e-3}", "train: null")
    assert Recipe.from_yaml(text).train is None


def quantize_section(scheme):
    return Recipe.from_yaml(GOOD + f"quantize: {{scheme: {scheme}}}\n").quantize


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        ("w4a8", "w4a8"),
        ("{weight_bits: 4, observer: {name: percentile, percentile: 99.9}}", "custom"),
        ("{name: mine, activations: [-1.0, 1.0]}", "mine"),
        ("{default: int8, conv1: w4a8, 'stack.*': {learned: lsq}, Dense: null}", "mixed"),
    ],
)
def test_a_scheme_is_a_name_settings_or_a_map_of_layers(scheme, name):
    section = quantize_section(scheme)
    assert section.scheme_name == name
    recipe = Recipe.from_yaml(GOOD + f"quantize: {{scheme: {scheme}}}\n")
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("{weight_bits: 4, weight_rang: mse}", "nearest known setting is `weight_range`"),
        ("{weight_bits: 9}", "valid `weight_bits`"),
        ("{default: int8, conv1: {learned: lsqq}}", "valid `learned`"),
        ("{conv1: 4}", "for the layers 'conv1'"),
        ("8", "`quantize.scheme` must be a text or a mapping"),
    ],
)
def test_bad_schemes_are_refused_at_their_line(scheme, message):
    text = error_of(GOOD + f"quantize: {{scheme: {scheme}}}\n")
    assert message in text
    assert text.startswith("r.yaml, line 7")


def test_scheme_settings_are_those_of_the_scheme():
    from dataclasses import fields

    from tfcompress.quantization import Scheme
    from tfcompress.recipe.schema import SchemeSettings

    assert list(SchemeSettings.model_fields) == [field.name for field in fields(Scheme)]
