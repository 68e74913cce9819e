"""The public face: sorted, whole, light."""

import subprocess
import sys

import rarefy


def test_all_is_sorted_and_there() -> None:
    assert rarefy.__all__ == sorted(rarefy.__all__)
    for name in rarefy.__all__:
        assert getattr(rarefy, name) is not None
    assert set(rarefy.__all__) == set(rarefy._WHERE)


def test_import_is_light() -> None:
    code = "import rarefy, sys; print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
