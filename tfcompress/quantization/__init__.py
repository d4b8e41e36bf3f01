"""Quantization-aware training: schemes, fake quantizers, wrappers, placement."""

from tfcompress.quantization.activation_quantizer import ActivationQuantizer as ActivationQuantizer
from tfcompress.quantization.calibrate import calibrate as calibrate
from tfcompress.quantization.instrument import quantize_aware as quantize_aware
from tfcompress.quantization.quantized_layer import QuantizedLayer as QuantizedLayer
from tfcompress.quantization.rules import Role as Role
from tfcompress.quantization.rules import Rule as Rule
from tfcompress.quantization.rules import register as register
from tfcompress.quantization.schemes import Scheme as Scheme
