"""Files: safetensors in and out, records, the container, the manifest. NumPy only."""
