import gzip
import json
import lzma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.errors import FormatError, RarefyError, UsageError
from rarefy.evidence import fingerprint as prints
from rarefy.evidence import sources, text
from rarefy.evidence.sources import Text


class Bytes:
    """A tokenizer of UTF-8 bytes that opens and closes a text like BERT's."""

    def __init__(self, before=(), after=()):
        self.before, self.after = list(before), list(after)

    def __call__(self, text, *, add_special_tokens=True, truncation=False, max_length=None, verbose=True):
        ids = list(text.encode())
        if add_special_tokens:
            ids = self.before + ids + self.after
        return {"input_ids": ids[:max_length] if truncation else ids}


def words(n, seed=0):
    return " ".join(f"w{i}" for i in np.random.default_rng(seed).integers(0, 10**6, n))


# Text files


@pytest.mark.parametrize("suffix", [".txt", ".gz", ".xz"])
def test_text_is_read_plain_or_compressed(tmp_path, suffix):
    pack = {".txt": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[suffix]
    file = tmp_path / f"a{suffix}"
    file.write_bytes(pack("\ufeffÉté\r\nhiver\n".encode()))
    found = sources.read([file, str(file)])
    assert isinstance(found, Text)
    assert found.documents == ("Été\nhiver\n",) * 2
    assert found.name == f"a{suffix}, a{suffix}"


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\n ", "is empty"),
        ("a.txt", b"\xff\xfe\x00", "is not text"),
        ("a.txt", b"ab\0cd", "zero bytes"),
        ("a.xz", lzma.compress(b"some text")[:-9], "cannot decompress"),
        ("a.gz", gzip.compress(b"some text", mtime=0)[:-9], "cannot decompress"),
        ("a.gz", gzip.compress(b"some text", mtime=0)[:12] + b"\xff" * 9, "cannot decompress"),
        ("a.npz", b"", "cannot read the arrays"),
        ("a.npz", b"PK\x03\x04 and then nonsense", "cannot read the arrays"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, name, data, line):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError, match=line) as caught:
        sources.read([tmp_path / name])
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_missing_file_is_a_wrong_value(tmp_path):
    for path in (tmp_path / "no.txt", tmp_path / "no.npz", tmp_path):
        with pytest.raises(UsageError, match="cannot read"):
            sources.read([path])
    with pytest.raises(UsageError, match="no data"):
        sources.read([])
    with pytest.raises(UsageError, match="more than one file"):
        sources.read(["a.npz", "b.txt"])


# Token blocks


