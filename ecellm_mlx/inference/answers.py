"""Answer rows of any task under one or several decodings.

``valid`` scores closed answers as options and decodes attribute lists under a
grammar, so that no answer is ever invalid. ``paper`` generates freely with the
paper's sampling settings. Where both are asked for, the prompt is read once.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ecellm_mlx.backend import mx
from ecellm_mlx.data import prompts
from ecellm_mlx.data.rows import Row
from ecellm_mlx.data.tasks import Answer as AnswerForm
from ecellm_mlx.data.tasks import Kind, Task
from ecellm_mlx.data.tasks import find as find_task
from ecellm_mlx.errors import DataError
from ecellm_mlx.inference import choices, sampling
from ecellm_mlx.inference.engine import Chooser, Engine, Prefilled, Prompt
from ecellm_mlx.inference.grammar import Grammar, attribute_list_grammar
from ecellm_mlx.models.loading import LoadedModel

TARGET_ATTRIBUTES = "target attributes"


class Decoding(StrEnum):
    """How an answer is made."""

    VALID = "valid"
    PAPER = "paper"


@dataclass(frozen=True)
class Answer:
    """A prediction for the row at ``index``; ``probability`` where options were scored."""

    index: int
    decoding: Decoding
    prediction: str
    probability: float | None = None


@dataclass
class Speed:
    """Work done: prompt tokens that were read, tokens that were produced, seconds."""

    prompt_tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Prompt and answer tokens a second."""
        total = self.prompt_tokens + self.answer_tokens
        return total / self.seconds if self.seconds else 0.0


@dataclass
class _Request:
    """A row with its tokens. ``options`` holds text and token ids of closed answers."""

    row: Row
    task: Task
    prompt: tuple[int, ...]
    options: list[tuple[str, list[int]]] = field(default_factory=list)


class Answerer:
    """Answers rows with one model.

    Args:
        base: the model, with or without an adapter on it.
        batch_size: rows computed at once.
        seed: of the sampling in ``paper``.
    """

    def __init__(self, base: LoadedModel, *, batch_size: int = 16, seed: int = 42) -> None:
        self.base = base
        self.engine = Engine(base.model, batch_size=batch_size)
        self.seed = seed
        self.speed = Speed()
        self._grammar: Grammar | None = None

    def answer(
        self,
        rows: Sequence[Row],
        decodings: Sequence[Decoding] = (Decoding.VALID,),
        *,
        between: Callable[[], bool] = lambda: True,
    ) -> Iterator[Answer]:
        """Answers as they are ready, in the engine's order.

        Args:
            rows: what to answer; ``Answer.index`` counts in this sequence.
            decodings: one answer per row and decoding.
            between: called between batches; returning False ends the iteration.

        Raises:
            DataError: a row whose answer set cannot be derived.
        """
        requests = [self._request(row) for row in rows]
        heads = [
            Prompt(r.prompt, prompts.segments(r.row, self.base.frame)[0]) for r in requests
        ]
        started = time.perf_counter()
        for batch in self.engine.prefill(heads):
            members = [requests[i] for i in batch.indices]
            self.speed.prompt_tokens += sum(len(r.prompt) for r in members)
            # Free generation uses the cache up, so it comes last.
            for decoding in sorted(decodings, key=lambda d: d is Decoding.PAPER):
                answered = (
                    self._generate(batch, members)
                    if decoding is Decoding.PAPER
                    else self._valid(batch, members)
                )
                self.speed.seconds += time.perf_counter() - started
                for place, prediction, probability in answered:
                    yield Answer(batch.indices[place], decoding, prediction, probability)
                started = time.perf_counter()
            if not between():
                return

    def _valid(
        self, batch: Prefilled, members: list[_Request]
    ) -> list[tuple[int, str, float | None]]:
        closed = [i for i, r in enumerate(members) if r.options]
        lists = [i for i, r in enumerate(members) if r.task.kind is Kind.EXTRACTION]
        texts = [i for i, r in enumerate(members) if r.task.kind is Kind.TEXT]
        return [
            *self._score(batch, members, closed),
            *self._extract(batch, members, lists),
            *self._write(batch, members, texts),
        ]

    def _score(
        self, batch: Prefilled, members: list[_Request], places: list[int]
    ) -> list[tuple[int, str, float | None]]:
        if not places:
            return []
        part = _part(batch, places)
        options = [[tokens for _, tokens in members[i].options] for i in places]
        end = self.base.tokenizer.eos_token_id
        answers: list[tuple[int, str, float | None]] = []
        for place, scores in zip(
            places, choices.score(self.engine, part, options, end), strict=True
        ):
            request = members[place]
            order = sorted(range(len(scores)), key=lambda i: -scores[i])
            texts = [request.options[i][0] for i in order]
            ranking = request.task.kind is Kind.RANKING
            answers.append((place, ",".join(texts) if ranking else texts[0], scores[order[0]]))
        return answers

    def _extract(
        self, batch: Prefilled, members: list[_Request], places: list[int]
    ) -> list[tuple[int, str, float | None]]:
        if not places:
            return []
        grammar = self._compiled_grammar()
        matchers = [
            grammar.matcher(attribute_list_grammar(*extraction_slots(members[i].row)))
            for i in places
        ]
        forced = [matcher.forced() for matcher in matchers]
        part = _part(batch, places)
        logits = self.engine.extend(part.cache, forced)
        started = Prefilled(part.indices, logits, part.cache)
        end = self.base.tokenizer.eos_token_id
        tails = self.engine.decode(
            started,
            [matcher.chooser(end) for matcher in matchers],
            max_tokens=max(members[i].task.max_new_tokens for i in places) * 2,
            stop_ids=frozenset({end}),
        )
        return [
            (place, self._text([*head, *tail]), None)
            for place, head, tail in zip(places, forced, tails, strict=True)
        ]

    def _write(
        self, batch: Prefilled, members: list[_Request], places: list[int]
    ) -> list[tuple[int, str, float | None]]:
        if not places:
            return []
        answers = self.engine.decode(
            _part(batch, places),
            [sampling.greedy] * len(places),
            max_tokens=max(members[i].task.max_new_tokens for i in places),
            stop_ids=self.base.stop_ids,
        )
        return [(p, self._text(a), None) for p, a in zip(places, answers, strict=True)]

    def _generate(
        self, batch: Prefilled, members: list[_Request]
    ) -> list[tuple[int, str, float | None]]:
        choosers: list[Chooser] = [
            sampling.nucleus(
                request.row.id,
                seed=self.seed,
                temperature=sampling.PAPER_TEMPERATURE,
                top_p=sampling.PAPER_TOP_P,
            )
            for request in members
        ]
        answers = self.engine.decode(
            batch,
            choosers,
            max_tokens=sampling.PAPER_MAX_TOKENS,
            stop_ids=self.base.stop_ids,
        )
        return [(i, self._text(tokens), None) for i, tokens in enumerate(answers)]

    def _text(self, tokens: list[int]) -> str:
        self.speed.answer_tokens += len(tokens)
        return str(self.base.tokenizer.decode(tokens, skip_special_tokens=True))

    def _request(self, row: Row) -> _Request:
        task = find_task(row.task)
        text = prompts.prompt(row, self.base.frame)
        encode = self.base.tokenizer.encode
        prompt = tuple(encode(text))
        labels = answer_set(row, task)
        options = []
        for label in labels:
            whole = encode(text + label)
            if tuple(whole[: len(prompt)]) != prompt:
                # The tokenizer merged the border; score the label by itself then.
                whole = [*prompt, *encode(label, add_special_tokens=False)]
            options.append((label, list(whole[len(prompt) :])))
        return _Request(row, task, prompt, options)

    def _compiled_grammar(self) -> Grammar:
        if self._grammar is None:
            self._grammar = Grammar(self.base.tokenizer, int(self.base.config["vocab_size"]))
        return self._grammar


