"""Converters' pure functions, on sentences of our own."""

from __future__ import annotations

from pathlib import Path

import pytest
from convert import (
    common,
    correction,
    dialogue,
    edits,
    labels,
    measured,
    reading,
    text,
    translation,
)
from convert.chinese import Converter
from hypothesis import given
from hypothesis import strategies as st


def test_the_split_ignores_width_case_and_spaces() -> None:
    for i in range(200):
        assert common.side(f"Row {i}: yes!") == common.side(f"ROW{i}　ｙｅｓ")
    sides = [common.side(f"row {i}") for i in range(2000)]
    assert 0.06 < sides.count("validation") / len(sides) < 0.10


@given(st.text(), st.integers(0, 99))
def test_chance_is_in_range(content: str, salt: int) -> None:
    assert 0 <= common.chance(content, salt) < 1
    assert sorted(common.shuffled("abcde", content, salt)) == list("abcde")


@given(st.text(max_size=200), st.integers(1, 100))
def test_cut_keeps_a_beginning(content: str, limit: int) -> None:
    short = common.cut(content, limit)
    assert content.startswith(short)
    assert len(short) <= limit


def test_cut_ends_after_a_sentence() -> None:
    assert common.cut("今天很好。明天也很好。后天就不知道了", 13) == "今天很好。明天也很好。"
    assert common.cut("It rains. It pours and pours", 22) == "It rains. It pours"


def test_detokenize() -> None:
    assert common.detokenize("a `` fine '' film , it 's fun .") == 'a "fine" film, it\'s fun.'
    assert common.detokenize("they do n't know ( yet )") == "they don't know (yet)"


def test_phrases_follow_the_sentence_they_are_part_of() -> None:
    whole = [f"the story number {i} is a fine and funny film" for i in range(60)]
    parts = [f"number {i} is a fine" for i in range(60)]
    sides = labels.sides_of_parts([*whole, *parts])
    assert sides[:60] == sides[60:]
    assert set(sides) == {"train", "validation"}


def test_ending_starts_with_a_sentence() -> None:
    assert labels.ending("First part. Second part. The end.", 20) == "The end."
    assert labels.ending("Short.", 22) == "Short."


def test_own_words_are_what_the_writer_wrote() -> None:
    post = "In article <1@x> ann writes:\n> quoted\nFrom: me\nI like it.\n-- \nsignature"
    assert labels.own_words(post) == "I like it."


def test_words_of_a_label() -> None:
    assert labels.words("Refund_not_showing_up") == "refund not showing up"
    assert labels.words("reverted_card_payment?") == "reverted card payment"


def test_label_lists_always_hold_the_answer() -> None:
    names = [f"label{i}" for i in range(30)]
    whole = 0
    for i in range(300):
        item = labels.listed("topic", "en", "x", f"text {i}", "label3", names, full=0.5)
        assert "label3" in item.messages[0]["content"]
        whole += ", ".join(names) in item.messages[0]["content"]
    assert 100 < whole < 200


def test_chat_is_cleaned_or_refused() -> None:
    assert dialogue.clean_chat(
        ["今天吃什么好呢~~~", "我2 0 1 8年在北京的家里吃过面，哈哈哈哈哈"]
    ) == [
        "今天吃什么好呢",
        "我2018年在北京的家里吃过面，哈哈哈",
    ]
    assert dialogue.clean_chat(["今天吃什么", "看 http://x.cn"]) == []
    assert dialogue.clean_chat(["今天吃什么", "ok"]) == []


def test_a_reply_takes_up_the_question() -> None:
    assert dialogue.fits("你喜欢看电影吗", "喜欢看电影，每周都看")
    assert not dialogue.fits("你喜欢看电影吗", "明天要下雨")
    assert not dialogue.fits("你喜欢看电影吗", "看电影")


def test_a_service_knows_only_what_it_was_told() -> None:
    said = ["I want 2 tickets to Rome.", "When?", "On Monday.", "The one at 7 costs 30 dollars."]
    assert dialogue.knowing_nothing(said) == said[:2]
    said[3] = "So 2 tickets to Rome on Monday?"
    assert dialogue.knowing_nothing(said) == said


def test_translation_pairs_are_plain_and_tidy() -> None:
    assert translation.tidy("你好 , 我们 走吧.") == "你好，我们走吧。"
    assert translation.tidy("他用 Python 写的。") == "他用 Python 写的。"
    assert translation.parallel("I like tea.", "我喜欢茶。", 50)
    assert not translation.parallel("Run `ls` now.", "运行。", 50)
    assert not translation.parallel("I like tea.", "我喜欢茶，也喜欢咖啡和牛奶，还有水。" * 3, 50)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    folder = tmp_path / "editing"
    folder.mkdir()
    contents = {
        "pycorrector_common_char_set.txt": "今\n天\n气\n汽\n很\n好\n令",
        "pycorrector_same_pinyin.txt": "#汉字\n气\t汽\t\n今\t\t\n天\t\t\n很\t\t\n好\t\t",
        "zh_confusion_SimilarShape_simplied.txt": "今,令\n好,妈",
        "en_natural_typos.txt": "weather wether\nHi hi",
        "en_codespell_dictionary.txt": "wheather->weather\nthier->their, there",
        "opencc_TSCharacters.txt": "# c\n後\t后\n頭\t头",
        "opencc_TSPhrases.txt": "# c\n皇后\t皇后\n頭髮\t头发",
    }
    for year in (13, 14, 15):
        contents[f"zh_sighan{year}_train.jsonl"] = '{"src": "天汽很好", "tgt": "天气很好"}'
    for name, content in contents.items():
        (folder / f"{name}.zst").write_text(content, encoding="utf-8")
    return tmp_path


