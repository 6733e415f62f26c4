"""How a model is taught: recipes, batches, losses, and other ways to teach a score."""
