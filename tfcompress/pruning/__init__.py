"""Magnitude pruning: schedules, targets, exact masks, and the state they are saved in."""

from tfcompress.pruning.criteria import Criterion as Criterion
from tfcompress.pruning.criteria import LayerAdaptiveMagnitude as LayerAdaptiveMagnitude
from tfcompress.pruning.criteria import Magnitude as Magnitude
from tfcompress.pruning.criteria import RandomScore as RandomScore
from tfcompress.pruning.rules import PruningRule as PruningRule
from tfcompress.pruning.rules import register_pruning_rule as register_pruning_rule
from tfcompress.pruning.schedules import ConstantSparsity as ConstantSparsity
from tfcompress.pruning.schedules import CosineDecay as CosineDecay
from tfcompress.pruning.schedules import PolynomialDecay as PolynomialDecay
from tfcompress.pruning.schedules import PruningSchedule as PruningSchedule
from tfcompress.pruning.state import Mask as Mask
from tfcompress.pruning.state import PruningState as PruningState
from tfcompress.pruning.state import apply_masks as apply_masks
from tfcompress.pruning.state import attach_state as attach_state
from tfcompress.pruning.state import detach_state as detach_state
from tfcompress.pruning.state import find_state as find_state
from tfcompress.pruning.targets import PruningTarget as PruningTarget
from tfcompress.pruning.targets import SkippedWeight as SkippedWeight
from tfcompress.pruning.targets import prunable_weights as prunable_weights