def test_chinese_mistakes_come_from_the_tables(tables: Path) -> None:
    spoil = correction.ChineseMistakes(tables)
    made = {spoil("今天天气很好，是不是？", str(i)) for i in range(300)}
    assert len(made) > 5
    assert any("汽" in wrong for wrong in made)
    assert any("令" in wrong for wrong in made)
    assert all(set(wrong) <= set("今天气汽很好令，是不？") for wrong in made)
    assert all(wrong.endswith("，是不是？") for wrong in made)
    assert spoil("！？", "x") == "！？"


def test_english_mistakes_are_small(tables: Path) -> None:
    spoil = correction.EnglishMistakes(tables)
    right = "The weather is nice today."
    made = {spoil(right, str(i)) for i in range(300)}
    assert "The wether is nice today." in made or "The wheather is nice today." in made
    assert len(made) > 20
    assert all(abs(len(wrong) - len(right)) <= 6 and wrong[-1] == "." for wrong in made)


def test_neighbours_are_beside_each_other() -> None:
    assert set(correction.NEIGHBOURS["s"]) == set("adwezx")
    assert all(a in correction.NEIGHBOURS[b] for a, keys in correction.NEIGHBOURS.items()
               for b in keys)  # fmt: skip


def test_longest_phrase_is_converted_first(tables: Path) -> None:
    simplify = Converter.load(tables, "TS")
    assert simplify("皇后在後面，頭髮很長") == "皇后在后面，头发很長"
    assert simplify("") == ""


def test_words_stay_of_their_kind() -> None:
    for rows in edits.KINDS.values():
        words = [word for row in rows for word in row.split()]
        assert len(words) == len(set(words))
    assert edits.shared("a b c d", "a b c e") == 0.75


def test_a_passage_holds_the_answer_and_whole_sentences() -> None:
    context = "第一句话在这里。第二句话说到北京。第三句话很短。第四句话什么也没有说。"
    start = context.index("北京")
    assert reading.around(context, "北京", start, 12) == "第二句话说到北京。"
    assert reading.around(context, "北京", start, 18) == "第一句话在这里。第二句话说到北京。"
    assert reading.around(context, "上海", start, 18) == ""


def test_factbook_values_are_short_and_plain() -> None:
    country = {"Geography": {"Climate": {"text": "<p>mild &amp; wet; dry in the south</p>"}}}
    assert reading.value_at(country, "Geography/Climate") == "mild & wet"
    assert reading.value_at(country, "Geography/Coastline") == ""


def test_first_paragraph_without_brackets() -> None:
    assert reading.opening("数学（英语：math）是学科。。\n第二段") == "数学是学科。"


def test_alike_articles_are_thinned() -> None:
    pairs = [(f"村{i}", f"村{i}是那个地方的一个村庄。它很小。") for i in range(50)]
    assert len(reading.varied([*pairs, ("数学", "数学是一门学问。")])) == 13


def test_paragraphs_are_joined_but_verse_is_not() -> None:
    prose = "It was a long day and the sun was hot over all the fields,\nso they went home.\n\nEnd."
    assert text.unwrapped(prose) == [
        "It was a long day and the sun was hot over all the fields, so they went home.",
        "End.",
    ]
    assert text.unwrapped("How doth the little\ncrocodile\nimprove") == [
        "How doth the little\ncrocodile\nimprove"
    ]


def test_words_are_joined_to_chinese() -> None:
    assert (
        text.join_words("小 猫 喜欢 吃 鱼 ， 它 说 hello world 。")
        == "小猫喜欢吃鱼，它说hello world。"
    )


def test_worked_answers_say_the_result() -> None:
    assert text.worked("2+2 = <<2+2=4>>4 apples\n#### 4") == "2+2 = 4 apples\nThe answer is 4."


def test_sets_that_are_only_measured(tmp_path: Path) -> None:
    climp, blimp = tmp_path / "grammar" / "climp", tmp_path / "grammar" / "blimp"
    climp.mkdir(parents=True)
    blimp.mkdir()
    (climp / "classifier_adj_1000.csv").write_text(
        ",0,1,2,3\n0,c,c,一种校园,0\n1,c,c,一个校园,1\n2,c,c,一条鱼,1\n3,c,c,一本鱼,0\n"
    )
    (climp / "ba_construction_1000.csv").write_text("他把车卖了\n他被车卖了\n")
    (blimp / "x.jsonl").write_text(
        '{"sentence_good": "He sleeps.", "sentence_bad": "He sleep.",'
        ' "linguistics_term": "subject_verb_agreement"}\n'
    )
    (tmp_path / "clue").mkdir()
    (tmp_path / "clue" / "ocnli_dev.json").write_text(
        '{"sentence1": "下雨", "sentence2": "天晴", "label": "contradiction"}\n'
        '{"sentence1": "下雨", "sentence2": "天冷", "label": "-"}\n'
    )
    found = list(measured.rows(tmp_path))
    grammar = [(row["good"], row["bad"], row["phenomenon"]) for _, _, row in found[1:]]
    assert grammar == [
        ("He sleeps.", "He sleep.", "subject verb agreement"),
        ("他把车卖了", "他被车卖了", "ba construction"),
        ("一个校园", "一种校园", "classifier adj"),
        ("一条鱼", "一本鱼", "classifier adj"),
    ]
    side, name, row = found[0]
    assert (side, name, row["label"]) == ("validation", "pairs.ocnli", "矛盾")
    assert row["label"] in row["labels"]
