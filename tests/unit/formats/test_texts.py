"""Bodies of text, and a tokenizer that is given no more than it has to look at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from smartbatch_worker.errors import ModelRejected, RowError
from smartbatch_worker.formats.texts import bodies
from smartbatch_worker.formats.texts.bodies import Texts
from smartbatch_worker.formats.texts.tokenizer import CHARS_PER_TOKEN, Tokenizer
from tokenizers import models, pre_tokenizers

from tests.small_transformers import bytes_of_words, word_pieces


def read(body: object, content_type: str = "application/json") -> Texts | None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return bodies.read(bytearray(raw), content_type, 4)


def refusal(body: object, content_type: str = "application/json") -> tuple[int, str]:
    with pytest.raises(RowError) as caught:
        read(body, content_type)
    return caught.value.status, caught.value.message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    word_pieces(made)
    return made


def tokenizer(folder: Path, max_length: int = 16, keeps_end: bool = False) -> Tokenizer:
    return Tokenizer(folder / "tokenizer.json", max_length, keeps_end)


# Bodies


def test_json_of_one_text_of_several_and_of_pairs() -> None:
    assert read({"text": "a\tb\u0000ü😀", "id": 7}) == Texts(["a\tb\u0000ü😀"], None, False)
    assert read({"text": ["a", ""]}) == Texts(["a", ""], None, True)
    assert read({"text": "a", "text_pair": "b"}) == Texts(["a"], ["b"], False)
    assert read({"text": ["a", "c"], "text_pair": ["b", "d"]}) == Texts(["a", "c"], ["b", "d"], True)
    assert read(b' {"text": "x"}', "") == Texts(["x"], None, False)
    assert read({"text": "a", "stream": False, "parameters": None}) == Texts(["a"], None, False)


def test_plain_text() -> None:
    assert read("{}é".encode(), "text/plain") == Texts(["{}é"], None, False)
    assert read("\ufeffé".encode(), "text/plain; charset=UTF-8".lower()) == Texts(["é"], None, False)


@pytest.mark.parametrize("body", [{"data": [1]}, {"inputs": {"input_ids": [1]}}, {"instances": []}])
def test_bodies_of_other_formats_are_left_to_their_readers(body: object) -> None:
    assert read(body) is None
    assert read(json.dumps(body).encode(), "") is None


def test_what_is_no_json_is_left_to_others_unless_it_says_so() -> None:
    assert read(b"\x93NUMPY", "application/x-npy") is None
    assert read(b"hello", "") is None
    assert read(b'{"data": [123456789012345678901]}') is None


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"text": "\\ud800"}', 400, "not valid JSON"),
        (b'{"text": "\xff"}', 400, "UTF-8"),
        (b'{"text": "a\nb"}', 400, "not valid JSON"),
        (b'{"text": "a"', 400, "not valid JSON"),
        (b'["a"]', 400, "object"),
        ({"txt": "a"}, 400, 'has no "text"'),
        ({"text": 1}, 400, "must be a text"),
        ({"text": {"a": "b"}}, 400, "must be a text"),
        ({"text": None}, 400, "must be a text"),
        ({"text": []}, 400, "at least one"),
        ({"text": ["a", 1]}, 400, "texts only"),
        ({"text": ["a", ["b"]]}, 400, "texts only"),
        ({"text": ["a"] * 5}, 413, "at most 4"),
        (b'{"text": "a", "text": "b"}', 400, "2 keys"),
        ({"text": "a", "stream": True}, 400, '"stream" is no setting of a request here'),
        ({"text": "a", "parameters": {"max_new_tokens": 3}}, 400, '"parameters" is no setting'),
        ({"text": "a", "max_new_tokens": 3}, 400, "max_new_tokens, topk"),
        ({"inputs": "a text"}, 400, 'a text is sent as {"text": "..."}'),
        ({"instances": ["a text", "another"]}, 400, '"instances" holds numbers here'),
        ({"data": "a text"}, 400, '"data" holds numbers here'),
        ({"text": "a", "text_pair": ["b"]}, 400, "text_pair"),
        ({"text": ["a", "b"], "text_pair": ["b"]}, 400, "got 2 and 1"),
        (b'{"text": "a", "id": 123456789012345678901}', 400, "64 bits"),
    ],
)
def test_json_that_is_no_text(body: object, status: int, words: str) -> None:
    found, message = refusal(body)
    assert (found, words in message) == (status, True), message


def test_plain_text_that_is_none() -> None:
    assert refusal(b"ab\xff", "text/plain") == (400, "text must be UTF-8; the body breaks its rules at byte 2")
    assert refusal(b"ab", "text/plain;charset=latin-1")[0] == 415


@given(
    st.dictionaries(
        st.sampled_from(["text", "text_pair", "data", "x"]), st.recursive(st.none() | st.text() | st.floats(), st.lists)
    )
)
@settings(max_examples=60)
def test_any_document_is_read_or_refused(document: object) -> None:
    assert status_of(document) in (200, 400, 413)


def status_of(document: object) -> int:
    """What it is answered with."""
    try:
        found = read(document)
    except RowError as error:
        return error.status
    assert found is None or all(isinstance(text, str) for text in found.texts)
    return 200


# Tokens


def test_tokens_are_the_librarys_own(folder: Path) -> None:
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode("email messages", "random")
    made = tokenizer(folder).encode("email messages", "random")
    assert (made.ids, made.type_ids, made.attention_mask) == (plain.ids, plain.type_ids, plain.attention_mask)
    assert not made.is_cut


def test_a_long_text_is_cut_and_says_so(folder: Path) -> None:
    text = "package " * 30
    made = tokenizer(folder).encode(text)
    assert (len(made.ids), made.is_cut) == (16, True)
    assert not tokenizer(folder, 256).encode(text).is_cut
    assert tokenizer(folder).encode("a", text).is_cut


def test_a_prompt_loses_its_beginning(tmp_path: Path) -> None:
    bytes_of_words(tmp_path)
    made = tokenizer(tmp_path, 4, keeps_end=True)
    cut = made.encode(" ".join("abcdefgh"))
    assert cut.is_cut
    assert made.decode(cut.ids).endswith("h")


def test_no_more_is_read_of_a_text_than_its_tokens_may_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    made = tokenizer(folder)
    whole = Tokenizer._encode

    def watched(self: Tokenizer, text: str, pair: str | None) -> object:
        seen.append(len(text) + len(pair or ""))
        return whole(self, text, pair)

    monkeypatch.setattr(Tokenizer, "_encode", watched)
    megabytes = "package " * 1_250_000
    assert made.encode(megabytes).is_cut
    assert made.encode("a", megabytes).is_cut
    assert made.encode(" " * 10_000_000).is_cut
    assert max(seen) <= 16 * CHARS_PER_TOKEN + 1


def test_strange_letters_are_tokens_too(folder: Path) -> None:
    for text in ("", "\x00\x01\x7f", "\u202e\u200b", "😀" * 50, "é" * 200, "\U0010ffff"):
        assert tokenizer(folder).encode(text).ids[0] == 2  # [CLS]


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    bytes_of_words(tmp_path)
    with pytest.raises(ModelRejected, match="no token"):
        tokenizer(tmp_path).encode("")


def test_a_word_that_nobody_knows_is_that_texts_fault(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"known": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelRejected, match="does not take this text"):
        tokenizer(tmp_path).encode("unknown")


def test_a_files_own_truncation_and_padding_are_not_used(folder: Path, tmp_path: Path) -> None:
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.enable_padding(length=128)
    made.enable_truncation(5)
    made.save(str(tmp_path / "tokenizer.json"))
    text = "the list of the list"
    assert tokenizer(tmp_path, 64).encode(text) == tokenizer(folder, 64).encode(text)
    assert len(tokenizer(tmp_path, 64).encode(text).ids) > 5


def test_files_that_are_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match="cannot be read as a tokenizer"):
        tokenizer(tmp_path)
    with pytest.raises(ValueError, match="at least 5 are needed"):
        tokenizer(folder, max_length=4)


def test_it_starts_no_threads(folder: Path) -> None:
    before = {path.name for path in Path("/proc/self/task").iterdir()}
    made = tokenizer(folder)
    for _ in range(8):
        made.encode("package " * 30)
    assert {path.name for path in Path("/proc/self/task").iterdir()} <= before


def test_a_missing_library_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'smartbatch\[text\]'"):
        tokenizer(folder)
