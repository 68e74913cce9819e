import numpy as np
import pytest

from rarefy.errors import FormatError, UsageError
from rarefy.measure.rate import rate


def test_a_folder_counts_all_its_weight_files(tmp_path):
    for name, size in {
        "model-1.safetensors": 1000,
        "model-2.safetensors": 500,
        "sub/head.safetensors": 24,
        "config.json": 7,
        "sub/notes": 3,
        ".cache/old.safetensors": 9999,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    found = rate(tmp_path)
    assert found.bytes == 1524
    assert found.bits == 12192
    assert found.side == {"config.json": 7, "sub/notes": 3}
    assert found.side_bytes == 10
    assert found.bpw(3048) == 4.0
    assert rate(tmp_path / "model-2.safetensors").bytes == 500


def test_links_are_followed(tmp_path):
    (tmp_path / "blob").write_bytes(bytes(100))
    (tmp_path / "net").mkdir()
    (tmp_path / "net/model.safetensors").symlink_to(tmp_path / "blob")
    (tmp_path / "net/up").symlink_to(tmp_path)
    assert rate(tmp_path / "net").bytes == 100
    (tmp_path / "net/lost.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match="no such file"):
        rate(tmp_path / "net")


def test_what_cannot_be_measured_is_one_line(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"x")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF nonsense")
    for name, line in [("no", "cannot measure"), (".", "no .*safetensors"), ("weights.bin", "no weights")]:
        with pytest.raises(UsageError, match=line):
            rate(tmp_path / name)
    pytest.importorskip("gguf")
    with pytest.raises(FormatError, match="header"):
        rate(tmp_path / "bad.gguf")


def test_a_gguf_is_counted_without_its_tokenizer(tmp_path):
    gguf = pytest.importorskip("gguf")

    def write(name, tokens):
        writer = gguf.GGUFWriter(str(tmp_path / name), "llama")
        writer.add_block_count(1)
        if tokens:
            writer.add_tokenizer_model("gpt2")
            writer.add_token_list([f"t{i}" for i in range(100)])
        writer.add_tensor("a", np.ones((32, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return rate(tmp_path / name)

    bare, dressed = write("bare.gguf", False), write("dressed.gguf", True)
    assert bare.side == {"tokenizer": 0}
    assert dressed.side_bytes > 100 * 8
    assert dressed.bytes + dressed.side_bytes == (tmp_path / "dressed.gguf").stat().st_size
    assert abs(dressed.bytes - bare.bytes) < 32  # the padding before the tensors
