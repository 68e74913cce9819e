"""Helpers beside these tests (`golden`, `strategies`) can be imported however pytest is started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
