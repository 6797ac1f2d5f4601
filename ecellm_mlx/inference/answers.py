"""Answer rows of any task under one or several decodings.

``valid`` scores closed answers as options and decodes attribute lists under a
grammar, so that no answer is ever invalid. ``paper`` generates freely with the
paper's sampling settings. Where both are asked for, the prompt is read once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ecellm_mlx.data.rows import Row
from ecellm_mlx.inference import choices, protocol, rankings, sampling
from ecellm_mlx.inference.choices import Scoring
from ecellm_mlx.inference.decoding import Decoder, Progress, Rule
from ecellm_mlx.inference.engine import Engine, Prefilled, Prompt
from ecellm_mlx.inference.grammar import Grammar, Matcher
from ecellm_mlx.inference.protocol import Decoding
from ecellm_mlx.inference.rankings import Items, Ranking
from ecellm_mlx.inference.requests import Reader, Request
from ecellm_mlx.inference.stops import Stops
from ecellm_mlx.models.loading import LoadedModel
from ecellm_mlx.tasks.kind import Constraint
from ecellm_mlx.tasks.registry import Task
from ecellm_mlx.tasks.values import Values

# Where an untuned model starts to write the next block of a prompt.
STOPS = Stops(("\n###",))
NO_STOPS = Stops(())


@dataclass(frozen=True)
class Answer:
    """A prediction.

    Attributes:
        index: place of its row in the sequence that was asked.
        decoding: how it was made.
        prediction: the text.
        probability: of ``prediction`` among all answers that were allowed; None for
            free text, where none were.
        options: for closed answers the probability of every option, the likeliest
            first, and one in all. For a ranking: of every letter to come first.
        shortened: tokens that its input lost, because the prompt was too long.
    """

    index: int
    decoding: Decoding
    prediction: str
    probability: float | None = None
    options: dict[str, float] = field(default_factory=dict)
    shortened: int = 0


@dataclass(frozen=True)
class Piece:
    """The next part of a streamed answer; ``answer`` comes with the last one."""

    text: str
    answer: Answer | None = None


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


class Answerer:
    """Answers rows with one model.

    The adapter on the model may be swapped between calls (``models.lora.swap``).

    Args:
        base: the model, with or without an adapter on it.
        batch_size: rows computed at once.
        seed: of the sampling in ``paper``; a row's answer depends on it and on the
            row's id, not on the rows beside it.
        values: what the values of extracted attributes may be.
        stop: texts before which a free answer ends, beside the model's own end; the
            paper's decoding knows none.
        ranking: how rankings are found.
        scoring: how options of several tokens are compared.
        max_context: most tokens of prompt and answer; the model's limit by default.
        warn: receives a sentence for each row whose input had to be shortened.

    Raises:
        ModelError: an architecture that cannot be batched.
    """

    def __init__(
        self,
        base: LoadedModel,
        *,
        batch_size: int = 16,
        seed: int = 42,
        values: Values = Values.FREE,
        stop: Stops = STOPS,
        ranking: Ranking = Ranking.GREEDY,
        scoring: Scoring = Scoring.TREE,
        max_context: int | None = None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.base = base
        self.engine = Engine(base.model, batch_size=batch_size)
        self.seed = seed
        self.values = values
        self.ranking = ranking
        self.scoring = scoring
        self._stops = stop
        self.speed = Speed()
        self._reader = Reader(base, max_context=max_context, warn=warn)
        self._end = int(base.tokenizer.eos_token_id)
        self._grammar: Grammar | None = None
        # Of the attribute lists under way, by the keys of their rules.
        self._matchers: dict[Hashable, Matcher] = {}

    def answer(
        self,
        rows: Sequence[Row],
        decodings: Sequence[Decoding] = (Decoding.VALID,),
        *,
        between: Callable[[], bool] = lambda: True,
    ) -> Iterator[Answer]:
        """Answers as rows finish, in the engine's order.

        Args:
            rows: what to answer; ``Answer.index`` counts in this sequence.
            decodings: one answer per row and decoding.
            between: called between batches; returning False ends the iteration.

        Raises:
            DataError: a row whose answer set cannot be derived, or that does not fit
                into the model's context.
        """
        requests = [self._reader.request(row) for row in rows]
        return self._finished_answers(requests, self._answers(requests, decodings, between))

    def choose(
        self,
        rows: Sequence[Row],
        labels: Sequence[Sequence[str]],
        *,
        between: Callable[[], bool] = lambda: True,
    ) -> Iterator[Answer]:
        """The likeliest of each row's own ``labels``, whatever its task.

        Args:
            rows: what to answer; ``Answer.index`` counts in this sequence.
            labels: for each row the closed set of its answers.
            between: called between batches; returning False ends the iteration.

        Raises:
            DataError: labels that are empty or repeat, or a row that is too long.
        """
        requests = [
            self._reader.request(row, own) for row, own in zip(rows, labels, strict=True)
        ]
        answers = self._answers(requests, (Decoding.VALID,), between, own=True)
        return self._finished_answers(requests, answers)

    def stream(self, row: Row, decoding: Decoding = Decoding.VALID) -> Iterator[Piece]:
        """The answer of one row piece by piece; a closed answer is one piece.

        Raises:
            DataError: as ``answer`` does.
        """
        request = self._reader.request(row)
        (batch,) = self.engine.prefill([Prompt(request.prompt, request.group)])
        self.speed.prompt_tokens += len(request.prompt)
        if request.options and decoding is Decoding.VALID:
            (answer,) = self._scored(batch, [request], [0], own=False)
            yield Piece(answer.prediction, replace(answer, shortened=request.shortened))
            return
        stops = self._stops_of(decoding, request.task)
        written = ""
        for progress in self._decoded(batch, self._rule((0, decoding), request)):
            text = stops.cut(self._text(progress.tokens))
            if progress.done:
                probability = self._probability(progress.key)
                answer = Answer(0, decoding, text, probability, shortened=request.shortened)
                yield Piece(text[len(written) :], answer)
            elif sure := _settled(stops.settled(text), written):
                yield Piece(sure)
                written += sure

    def stream_text(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        stop: Stops = NO_STOPS,
    ) -> Iterator[str]:
        """The continuation of a text that is no row, piece by piece.

        Args:
            prompt: what the model reads, as it stands.
            max_tokens: most tokens of the continuation.
            temperature: 0 takes the likeliest token each time.
            stop: texts before which the continuation ends, beside the model's own end.
        """
        tokens = self._reader.text(prompt)
        (batch,) = self.engine.prefill([Prompt(tokens)])
        chooser = (
            sampling.nucleus(
                prompt, seed=self.seed, temperature=temperature, top_p=protocol.PAPER_TOP_P
            )
            if temperature
            else sampling.greedy
        )
        rule = Rule(prompt, chooser, self.base.stop_ids, max_tokens, ended=self._ended_by(stop))
        written = ""
        for progress in self._decoded(batch, rule):
            text = stop.cut(self._text(progress.tokens))
            sure = (
                text[len(written) :] if progress.done else _settled(stop.settled(text), written)
            )
            if sure:
                yield sure
                written += sure

    def _answers(
        self,
        requests: list[Request],
        decodings: Sequence[Decoding],
        between: Callable[[], bool],
        *,
        own: bool = False,
    ) -> Iterator[Answer]:
        decoder = Decoder(self.engine)
        rows_at_once = self.engine.batch_size
        for batch in self.engine.prefill([Prompt(r.prompt, r.group) for r in requests]):
            members = [requests[i] for i in batch.indices]
            self.speed.prompt_tokens += sum(len(r.prompt) for r in members)
            rules: list[tuple[int, Rule]] = []
            for decoding in decodings:
                scored = [
                    i for i, r in enumerate(members) if r.options and decoding is Decoding.VALID
                ]
                yield from self._scored(batch, members, scored, own=own)
                for place in sorted(set(range(len(members))) - set(scored)):
                    key = (batch.indices[place], decoding)
                    rules.append((place, self._rule(key, members[place])))
            if rules:
                places = [place for place, _ in rules]
                # The last to use the batch may have it as it is.
                whole = places == list(range(len(members)))
                part = batch if whole else batch.part(places)
                decoder.add(part, [rule for _, rule in rules])
            yield from self._finished(decoder, requests, leave=rows_at_once // 2)
            if not between():
                return
        yield from self._finished(decoder, requests, leave=0)

    def _scored(
        self, batch: Prefilled, members: list[Request], places: list[int], *, own: bool
    ) -> Iterator[Answer]:
        """Answers of closed rows; ``own`` labels are no letters to rank."""
        ranked = [i for i in places if not own and members[i].task.ranked]
        chosen = [i for i in places if i not in set(ranked)]
        if chosen:
            options = [[o.tokens for o in members[i].options] for i in chosen]
            part = batch.part(chosen)
            probabilities = choices.score(self.engine, part, options, self._end, self.scoring)
            for place, scores in zip(chosen, probabilities, strict=True):
                options_by_text = _by_text(members[place], scores)
                best = next(iter(options_by_text))
                yield Answer(
                    batch.indices[place],
                    Decoding.VALID,
                    best,
                    options_by_text[best],
                    options_by_text,
                )
        if ranked:
            items = [self._items(members[i]) for i in ranked]
            part = batch.part(ranked)
            orders = rankings.rank(self.engine, part, items, self._end, self.ranking)
            for place, order in zip(ranked, orders, strict=True):
                letters = [members[place].options[i].text for i in order.places]
                yield Answer(
                    batch.indices[place],
                    Decoding.VALID,
                    ",".join(letters),
                    order.probability,
                    _by_text(members[place], order.first),
                )

    def _items(self, request: Request) -> Items:
        later = []
        for option in request.options:
            # Behind another letter, whichever: the border is the comma's.
            before = self._reader.answer_tokens("A")
            after = self._reader.answer_tokens(f"A,{option.text}")
            later.append(after[len(before) :])
        return Items(tuple(o.tokens for o in request.options), tuple(later))

    def _rule(self, key: tuple[int, Decoding], request: Request) -> Rule:
        decoding = key[1]
        if decoding is Decoding.PAPER:
            chooser = sampling.nucleus(
                request.row.id,
                seed=self.seed,
                temperature=protocol.PAPER_TEMPERATURE,
                top_p=protocol.PAPER_TOP_P,
            )
            return Rule(key, chooser, self.base.stop_ids, protocol.PAPER_MAX_TOKENS)
        kind = request.task.kind
        if kind.constraint is Constraint.GRAMMAR:
            lark = kind.grammar(request.row, self.values)
            matcher = self._matchers[key] = self._compiled_grammar().matcher(lark)
            # The grammar is finite, so no bound on tokens can cut an answer.
            return Rule(
                key,
                matcher.chooser(self._end),
                frozenset({self._end}),
                start=tuple(matcher.forced()),
            )
        return Rule(
            key,
            sampling.greedy,
            self.base.stop_ids,
            request.task.max_new_tokens,
            ended=self._ended_by(self._stops),
        )

    def _decoded(self, batch: Prefilled, rule: Rule) -> Iterator[Progress]:
        decoder = Decoder(self.engine)
        decoder.add(batch, [rule])
        return decoder.run()

    def _finished(
        self, decoder: Decoder, requests: list[Request], leave: int
    ) -> Iterator[Answer]:
        for progress in decoder.run(leave):
            if progress.done:
                assert isinstance(progress.key, tuple)
                index, decoding = progress.key
                self.speed.answer_tokens += len(progress.tokens)
                stops = self._stops_of(decoding, requests[index].task)
                text = stops.cut(self._text(progress.tokens))
                yield Answer(index, decoding, text, self._probability(progress.key))

    def _probability(self, key: Hashable) -> float | None:
        """Of an attribute list that is done; None for free text."""
        matcher = self._matchers.pop(key, None)
        return matcher.probability if matcher else None

    def _text(self, tokens: list[int]) -> str:
        return str(self.base.tokenizer.decode(tokens, skip_special_tokens=True))

    def _stops_of(self, decoding: Decoding, task: Task) -> Stops:
        """Only free text ends on text: a value of a list may hold any."""
        free = decoding is Decoding.VALID and task.free
        return self._stops if free else NO_STOPS

    def _ended_by(self, stops: Stops) -> Callable[[list[int]], bool]:
        return lambda tokens: bool(stops) and stops.reached(self._text(tokens))

    def _compiled_grammar(self) -> Grammar:
        if self._grammar is None:
            self._grammar = Grammar(self.base.tokenizer, self.engine.vocab_size)
        return self._grammar

    def _finished_answers(
        self, requests: list[Request], answers: Iterator[Answer]
    ) -> Iterator[Answer]:
        """The same with what was cut; the time that the consumer takes is not counted."""
        while True:
            started = time.perf_counter()
            answer = next(answers, None)
            self.speed.seconds += time.perf_counter() - started
            if answer is None:
                return
            shortened = requests[answer.index].shortened
            yield replace(answer, shortened=shortened) if shortened else answer


def _by_text(request: Request, scores: Sequence[float]) -> dict[str, float]:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return {request.options[i].text: scores[i] for i in order}


def _settled(text: str, written: str) -> str:
    """What can be shown behind ``written``: half a character waits for its other half."""
    if text.startswith(written) and not text.endswith("\ufffd"):
        return text[len(written) :]
    return ""
