"""Writes docs/settings*.md and docs/cli*.md from the program, so that they can't fall behind.

python docs/generate.py            write them
python docs/generate.py --check    fail if they differ from the program (make check)
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import typer
from typer._click import Context
from typer.core import TyperGroup

from everloop.cli.main import COMMANDS, app, load
from everloop.settings import PROJECT_FILE, SPECS, USER_FILE

DOCS = Path(__file__).parent
CHINESE = tomllib.loads((DOCS / "zh-CN.toml").read_text(encoding="utf-8"))

SETTINGS_EN = f"""# Settings

[简体中文](settings.zh-CN.md)

A value comes from the first of: flag, environment variable, `{PROJECT_FILE}` in the working
directory, `{USER_FILE}` in the home, default. An empty variable counts as not set. Sizes are
written `10MiB` or `10MB`, times `20s`, `5m` or `500ms`. A file holds lines such as `port = 9000`;
an unknown name in it is an error. `everloop config show` prints every value with its origin.

`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME`, `HTTPS_PROXY`, `NO_COLOR` and `CUDA_VISIBLE_DEVICES`
mean what they mean elsewhere.
"""
SETTINGS_ZH = f"""# 设置

[English](settings.md)

每项设置按此顺序取第一个给出的值：命令行参数、环境变量、当前目录下的
`{PROJECT_FILE}`、主目录下的 `{USER_FILE}`、默认值。空的环境变量等于没有设置。
大小写作 `10MiB` 或 `10MB`，时间写作 `20s`、`5m` 或 `500ms`。
文件里每行形如 `port = 9000`；写了不认识的名字会报错。
`everloop config show` 列出每项的值和来源。

`HF_ENDPOINT`（可设为镜像）、`HF_HUB_OFFLINE`、`HF_HOME`、`HTTPS_PROXY`、`NO_COLOR` 和
`CUDA_VISIBLE_DEVICES` 的含义与别处相同。
"""
CLI_EN = """# Commands

[简体中文](cli.zh-CN.md)

Results go to standard output, everything else to standard error. On a terminal results are tables,
on a pipe tab-separated lines, with `--json` JSON. Exit codes: 0 done, 1 failure, 2 usage or a bad
setting, 3 not found, 4 wrong key, 5 server or engine unreachable, 75 try later, 130 Ctrl-C.
"""
CLI_ZH = """# 命令

[English](cli.md)

结果写到标准输出，其余都写到标准错误。在终端里显示为表格，
在管道里是制表符分隔的行，加 `--json` 则为 JSON。退出码：0 成功，1 失败，
2 用法或设置有误，3 找不到，4 密钥不对，5 连不上服务器或引擎，
75 请稍后再试，130 按了 Ctrl-C。
"""


PAGES = {
    "settings.md": lambda: settings(SETTINGS_EN, chinese=False),
    "settings.zh-CN.md": lambda: settings(SETTINGS_ZH, chinese=True),
    "cli.md": lambda: commands(CLI_EN, chinese=False),
    "cli.zh-CN.md": lambda: commands(CLI_ZH, chinese=True),
}


def settings(head: str, *, chinese: bool) -> str:
    parts = [head]
    for group in dict.fromkeys(spec.group for spec in SPECS.values()):
        columns = ("设置", "默认值", "含义") if chinese else ("setting", "default", "meaning")
        parts += [f"\n## {group}\n", "| {} | {} | {} |".format(*columns), "|---|---|---|"]
        for spec in SPECS.values():
            if spec.group != group:
                continue
            meaning = CHINESE["settings"][spec.name] if chinese else spec.help
            if spec.choices:
                meaning += f" ({', '.join(spec.choices)})"
            names = " ".join(f"`{name}`" for name in (spec.flag, *spec.env))
            default = spec.show(spec.default)
            if chinese and spec.default is None:
                default = "未设置"
            parts.append(f"| `{spec.name}`<br>{names} | {default} | {meaning} |")
    return "\n".join(parts) + "\n"


def commands(head: str, *, chinese: bool) -> str:
    parts = [head]
    program = typer.main.get_command(app)
    root = Context(program, info_name="everloop", **program.context_settings)
    for name, lazy in COMMANDS.items():
        parts.append(f"\n## {name}\n")
        parts.append(CHINESE["commands"][name] if chinese else lazy.help)
        parts += _help(load(name), root)
    return "\n".join(parts) + "\n"


def _help(command: typer._click.Command, parent: Context) -> list[str]:
    command.rich_markup_mode = None  # plain, also when this runs in a terminal
    context = Context(
        command, parent=parent, info_name=command.name, terminal_width=96, max_content_width=96
    )
    lines = ["", "```", command.get_help(context), "```"]
    if isinstance(command, TyperGroup):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            lines += _help(child, context)
    return lines


def main() -> None:
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"Out of date: {', '.join(stale)}. Run `make docs` and commit the result.")


if __name__ == "__main__":
    main()
