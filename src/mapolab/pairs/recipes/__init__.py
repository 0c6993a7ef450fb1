"""What the pairs are made of, one file a recipe: from the config to `Material`."""
