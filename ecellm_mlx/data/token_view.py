"""How a row becomes tokens, for people: ``python -m ecellm_mlx.data.token_view``.

Tells where the prompt ends, what is supervised and what the cutoff takes away, in
characters of the text as well as in tokens, by the same rules as training
(``encoding.encode_row``). Needs a model's ``tokenizer.json`` only: loads neither mlx
nor transformers. As a process it answers one JSON request a line, and ends with its
stdin: {"id", "model": FOLDER, "max_length", "row": {instruction, input, options, output}}.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from ecellm_mlx.data.encoding import encode_row
from ecellm_mlx.data.prompts import Frame, frame_for, prompt
from ecellm_mlx.data.schema import Row
from ecellm_mlx.errors import EcellmError, ModelError


@dataclass(frozen=True)
class TokenView:
    """A row as text with its borders.

    Attributes:
        text: prompt and answer as one string, as they are tokenized.
        prompt_end: character at which the answer begins.
        kept_end: character at which the cutoff falls; the length of ``text`` if nothing
            is cut.
        tokens: tokens of the whole text, before the cutoff.
        prompt_tokens: tokens of the prompt alone.
        supervised: tokens that training learns from this row, EOS included.
    """

    text: str
    prompt_end: int
    kept_end: int
    tokens: int
    prompt_tokens: int
    supervised: int


class FileTokenizer:
    """The tokenizer in a model folder's ``tokenizer.json``.

    Raises:
        ModelError: there is none, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{folder} has no tokenizer.json",
                cure="choose another model to count tokens with",
            )
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except Exception as error:
            # The library raises bare Exceptions.
            raise ModelError(f"{path} cannot be read", got=str(error)[:200]) from error
        self.frame = frame_for(str(config.get("model_type", "")))
        self.eos_token_id = self._eos(folder, config)

    def encode(self, text: str) -> list[int]:
        """Token ids, with the special tokens that the tokenizer adds by default."""
        return list(self.tokenizer.encode(text).ids)

    def _eos(self, folder: Path, config: dict[str, Any]) -> int | None:
        try:
            settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        except (OSError, ValueError):
            settings = {}
        token = settings.get("eos_token")
        if isinstance(token, dict):
            token = token.get("content")
        token_id = self.tokenizer.token_to_id(token) if isinstance(token, str) else None
        if token_id is not None:
            return int(token_id)
        value = config.get("eos_token_id")
        return int(value[0] if isinstance(value, list) else value) if value else None


def view(row: Row, tokenizer: FileTokenizer, frame: Frame, max_length: int) -> TokenView:
    """The borders of ``row``."""
    text = prompt(row, frame)
    whole = tokenizer.tokenizer.encode(text + row.output)
    encoded = encode_row(row, tokenizer, frame, max_length)
    kept_end = len(text) + len(row.output)
    if len(whole.ids) > max_length:
        kept_end = max((end for _, end in whole.offsets[:max_length]), default=0)
    return TokenView(
        text=text + row.output,
        prompt_end=len(text),
        kept_end=kept_end,
        tokens=len(whole.ids),
        prompt_tokens=len(tokenizer.encode(text)),
        supervised=len(encoded.target_positions),
    )


@lru_cache(maxsize=2)
def _tokenizer(folder: Path) -> FileTokenizer:
    return FileTokenizer(folder)


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    item = request["row"]
    row = Row(
        id="",
        instruction=item["instruction"],
        input=item["input"],
        options=item.get("options"),
        output=item.get("output", ""),
        task="",
        setting="",
        split="",
    )
    tokenizer = _tokenizer(Path(request["model"]))
    borders = view(row, tokenizer, tokenizer.frame, int(request["max_length"]))
    return {"event": "view", **asdict(borders)}


def main(requests: IO[str], events: IO[str]) -> None:
    """Answer ``requests`` until they end."""
    for line in requests:
        key = None
        try:
            request = json.loads(line)
            key = request.get("id")
            event = _serve(request)
        except EcellmError as error:
            event = {"event": "error", "message": str(error)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            event = {"event": "error", "message": f"The request cannot be used: {error!r}."}
        events.write(json.dumps({"id": key, **event}, ensure_ascii=False) + "\n")
        events.flush()


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
