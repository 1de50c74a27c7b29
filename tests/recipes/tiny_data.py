"""A data folder with every file that the recipe reads, each with a few rows of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import zstandard

N = 40  # enough that both sides of the split are met
NAMES = ("Tom", "Mary", "Ada", "Ben")
COLOURS = ("red", "blue", "green", "white", "black")
NUMBERS_ZH = "一二三四五六七八九十"


def english(i: int) -> str:
    return f"{NAMES[i % 4]} has {i + 2} {COLOURS[i % 5]} books in the house."


def chinese(i: int) -> str:
    return f"汤姆今天在学校里读了{NUMBERS_ZH[i % 10]}{NUMBERS_ZH[i // 10]}本关于历史的书。"


def files() -> dict[str, list[Any] | str | Any]:
    """Name (without .zst) to its rows, text, or JSON value."""
    en, zh = [english(i) for i in range(N)], [chinese(i) for i in range(N)]
    reviews_en = [{"label": i % 2, "text": f"{s} It was fine , really ."} for i, s in enumerate(en)]
    reviews_zh = [{"label": i % 2, "text": f"这家店不错，{s}"} for i, s in enumerate(zh)]
    pairs = [{"en": e, "zh": z} for e, z in zip(en, zh, strict=True)]
    pairs += [{"en": e.replace("books", "novels"), "zh": z} for e, z in zip(en, zh, strict=True)]
    pairs += [{"en": e, "zh": z.replace("学校", "家")} for e, z in zip(en, zh, strict=True)]
    chat = [{"turns": [f"{zh[i][:14]}好不好？", f"学校很好，第{i}天"]} for i in range(N)]
    service = [
        {
            "id": str(i),
            "services": ["Books"],
            "turns": [
                ["U", f"Please find me {i + 2} books."],
                ["S", "Which colour do you like?"],
                ["U", f"I like {COLOURS[i % 5]}."],
                ["S", f"There is one at 12{i} Long Street in Springfield."],
                ["U", "Thanks, bye."],
                ["S", "Have a nice day."],
            ],
        }
        for i in range(N)
    ]
    wiki_en = [
        {"title": f"Place {i}", "text": f"Place {i} is a place of kind {i}{c}. It is old. {s}"}
        for i, (s, c) in enumerate(zip(en, COLOURS * 8, strict=True))
    ]
    wiki_zh = [
        {"title": f"地方{z[9:11]}", "text": f"地方{z[9:11]}是第{i}个地方。它很老了。{z}" * 2}
        for i, z in enumerate(zh)
    ]
    headlines = [{"text": f"新闻：{z}", "label": i % 10} for i, z in enumerate(zh)]
    topics = ["news_tech", "news_sports", "news_car", "news_game"]
    squad = [
        {
            "title": f"文章{i}",
            "paragraphs": [
                {
                    "context": f"{z}老师的名字是王小{i}。大家都很高兴。",
                    "qas": [
                        {
                            "question": f"第{i}位老师叫什么名字？",
                            "answers": [{"text": f"王小{i}", "answer_start": len(z) + 6}],
                        }
                    ],
                }
            ],
        }
        for i, z in enumerate(zh)
    ]
    country = {
        "Government": {
            "Capital": {"name": {"text": "Bigtown"}},
            "Government type": {"text": "republic"},
        },
        "Geography": {"Coastline": {"text": "12 km"}, "Climate": {"text": "mild; rainy"}},
    }
    factbook = [
        {
            "id": str(i),
            "data": {
                **country,
                "Government": {
                    **country["Government"],
                    "Country name": {"conventional short form": {"text": f"Land{i}"}},
                },
            },
        }
        for i in range(N)
    ]
    seeds_en = [
        {"instruction": f"Name {i} colours.", "input": "", "output": "red"} for i in range(N)
    ]
    seeds_zh = [
        {"instruction": f"说出{i}种颜色。", "input": "", "output": "红色"} for i in range(N)
    ]
    tasks = [
        {"instruction": s["instruction"], "instances": [{"input": "", "output": s["output"]}]}
        for s in seeds_en
    ]
    csl = "\n".join(f"to x\t摘要：{z * 2}\t题目{i}" for i, z in enumerate(zh))
    spelling = "".join(sorted(set("".join(zh)) - set("。，")))
    out: dict[str, Any] = {
        "dialogue/zh_lccc_base_valid.jsonl": chat,
        "dialogue/zh_kdconv_dev.jsonl": [{"turns": zh[i : i + 4]} for i in range(0, N, 4)],
        "dialogue/zh_crosswoz_val.jsonl": [
            {
                "turns": [
                    ["usr", f"{z}这家餐馆的电话是多少？"],
                    ["sys", f"电话是010-{i}。"],
                    ["usr", "这家餐馆的评分呢？"],
                    ["sys", f"评分是{i}分，很不错。"],
                ]
            }
            for i, z in enumerate(zh)
        ],
        "dialogue/en_taskmaster4.jsonl": service,
        "editing/en_codespell_dictionary.txt": "bokks->books\nhuose->house\nx->a, b",
        "editing/en_natural_typos.txt": "books boks bookes\nhouse hous",
        "editing/pycorrector_common_char_set.txt": "\n".join(spelling),
        "editing/pycorrector_same_pinyin.txt": "#汉字\t同音\n学\t雪\t血\n读\t独\t都\n书\t输\t树",
        "editing/zh_confusion_SimilarShape_simplied.txt": "本,木未末\n今,令",
        "instruct/belle_zh_seed_tasks.jsonl": tasks,
        "instruct/selfinstruct_seed_tasks.jsonl": tasks,
        "instruct/belle_eval_set.jsonl": [
            {"question": f"{i}加一是多少？", "std_answer": "不知道", "class": "open qa"}
            for i in range(N)
        ],
        "instruct/dolly_sample150.jsonl": [
            {
                "prompt": f"Below\n\n### Instruction:\nSay {i}.\n\n### Response:",
                "answer": f"{i}###eos_token###",
            }
            for i in range(N)
        ],
        "instruct/gsm8k_train.jsonl": [
            {"question": f"{s} How many?", "answer": f"It is <<1+1=2>>{i}.\n#### {i}"}
            for i, s in enumerate(en)
        ],
        "instruct/llamafactory_alpaca_en_demo.json": seeds_en,
        "instruct/llamafactory_alpaca_zh_demo.json": seeds_zh,
        "pretrain/zh_wiki_simp.jsonl": wiki_zh,
        "qa/cmrc2018_trial.json": {"data": squad},
        "qa/drcd_dev.json": {"data": squad},
        "qa/en_cia_factbook.jsonl": factbook,
        "sentiment/en_imdb_train_half.jsonl": [
            {"label": ("neg", "pos")[r["label"]], "text": r["text"] * 3} for r in reviews_en
        ],
        "sentiment/en_sst2_train.tsv": "label\tsentence\n"
        + "\n".join(f"{i % 2}\t{' '.join(s.split()[:5])}" for i, s in enumerate(en)),
        "summ/zh_csl_ts_dev.tsv": csl,
        "topic/en_20news_train.jsonl": [
            {"label": "sci.space", "text": f"Bob writes:\n> quoted\n{s} {s}\n-- \nsig"} for s in en
        ],
        "topic/en_banking77_train.csv": "text,category\n"
        + "\n".join(f'"Where is card {i}, please?",card_arrival' for i in range(N)),
        "topic/en_clinc150_train_val.json": {
            "train": [[s, "book_hotel" if i % 2 else "oos"] for i, s in enumerate(en)]
        },
        "topic/en_dbpedia14_train.jsonl": [{"label": i % 14, "text": s} for i, s in enumerate(en)],
        "topic/en_sms_spam_train.jsonl": [
            {"label": ("ham", "spam")[i % 2], "text": s} for i, s in enumerate(en)
        ],
        "topic/zh_smp2019_nlu.json": [
            {"text": z, "domain": ("map", "music")[i % 2]} for i, z in enumerate(zh)
        ],
        "topic/zh_thucnews_class.txt": "finance\nrealty\nstocks\neducation\nscience\nsociety\n"
        "politics\nsports\ngame\nentertainment",
        "topic/zh_thucnews_titles_dev.jsonl": headlines,
        "topic/zh_tnews_unlabeled.json": [{"sentence": h["text"]} for h in headlines],
        "parallel/tatoeba_train.jsonl": pairs,
    }
    for name in ("children_books", "novels_19c_half"):
        out[f"pretrain/en_{name}.jsonl"] = [{"text": f"One\nline.\n\n{s}"} for s in en]
    for name in ("core", "more"):
        out[f"pretrain/en_wiki_{name}.jsonl"] = wiki_en
    for name in ("human", "auto"):
        out[f"pretrain/cft.test.{name}.txt"] = (
            "1 ||| 小 猫 喜欢 XXXXX 。\n2 ||| 小 猫 喜欢 XXXXX 。 ||| 鱼"
        )
    for name in ("qualify", "trial"):
        out[f"pretrain/cmrc2019_{name}.json"] = {
            "data": [{"context": "天黑了，[BLANK1]。", "choices": ["鸟回家了"], "answers": [0]}]
        }
    for name in ("train", "dev"):
        out[f"dialogue/en_sgd_{name}.jsonl"] = service
        out[f"qa/zh_kgclue_{name}.jsonl"] = [
            {"question": f"{name}{i}号楼有多高？", "answer": f"{name}{i}号楼 ||| 高度 ||| {i}米"}
            for i in range(N)
        ]
        out[f"topic/en_agnews_{name}_small.jsonl"] = [
            {"label": i % 4, "text": s} for i, s in enumerate(en)
        ]
        out[f"topic/zh_toutiao_{name}.jsonl"] = [
            {"text": z, "label": topics[i % 4]} for i, z in enumerate(zh)
        ]
        out[f"topic/zh_tnews_{name}_few_all.json"] = [
            {"sentence": z, "label_desc": topics[i % 4]} for i, z in enumerate(zh)
        ]
        out[f"topic/zh_csl_cls_ctg_{name}.tsv"] = "\n".join(
            f"to\t题目{i}{name}\t工学" for i in range(N)
        )
    for name in ("tune", "validation"):
        out[f"editing/en_wikisplit_{name}.tsv"] = "\n".join(
            f"The man of {i} , who was old , went home .\tThe man of {i} was old . <::::> "
            "The man went home ."
            for i in range(N)
        )
    for name in ("train", "val"):
        out[f"sentiment/en_tweeteval_emotion_{name}.jsonl"] = [
            {"label": i % 4, "text": f"@user {s}"} for i, s in enumerate(en)
        ]
    for year in (13, 14, 15):
        out[f"editing/zh_sighan{year}_train.jsonl"] = [
            {"src": z.replace("历史", "力史"), "tgt": z} for z in zh
        ]
    for direction, pair in (("TS", "學\t学"), ("ST", "学\t學")):
        for part in ("Characters", "Phrases"):
            out[f"editing/opencc_{direction}{part}.txt"] = f"# table\n{pair}"
    for name in ("waimai_10k", "chnsenticorp_htl", "online_shopping_10_cats"):
        out[f"sentiment/zh_{name}.train.jsonl"] = reviews_zh
    same = [{"sentence1": z, "sentence2": z[::-1], "label": str(i % 2)} for i, z in enumerate(zh)]
    for part in ("train", "dev"):
        out[f"clue/fewclue_bustm_{part}_few_all.json"] = "\n".join(map(json.dumps, same))
    out["nc/editing/en_jfleg_dev.jsonl"] = [
        {"src": e.replace(" has ", " have "), "refs": [e, e.replace("in the house", "at home")]}
        for e in en
    ]
    out["sentiment/en_mr_polarity.train.jsonl"] = reviews_en
    out["sentiment/en_pros_cons.jsonl"] = reviews_en
    for name in ("scratch", "tldr", "react", "dart", "python_docs"):
        out[f"parallel/{name}.jsonl"] = pairs
    return out


def make(folder: Path) -> Path:
    """Writes the folder; returns it."""
    for name, value in files().items():
        if isinstance(value, str):
            text = value
        elif name.endswith(".jsonl") or name.startswith("topic/zh_tnews"):
            text = "\n".join(json.dumps(row, ensure_ascii=False) for row in value)
        else:
            text = json.dumps(value, ensure_ascii=False)
        path = folder / f"{name}.zst"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zstandard.compress(text.encode()))
    return folder
