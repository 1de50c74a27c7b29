"""Every suite: what it is called, where its data comes from, and what measures it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from everloop.errors import DataError, InvalidRequest, NotFound
from everloop.evaluate import rows as files
from everloop.evaluate.classification import Classification
from everloop.evaluate.correction import Correction
from everloop.evaluate.dialogue import Dialogue, prompts
from everloop.evaluate.editing import Editing
from everloop.evaluate.held_out import HeldOut, windows
from everloop.evaluate.journal import digest
from everloop.evaluate.pairs import MinimalPairs, SentencePairs
from everloop.evaluate.reading import Reading
from everloop.evaluate.replies import Replies
from everloop.evaluate.robustness import Robustness
from everloop.evaluate.suite import Suite
from everloop.evaluate.summarization import Summarization
from everloop.evaluate.translation import Translation

LANGUAGES = ("en", "zh")
HELD_OUT, DIALOGUE = "bits-per-byte", "dialogue"

KINDS: Final[Mapping[str, type[Suite]]] = {
    "sentiment": Classification,
    "topic": Classification,
    "classify": Classification,
    "spam": Classification,
    "intent": Classification,
    "translate": Translation,
    "correct": Correction,
    "summarize": Summarization,
    "title": Summarization,
    "answer": Reading,
    "edit": Editing,
    "pairs": SentencePairs,
    "minimal-pairs": MinimalPairs,
    "chat": Replies,
    "service": Replies,
}

# TASK.SOURCE: (title, GitHub repository that has the data); what `all` means
PUBLIC: Final[Mapping[str, tuple[str, str]]] = {
    "sentiment.sst2": ("SST-2", "awake020/pytorch_Bert_sst2"),
    "sentiment.mr": ("MR", "nltk/nltk_data"),
    "sentiment.chnsenticorp": ("ChnSentiCorp hotels", "SophonPlus/ChineseNlpCorpus"),
    "sentiment.waimai": ("waimai meals", "SophonPlus/ChineseNlpCorpus"),
    "sentiment.online-shopping": ("online shopping", "SophonPlus/ChineseNlpCorpus"),
    "topic.agnews": ("AG News", "lst11111/bert-text-classification"),
    "topic.dbpedia": ("DBpedia", "KEAML-JLU/DeepTextClustering"),
    "topic.toutiao": ("Toutiao", "lst11111/bert-text-classification"),
    "topic.thucnews": ("THUCNews titles", "649453932/Chinese-Text-Classification-Pytorch"),
    "spam.sms-spam": ("SMS spam", "hamzaaacodes/sms-spam-collection"),
    "intent.clinc150": ("CLINC150", "clinc/oos-eval"),
    "intent.banking77": ("Banking77", "PolyAI-LDN/task-specific-datasets"),
    "intent.smp2019": ("SMP 2019", "InsaneLife/ChineseNLPCorpus"),
    "pairs.bustm": ("BUSTM, same meaning", "CLUEbenchmark/FewCLUE"),
    "pairs.ocnli": ("OCNLI", "CLUEbenchmark/OCNLI"),
    "minimal-pairs.blimp": ("BLiMP", "alexwarstadt/blimp"),
    "minimal-pairs.climp": ("CLiMP", "beileixiang/CLiMP"),
    "translate.tatoeba-zh": ("Tatoeba, to Chinese", "DaoChaShao/py-st-dl-translater-2.0"),
    "translate.tatoeba-en": ("Tatoeba, to English", "DaoChaShao/py-st-dl-translater-2.0"),
    "correct.sighan": ("SIGHAN 2013 to 2015", "onebula/sighan_raw"),
    "correct.made-zh": ("mistakes made in Tatoeba, wiki", "overweightbarracuda/science_fair2324"),
    "correct.made-en": ("mistakes made in Tatoeba, wiki", "jason-feng/wikiVisual"),
    "correct.jfleg": ("JFLEG", "keisks/jfleg"),
    "edit.words-zh": ("words replaced in Tatoeba", "DaoChaShao/py-st-dl-translater-2.0"),
    "edit.words-en": ("words replaced in Tatoeba", "DaoChaShao/py-st-dl-translater-2.0"),
    "title.csl": ("CSL papers", "ydli-ai/CSL"),
    "title.wiki-zh": ("Wikipedia articles", "overweightbarracuda/science_fair2324"),
    "title.wiki-en": ("Wikipedia articles", "jason-feng/wikiVisual"),
    "answer.cmrc": ("CMRC 2018", "ymcui/cmrc2018"),
    "answer.drcd": ("DRCD", "DRCKnowledgeTeam/DRCD"),
    "answer.factbook": ("World Factbook", "factbook/factbook.json"),
    "chat.lccc": ("LCCC chat", "lrmoker/Chatbot"),
    "service.sgd": ("SGD", "google-research-datasets/dstc8-schema-guided-dialogue"),
}


ROBUSTNESS: Final[Mapping[str, str]] = {
    f"robustness.{name.split('.')[1]}": name
    for name in (
        "sentiment.sst2",
        "topic.agnews",
        "sentiment.chnsenticorp",
        "topic.toutiao",
    )
}
"""Sets that are asked again with noise in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A suite ready to run. `files` are the SHA-256 of its data, `origin` the public place."""

    name: str
    title: str
    task: str
    suite: Suite
    origin: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    every: Sequence[Mapping[str, Any]] = ()
    """All rows of the file, of which the suite has a part."""

    @property
    def rows_hash(self) -> str:
        """Of the rows that are asked: what two reports must share to be compared."""
        return digest([dict(row) for row in self.suite.rows])


def names(folder: Path | None) -> list[str]:
    """What `--suite` may be, beside `all`: the public sets and whatever the folder has."""
    there = files.available(folder) if folder else []
    own = [name for name in there if name not in PUBLIC]
    return [HELD_OUT, DIALOGUE, *PUBLIC, *ROBUSTNESS, *own]


def load(
    wanted: Sequence[str], folder: Path | None, texts: Sequence[str], limit: int
) -> tuple[list[Measured], dict[str, str]]:
    """The suites called for, with at most `limit` rows each (0: all); and why others are missing.
    A name may be `all`, a task or a source, for those of it that there are. `texts` are held-out
    texts for bits per byte.

    Raises NotFound for a suite called by its own name whose data is missing, or if none is
    there; InvalidRequest for an unknown one, DataError for a bad row.
    """
    known = names(folder)
    called: dict[str, bool] = {}  # whether it may be missing
    for name in wanted:
        if name == "all":
            every = (HELD_OUT, DIALOGUE, *PUBLIC, *ROBUSTNESS)
            called |= {each: True for each in every if each not in called}
            continue
        matching = [each for each in known if name in (each, *each.split(".", 1))]
        if not matching:
            raise InvalidRequest(
                f"There is no suite {name!r}. There are: all, {', '.join(known)}.", param="suite"
            )
        called |= dict.fromkeys(matching, name not in matching)
    found: list[Measured] = []
    missing: dict[str, str] = {}
    for name, may_be_missing in called.items():
        try:
            found.extend(_load(name, folder, texts, limit))
        except NotFound as error:
            if not may_be_missing:
                raise
            missing[name] = error.message
    if missing and not found:
        raise NotFound(next(iter(missing.values())), param="rows")
    return found, missing


def _load(name: str, folder: Path | None, texts: Sequence[str], limit: int) -> list[Measured]:
    if name == DIALOGUE:
        return [
            Measured(
                name=f"{DIALOGUE}.{lang}",
                title="small talk",
                task="dialogue",
                suite=Dialogue(prompts(lang), lang),
            )
            for lang in LANGUAGES
        ]
    if name == HELD_OUT:
        return _held_out(texts, limit)
    source = ROBUSTNESS.get(name, name)
    if folder is None or not (folder / files.VALIDATION / f"{source}.jsonl").exists():
        raise NotFound(_where(source, folder), param="rows")
    found = _measured(files.load(folder, source), limit)
    return [found if name == source else _with_noise(name, found)]


def _with_noise(name: str, clean: Measured) -> Measured:
    """The same set under noise."""
    suite = clean.suite
    return replace(
        clean,
        name=name,
        title=f"{clean.title}, with noise",
        task="robustness",
        every=(),  # looked at where it is asked clean
        suite=Robustness(suite.rows, suite.lang, lambda: suite.every_train),
    )


def _held_out(texts: Sequence[str], limit: int) -> list[Measured]:
    if not texts:
        raise NotFound(
            "Bits per byte needs held-out text. Give the packed pretraining data with --packed "
            "DIR (made by `everloop data pack`), or a file with --text FILE.",
            param="packed",
        )
    parts = list(windows(texts))
    found = []
    for lang in LANGUAGES:
        rows = files.chosen((row for row in parts if row["lang"] == lang), limit)
        if rows:
            found.append(
                Measured(
                    name=f"{HELD_OUT}.{lang}",
                    title="held-out text",
                    task="held-out",
                    suite=HeldOut(rows, lang),
                )
            )
    return found


def _measured(rows: files.RowSet, limit: int) -> Measured:
    kind = KINDS.get(rows.task)
    if kind is None:
        raise InvalidRequest(
            f"validation/{rows.name}.jsonl has rows of task {rows.task!r}, which can't be "
            f"measured. Tasks are: {', '.join(KINDS)}.",
            param="rows",
        )
    files.check(rows, kind.needs)
    first = rows.rows[0]
    lang = str(first["target"] if rows.task == "translate" else first["lang"])
    title, origin = PUBLIC.get(rows.name, (rows.name.split(".", 1)[-1], ""))
    usable = [row for row in rows.rows if not _empty(kind, row)]
    if not usable:
        raise DataError(
            "has no row with a text.", path=f"{files.VALIDATION}/{rows.name}.jsonl", repair=""
        )
    some: Sequence[dict[str, Any]] = files.chosen(usable, limit)
    return Measured(
        name=rows.name,
        title=title,
        task=rows.task,
        suite=kind(some, lang, rows.train),
        origin=origin,
        files=rows.files,
        every=rows.rows,
    )


def _empty(kind: type[Suite], row: Mapping[str, Any]) -> bool:
    """Whether the row has nothing to ask about."""
    value = row[kind.needs[0]]
    return isinstance(value, str) and not value.strip()


def _where(name: str, folder: Path | None) -> str:
    place = f"{folder / files.VALIDATION}/{name}.jsonl" if folder else f"Rows of {name}"
    title, origin = PUBLIC.get(name, (name, ""))
    return (
        f"{place} not found. {title} comes from github.com/{origin}; with the files under "
        "EVERLOOP_DATA, make the rows with: python recipes/everloop-small/build.py --only tasks, "
        "and give its folder with --rows DIR."
    )
