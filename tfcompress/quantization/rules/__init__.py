"""Quantization rules; importing this package registers them all."""

from tfcompress.quantization.rules import activations as activations
from tfcompress.quantization.rules import arithmetic as arithmetic
from tfcompress.quantization.rules import attention as attention
from tfcompress.quantization.rules import channel_affine as channel_affine
from tfcompress.quantization.rules import convolution3d as convolution3d
from tfcompress.quantization.rules import einsum as einsum
from tfcompress.quantization.rules import embedding as embedding
from tfcompress.quantization.rules import linear as linear
from tfcompress.quantization.rules import merging as merging
from tfcompress.quantization.rules import normalization as normalization
from tfcompress.quantization.rules import preprocessing as preprocessing
from tfcompress.quantization.rules import recurrent as recurrent
from tfcompress.quantization.rules import resampling as resampling
from tfcompress.quantization.rules import shapes as shapes
from tfcompress.quantization.rules.registry import Role as Role
from tfcompress.quantization.rules.registry import Rule as Rule
from tfcompress.quantization.rules.registry import register as register
from tfcompress.quantization.rules.registry import rule_of as rule_of
