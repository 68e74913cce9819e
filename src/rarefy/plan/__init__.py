"""From a network and a recipe to an artifact: what it will take, the run, the result."""
