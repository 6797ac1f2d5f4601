"""The tasks as data: names, kinds of answer, metrics, fields.

They are the ten of ECInstruct and what was added to them (``Task.paper`` tells). A task is
one entry here: every command, report and screen reads this table.

Nothing here reads a file or knows a model. Canonical names are those of the
published evaluator, misspellings included, because rows and reports of others
use them; ``find`` accepts the right spellings and the usual abbreviations too.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from enum import IntEnum

from ecellm_mlx.errors import DataError
from ecellm_mlx.tasks.choice import Choice, Recommendation
from ecellm_mlx.tasks.extraction import Extraction
from ecellm_mlx.tasks.fields import OPTIONS, TARGETS
from ecellm_mlx.tasks.inputs import NUMBERED, OBJECT, PAIR, TEXT, InputForm
from ecellm_mlx.tasks.kind import Constraint, Kind
from ecellm_mlx.tasks.ranking import Ranking
from ecellm_mlx.tasks.text import Text
from ecellm_mlx.tasks.yes_no import YesNo


class Needs(IntEnum):
    """What a question needs; a table of products has the first, and rarely the last."""

    PRODUCT = 0  # texts of one product
    REQUEST = 1  # a shopper's words as well
    PRODUCTS = 2  # several products


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: the upstream name, as rows and reports spell it.
        aliases: other names that ``find`` accepts, the abbreviation first.
        kind: the kind of answer, which knows all that depends on it.
        metric: the headline's key among the official metrics.
        metric_label: the headline for humans.
        title: the task for humans.
        fields: names of the input's parts, in the input's order; a dot leads into an
            object (``product 1.title``).
        required: the fields that an input cannot do without.
        either: fields of which an input needs at least one.
        needs: what a question is about.
        instruction: a default instruction; one that our sample's rows use too, where it
            has rows of the task.
        max_new_tokens: a bound on the answer's length in tokens.
        form: how the input is written.
        paper: whether it is one of the ten tasks of ECInstruct.
    """

    name: str
    aliases: tuple[str, ...]
    kind: Kind
    metric: str
    metric_label: str
    title: str
    fields: tuple[str, ...]
    required: tuple[str, ...]
    needs: Needs
    instruction: str
    max_new_tokens: int
    either: tuple[str, ...] = ()
    form: InputForm = OBJECT
    paper: bool = True

    @property
    def short(self) -> str:
        """The abbreviation, such as AVE."""
        return self.aliases[0]

    @property
    def closed(self) -> bool:
        """Whether the answer is one of a few that are known beforehand."""
        return self.kind.constraint is Constraint.OPTIONS

    @property
    def ranked(self) -> bool:
        """Whether the answer is an order of what is known beforehand."""
        return self.kind.constraint is Constraint.ORDER

    @property
    def free(self) -> bool:
        """Whether the answer may be any text."""
        return self.kind.constraint is Constraint.NONE

    @property
    def asked(self) -> tuple[str, ...]:
        """All that a question is made of: the fields, and the options of a choice."""
        return (*self.fields, OPTIONS) if self.kind.takes_options else self.fields

    @property
    def needs_options(self) -> bool:
        """Whether a question must name its options: there are no published ones."""
        return self.kind.takes_options and not self.kind.default_options

    @property
    def extracts(self) -> bool:
        """Whether a question names what to extract."""
        return TARGETS in self.fields

    def lacking(self, *given: Container[str]) -> list[str]:
        """The fields that must be given and are in none of ``given``, for a message.

        ``either`` is one entry, such as ``query or history``.
        """
        lacks = [name for name in self.required if not any(name in part for part in given)]
        if self.either and not any(name in part for name in self.either for part in given):
            lacks.append(" or ".join(self.either))
        return lacks


A_TO_E = "ABCDE"
A_TO_T = "ABCDEFGHIJKLMNOPQRST"
# The options of the published rows, which trained models know.
SENTIMENTS = ("very positive", "positive", "neutral", "negative", "very negative")
RELATIONS = (
    "Users who buy product 1 may also buy product 2.",
    "Users who view product 1 may also view product 2.",
    "The product 1 is similar with the product 2.",
)
RELEVANCE = (
    "The product is relevant to the query, and satisfies all the query specifications.",
    "The product is somewhat relevant. It fails to fulfill some aspects of the query but "
    "the product can be used as a functional substitute.",
    "The product does not fulfill the query, but could be used in combination with a "
    "product exactly matching the query.",
    "The product is irrelevant to the query.",
)
PRODUCT_PARTS = ("title", "description", "manufacturer", "price")

