"""Removing whole channels: what depends on what, which go, and the smaller model."""

from tfcompress.pruning.structured.criteria import ChannelCriterion as ChannelCriterion
from tfcompress.pruning.structured.groups import ChannelGroup as ChannelGroup
from tfcompress.pruning.structured.groups import DependencyGroups as DependencyGroups
from tfcompress.pruning.structured.groups import PinnedChannels as PinnedChannels
from tfcompress.pruning.structured.groups import dependency_groups as dependency_groups
from tfcompress.pruning.structured.shrinkage import Shrinkage as Shrinkage
from tfcompress.pruning.structured.shrinkage import find_shrinkage as find_shrinkage
from tfcompress.pruning.structured.shrinking import shrink as shrink
from tfcompress.pruning.structured.zeros import zero_channels as zero_channels
