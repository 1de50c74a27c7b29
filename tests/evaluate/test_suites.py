"""What each suite makes of predictions, against sacreBLEU, scikit-learn and counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from everloop.data.instructions import NOT_IN_PASSAGE
from everloop.evaluate.classification import Classification
from everloop.evaluate.correction import ConfusionTable, Correction
from everloop.evaluate.dialogue import Dialogue, prompts
from everloop.evaluate.dictionary import Dictionary
from everloop.evaluate.editing import Editing
from everloop.evaluate.held_out import HeldOut, windows
from everloop.evaluate.pairs import MinimalPairs, SentencePairs
from everloop.evaluate.reading import Reading
from everloop.evaluate.replies import Characters, Replies
from everloop.evaluate.suite import Suite
from everloop.evaluate.summarization import Summarization, sentences
from everloop.evaluate.translation import Translation

LABELS = ["a", "b", "c"]


def values(suite: Suite, predictions: list[dict]) -> dict[str, float]:
    statistics = suite.statistics(suite.rows, predictions)
    found = {name: metric.estimate(statistics) for name, metric in suite.metrics.items()}
    assert all(e.low <= e.value <= e.high for e in found.values())
    return {name: estimate.value for name, estimate in found.items()}


def labelled(labels: list[str]) -> list[dict]:
    return [
        {"task": "topic", "lang": "en", "text": str(i), "label": label, "labels": LABELS}
        for i, label in enumerate(labels)
    ]


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30)
)
def test_accuracy_and_macro_f1_equal_sklearn(pairs: list[tuple[str, str]]) -> None:
    actual, predicted = [a for a, _ in pairs], [p for _, p in pairs]
    found = values(
        Classification(labelled(actual), "en"), [{"label": p, "probability": 1} for p in predicted]
    )
    assert found["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    assert found["macro-F1"] == pytest.approx(
        f1_score(actual, predicted, average="macro", zero_division=0)
    )


def test_calibration_error_of_a_known_case() -> None:
    suite = Classification(labelled(["a"] * 10), "en")
    sure = [{"label": "a" if i < 6 else "b", "probability": 0.95} for i in range(10)]
    assert values(suite, sure)["calibration error"] == pytest.approx(0.35)
    refused = [{"refused": "too long"}] * 10
    assert values(suite, refused) == {"accuracy": 0, "macro-F1": 0, "calibration error": 0}


def test_classification_baselines_learn_from_the_training_rows() -> None:
    good, bad = ["很好吃 味道棒", "真好 喜欢", "好喝 推荐"], ["难吃 差评", "太差 失望", "很差 恶心"]
    train = [
        {"task": "sentiment", "lang": "zh", "text": t, "label": label, "labels": ["正面", "负面"]}
        for texts, label in ((good, "正面"), (bad, "负面"))
        for t in texts
    ] + [{"task": "sentiment", "lang": "zh", "text": "一般", "label": "负面", "labels": []}]
    rows = [
        {"task": "sentiment", "lang": "zh", "text": t, "label": label, "labels": ["正面", "负面"]}
        for t, label in (("味道很好", "正面"), ("差评差评", "负面"))
    ]
    suite = Classification(rows, "zh", lambda: train)
    found = suite.baselines(rows)
    assert list(found) == ["TF-IDF + logistic regression", "most frequent label"]
    assert [p["label"] for p in found["TF-IDF + logistic regression"]] == ["正面", "负面"]
    assert found["most frequent label"][0] == {"label": "负面", "probability": 4 / 7}
    assert Classification(rows, "zh").baselines(rows) == {}
    one = Classification(rows, "zh", lambda: train[:3])
    assert list(one.baselines(rows)) == ["most frequent label"]


PAIRS = [
    ("我喜欢猫。", "I like cats."),
    ("他喜欢狗。", "He likes dogs."),
    ("你喜欢猫吗？", "Do you like cats?"),
    ("我喜欢茶。", "I like tea."),
]


@pytest.mark.parametrize(("target", "tokenize"), [("en", "13a"), ("zh", "zh")])
def test_translation_equals_sacrebleu(target: str, tokenize: str) -> None:
    at = 1 if target == "en" else 0
    rows = [
        {"task": "translate", "lang": "zh", "src": p[1 - at], "tgt": p[at], "target": target}
        for p in PAIRS
    ]
    rows.append({**rows[0], "tgt": rows[1]["tgt"]})  # a second right answer
    suite = Translation(rows, target)
    assert len(suite.rows) == 4
    hypotheses = [PAIRS[i][at] for i in (0, 1, 3, 3)]
    references = [[p[at] for p in PAIRS], [rows[1]["tgt"], None, None, None]]
    found = values(suite, [{"text": text} for text in hypotheses])
    assert found["chrF"] == pytest.approx(sacrebleu.corpus_chrf(hypotheses, references).score)
    bleu = sacrebleu.corpus_bleu(hypotheses, references, tokenize=tokenize)
    assert found["BLEU"] == pytest.approx(bleu.score)
    assert values(suite, [{"refused": "too long"}] * 4)["chrF"] == 0


def test_the_dictionary_finds_what_occurs_together() -> None:
    pairs = [*PAIRS, ("猫睡觉。", "Cats sleep.")] * 3
    to_english = Dictionary.learn(pairs, target="en")
    to_chinese = Dictionary.learn([(en, zh) for zh, en in pairs], target="zh")
    assert to_english("猫。") == "cats."
    assert to_chinese("cats!") == "猫！"
    assert to_chinese("zebra 42") == "zebra42"  # unknown terms stay


def corrected(pairs: list[tuple[str, str]]) -> list[dict]:
    return [{"task": "correct", "lang": "zh", "src": a, "tgt": b} for a, b in pairs]


def test_correction_counts_whole_sentences() -> None:
    rows = corrected([("天汽好", "天气好"), ("他去了", "她去了"), ("好的", "好的"), ("对", "对")])
    said = ["天气好", "它去了", "好的", "不对"]  # right, wrong change, kept, harmed
    found = values(Correction(rows, "zh"), [{"text": t} for t in said])
    assert found["precision"] == pytest.approx(1 / 3)
    assert found["recall"] == pytest.approx(1 / 2)
    assert found["F0.5"] == pytest.approx(1.25 * (1 / 3) * 0.5 / (0.25 / 3 + 0.5))
    assert found["harm to correct text"] == pytest.approx(1 / 2)
    copy = values(Correction(rows, "zh"), [{"text": r["src"]} for r in rows])
    assert copy == {"F0.5": 0, "precision": 0, "recall": 0, "harm to correct text": 0}
    kept = values(Correction(rows, "zh"), [{"refused": "too long"}] * 4)
    assert kept == copy


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("xy"), st.sampled_from("xy"))))
def test_perfect_and_harmless_correction(rows: list[tuple[str, str, str]]) -> None:
    if not rows:
        return
    suite = Correction(corrected([(a, b) for a, b, _ in rows]), "zh")
    wrong = [row for row in suite.rows if row["src"] not in row["references"]]
    said = [row["references"][0] if row in wrong else row["src"] for row in suite.rows]
    perfect = values(suite, [{"text": text} for text in said])
    assert perfect["harm to correct text"] == 0
    assert perfect["F0.5"] == (1 if wrong else 0)


def test_any_of_several_corrections_is_right() -> None:
    suite = Correction(corrected([("他去", "他去了"), ("他去", "她去了"), ("对", "对")]), "zh")
    assert [row["references"] for row in suite.rows] == [["他去了", "她去了"], ["对"]]
    for text in ("他去了", "她去了"):
        assert values(suite, [{"text": text}, {"text": "对"}])["F0.5"] == 1


def test_the_confusion_table_needs_the_same_neighbour_twice() -> None:
    pairs = [("天汽好", "天气好"), ("天汽冷", "天气冷"), ("汽车快", "汽车快")]
    table = ConfusionTable(pairs, "zh")
    assert table("今天汽温") == "今天气温"
    assert table("汽车") == "汽车"
    english = ConfusionTable([("teh cat", "the cat")] * 2 + [("a cat", "a cat")], "en")
    assert english("teh cat sat") == "the cat sat"


def test_summaries_by_rouge_and_first_sentence() -> None:
    rows = [{"task": "title", "lang": "zh", "src": "猫很可爱。它睡觉。", "tgt": "可爱的猫"}]
    suite = Summarization(rows, "zh")
    assert values(suite, [{"text": "可爱的猫"}])["ROUGE-L"] == 1
    assert suite.baselines(rows) == {"first sentence": [{"text": "猫很可爱。"}]}
    assert sentences("One 1.5 two. Three!\nFour") == ["One 1.5 two.", "Three!", "Four"]


def test_reading_rewards_honest_refusals() -> None:
    refusal = NOT_IN_PASSAGE["zh"]
    base = {"task": "answer", "lang": "zh", "passage": "猫睡在沙发上。狗在门口。"}
    rows = [
        {**base, "question": "猫睡在哪里？", "answers": ["沙发上", "沙发"]},
        {**base, "question": "狗在哪里？", "answers": ["门口"]},
        {**base, "question": "谁是校长？", "answers": [refusal]},
        {**base, "question": "几点了？", "answers": [refusal]},
    ]
    suite = Reading(rows, "zh")
    said = [
        {"text": "沙发", "found": True},
        {"text": refusal, "found": False},
        {"text": refusal, "found": False},
        {"text": "门口", "found": True},
    ]
    assert values(suite, said) == {
        "F1": 0.5,
        "exact match": 0.5,
        "refused though answered": 0.5,
        "refused where unanswered": 0.5,
    }
    (nearest,) = suite.baselines(rows).values()
    assert nearest[0]["text"] == "猫睡在沙发上。"
    assert "refused where unanswered" not in Reading(rows[:2], "zh").metrics


def test_edits_are_right_only_when_they_are() -> None:
    rows = [{"task": "edit", "lang": "en", "instruction": "x", "src": "a b", "tgt": "a c"}]
    suite = Editing(rows, "en")
    assert values(suite, [{"text": "a c"}]) == {"exact match": 1, "ROUGE-L": 1}
    assert values(suite, suite.baselines(rows)["copy"]) == {"exact match": 0, "ROUGE-L": 0.5}


def test_small_talk_notices_loops_language_and_cut_replies() -> None:
    rows = prompts("zh")[:2]
    suite = Dialogue(rows, "zh")
    said = [
        {"text": "好的好的好的好的", "finish_reason": "length"},
        {"text": "Fine thanks", "finish_reason": "stop"},
    ]
    found = values(suite, said)
    assert found["repetition-4"] == pytest.approx(3 / 5)
    assert found["in the language asked"] == found["came to an end"] == 0.5
    assert found["distinct-2"] == pytest.approx(3 / 8)
    assert found["distinct-1"] == pytest.approx(4 / 10)
    assert found["words a reply"] == 5
    assert values(suite, [{"text": ""}] * 2)["empty"] == 1


def test_prompts_of_both_languages_are_as_many_and_different() -> None:
    chinese, english = prompts("zh"), prompts("en")
    assert len(chinese) == len(english) == len({r["prompt"] for r in chinese + english}) // 2
    assert all(row["lang"] == "zh" for row in chinese)


def test_bits_per_byte_of_a_uniform_model_is_eight() -> None:
    text = "Some held-out text, which is long enough to be scored. " * 40
    rows = list(windows([text]))
    assert "".join(r["given"] + r["rest"] for r in rows) == text[: len(rows) * 960]
    suite = HeldOut(rows, "en")
    uniform = [{"nats": len(row["rest"].encode()) * np.log(256)} for row in rows]
    assert values(suite, uniform)["bits per byte"] == pytest.approx(8)
    packed = values(suite, list(suite.baselines(rows)["xz -9e"]))
    assert 0 < packed["bits per byte"] < 2  # the text repeats itself


@given(st.text(max_size=3000))
def test_windows_never_invent_text(text: str) -> None:
    parts = [row["given"] + row["rest"] for row in windows([text])]
    assert "".join(parts) == text[: sum(map(len, parts))] or not parts
    assert all(row["rest"] for row in windows([text]))


def test_of_two_sentences_the_grammatical_one_is_likelier() -> None:
    rows = [
        {"task": "minimal-pairs", "lang": "en", "good": g, "bad": b, "phenomenon": p}
        for g, b, p in (
            ("He sleeps.", "He sleep.", "agreement"),
            ("They sleep.", "They sleeps.", "agreement"),
            ("I like him.", "I like he.", "case"),
        )
    ]
    suite = MinimalPairs(rows, "en")
    said = [{"good": -1.0, "bad": -2.0}, {"good": -2.0, "bad": -1.0}, {"refused": "too long"}]
    assert values(suite, said) == {"accuracy": pytest.approx(1 / 3)}
    assert suite.details(rows, said) == {"phenomena": {"agreement": [1, 2], "case": [0, 1]}}
    (shorter,) = suite.baselines(rows).values()
    assert values(suite, shorter) == {"accuracy": pytest.approx(1 / 3)}
    even = {"good": -1.0, "bad": -1.0}
    assert values(suite, [even, said[0], said[1]]) == {"accuracy": pytest.approx(1 / 2)}


def test_pairs_are_told_by_what_differs() -> None:
    words = ["cat", "dog", "tea", "sun", "car", "book"]
    train = [
        {"first": f"the {a} here", "second": f"the {b} here", "label": "same" if a == b else "not"}
        for a in words
        for b in words
    ] * 4
    train = [{"task": "pairs", "lang": "en", "labels": ["same", "not"], **row} for row in train]
    rows = [row for row in train if row["first"] != row["second"]][:3] + train[:1]
    other = [{**row, "first": f"{row['first']}!"} for row in rows]  # not among those to learn from
    suite = SentencePairs(other, "en", lambda: train)
    assert len(suite.train) == len(train)
    found = suite.baselines(other)["TF-IDF + logistic regression"]
    assert [p["label"] for p in found] == ["not", "not", "not", "same"]


def test_baselines_learn_from_nothing_that_is_asked() -> None:
    rows = labelled(["a", "b"])
    train = [*labelled(["a", "a", "a"]), {**rows[0], "text": " "}]
    assert [row["text"] for row in Classification(rows, "en", lambda: train).train] == ["2"]


def test_perplexity_of_a_uniform_model_is_the_number_of_its_units() -> None:
    rows = [
        {
            "task": "chat",
            "lang": "zh",
            "messages": [{"role": "user", "content": "你好"}],
            "reference": text,
        }
        for text in ("你好吗", "好")
    ]
    found = values(Replies(rows, "zh"), [{"nats": 3 * np.log(50)}, {"nats": np.log(50)}])
    assert found["perplexity"] == pytest.approx(50)
    assert found["bits per byte"] == pytest.approx(np.log2(50) / 3)
    assert Replies(rows, "zh").baselines(rows) == {}
    train = [{**rows[0], "messages": [{"role": "user", "content": "x"}]}]
    (ngrams,) = Replies(rows, "zh", lambda: train).baselines(rows).values()
    assert ngrams[0]["nats"] < ngrams[1]["nats"] * 3


def test_the_characters_are_a_distribution() -> None:
    model = Characters(["abab", "abba", "ac"])
    for context in ("", "a", "ab", "zz"):
        whole = sum(np.exp(model.nats(context) - model.nats(context + c)) for c in "abc")
        assert whole < 1
        assert whole > (0.9 if context != "zz" else 0.4)
