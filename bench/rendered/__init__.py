"""What the pages show of each committed result, by its name."""