_TASKS = (
    Task(
        name="Product_Matching",
        aliases=("PM",),
        kind=YesNo(),
        metric="f1",
        metric_label="F1",
        title="Product matching",
        fields=tuple(f"product {n}.{part}" for n in (1, 2) for part in PRODUCT_PARTS),
        required=("product 1.title", "product 2.title"),
        needs=Needs.PRODUCTS,
        instruction=(
            "Two listings are shown, each with a title, a description, a manufacturer and a "
            "price. Say if both sell the very same item. Reply with yes or no and nothing else."
        ),
        max_new_tokens=4,
        form=PAIR,
    ),
    Task(
        name="Product_Substitue_Identification",
        aliases=("PSI", "Product_Substitute_Identification"),
        kind=YesNo(),
        metric="f1",
        metric_label="F1",
        title="Product substitutes",
        fields=("query", "product"),
        required=("query", "product"),
        needs=Needs.REQUEST,
        instruction=(
            "The shopper may not get exactly what was searched for. Is this product something "
            "that could stand in for it, while missing part of the request? Write yes or no."
        ),
        max_new_tokens=4,
    ),
    Task(
        name="Product_Relation_Predicition",
        aliases=("PRP", "Product_Relation_Prediction"),
        kind=Choice(A_TO_E, published=RELATIONS),
        metric="f1",
        metric_label="macro F1",
        title="Product relations",
        fields=("Product 1:", "Product 2:"),
        required=("Product 1:", "Product 2:"),
        needs=Needs.PRODUCTS,
        instruction=(
            "From the two product titles alone, choose which statement about how shoppers "
            "connect the products fits best. Reply with the option letter."
        ),
        max_new_tokens=4,
    ),
    Task(
        name="Sentiment_Analysis",
        aliases=("SA",),
        kind=Choice(A_TO_E, in_full=True, published=SENTIMENTS),
        metric="f1",
        metric_label="macro F1",
        title="Review sentiment",
        fields=("review",),
        required=("review",),
        needs=Needs.PRODUCT,
        instruction=(
            "A customer wrote the review below. Choose the option that matches how the "
            "customer feels about the product, and copy it in full."
        ),
        max_new_tokens=12,
        form=TEXT,
    ),
    Task(
        name="Sequential_Recommendation",
        aliases=("SR",),
        kind=Recommendation(A_TO_T),
        metric="recall@1",
        metric_label="HR@1",
        title="Next purchase",
        fields=("history",),
        required=("history",),
        needs=Needs.PRODUCTS,
        instruction=(
            "Below are a shopper's past purchases in order. Choose the option this shopper "
            "will most probably buy next and reply with its letter."
        ),
        max_new_tokens=4,
        form=NUMBERED,
    ),
    Task(
        name="Multiclass_Product_Classification",
        aliases=("MPC",),
        kind=Choice(A_TO_E, in_full=True, published=RELEVANCE),
        metric="acc",
        metric_label="accuracy",
        title="Search relevance",
        fields=("query", "product title"),
        required=("query", "product title"),
        needs=Needs.REQUEST,
        instruction=(
            "How well does the product answer the search query? Pick the statement that fits "
            "and copy it in full."
        ),
        max_new_tokens=48,
    ),
    Task(
        name="Query_Product_Ranking",
        aliases=("QPR", "Query_Product_Rank"),
        kind=Ranking("product list"),
        metric="NDCG",
        metric_label="NDCG",
        title="Search ranking",
        fields=("query", "product list"),
        required=("query", "product list"),
        needs=Needs.PRODUCTS,
        instruction=(
            "Order the lettered products from the best to the worst fit for the query. Reply "
            "with the letters separated by commas."
        ),
        max_new_tokens=32,
    ),
    Task(
        name="Attribute_Value_Extraction",
        aliases=("AVE",),
        kind=Extraction(),
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
        needs=Needs.PRODUCT,
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
        kind=YesNo(),
        metric="f1",
        metric_label="F1",
        title="Answerability",
        fields=("question", "document"),
        required=("question", "document"),
        needs=Needs.REQUEST,
        instruction=(
            "Does the document hold what is needed to answer the shopper's question? Reply "
            "yes or no."
        ),
        max_new_tokens=4,
    ),
    Task(
        name="Answer_Generation",
        aliases=("AG",),
        kind=Text(),
        metric="bertscore_f1",
        metric_label="BERTScore F1",
        title="Answers to questions",
        fields=("question", "document"),
        required=("question", "document"),
        needs=Needs.REQUEST,
        instruction="Reply to the shopper's question with facts found in the document.",
        max_new_tokens=100,
    ),
    Task(
        name="Explanation_Generation",
        aliases=("EG",),
        kind=Text(),
        metric="bertscore_f1",
        metric_label="BERTScore F1",
        title="Explanations",
        fields=("query", "history", "product"),
        required=("product",),
        either=("query", "history"),
        needs=Needs.REQUEST,
        instruction=(
            "A shopper searched for the query, or bought what the history lists. Explain in "
            "one or two sentences why the product fits, with nothing that is not given."
        ),
        max_new_tokens=100,
        paper=False,
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
