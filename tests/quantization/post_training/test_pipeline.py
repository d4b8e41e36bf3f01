"""Names, presets and errors of post-training quantization."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.quantization.calibrate import quantizers_of
from tfcompress.quantization.post_training import (
    ALGORITHMS,
    EFFORTS,
    AdaRound,
    Algorithm,
    Outcome,
    quantize_post_training,
    register,
)
from tfcompress.quantization.post_training.algorithm import get_algorithm as get


def test_names_configs_and_objects_are_algorithms():
    assert get("adaround") == AdaRound()
    assert get({"name": "adaround", "iterations": 7}) == AdaRound(iterations=7)
    algorithm = AdaRound(iterations=9)
    assert get(algorithm) is algorithm
    assert get(algorithm.get_config()) == algorithm


def test_bad_algorithms():
    with pytest.raises(ValueError, match=r"Did you mean 'adaround'.*'adaronud'"):
        get("adaronud")
    with pytest.raises(ValueError, match=r"takes \['most_bits'.*'steps'"):
        get({"name": "adaround", "steps": 3})
    with pytest.raises(TypeError, match="3"):
        get(3)
    with pytest.raises(ValueError, match="`iterations` must be positive"):
        AdaRound(iterations=0)
    with pytest.raises(ValueError, match="`ranges` must be one of"):
        get({"name": "cross_layer_equalization", "ranges": "biases"})


def test_presets(chain, samples):
    model = chain()
    done = quantize_post_training(model, "int8", samples, effort="fast")
    names = [outcome.algorithm for outcome in done.outcomes]
    assert names == ["cross_layer_equalization", "bias_absorption", "bias_correction"]
    np.testing.assert_allclose(done.reference(samples), model(samples), atol=1e-4)
    assert EFFORTS["best"] == (*names[:2], "adaround", names[2])


def test_best_effort_chooses_the_observer(samples):
    keras.utils.set_random_seed(0)
    # An outlier behind which everything saturates is not worth the range.
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            keras.layers.Conv2D(4, 3, activation="tanh", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="head"),
        ]
    )
    kernel = model.get_layer("conv").kernel
    kernel.assign(5 * kernel)
    spiky = samples.copy()
    spiky[0, 0, 0, 0] = 60.0
    done = quantize_post_training(model, "int8", spiky, effort="best")
    tried = next(outcome for outcome in done.outcomes if outcome.algorithm == "observer")
    losses = {row.layer: row.figures["loss"] for row in tried.layers}
    best = min(losses, key=losses.get)
    assert best.startswith("percentile")
    assert losses[best] < 0.8 * losses["its own"]
    assert best in tried.note
    ranges = [q.range for q in quantizers_of(done.model)]
    assert max(high for _, high in ranges) < 40
    # What is given is not overruled.
    done = quantize_post_training(model, "int8", spiky, effort="best", observer="min_max")
    assert "observer" not in [outcome.algorithm for outcome in done.outcomes]


def test_an_algorithm_of_ones_own(chain, samples):
    @register("noted")
    @dataclass(frozen=True)
    class Noted(Algorithm):
        def refine(self, model, quantized, samples):
            return Outcome(self.name, note=f"{len(samples['image'])} samples.")

    try:
        done = quantize_post_training(chain(), "int8", samples, algorithms=["noted"])
        assert str(done) == "noted: 0 of 0 done. 48 samples."
    finally:
        del ALGORITHMS["noted"]


def test_bad_arguments(chain, samples):
    model = chain()
    with pytest.raises(ValueError, match="`effort` must be one of"):
        quantize_post_training(model, "int8", samples, effort="utmost")
    with pytest.raises(ValueError, match="give one of the two"):
        quantize_post_training(model, "int8", samples, effort="best", algorithms=["adaround"])
    with pytest.raises(ValueError, match=r"`calibration`: 100 to 500"):
        quantize_post_training(model, "int8")
    quantized = tfc.quantize_aware(model, "int8", verbose=False)
    with pytest.raises(ValueError, match="quantization-aware already"):
        quantize_post_training(quantized, "int8", samples)


def test_schemes_by_layer_and_observers(chain, samples):
    schemes = {"default": "int8", "hidden": "w4a8", "bn": None}
    done = quantize_post_training(
        chain(), schemes, samples, algorithms=[], observer={"name": "percentile", "percentile": 99}
    )
    layers = {layer.name: layer for layer in done.model.layers}
    assert layers["hidden"].weight_bits == 4
    assert layers["pointwise"].weight_bits == 8
    assert layers["pointwise"].scheme.observer.percentile == 99
    # Named by the scheme, the normalization is a layer of its own.
    assert "bn" in layers
