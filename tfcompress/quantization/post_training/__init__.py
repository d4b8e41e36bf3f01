"""Post-training quantization: algorithms that need samples, but no labels and no training."""

from tfcompress.quantization.post_training.adaround import AdaRound as AdaRound
from tfcompress.quantization.post_training.algorithm import ALGORITHMS as ALGORITHMS
from tfcompress.quantization.post_training.algorithm import Algorithm as Algorithm
from tfcompress.quantization.post_training.algorithm import AlgorithmLike as AlgorithmLike
from tfcompress.quantization.post_training.algorithm import LayerOutcome as LayerOutcome
from tfcompress.quantization.post_training.algorithm import Outcome as Outcome
from tfcompress.quantization.post_training.algorithm import get_algorithm as get_algorithm
from tfcompress.quantization.post_training.algorithm import register as register
from tfcompress.quantization.post_training.bias_absorption import BiasAbsorption as BiasAbsorption
from tfcompress.quantization.post_training.bias_correction import BiasCorrection as BiasCorrection
from tfcompress.quantization.post_training.cross_layer_equalization import (
    CrossLayerEqualization as CrossLayerEqualization,
)
from tfcompress.quantization.post_training.pipeline import EFFORTS as EFFORTS
from tfcompress.quantization.post_training.pipeline import PostTraining as PostTraining
from tfcompress.quantization.post_training.pipeline import (
    quantize_post_training as quantize_post_training,
)
