"""The verb that answers one question: generate."""

from __future__ import annotations

import json as json_module
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecellm_mlx.cli import options as shared
from ecellm_mlx.cli.output import emit, emit_json, narrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecellm_mlx.data.rows import Row
    from ecellm_mlx.inference.answers import Answer, Answerer
    from ecellm_mlx.inference.stops import Stops
    from ecellm_mlx.tasks.values import Values


def register(app: typer.Typer) -> None:
    """Add the verb to the root command."""
    app.command()(generate)


def generate(
    model: shared.Model,
    adapter: shared.Adapter = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the model reads, as it stands.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put --prompt into the model's own chat template.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="A task, such as PM, for --input.")] = None,
    input: Annotated[
        str | None, typer.Option(help="JSON of the task's fields, or the input's text.")
    ] = None,
    options: Annotated[
        str | None, typer.Option(help="JSON list of the options to choose from.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(help="In place of the task's default instruction.")
    ] = None,
    decoding: Annotated[str, typer.Option(help="valid or paper.")] = "valid",
    values: shared.Values = "free",
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="A free answer ends before this text; repeatable. In place of $'\\n###' with "
            "a --task of free text.",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens of a free answer to --prompt.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Of a free answer to --prompt; 0 is greedy.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of all sampling.")] = 42,
    json: shared.Json = False,
) -> None:
    """Answer one question, streamed; options with their probabilities go to stderr.

    Example: ecellm generate --model smollm2-135m --task SA --input "Broke in a day." \
--options '["A: very positive", "B: neutral", "C: very negative"]'
    """
    from ecellm_mlx.errors import UsageError
    from ecellm_mlx.inference.chat import as_chat
    from ecellm_mlx.inference.stops import Stops
    from ecellm_mlx.tasks.registry import TASKS
    from ecellm_mlx.tasks.registry import find as find_task
    from ecellm_mlx.tasks.values import parse as parse_values

    if (prompt is None) == (task is None):
        raise UsageError(
            "generate needs something to answer",
            expected="either --prompt, or --task with --input",
        )
    row = None if task is None else _row(task, input, options, instruction)
    if row is None and (input or options or instruction):
        raise UsageError(
            "--input, --options and --instruction belong to --task", cure="leave --prompt out"
        )
    if row is not None and chat:
        raise UsageError("--chat belongs to --prompt", cure="leave it out with --task")
    if decoding not in ("valid", "paper"):
        raise UsageError(f"--decoding {decoding} is unknown", expected="valid or paper")
    chosen = parse_values(values)
    if stop and row and (decoding == "paper" or not find_task(row.task).free):
        raise UsageError(
            "--stop is for free answers: --prompt, or --task "
            + " or ".join(known.short for known in TASKS.values() if known.free)
            + " under valid decoding",
            got=f"--task {task} --decoding {decoding}",
            cure="leave --stop out",
        )
    stops = Stops(stop or ())
    answerer = _answerer(model, adapter, seed, chosen, stops)
    if row is None:
        assert prompt is not None
        text = as_chat(answerer.base.tokenizer, prompt) if chat else prompt
        pieces = answerer.stream_text(
            text, max_tokens=max_tokens, temperature=temperature, stop=stops
        )
        written = "".join(_shown(pieces, silent=json))
        if json:
            emit_json({"prediction": written})
        return
    answer = _streamed(answerer, row, decoding, silent=json)
    if json:
        emit_json(
            {
                "task": row.task,
                "prediction": answer.prediction,
                "probability": answer.probability,
                "options": answer.options,
            }
        )
    else:
        for text, value in answer.options.items():
            narrate(f"{value:7.1%}  {text}")


def _streamed(answerer: Answerer, row: Row, decoding: str, *, silent: bool) -> Answer:
    from ecellm_mlx.inference.protocol import Decoding

    answers: list[Answer] = []

    def texts() -> Iterator[str]:
        for piece in answerer.stream(row, Decoding(decoding)):
            yield piece.text
            if piece.answer is not None:
                answers.append(piece.answer)

    for _ in _shown(texts(), silent=silent):
        pass
    return answers[0]


def _shown(pieces: Iterator[str], *, silent: bool) -> Iterator[str]:
    """The same pieces; each is on stdout before the next is computed."""
    for piece in pieces:
        if not silent:
            sys.stdout.write(piece)
            sys.stdout.flush()
        yield piece
    if not silent:
        emit()


def _answerer(
    model: str, adapter: str | None, seed: int, values: Values, stops: Stops
) -> Answerer:
    from ecellm_mlx.device import backend  # noqa: F401  # first of all that imports mlx
    from ecellm_mlx.inference.answers import STOPS, Answerer
    from ecellm_mlx.models import loading

    base = loading.load(model, adapter, warn=lambda text: narrate(f"warning: {text}"))
    return Answerer(
        base,
        batch_size=1,
        seed=seed,
        values=values,
        stop=stops or STOPS,
        warn=lambda text: narrate(f"warning: {text}"),
    )


def _row(task: str, text: str | None, options: str | None, instruction: str | None) -> Row:
    """The question as a row without an answer."""
    from ecellm_mlx.data import prompts
    from ecellm_mlx.data.schema import Row, parse_options
    from ecellm_mlx.errors import UsageError
    from ecellm_mlx.tasks.registry import find

    asked = find(task)
    if not text:
        raise UsageError(
            "--task needs --input",
            expected="JSON with " + ", ".join(repr(name) for name in asked.required),
        )
    try:
        value: Any = json_module.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict) and set(value) <= set(asked.fields):
        text = prompts.input_text(asked, value)
    if asked.kind.takes_options:
        try:
            parse_options(options or "")
        except ValueError as error:
            raise UsageError(
                f"--options of {asked.name} cannot be read"
                if options
                else "--options is missing",
                got=str(error) if options else "",
                expected='a JSON list of texts such as \'["A: …", "B: …"]\'',
            ) from None
    return Row(
        "question", instruction or asked.instruction, text, options, "", asked.name, "own", ""
    )
