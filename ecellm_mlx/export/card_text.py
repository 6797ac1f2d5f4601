"""The text of a model card: Markdown with the hub's front matter."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecellm_mlx import __version__
from ecellm_mlx.data import rows
from ecellm_mlx.data.prompts import Frame
from ecellm_mlx.errors import EcellmError
from ecellm_mlx.export.card import LICENCE_IDS, LLAMA_2, Base, Provenance
from ecellm_mlx.tasks.registry import TASKS

# How to run each kind of export.
USAGE = {
    "mlx": """```sh
mlx_lm.generate --model . --prompt "$(cat prompt.txt)" --ignore-chat-template
ecellm generate --model . --prompt "$(cat prompt.txt)"
```
""",
    "mlx-adapter": """```sh
mlx_lm.generate --model {base} --adapter-path . --ignore-chat-template \\
    --prompt "$(cat prompt.txt)"
ecellm generate --model {base} --adapter . --prompt "$(cat prompt.txt)"
```
""",
    "hf": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
tokens = tokenizer(prompt, return_tensors="pt")
answer = model.generate(**tokens, max_new_tokens=100)[0, tokens["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```
""",
    "gguf": """LM Studio and llama.cpp take `{file}` as it is. For Ollama, put this into a file
`Modelfile`; the prompt below is sent whole, so no chat template may be wrapped around it:

```text
FROM ./{file}
TEMPLATE "{{{{ .Prompt }}}}"
PARAMETER temperature 0
```

```sh
ollama create ecellm -f Modelfile
ollama run ecellm "$(cat prompt.txt)"
llama-completion -m {file} -f prompt.txt -no-cnv --temp 0
```
""",
    "gguf-adapter": """It needs the base, {base}, as a GGUF file:

```sh
llama-completion -m BASE.gguf --lora {file} -f prompt.txt -no-cnv --temp 0
```

For Ollama, a `Modelfile` with `FROM ./BASE.gguf`, `ADAPTER ./{file}` and
`TEMPLATE "{{{{ .Prompt }}}}"`.
""",
}


def render(facts: Provenance) -> str:
    """The card as Markdown with the hub's front matter."""
    title = "adapter" if facts.kind in ("mlx-adapter", "gguf-adapter") else "model"
    tuned = bool(facts.ecellm or facts.job)
    what = (
        f"A LoRA {title} of {facts.base.name} for e-commerce tasks"
        if title == "adapter"
        else f"{facts.base.name}{', fine-tuned for e-commerce tasks' if tuned else ''}"
    )
    parts = [
        _front_matter(facts, tuned),
        f"# {facts.base.name}: e-commerce {title}\n" if tuned else f"# {facts.base.name}\n",
        f"{what}, {facts.stored}. Written by ecellm-mlx {__version__}.\n",
        "## How to run it\n",
        USAGE[facts.kind].format(
            base=facts.base.repo or facts.base.name, file=facts.file or "FILE"
        ),
        _prompt(facts.frame),
    ]
    if tuned:
        parts += [_data(facts.job), _recipe(facts)]
    if tuned or facts.scores:
        parts.append(_metrics(facts))
    if facts.divergence:
        parts.append(_divergence(facts.divergence))
    parts.append(_licence(facts.base))
    return "\n".join(part for part in parts if part)


def _front_matter(facts: Provenance, tuned: bool) -> str:
    library = {"mlx": "mlx", "mlx-adapter": "mlx", "hf": "transformers"}
    relation = "finetune"
    if facts.kind.endswith("adapter"):
        relation = "adapter"
    elif not tuned:
        relation = "quantized"
    licence = facts.base.licence_id
    known = licence in LICENCE_IDS.values() or re.fullmatch(r"[a-z0-9.-]+", licence)
    lines = [f"license: {licence if known else 'other'}"]
    if facts.base.repo:
        lines += [f"base_model: {facts.base.repo}", f"base_model_relation: {relation}"]
    if facts.kind in library:
        lines.append(f"library_name: {library[facts.kind]}")
    lines += ["pipeline_tag: text-generation", "language: [en]", "tags: [e-commerce, ecellm]"]
    return "---\n" + "\n".join(lines) + "\n---\n"


def _prompt(frame: Frame) -> str:
    text = frame.render("{instruction}", "{input}", "{options}")
    return (
        "It expects this prompt; the options block is left out where there are none:\n\n"
        f"```text\n{text}```\n"
    )


