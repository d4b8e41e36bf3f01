"""Recipes: compression jobs as strict, versioned YAML, and the pipeline that runs one."""

from tfcompress.recipe.document import RecipeError
from tfcompress.recipe.pipeline import RunResult, run
from tfcompress.recipe.schema import Recipe

__all__ = ["Recipe", "RecipeError", "RunResult", "run"]
