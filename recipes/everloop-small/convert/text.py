"""Plain text for pretraining from files that are no plain text: dialogues become one turn a line,
so that a line is answered by the next; pairs become a sentence and its translation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from convert.chinese import Converter
from convert.common import chance, detokenize, load_json, load_lines, load_rows, side
from convert.dialogue import clean_chat


def texts(data: Path) -> Iterator[tuple[str, str]]:
    """(name of the output, document). Nothing of a validation row is among them."""
    for name, document in _all(data):
        if document.strip():
            yield name, document.strip()


def _all(data: Path) -> Iterator[tuple[str, str]]:
    for document in books(data, "en_children_books"):
        yield "en_children_books", document
    for document in books(data, "en_novels_19c_half"):
        yield "en_novels", document
    for document in english_dialogues(data):
        yield "en_dialogue", document
    for document in chinese_dialogues(data):
        yield "zh_dialogue", document
    for document in fairy_tales(data):
        yield "zh_fairy_tales", document
    yield from reviews(data)
    for document in headlines(data):
        yield "zh_headlines", document
    for document in pairs(data):
        yield "pairs", document
    for row in load_rows(data, "instruct/gsm8k_train.jsonl.zst"):
        if side(row["question"]) == "train":
            yield "en_word_problems", row["question"] + "\n" + worked(row["answer"])


def worked(answer: str) -> str:
    """A GSM8K answer without calculator marks, ending with a sentence that says the result."""
    answer = re.sub(r"<<[^>]*>>", "", answer)
    return re.sub(r"\n#### (.*)$", r"\nThe answer is \1.", answer)


def books(data: Path, name: str) -> Iterator[str]:
    """Books with one line a paragraph, in pieces of some pages."""
    for row in load_rows(data, f"pretrain/{name}.jsonl.zst"):
        held: list[str] = []
        for paragraph in unwrapped(row["text"]):
            held.append(paragraph)
            if sum(map(len, held)) > 8000:
                yield "\n".join(held)
                held = []
        yield "\n".join(held)


def unwrapped(text: str) -> list[str]:
    """Paragraphs of a printed text. Lines of a paragraph are joined if most are nearly full; verse
    stays as it is."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text.replace("\r", "")):
        lines = [line.strip() for line in block.split("\n") if line.strip()]
        full = sum(len(line) > 50 for line in lines[:-1])
        joined = " " if 2 * full >= len(lines) - 1 else "\n"
        if lines:
            paragraphs.append(re.sub(r"_(\w[^_]*)_", r"\1", joined.join(lines)))
    return paragraphs


def english_dialogues(data: Path) -> Iterator[str]:
    """Service dialogues, a third of them with the speakers named."""
    for name in ("en_sgd_train", "en_sgd_dev", "en_taskmaster4"):
        for row in load_rows(data, f"dialogue/{name}.jsonl.zst"):
            said = [text.strip() for _, text in row["turns"]]
            if side(said[0]) == "validation":
                continue
            if chance(row["id"], 1) < 1 / 3:
                speakers = ("Customer", "Assistant")
                said = [f"{speakers[i % 2]}: {text}" for i, text in enumerate(said)]
            yield "\n".join(said)


def chinese_dialogues(data: Path) -> Iterator[str]:
    """Chat (several short ones a document) and service dialogues."""
    chats: list[str] = []
    for row in load_rows(data, "dialogue/zh_lccc_base_valid.jsonl.zst"):
        chat = clean_chat(row["turns"])
        if not chat or side(chat[0]) == "validation":
            continue
        chats.append("\n".join(chat))
        if len(chats) == 4:
            yield "\n\n".join(chats)
            chats = []
    if chats:
        yield "\n\n".join(chats)
    for row in load_rows(data, "dialogue/zh_kdconv_dev.jsonl.zst"):
        if side(row["turns"][0]) == "train":
            yield "\n".join(row["turns"])
    for row in load_rows(data, "dialogue/zh_crosswoz_val.jsonl.zst"):
        said = [text.strip() for _, text in row["turns"]]
        if side(said[0]) == "train":
            yield "\n".join(said)


