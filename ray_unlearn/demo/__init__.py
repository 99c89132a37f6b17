"""The demo, which works offline: real text, and models trained with and without the forget set.

It shows how unlearning behaves and makes the exact target measurable. It is not the data of any
paper: docs/demo_world.md.
"""

from ray_unlearn.demo.build import DemoModels, build, build_retrained, cache_folder, is_built
from ray_unlearn.demo.recipe import Recipe
from ray_unlearn.demo.source import demo_domain, demo_model, demo_retrained
from ray_unlearn.demo.text import DOMAINS, documents

__all__ = [
    "DOMAINS",
    "Recipe",
    "DemoModels",
    "build",
    "build_retrained",
    "cache_folder",
    "demo_domain",
    "demo_model",
    "demo_retrained",
    "documents",
    "is_built",
]
