"""Running what was written: the transformers plug-in, and text from a language model."""
