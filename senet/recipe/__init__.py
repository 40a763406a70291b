"""Recipes of a training: their values and flags."""

from senet.recipe.recipe import Changes, Recipe

__all__ = ["Changes", "Recipe"]
