"""The ten ECInstruct tasks as data: names, kinds of answer, metrics, fields.

Nothing here reads a file or knows a model. Canonical names are those of the
published evaluator, misspellings included, because rows and reports of others
use them; ``find`` accepts the right spellings and the usual abbreviations too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ecellm_mlx.errors import DataError


class Kind(StrEnum):
    """What an answer is, which decides how it is decoded and scored."""

    YES_NO = "yes_no"
    CHOICE = "choice"
    RANKING = "ranking"
    EXTRACTION = "extraction"
    TEXT = "text"


class Answer(StrEnum):
    """How the expected answer is written in a row's ``output``."""

    YES_NO = "yes_no"  # yes
    LETTER = "letter"  # B
    OPTION = "option"  # B: positive
    LETTERS = "letters"  # B,A,C
    JSON = "json"  # [{"attribute": …, "value": …, "source": …}]
    TEXT = "text"


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: the upstream name, as rows and reports spell it.
        aliases: other names that ``find`` accepts, the abbreviation first.
        kind: the kind of answer.
        answer: how the answer is written.
        metric: the headline's key among the official metrics.
        metric_label: the headline for humans.
        title: the task for humans.
        fields: names of the input's parts, in the input's order; a dot leads into an
            object (``product 1.title``).
        required: the fields that an input cannot do without.
        letters: option letters that the published evaluator accepts; empty if not a choice.
        instruction: a default instruction, one that our sample's rows use too.
        max_new_tokens: a bound on the answer's length in tokens.
    """

    name: str
    aliases: tuple[str, ...]
    kind: Kind
    answer: Answer
    metric: str
    metric_label: str
    title: str
    fields: tuple[str, ...]
    required: tuple[str, ...]
    letters: str
    instruction: str
    max_new_tokens: int

    @property
    def short(self) -> str:
        """The abbreviation, such as AVE."""
        return self.aliases[0]

    @property
    def closed(self) -> bool:
        """Whether the answer is one of a few that are known beforehand."""
        return self.kind in (Kind.YES_NO, Kind.CHOICE)


A_TO_E = "ABCDE"
A_TO_T = "ABCDEFGHIJKLMNOPQRST"
PRODUCT_PARTS = ("title", "description", "manufacturer", "price")

_TASKS = (
    Task(
        name="Product_Matching",
        aliases=("PM",),
        kind=Kind.YES_NO,
        answer=Answer.YES_NO,
        metric="f1",
        metric_label="F1",
        title="Product matching",
        fields=tuple(f"product {n}.{part}" for n in (1, 2) for part in PRODUCT_PARTS),
        required=("product 1.title", "product 2.title"),
        letters="",
        instruction=(
            "Two listings are shown, each with a title, a description, a manufacturer and a "
            "price. Say if both sell the very same item. Reply with yes or no and nothing else."
        ),
        max_new_tokens=4,
    ),
    Task(
        name="Product_Substitue_Identification",
        aliases=("PSI", "Product_Substitute_Identification"),
        kind=Kind.YES_NO,
        answer=Answer.YES_NO,
        metric="f1",
        metric_label="F1",
        title="Product substitutes",
        fields=("query", "product"),
        required=("query", "product"),
        letters="",
        instruction=(
            "The shopper may not get exactly what was searched for. Is this product something "
            "that could stand in for it, while missing part of the request? Write yes or no."
        ),
        max_new_tokens=4,
    ),
    Task(
        name="Product_Relation_Predicition",
        aliases=("PRP", "Product_Relation_Prediction"),
        kind=Kind.CHOICE,
        answer=Answer.LETTER,
        metric="f1",
        metric_label="macro F1",
        title="Product relations",
        fields=("Product 1:", "Product 2:"),
        required=("Product 1:", "Product 2:"),
        letters=A_TO_E,
        instruction=(
            "From the two product titles alone, choose which statement about how shoppers "
            "connect the products fits best. Reply with the option letter."
        ),
        max_new_tokens=4,
    ),
    Task(
        name="Sentiment_Analysis",
        aliases=("SA",),
        kind=Kind.CHOICE,
        answer=Answer.OPTION,
        metric="f1",
        metric_label="macro F1",
        title="Review sentiment",
        fields=("review",),
        required=("review",),
        letters=A_TO_E,
        instruction=(
            "A customer wrote the review below. Choose the option that matches how the "
            "customer feels about the product, and copy it in full."
        ),
        max_new_tokens=12,
    ),
    Task(
        name="Sequential_Recommendation",
        aliases=("SR",),
        kind=Kind.CHOICE,
        answer=Answer.LETTER,
        metric="recall@1",
        metric_label="HR@1",
        title="Next purchase",
        fields=("history",),
        required=("history",),
        letters=A_TO_T,
        instruction=(
            "Below are a shopper's past purchases in order. Choose the option this shopper "
            "will most probably buy next and reply with its letter."
        ),
        max_new_tokens=4,
    ),
    Task(
        name="Multiclass_Product_Classification",
        aliases=("MPC",),
        kind=Kind.CHOICE,
        answer=Answer.OPTION,
        metric="acc",
        metric_label="accuracy",
        title="Search relevance",
        fields=("query", "product title"),
        required=("query", "product title"),
        letters=A_TO_E,
        instruction=(
            "How well does the product answer the search query? Pick the statement that fits "
            "and copy it in full."
        ),
        max_new_tokens=48,
    ),
    Task(
        name="Query_Product_Ranking",
        aliases=("QPR", "Query_Product_Rank"),
        kind=Kind.RANKING,
        answer=Answer.LETTERS,
        metric="NDCG",
        metric_label="NDCG",
        title="Search ranking",
        fields=("query", "product list"),
        required=("query", "product list"),
        letters="",
        instruction=(
            "Order the lettered products from the best to the worst fit for the query. Reply "
            "with the letters separated by commas."
        ),
        max_new_tokens=32,
    ),
    Task(
        name="Attribute_Value_Extraction",
        aliases=("AVE",),
        kind=Kind.EXTRACTION,
        answer=Answer.JSON,
        metric="f1",
        metric_label="F1",
        title="Attribute values",
        fields=(
            "product title",
            "product description",
            "product feature",
            "product price",
            "product brand",
            "target attributes",
        ),
        required=("product title", "target attributes"),
        letters="",
        instruction=(
            "Find the value of each attribute named under target attributes in the product "
            "text, and name the field it came from. Reply with a JSON list of objects holding "
            "attribute, value and source; write None for value and source if the text does "
            "not give one."
        ),
        max_new_tokens=256,
    ),
    Task(
        name="Answerability_Prediction",
        aliases=("AP",),
        kind=Kind.YES_NO,
        answer=Answer.YES_NO,
        metric="f1",
        metric_label="F1",
        title="Answerability",
        fields=("question", "document"),
        required=("question", "document"),
        letters="",
        instruction=(
            "Does the document hold what is needed to answer the shopper's question? Reply "
            "yes or no."
        ),
        max_new_tokens=4,
    ),
    Task(
        name="Answer_Generation",
        aliases=("AG",),
        kind=Kind.TEXT,
        answer=Answer.TEXT,
        metric="bertscore_f1",
        metric_label="BERTScore F1",
        title="Answers to questions",
        fields=("question", "document"),
        required=("question", "document"),
        letters="",
        instruction="Reply to the shopper's question with facts found in the document.",
        max_new_tokens=100,
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}


def _key(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


_BY_KEY = {_key(name): task for task in _TASKS for name in (task.name, *task.aliases)}


def find(name: str) -> Task:
    """The task called ``name``: either spelling or the abbreviation, in any case.

    Raises:
        DataError: no task has that name; the sentence lists those that exist.
    """
    if task := _BY_KEY.get(_key(name)):
        return task
    known = ", ".join(f"{task.name} ({task.short})" for task in _TASKS)
    raise DataError(f"there is no task {name!r}", expected=f"one of {known}")
