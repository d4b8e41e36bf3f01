"""Changing the structure of a trained model: leaving layers out."""

from tfcompress.restructure.ranking import LayerRanking, RankedUnit, rank_layers
from tfcompress.restructure.removal import remove_layers

__all__ = ["LayerRanking", "RankedUnit", "rank_layers", "remove_layers"]
