"""The source spec: every key checked, every mistake named; subsets by weight and size."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from everloop.data.sources import Source, adapted, iter_texts, load, single, size_of
from everloop.errors import DataError, EverloopError, InvalidRequest, NotFound

from .conftest import documents


@pytest.fixture
def spec(tmp_path: Path):
    def make(text: str) -> Path:
        path = tmp_path / "spec.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_a_full_spec(write, spec, tmp_path) -> None:
    write("b.jsonl", [{"body": "x"}])
    write("a.jsonl", [{"body": "x"}])
    path = spec(
        '[[source]]\nname = "web"\nfiles = ["*.jsonl"]\nfield = "body"\nweight = 2\n'
        'lang = "zh"\nclean = ["control"]\ndedup = "near"\nmax_bytes = 10\nfim_rate = 0.5\n'
    )
    (source,) = load(path)
    assert [p.name for p in source.files] == ["a.jsonl", "b.jsonl"]
    assert source.field == ("body",)
    assert (source.weight, source.lang, source.clean) == (2, "zh", ("control",))


def test_files_are_looked_up_in_the_data_folder_first(write, spec, tmp_path) -> None:
    write("a.txt", "beside the spec")
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("in the data folder")
    path = spec('[[source]]\nname = "a"\nfiles = "a.txt"\n')
    assert load(path, data)[0].files == (data.resolve() / "a.txt",)
    assert load(path)[0].files == (tmp_path.resolve() / "a.txt",)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('files = "a.txt"', "has no name"),
        ('name = "a"', "has no files"),
        ('name = "a"\nfiles = []', "has no files"),
        ('name = "a"\nfiles = "a.txt"\nwieght = 2', "unknown key 'wieght'; there are .*weight"),
        ('name = "a"\nfiles = "a.txt"\nweight = "2"', "weight is '2': must be a number"),
        ('name = "a"\nfiles = "a.txt"\nweight = -1', "weight is -1: must be at least 0"),
        ('name = "a"\nfiles = "a.txt"\nfim_rate = 1.5', "fim_rate is 1.5"),
        ('name = "a"\nfiles = "a.txt"\nkind = "test"', "kind is 'test': must be one of text"),
        ('name = "a"\nfiles = "a.txt"\nfield = 3', "field is 3: must be a column name"),
        ('name = "a"\nfiles = "a.txt"\nclean = ["soap"]', "no step named soap"),
        ('name = "a"\nfiles = "a.txt"\nlabels = ["a"]', "labels is .*must be a table"),
        ('name = "a"\nfiles = "a.txt"\nlayout = "csv"', "layout is 'csv'"),
    ],
)
def test_every_mistake_names_its_key(write, spec, entry: str, message: str) -> None:
    write("a.txt", "x")
    with pytest.raises(InvalidRequest, match=message):
        load(spec(f"[[source]]\n{entry}\n"))


def test_other_mistakes(write, spec, tmp_path) -> None:
    write("a.txt", "x")
    with pytest.raises(NotFound, match=r"no file matches 'b\*\.txt'.*EVERLOOP_DATA"):
        load(spec('[[source]]\nname = "a"\nfiles = "b*.txt"\n'))
    with pytest.raises(InvalidRequest, match="two sources are named 'a'"):
        load(spec('[[source]]\nname = "a"\nfiles = "a.txt"\n' * 2))
    with pytest.raises(InvalidRequest, match=r"has no \[\[source\]\]"):
        load(spec("x = 1\n"))
    with pytest.raises(InvalidRequest, match="not valid TOML"):
        load(spec("[[source\n"))
    with pytest.raises(NotFound, match="no such source spec"):
        load(tmp_path / "none.toml")


def test_a_data_file_is_a_source_of_its_own(write) -> None:
    assert load(write("book.txt", "text"))[0].name == "book"
    assert single(write("a.jsonl", [{"id": 1, "text": "t"}])).kind == "text"
    assert single(write("b.jsonl", [{"messages": []}])).kind == "examples"
    adjusted = adapted(write("c.jsonl", [{"q": "?", "a": "!"}]), columns={"question": "q"})
    assert (adjusted.kind, adjusted.columns) == ("examples", {"question": "q"})
    with pytest.raises(ValueError, match="must be one of"):
        adapted(write("d.txt", "x"), kind="poem")


def test_several_fields_are_joined_and_a_missing_one_is_named(write) -> None:
    path = write("a.jsonl", [{"title": "T", "text": "body"}, {"title": None, "text": "alone"}])
    source = Source(name="a", files=(path,), field=("title", "text"))
    assert list(iter_texts((source,))) == ["T\n\nbody", "alone"]
    bad = write("b.jsonl", [{"text": "ok"}, {"body": "x", "id": 1}])
    with pytest.raises(DataError, match=r"b\.jsonl:2: column 'text' is missing; columns: body, id"):
        list(iter_texts((Source(name="b", files=(bad,)),)))


def test_texts_are_sampled_by_size_times_weight(write) -> None:
    texts = documents(600)
    one = write("one.jsonl", [{"text": f"1 {t}"} for t in texts])
    two = write("two.jsonl", [{"text": f"2 {t}"} for t in texts])
    sources = (
        Source(name="one", files=(one,), weight=3.0),
        Source(name="two", files=(two,), weight=1.0),
    )
    budget = size_of(sources[0]) // 2
    found = list(iter_texts(sources, max_bytes=budget))
    size: Counter[str] = Counter()
    for text in found:
        size[text[0]] += len(text.encode())
    assert size["1"] / size["2"] == pytest.approx(3, rel=0.15)
    assert sum(size.values()) == pytest.approx(budget, rel=0.1)
    assert found == list(iter_texts(sources, max_bytes=budget))
    # Another seed draws other texts; the whole beginning of the file is not what is drawn.
    assert set(found) != set(iter_texts(sources, max_bytes=budget, seed=1))
    assert any(f"1 {t}" in found for t in texts[-50:])


def test_a_sources_own_limit_and_all_texts_without_one(write) -> None:
    path = write("a.jsonl", [{"text": t} for t in documents(400)])
    source = Source(name="a", files=(path,))
    assert len(list(iter_texts((source,)))) == 400
    limited = dataclasses.replace(source, max_bytes=20_000)
    size = sum(len(t.encode()) for t in iter_texts((limited,)))
    assert size == pytest.approx(20_000, rel=0.15)
    with pytest.raises(EverloopError, match="weight 0"):
        list(iter_texts((dataclasses.replace(source, weight=0),)))
