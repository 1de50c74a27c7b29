"""Noise: a pure function of its arguments that touches what it says, and as much as it says."""

from __future__ import annotations

import json
import unicodedata
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.data.formats import Example
from everloop.data.instructions import INSTRUCTIONS, instruction
from everloop.data.noise import (
    FAMILIES,
    HELD_OUT,
    SEVERITIES,
    TOUCHED,
    TRAINING,
    families_for,
    noisy,
    variants,
)
from everloop.data.noise.chinese import SCRIPT, SHAPE, SOUND
from everloop.data.noise.examples import EXACT, span, with_noise
from everloop.data.noise.families import places
from everloop.data.pack import PackedDataset, PackOptions, pack
from everloop.data.sources import Source, load
from everloop.errors import InvalidRequest
from everloop.model.tokenizer import Tokenizer

from .conftest import CHINESE, ENGLISH

EN = "".join(ENGLISH) * 8
ZH = "".join(CHINESE) * 8
SAMPLE = {"en": EN, "zh": ZH}
FAMILY = st.sampled_from(sorted(FAMILIES))


@given(st.text(max_size=80), FAMILY, st.sampled_from(SEVERITIES), st.integers(0, 2**64 - 1))
def test_the_same_arguments_give_the_same_text(
    text: str, family: str, severity: int, seed: int
) -> None:
    once = noisy(text, family, severity, seed)
    assert once == noisy(text, family, severity, seed)
    if not variants(text, [family]):
        assert once == text


def test_seed_family_and_severity_each_matter() -> None:
    assert len({noisy(EN, "keyboard", 3, seed) for seed in range(20)}) == 20
    assert len({noisy(EN, family, 5) for family in families_for("en")}) == len(families_for("en"))
    assert len({noisy(EN, "keyboard", severity) for severity in SEVERITIES}) == 5


def touched(before: str, after: str) -> int:
    """Characters of `before` that are not where they were."""
    same = SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    return len(before) - sum(block.size for block in same)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("severity", SEVERITIES)
def test_as_many_characters_are_touched_as_documented(family: str, severity: int) -> None:
    kind = FAMILIES[family]
    text = SAMPLE[kind.langs[0]]
    able = len(places(kind, text))
    counts = []
    for seed in range(12):
        after = noisy(text, family, severity, seed)
        if len(after) == len(text) and kind.span == 1:
            counts.append(sum(a != b for a, b in zip(text, after, strict=True)))
        elif kind.span == 2:
            assert sorted(after) == sorted(text)
            counts.append(2 * sum(text[i : i + 2] == after[i : i + 2][::-1] != after[i : i + 2]
                                  for i in range(len(text) - 1)))  # fmt: skip
        elif family == "spacing":
            assert after.replace(" ", "") == text.replace(" ", "")
            counts.append(round(TOUCHED[severity] * able))  # both ways: the length tells nothing
        else:  # dropped or added
            counts.append(abs(len(after) - len(text)))
    assert np.mean(counts) == pytest.approx(TOUCHED[severity] * able, rel=0.1, abs=1)


def test_a_share_of_short_texts_is_touched_too() -> None:
    """Below one character the number is rounded by chance, not down."""
    changed = sum(noisy(f"这家店{i}好", "repeat", 1) != f"这家店{i}好" for i in range(4000))
    assert 0.05 < changed / 4000 < 0.11  # four characters, 2 %


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_more_severe_is_the_same_and_more(family: str) -> None:
    text = SAMPLE[FAMILIES[family].langs[0]]
    distance = [touched(text, noisy(text, family, s, 3)) for s in SEVERITIES]
    added = [abs(len(noisy(text, family, s, 3)) - len(text)) for s in SEVERITIES]
    assert sorted(distance) == distance or sorted(added) == added
    if FAMILIES[family].span == 1 and len(noisy(text, family, 5, 3)) == len(text):
        mild, strong = noisy(text, family, 2, 3), noisy(text, family, 4, 3)
        where = [i for i, (a, b) in enumerate(zip(text, mild, strict=True)) if a != b]
        assert where
        assert all(mild[i] == strong[i] for i in where)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_addresses_and_digits_stay(family: str) -> None:
    kept = "write to anna.smith@example.com or https://example.org/some/page www.example.net/abc"
    for seed in range(20):
        after = noisy(f"{kept} 今天去 24681 the number", family, 5, seed)
        for address in ("anna.smith@example.com", "https://example.org/some/page", "www.example."):
            assert address in after
        assert (
            "24681" in unicodedata.normalize("NFKC", after).replace(" ", "") or family == "repeat"
        )
        if family != "width":
            assert "24681" in after


def test_what_a_family_does() -> None:
    for family in ("homoglyph", "width"):
        text = SAMPLE["zh" if family == "width" else "en"]
        after = noisy(text, family, 5)
        assert after != text
        assert len(after) == len(text)
    assert unicodedata.normalize("NFKC", noisy(EN, "width", 5)) == EN
    assert noisy(EN, "case", 5).casefold() == EN.casefold()
    assert not noisy(EN, "homoglyph", 5).isascii()
    for table, family in ((SOUND, "zh-sound"), (SHAPE, "zh-shape"), (SCRIPT, "zh-script")):
        after = noisy(ZH, family, 5)
        for a, b in zip(ZH, after, strict=True):
            assert a == b or b in table[a]


def test_the_tables_pair_different_characters_both_ways() -> None:
    for table in (SOUND, SHAPE, SCRIPT):
        for char, others in table.items():
            assert char not in others
            assert all(char in table[other] or table is SCRIPT for other in others)
    assert SCRIPT["爱"] == "愛"
    assert SCRIPT["愛"] == "爱"


