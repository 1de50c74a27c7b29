from __future__ import annotations

import codecs

from hypothesis import given
from hypothesis import strategies as st

from everloop.engine.native.text import Released, TextStream

PIECES = st.lists(st.binary(max_size=5), max_size=12)
SMALL = st.text(alphabet="ab今天", min_size=1, max_size=4)


def collect(stream: TextStream, pieces: list[bytes]) -> tuple[list[str], int, bool]:
    """Texts in order, tokens released, and whether a stop string ended it."""
    texts: list[str] = []
    tokens = 0
    for piece in pieces:
        out = stream.push(piece)
        texts.append(out.text)
        tokens += out.tokens
        if out.stopped:
            return texts, tokens, True
    out = stream.flush()
    return [*texts, out.text], tokens + out.tokens, False


def test_never_half_a_character() -> None:
    stream = TextStream()
    data = "天😀".encode()
    texts = [stream.push(data[i : i + 1]).text for i in range(len(data))]
    assert texts == ["", "", "天", "", "", "", "😀"]


def test_a_token_is_released_with_the_end_of_its_text() -> None:
    stream = TextStream()
    first, second = "天".encode()[:2], "天".encode()[2:] + b"x"
    assert stream.push(first) == Released()
    assert stream.push(second) == Released(text="天x", tokens=2)


def test_bytes_that_are_no_text_become_the_replacement_character() -> None:
    assert TextStream().push(b"a\xffb").text == "a\ufffdb"


def test_a_character_cut_by_the_end_stays_out_but_its_token_is_told() -> None:
    stream = TextStream()
    assert stream.push(b"a" + "天".encode()[:2]) == Released(text="a")
    assert stream.flush() == Released(text="", tokens=1)


def test_stop_string_across_tokens() -> None:
    texts, tokens, stopped = collect(
        TextStream(["\n\n你"]), ["好\n".encode(), b"\n", "你们".encode()]
    )
    assert ("".join(texts), tokens, stopped) == ("好", 1, True)


def test_what_only_looked_like_a_stop_string_comes_out() -> None:
    stream = TextStream(["END"])
    assert [stream.push(p).text for p in (b"xE", b"N", b"?")] == ["x", "", "EN?"]
    stream = TextStream(["END"])
    assert stream.push(b"xEN").text == "x"
    assert stream.flush() == Released(text="EN", tokens=1)


def test_the_stop_string_that_is_complete_first_wins() -> None:
    assert collect(TextStream(["abcd", "bc"]), [b"xabcd"])[0] == ["xa"]
    assert collect(TextStream(["c", "abc"]), [b"xabc"])[0] == ["x"]  # both at once: the longer


def test_a_token_that_begins_before_the_stop_string_is_told() -> None:
    stream = TextStream(["b"])
    assert stream.push(b"ab") == Released(text="a", tokens=1, stopped=True)
    stream = TextStream(["b"])
    assert stream.push(b"b") == Released(text="", tokens=0, stopped=True)


def test_an_echoed_prompt_comes_out_whatever_it_holds() -> None:
    stream = TextStream(["stop"])
    half = "天".encode()
    assert stream.prime([b"a stop sto", half[:1]]) == Released(text="a stop sto", tokens=1)
    # Its last half character is completed by the output; its "sto" is not.
    assert stream.push(half[1:] + b"p") == Released(text="天p", tokens=2)


@given(PIECES)
def test_without_stop_strings_the_text_is_the_decoded_bytes(pieces: list[bytes]) -> None:
    texts, tokens, stopped = collect(TextStream(), pieces)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    assert "".join(texts) == decoder.decode(b"".join(pieces))
    assert tokens == len(pieces)
    assert not stopped


@given(st.text(alphabet="ab今天", max_size=20), st.lists(SMALL, max_size=3), st.data())
def test_stop_strings_against_search_in_the_whole_text(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    whole = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    ends = [
        (i + len(stop), -len(stop)) for stop in stops if (i := text.find(stop)) >= 0
    ]  # the first to be complete, of equal ones the longest
    want = text if not ends else text[: min(ends)[0] + min(ends)[1]]
    texts, _, stopped = collect(TextStream(stops), pieces)
    assert "".join(texts) == want
    assert stopped == bool(ends)
    sent = ""
    for part in texts[:-1]:
        sent += part
        assert want.startswith(sent)  # nothing was ever sent that had to be taken back
