"""Quantization-aware training: schemes, fake quantizers, wrappers, placement."""

from tfcompress.quantization.activation_quantizer import ActivationQuantizer as ActivationQuantizer
from tfcompress.quantization.calibrate import calibrate as calibrate
from tfcompress.quantization.instrument import quantize_aware as quantize_aware
from tfcompress.quantization.quantized_layer import QuantizedLayer as QuantizedLayer
from tfcompress.quantization.rules import Role as Role
from tfcompress.quantization.rules import Rule as Rule
from tfcompress.quantization.rules import register as register
from tfcompress.quantization.schemes import Scheme as Scheme
from tfcompress.quantization.schemes import SchemeMap as SchemeMap
from tfcompress.quantization.twin import QuantizedTwin as QuantizedTwin
from tfcompress.quantization.twin import attach_twin as attach_twin
from tfcompress.quantization.twin import detach_twin as detach_twin
from tfcompress.quantization.twin import find_twin as find_twin
from tfcompress.quantization.twin import quantized_form as quantized_form
from tfcompress.quantization.twin import restore_ranges as restore_ranges