def answer_set(row: Row, task: Task) -> list[str]:
    """The closed set of answers of a row, as they are written; empty for open tasks.

    Raises:
        DataError: the row has no options to choose from.
    """
    if task.kind is Kind.YES_NO:
        return ["yes", "no"]
    if task.kind is Kind.RANKING:
        letters = ranked_letters(row)
    elif task.kind is Kind.CHOICE:
        options = row.option_list
        letters = (
            options
            if task.answer is AnswerForm.OPTION
            else [o.split(":", 1)[0] for o in options]
        )
    else:
        return []
    if not letters:
        raise DataError(f"row {row.id} has no options to choose from", cure="add its options")
    return letters


def ranked_letters(row: Row) -> list[str]:
    """The letters of a ranking row's products (``A: …`` items of its input)."""
    value = _input_object(row)
    products = value.get("product list", [])
    if isinstance(products, dict):
        return list(products)
    return [str(item).split(":", 1)[0].strip() for item in products]


def extraction_slots(row: Row) -> tuple[list[str], list[str]]:
    """Attributes to fill, as they are written in answers, and fields to take them from.

    Raises:
        DataError: the input names no target attributes.
    """
    value = _input_object(row)
    names = re.split(r",\s*(?:and\s+)?|\s+and\s+", str(value.get(TARGET_ATTRIBUTES, "")))
    attributes = list(dict.fromkeys(name.strip().lower() for name in names if name.strip()))
    if not attributes:
        raise DataError(
            f"row {row.id} names no {TARGET_ATTRIBUTES!r} in its input",
            cure="add the attributes to look for",
        )
    return attributes, [name for name in value if name != TARGET_ATTRIBUTES]


def _input_object(row: Row) -> dict[str, Any]:
    try:
        value = json.loads(row.input)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DataError(f"row {row.id}: its input is no JSON object", cure="correct the row")
    return value


def _part(batch: Prefilled, places: list[int]) -> Prefilled:
    """The rows at ``places`` with a cache of their own."""
    return Prefilled(
        [batch.indices[i] for i in places],
        batch.logits[mx.array(places)],
        batch.cache.select(places),
    )
