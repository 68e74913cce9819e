"""Networks in the files of other tools: each target a file, each export proved in the engine that is to run it."""
