"""How a network is trained: recipes, their values and flags."""

from senet.recipe.recipe import Changes, Recipe

__all__ = ["Changes", "Recipe"]