def test_held_out_families_are_in_both_languages_and_not_in_training() -> None:
    assert set(HELD_OUT) | set(TRAINING) == set(FAMILIES)
    assert not set(HELD_OUT) & set(TRAINING)
    for lang in ("en", "zh"):
        assert set(HELD_OUT) & set(families_for(lang))


@pytest.mark.parametrize(
    ("given_", "param"),
    [(("x", "typo", 3), "family"), (("x", "drop", 6), "severity"), (("x", "drop", 3, -1), "seed")],
)
def test_what_is_unknown_is_named(given_: tuple[str, str, int], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        noisy(*given_)
    assert caught.value.param == param


def example(task: str, user: str, answer: str) -> Example:
    turns = ({"role": "user", "content": user}, {"role": "assistant", "content": answer})
    return Example(messages=turns, task=task, lang="en")


LABELS = ["sports news", "business news", "science news"]


@pytest.mark.parametrize("task", sorted(INSTRUCTIONS))
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_only_the_text_of_a_known_instruction_is_touched(task: str, lang: str) -> None:
    text = SAMPLE[lang][:120].strip()
    fields = {"text": text, "question": text, "passage": "P " * 9, "labels": LABELS, "target": "en"}
    for variant, phrasing in enumerate(INSTRUCTIONS[task][lang]):
        wanted = {k: v for k, v in fields.items() if "{" + k + "}" in phrasing}
        if task == "edit":
            wanted = {"instruction": "Do it.", "input": text}
        user = instruction(task, lang, variant, **wanted)
        if task != "edit":
            assert user[slice(*span(task, user))] == text
        before = example(task, user, "label")
        changed = [with_noise(before, chance) for chance in range(40)]
        assert all(c.messages[1] == before.messages[1] for c in changed)
        if task in EXACT:
            assert all(c == before for c in changed)
            continue
        start, end = span(task, user)
        assert sum(c != before for c in changed) > 20
        for c in changed:
            assert c.messages[0]["content"].startswith(user[:start])
            assert c.messages[0]["content"].endswith(user[end:])


def test_what_the_answer_repeats_is_not_touched() -> None:
    user = (
        "My name is Bartholomew and 我住在北京大学旁边的一条小街上, please book it for us tonight"
    )
    before = example("chat", user, "Of course, Bartholomew. 北京大学旁边。")
    seen = {with_noise(before, chance).messages[0]["content"] for chance in range(300)}
    assert len(seen) > 100
    folded = [unicodedata.normalize("NFKC", text) for text in seen]
    assert all("Bartholomew" in text and "北京大学旁边" in text for text in folded)


def test_raw_prompts_and_texts_without_letters_stay() -> None:
    raw = Example(prompt="Once upon a time", completion=" there was", task="completion")
    sums = example("chat", "17 / 4", "4.25")
    for chance in range(50):
        assert with_noise(raw, chance) == raw
        content = with_noise(sums, chance).messages[0]["content"]
        assert unicodedata.normalize("NFKC", content).replace(" ", "") == "17/4"


@pytest.fixture
def rows(write) -> Path:
    made = [
        {
            "messages": [
                {"role": "user", "content": f"{ENGLISH[i % 5]} {i}"},
                {"role": "assistant", "content": f"Answer {i}."},
            ],
            "task": "correct" if i % 4 == 0 else "chat",
        }
        for i in range(400)
    ]
    return write("rows.jsonl", made)


def said(data: PackedDataset, tokenizer_dir: Path) -> list[str]:
    tokenizer = Tokenizer.load(tokenizer_dir)
    return [tokenizer.decode(data.document(i)[0].tolist()) for i in range(len(data))]


def test_packing_puts_noise_into_a_share_of_the_training_examples(
    rows: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    options = PackOptions(val_fraction=0.2)
    found, manifests = {}, {}
    for rate in (0.0, 0.5):
        source = Source(name="rows", files=(rows,), kind="examples", noise=rate)
        manifests[rate] = pack((source,), tokenizer_dir, tmp_path / str(rate), options=options)
        for split in ("train", "validation"):
            data = PackedDataset(tmp_path / str(rate), split)
            found[rate, split] = said(data, tokenizer_dir)
    assert found[0.0, "validation"] == found[0.5, "validation"]
    pairs = list(zip(found[0.0, "train"], found[0.5, "train"], strict=True))
    different = sum(a != b for a, b in pairs)
    assert 0.25 * len(pairs) < different < 0.5 * len(pairs)  # a quarter is exempt, some untouched
    for a, b in pairs:
        assert a.rpartition("Answer")[2] == b.rpartition("Answer")[2]
    assert different <= manifests[0.5]["sources"][0]["noisy"]
    assert manifests[0.0]["sources"][0]["noisy"] == 0


def test_noise_in_texts_is_refused(write) -> None:
    spec = '[[source]]\nname = "a"\nfiles = ["a.txt"]\nnoise = 0.5\n'
    write("a.txt", "hello")
    with pytest.raises(InvalidRequest) as caught:
        load(write("spec.toml", spec))
    assert caught.value.param == "noise"


def test_without_noise_the_fingerprint_is_what_it_was(
    rows: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """Packed directories of an earlier version are still those of their sources."""
    source = Source(name="rows", files=(rows,), kind="examples")
    pack((source,), tokenizer_dir, tmp_path / "out")
    described = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))["sources"][0]
    assert "noise" not in described