def test_blocks_are_the_document_cut():
    document = Text((words(4000), words(4000, seed=1)), "t")
    tokens = document.tokens(Bytes(), length=100)
    flat = list(document.text.encode())
    assert tokens.ids.shape == (len(flat) // 100, 100)
    assert tokens.ids.dtype == np.int64
    assert tokens.ids.ravel().tolist() == flat[: tokens.ids.size]
    assert tokens.text == document.text


def test_every_block_opens_as_the_tokenizer_opens_a_text():
    document = Text(("a word, a word. " * 50,), "t")
    tokens = document.tokens(Bytes(before=[1, 2], after=[3]), length=32)
    assert (tokens.ids[:, :2] == [1, 2]).all()
    assert tokens.ids[:, 2:].ravel().tolist() == list(document.text.encode())[: tokens.ids.shape[0] * 30]
    with pytest.raises(UsageError, match="too short"):
        document.tokens(Bytes(before=[1, 2]), length=2)


def test_a_limit_takes_from_all_over_the_text():
    document = Text((words(40_000),), "t")
    some = document.tokens(Bytes(), length=512, limit=60)
    assert some.ids.shape == (60, 512)
    places = [document.text.find(bytes(row[100:130].tolist()).decode()) for row in some.ids]
    assert places == sorted(places)
    assert min(places) < len(document.text) / 3
    assert max(places) > len(document.text) / 2
    assert all(bytes(row[:99].tolist()).decode()[:40] in some.text for row in some.ids)
    assert len(some.text) < 2 * some.ids.size
    whole = document.tokens(Bytes(), length=512, limit=10**6)
    assert np.array_equal(whole.ids, document.tokens(Bytes(), length=512).ids)


@given(st.text(alphabet="ab \n", max_size=300), st.integers(1, 40))
def test_pieces_joined_are_the_text(document, size):
    before, text._PIECE = text._PIECE, size
    try:
        pieces = list(text._pieces(document))
    finally:
        text._PIECE = before
    assert "".join(pieces) == document
    assert all(0 < len(piece) <= 2 * size for piece in pieces)


def test_too_little_text_says_how_much_is_needed():
    with pytest.raises(UsageError, match=r"too little text in t: one block needs at least 512 tokens, it has 5; give"):
        Text(("hello",), "t").tokens(Bytes())
    for settings in ({"length": 1}, {"limit": 0}):
        with pytest.raises(UsageError):
            Text((words(500),), "t").tokens(Bytes(), **settings)


def test_passages_are_paragraphs_or_lines():
    found = Text(("one\ntwo\n \nthree", "four\nfive\n"), "t")
    assert list(found.passages()) == ["one\ntwo", "three", "four", "five"]
    sentences = found.sentences(Bytes(before=[1], after=[2]), length=4, limit=3)
    assert [ids.tolist() for ids in sentences.ids] == [
        [1, *b"one"],
        [1, *b"thr"],
        [1, *b"fou"],
    ]
    assert sentences.text == "one\ntwo\n\nthree\n\nfour"
    with pytest.raises(UsageError, match="too little text"):
        Text(("",), "t").sentences(Bytes())


# The default text


def test_topics_share_nothing():
    parts = sources.topics()
    calibration, evaluation = (prints.window_hashes(t.text) for t in (parts.calibration, parts.evaluation))
    assert not np.isin(evaluation, calibration).any()
    prints.check_disjoint(prints.fingerprint(parts.calibration.text), parts.evaluation.text)
    # 64 blocks of 512 SmolLM2 tokens are about 134,000 characters (4.08 a token, measured).
    assert len(parts.evaluation.text) > 134_000
    assert len(parts.calibration.text) > 134_000


def test_a_topic_keeps_its_part_whatever_else_there_is():
    pages = {f"page {i}": words(50, seed=i) for i in range(40)}
    more = {**pages, "page 7a": words(50, seed=99)}
    before, after = text.split(pages, "t", 0), text.split(more, "t", 0)
    assert set(before.calibration.documents) <= set(after.calibration.documents)
    assert set(before.evaluation.documents) <= set(after.evaluation.documents)
    assert text.split(dict(reversed(pages.items())), "t", 0) == before
    assert text.split(pages, "t", 1) != before


def test_a_repeated_paragraph_stays_in_one_part():
    shared = words(40)
    pages = {f"page {i}": f"{words(40, seed=i + 1)}\n\n  {shared.replace(' ', '  ')}\n" for i in range(20)}
    parts = text.split(pages, "t", 0)
    both = " ".join((parts.calibration.text + "\n\n" + parts.evaluation.text).split())
    assert both.count(shared) == 1


# Fingerprints


def test_a_fingerprint_is_the_same_on_every_machine():
    hashes = prints.window_hashes("The quick brown fox")
    assert hashes.tolist() == [literal_hash(["the", "quick", "brown", "fox"])]
    assert prints.fingerprint("The quick brown fox") == prints.fingerprint(" the QUICK\nbrown: fox!")


def literal_hash(window):
    from hashlib import blake2b

    mask, x = 2**64 - 1, 0
    for word in window:
        x = (x * 0x9E3779B97F4A7C15 + int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")) & mask
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
    return x ^ x >> 31


def test_windows_are_the_literal_ones():
    document = words(200).split()
    expected = {literal_hash(document[i : i + 32]) for i in range(200 - 31)}
    assert set(prints.window_hashes(" ".join(document)).tolist()) == expected


def test_a_fingerprint_is_small():
    assert len(json.dumps(prints.fingerprint(words(150_000)))) < 4096
    assert len(prints.fingerprint("two words")) > 8
    prints.check_disjoint(prints.fingerprint(""), words(1000))
    prints.check_disjoint(prints.fingerprint(words(1000)), "")


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_overlap_estimates_the_share(share):
    calibration = words(40_000)
    evaluation = calibration[: int(len(calibration) * share)] + words(int(40_000 * (1 - share)), seed=1)
    found = prints.overlap(prints.fingerprint(calibration), prints.fingerprint(evaluation))
    assert found.share == pytest.approx(share, abs=0.1)
    assert found.significant == (share > 0)


def test_text_that_was_calibrated_on_is_refused():
    calibration = words(40_000)
    known = prints.fingerprint(calibration)
    with pytest.raises(UsageError, match="calibrated on: about 100% of them"):
        prints.check_disjoint(known, "\n".join(calibration.upper().split()))
    with pytest.raises(UsageError):
        prints.check_disjoint(known, words(9000, seed=1) + " " + calibration[1000:20_000])
    prints.check_disjoint(known, words(40_000, seed=1))


def test_boilerplate_is_no_overlap():
    licence = words(200, seed=5)
    calibration = " ".join(f"{licence} {words(300, seed=i)}" for i in range(100, 180))
    evaluation = " ".join(f"{licence} {words(300, seed=i)}" for i in range(80))
    prints.check_disjoint(prints.fingerprint(calibration), evaluation)


def test_a_damaged_fingerprint_is_said():
    for damaged in ("%", "AAAA", "", None):
        with pytest.raises(FormatError, match="fingerprint"):
            prints.check_disjoint(damaged, "text")


def test_examples_have_fingerprints_too():
    rng = np.random.default_rng(0)
    seen, unseen = rng.random((2, 500, 4, 4), dtype=np.float32)
    known = prints.fingerprint_examples(seen)
    prints.check_disjoint_examples(known, unseen)
    with pytest.raises(UsageError):
        prints.check_disjoint_examples(known, np.concatenate([unseen, seen[100:300]]))


# Arrays


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    return tmp_path / "a.npz"


def test_arrays_are_read_as_networks_want_them(tmp_path):
    images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    found = sources.read([saved(tmp_path, x=images, y=np.array([[0], [1], [2], [1]], np.uint8))])
    assert found.x.dtype == np.float32
    np.testing.assert_array_equal(found.x, images.astype(np.float32) / np.float32(255))
    assert found.y.dtype == np.int64
    assert found.y.tolist() == [0, 1, 2, 1]
    assert found.fingerprint() == found.fingerprint()

    found = sources.read_arrays(saved(tmp_path, x=images.astype(np.float64), y=np.ones((4, 2))))
    assert (found.x.dtype, found.y.dtype, found.y.shape) == (np.float32, np.float32, (4, 2))

    tokens = sources.read_arrays(saved(tmp_path, x=np.arange(6, dtype=np.int32).reshape(2, 3))).tokens()
    assert tokens.ids.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tokens.text == "0 1 2\n3 4 5"
    with pytest.raises(UsageError, match="token blocks"):
        found.tokens()


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"images": np.ones((2, 2))}, "no array x"),
        ({"x": np.ones((0, 2))}, "no examples"),
        ({"x": np.ones(3)}, "no examples"),
        ({"x": np.ones((2, 2)), "y": np.ones(3)}, "do not agree"),
        ({"x": np.array([[1.0, np.nan]])}, "not finite"),
        ({"x": np.array([[1e300, 1.0]])}, "not finite"),
        ({"x": np.array([["a", "b"]])}, "does not hold numbers"),
        ({"x": np.array([[{}, {}]], dtype=object)}, "cannot read the arrays"),
        ({"x": np.ones((2, 2)), "y": np.array([0, -1])}, "negative label"),
        ({"x": np.ones((2, 2)), "y": np.zeros((2, 2), int)}, "not one an example"),
    ],
)
def test_bad_arrays_are_one_line(tmp_path, arrays, line):
    with pytest.raises(RarefyError, match=line) as caught:
        sources.read([saved(tmp_path, **arrays)])
    assert "\n" not in str(caught.value)


def test_a_single_array_is_refused(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.ones((2, 2)))
    with pytest.raises(FormatError, match="single array"):
        sources.read([tmp_path / "a.npz"])