def join_words(text: str) -> str:
    """Chinese that was split into words, joined again; spaces between Latin words stay."""
    return re.sub(r"(?<![A-Za-z0-9]) +| +(?![A-Za-z0-9])", "", text)


def fairy_tales(data: Path) -> Iterator[str]:
    """Stories of two cloze sets with their gaps filled."""
    for name in ("human", "auto"):
        story: list[str] = []
        for line in load_lines(data, f"pretrain/cft.test.{name}.txt.zst"):
            number, _, rest = line.partition(" ||| ")
            if number == "1" and story:
                yield _closed_quotes("\n".join(story))
                story = []
            rest, _, answer = rest.partition(" ||| ")
            if answer:  # the question repeats a sentence whose gap the answer fills
                rest, answer = join_words(rest), answer.strip()
                filled = rest.replace("XXXXX", answer)
                if rest in story:
                    story = [filled if sentence == rest else sentence for sentence in story]
                elif name == "auto":
                    story.append(filled)
                story = [sentence.replace("XXXXX", answer) for sentence in story]
            else:
                story.append(join_words(rest))
        yield _closed_quotes("\n".join(story))
    for name in ("qualify", "trial"):
        for row in load_json(data, f"pretrain/cmrc2019_{name}.json.zst")["data"]:
            if "answers" not in row:
                continue
            story_text = row["context"]
            for i, choice in enumerate(row["answers"], start=1):
                story_text = story_text.replace(f"[BLANK{i}]", row["choices"][choice])
            yield story_text


def _closed_quotes(story: str) -> str:
    """Sentences were cut before a closing quote, which belongs to the line before."""
    return re.sub(r"\n([”\"’]+) ?", r"\1\n", story).replace("\n\n", "\n")


def reviews(data: Path) -> Iterator[tuple[str, str]]:
    """Reviews, several short ones a document; labels are left out."""
    chinese = ("chnsenticorp_htl", "online_shopping_10_cats", "waimai_10k")
    names = [(f"zh_{name}.train", "zh_reviews") for name in chinese]
    for name, out in [*names, ("en_imdb_train_half", "en_reviews")]:
        held: list[str] = []
        for row in load_rows(data, f"sentiment/{name}.jsonl.zst"):
            text = row["text"].strip()
            if len(text) < 6 or side(text) == "validation":
                continue
            held.append(text)
            if sum(map(len, held)) > 400:
                yield out, "\n".join(held)
                held = []
        if held:
            yield out, "\n".join(held)
    films = [
        detokenize(row["text"])
        for row in load_rows(data, "sentiment/en_mr_polarity.train.jsonl.zst")
        if side(row["text"]) == "train"
    ]
    for i in range(0, len(films), 5):
        yield "en_reviews", "\n".join(films[i : i + 5])


def headlines(data: Path) -> Iterator[str]:
    """Headlines, twelve a document."""
    held: list[str] = []
    for name, column in (
        ("tnews_unlabeled.json", "sentence"),
        ("thucnews_titles_dev.jsonl", "text"),
    ):
        for row in load_rows(data, f"topic/zh_{name}.zst"):
            if side(row[column]) == "train":
                held.append(row[column].strip())
            if len(held) == 12:
                yield "\n".join(held)
                held = []


def pairs(data: Path) -> Iterator[str]:
    """Sentences with their translations, eight a document, either language first."""
    simplify = Converter.load(data, "TS")
    for name in ("tatoeba_train", "scratch", "tldr", "dart", "react"):
        held: list[str] = []
        rows = load_rows(data, f"parallel/{name}.jsonl.zst")
        for row in sorted(rows, key=lambda row: chance(row["en"], 3)):
            en, zh = row["en"].strip(), simplify(row["zh"].strip())
            if len(en) > 300 or side(en) == "validation" or side(zh) == "validation":
                continue
            held.append(f"{en}\n{zh}" if chance(en, 2) < 0.5 else f"{zh}\n{en}")
            if len(held) == 8:
                yield "\n".join(held)
                held = []
        if held:
            yield "\n".join(held)