def _data(job: Mapping[str, Any]) -> str:
    if not job:
        return "## Data\n\nUnknown: the adapter came without its run.\n"
    path = Path(str(job["config"].get("train", "")))
    fingerprint = str(job["fingerprints"].get("train", "unknown"))
    lines = [f"Fingerprint of the training rows: `{fingerprint[:16]}`."]
    try:
        unchanged = path.is_file() and rows.digest([path]) == fingerprint
        known = rows.load(path) if unchanged else []
    except EcellmError:
        known = []
    if known:
        tasks = Counter(row.task for row in known)
        lines.append(
            f"{len(known):,} rows: "
            + ", ".join(f"{name} {count:,}" for name, count in sorted(tasks.items()))
            + "."
        )
        if licences := _row_licences(path):
            lines.append(f"Licences that the rows name: {licences}.")
        else:
            lines.append("The rows name no licence: check that of their source.")
    else:
        lines.append("The file is no longer there as it was, so its rows are not counted.")
    return "## Data\n\n" + "\n".join(lines) + "\n"


def _row_licences(path: Path) -> str:
    """Licences that rows carry, with their counts; only JSON Lines has room for them."""
    counts: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            licence = json.loads(line).get("license")
        except (ValueError, AttributeError):
            return ""
        if licence:
            counts[str(licence)] += 1
    return ", ".join(f"{name} ({count:,})" for name, count in counts.most_common())


def _recipe(facts: Provenance) -> str:
    recipe = facts.ecellm.get("recipe") or facts.job.get("config", {}).get("recipe") or {}
    if not recipe:
        return ""
    table = "\n".join(
        f"| `{key}` | {', '.join(map(str, value)) if isinstance(value, list) else value} |"
        for key, value in recipe.items()
    )
    versions = ", ".join(f"{k} {v}" for k, v in facts.job.get("versions", {}).items())
    return f"## Recipe\n\n| setting | value |\n|---|---|\n{table}\n" + (
        f"\nVersions: {versions}.\n" if versions else ""
    )


def _metrics(facts: Provenance) -> str:
    lines = ["## Metrics\n"]
    metrics = facts.ecellm.get("metrics") or {}
    loss = metrics.get("validation_loss")
    lines.append(
        f"Validation loss {loss:.4f} per supervised token, after {metrics['step']} steps.\n"
        if loss is not None
        else "Validation loss: not computed.\n"
    )
    if not facts.scores:
        lines.append("No evaluation was given to this card.\n")
    for scores in facts.scores:
        lines.append(_score_table(scores))
    return "\n".join(lines)


def _score_table(scores: Mapping[str, Any]) -> str:
    rows_ = []
    for decoding, tasks in scores["decodings"].items():
        for name, settings in tasks.items():
            task = TASKS[name]
            for setting, result in settings.items():
                official, strict = (
                    _number(result[kind].get(task.metric)) for kind in ("official", "strict")
                )
                rows_.append(
                    f"| {name} | {setting} | {decoding} | {task.metric_label} | {official} | "
                    f"{strict} | {result['invalid']} | {result['n']} |"
                )
    subset = " on a subset: not comparable to the paper" if scores.get("subset") else ""
    return (
        f"{scores['n']:,} rows{subset}.\n\n"
        "| task | setting | decoding | metric | official | strict | invalid | n |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(rows_) + "\n"
    )


def _number(value: Any) -> str:
    return "not computed" if value is None else f"{value:.4f}"


def _divergence(measured: Mapping[str, Any]) -> str:
    own = measured["mean_kl_of_fine_tune"]
    beside = f"; the fine-tune itself moved the base by {own:.4f}" if own is not None else ""
    return (
        "## What quantization changed\n\n"
        f"Mean KL divergence from the unquantized model: {measured['mean_kl']:.4f} nats per "
        f"answer token{beside}. The likeliest token is the same at "
        f"{measured['same_top_token']:.1%} of {measured['positions']:,} positions in "
        f"{measured['prompts']} rows.\n"
    )


def _licence(base: Base) -> str:
    if not base.licences:
        return (
            "## Licence\n\nThe licence of the base is unknown here: find it out before you "
            "share this.\n"
        )
    lines = [f"{base.name}: {base.licences[0]}."]
    lines += [f"It is itself built on a model under: {name}." for name in base.licences[1:]]
    if base.licence_id == LLAMA_2:
        lines.append(
            "Whoever passes this on gives the licence agreement along, keeps the NOTICE file, "
            "and follows the acceptable use policy: https://ai.meta.com/llama/license/."
        )
    lines.append("Training data keep their own licences.")
    return "## Licence\n\n" + " ".join(lines) + "\n"
