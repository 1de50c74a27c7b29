"""`everloop chat`: a conversation in the terminal, or one question and its answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from everloop.cli.flags import takes_settings
from everloop.cli.output import AsJson, colourful, note, print_json
from everloop.errors import ContextLengthExceeded, EverloopError, InvalidRequest
from everloop.settings import Settings

if TYPE_CHECKING:
    from everloop.engine.interface import Engine, GenerateRequest, Message, Usage

HELP = """/system TEXT  set the system message (without TEXT: show it; /system - removes it)
/reset        forget the conversation
/exit         leave, as Ctrl-D does; Ctrl-C stops an answer"""

T = TypeVar("T")


@takes_settings("home", "model", "remote_url", "remote_key", "remote_model", "threads")
def chat(
    settings: Settings,
    question: Annotated[
        list[str] | None,
        typer.Argument(help="Ask this, print the answer and leave; `-` stands for standard input."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Talk to the server with this base URL; no engine here.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Key for --url.")] = None,
    system: Annotated[str, typer.Option(help="System message.")] = "",
    temperature: Annotated[
        float | None, typer.Option(help="0 is always the likeliest token.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Leave out the unlikeliest tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same answer every time.")] = None,
    json: AsJson = False,
) -> None:
    """Talk with a model; without a server, this starts the engine itself."""
    text = _question(question)
    if json and text is None:
        raise InvalidRequest("--json needs a question: everloop chat --json QUESTION.")

    from everloop.engine.interface import GenerateRequest

    if url is not None:
        key = key or settings.api_key or os.environ.get("OPENAI_API_KEY")
        origins = {**settings.origins, "remote_url": "flag --url"}
        settings = replace(settings, remote_url=url, remote_key=key, origins=origins)
    if text is None:
        note(f"Starting with {settings.remote_url or settings.model} …")
    with _Background() as background:
        engine = background.enter(_engine(settings))
        advised = engine.info.sampling
        sampling = replace(
            advised,
            temperature=advised.temperature if temperature is None else temperature,
            top_p=advised.top_p if top_p is None else top_p,
            seed=seed,
        )
        conversation = Conversation(
            engine=engine,
            background=background,
            plan=GenerateRequest(prompt="", max_tokens=max_tokens, sampling=sampling),
            system=system,
        )
        if text is None:
            _talk(conversation)
        elif json:
            pieces: list[str] = []
            usage = conversation.ask(text, pieces.append)
            print_json(
                {
                    "model": conversation.engine.info.id,
                    "answer": "".join(pieces),
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                }
            )
        else:
            conversation.ask(text, _print_piece)
            print()


@dataclass(slots=True, kw_only=True)
class Conversation:
    """The turns so far. A question that fails leaves them as they were."""

    engine: Engine
    background: _Background
    plan: GenerateRequest
    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def ask(self, question: str, show: Callable[[str], None]) -> Usage:
        """Streams the answer to `show`.

        Raises KeyboardInterrupt when Ctrl-C stopped it (what had come so far stays in the turns),
        and what the engine raises.
        """
        pieces: list[str] = []

        def keep(piece: str) -> None:
            pieces.append(piece)
            show(piece)

        asked: Message = {"role": "user", "content": question}
        head: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        request = replace(self.plan, prompt=(*head, *self.turns, asked))
        try:
            return self.background.run(_answer(self.engine, request, keep))
        except EverloopError:
            pieces.clear()
            raise
        finally:
            if pieces:
                self.turns += [asked, {"role": "assistant", "content": "".join(pieces)}]


async def _answer(engine: Engine, request: GenerateRequest, show: Callable[[str], None]) -> Usage:
    from everloop.tasks.converse import converse

    choices = await converse(engine, request)
    async with choices:
        async for _, chunk in choices:
            show(chunk.text)
    return choices.usage


def _talk(conversation: Conversation) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  gives input() a history and line editing

    note(f"{conversation.engine.info.id}. /help shows commands, Ctrl-D leaves.")
    bold, plain = ("\001\033[1m\002", "\001\033[0m\002") if colourful(sys.stdout) else ("", "")
    while True:
        try:
            line = input(f"{bold}>>> {plain}").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D leaves)")
            continue
        if line in ("/exit", "/quit"):
            return
        if line.startswith("/"):
            _command(conversation, line)
        elif line:
            _turn(conversation, line)


def _turn(conversation: Conversation, line: str) -> None:
    try:
        conversation.ask(line, _print_piece)
        print("\n")
    except KeyboardInterrupt:
        print("\n(stopped)\n")
    except ContextLengthExceeded as error:
        note(f"error: {error} /reset begins a new conversation.")
    except EverloopError as error:
        note(f"error: {error}")


def _command(conversation: Conversation, line: str) -> None:
    name, _, rest = line.partition(" ")
    if name == "/reset":
        conversation.turns.clear()
        print("(a new conversation)")
    elif name == "/system":
        if rest:
            conversation.system = "" if rest.strip() == "-" else rest.strip()
        print(f"(system: {conversation.system or 'none'})")
    else:
        print(HELP if name == "/help" else f"No command {name}.\n{HELP}")


def _question(words: list[str] | None) -> str | None:
    """The question from arguments and standard input; None if a person is to be asked."""
    if not words:
        if sys.stdin.isatty():
            return None
        words = ["-"]
    text = " ".join(f"\n{sys.stdin.read()}\n" if word == "-" else word for word in words).strip()
    if not text:
        raise InvalidRequest("The question is empty: everloop chat QUESTION.", param="question")
    return text


def _print_piece(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


@contextlib.asynccontextmanager
async def _engine(settings: Settings) -> AsyncIterator[Engine]:
    from everloop.engine.pool import EnginePool
    from everloop.store.database import Database
    from everloop.store.registry import Registry

    db = Database(settings.home)
    pool = EnginePool(Registry(db, default_model=settings.model), settings)
    try:
        yield await pool.get(settings.model)
    finally:
        await pool.close()
        db.close()


class _Background:
    """An event loop in its own thread, so that the engine lives on while a person types."""

    def __enter__(self) -> _Background:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = contextlib.AsyncExitStack()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.run(self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def enter(self, context: contextlib.AbstractAsyncContextManager[T]) -> T:
        return self.run(self._stack.enter_async_context(context))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result. Ctrl-C cancels it, waits for its end and raises KeyboardInterrupt."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            asyncio.run_coroutine_threadsafe(_ended(coroutine), self._loop).result()
            raise


async def _ended(coroutine: Coroutine[Any, Any, Any]) -> None:
    tasks = [task for task in asyncio.all_tasks() if task.get_coro() is coroutine]
    if tasks:
        await asyncio.wait(tasks)
