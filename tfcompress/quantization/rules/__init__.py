"""Quantization rules; importing this package registers them all."""

from tfcompress.quantization.rules import activations as activations
from tfcompress.quantization.rules import channel_affine as channel_affine
from tfcompress.quantization.rules import linear as linear
from tfcompress.quantization.rules import merging as merging
from tfcompress.quantization.rules import shapes as shapes
from tfcompress.quantization.rules.registry import Role as Role
from tfcompress.quantization.rules.registry import Rule as Rule
from tfcompress.quantization.rules.registry import register as register
from tfcompress.quantization.rules.registry import rule_of as rule_of
