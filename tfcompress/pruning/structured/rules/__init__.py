"""Dependency rules; importing this package registers them all."""

from tfcompress.pruning.structured.rules import attention as attention
from tfcompress.pruning.structured.rules import convolution as convolution
from tfcompress.pruning.structured.rules import elementwise as elementwise
from tfcompress.pruning.structured.rules import linear as linear
from tfcompress.pruning.structured.rules import merging as merging
from tfcompress.pruning.structured.rules import normalization as normalization
from tfcompress.pruning.structured.rules import pooling as pooling
from tfcompress.pruning.structured.rules import products as products
from tfcompress.pruning.structured.rules import recurrent as recurrent
from tfcompress.pruning.structured.rules import shapes as shapes
from tfcompress.pruning.structured.rules import time_distributed as time_distributed
from tfcompress.pruning.structured.rules.registry import Rule as Rule
from tfcompress.pruning.structured.rules.registry import register as register
from tfcompress.pruning.structured.rules.registry import rule_of as rule_of
