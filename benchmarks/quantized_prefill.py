"""Reading prompts with a 4-bit model on the CPU backend: ours against mlx-lm.

    .venv/bin/python benchmarks/quantized_prefill.py --model smollm2-135m

Each runs in a process of its own on the same 4-bit weights, with the same BLAS; tokens a
second of one batch of random prompts are printed. ``ours, kept`` is a base that is held
to be too large for float32: its layers stay quantized and choose by the number of rows.
``ours`` is what happens by default, where the base is de-quantized once at loading.
Goal: ours, kept, 20 times mlx-lm. The second table measures the crossover between the
fused product and de-quantizing first, which ``device.cpu.quantized.CROSSOVER_ROWS`` states.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

KINDS = ("ours, kept", "ours", "mlx-lm")
SHAPES = ((576, 576), (1536, 576), (2560, 2560))
ROWS = (1, 2, 3, 4, 6, 8, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--batch", type=int, default=4, help="prompts")
    parser.add_argument("--length", type=int, default=128, help="tokens of each")
    parser.add_argument("--worker", choices=[*KINDS, "crossover"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker == "crossover":
        crossover()
        return
    if arguments.worker:
        figure = prefill(arguments.worker, arguments.folder, arguments.batch, arguments.length)
        json.dump(figure, sys.stdout)
        return
    command = [sys.executable, __file__, "--batch", str(arguments.batch)]
    command += ["--length", str(arguments.length)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = four_bits(arguments.model, Path(temporary) / "model")
        figures: dict[str, dict[str, float]] = {}
        for kind in KINDS:
            run = subprocess.run(
                [*command, "--worker", kind, "--folder", str(folder)],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            figures[kind] = json.loads(run.stdout.splitlines()[-1])
    print(f"{arguments.batch} prompts of {arguments.length} tokens, 4 bits")
    for kind, figure in figures.items():
        wall, cpu = figure["tokens_per_second"], figure["tokens_per_cpu_second"]
        against = figures["mlx-lm"]
        print(
            f"{kind:12}{wall:9.1f} tokens/s {wall / against['tokens_per_second']:6.1f}x"
            f"{cpu:9.1f} tokens/CPU s {cpu / against['tokens_per_cpu_second']:6.1f}x"
        )
    subprocess.run([*command, "--worker", "crossover"], check=True)


def four_bits(model: str, folder: Path) -> Path:
    """A 4-bit copy of a model; one that is quantized already is used as it is."""
    from ecellm_mlx.device import backend  # noqa: F401  # first of all that imports mlx
    from ecellm_mlx.export import write
    from ecellm_mlx.models import registry
    from ecellm_mlx.models.config import read_config

    path = registry.resolve(model)
    if "quantization" in read_config(path):
        return path
    write.quantize(model, folder, bits=4, measure=False)
    return folder


def prefill(kind: str, folder: Path, batch: int, length: int) -> dict[str, float]:
    """Tokens a second until the logits after the last token are there."""
    from ecellm_mlx.device import runtime
    from ecellm_mlx.device.backend import mx

    mx.random.seed(0)
    tokens = mx.random.randint(10, 1000, (batch, length))
    run: Callable[[], object]
    if kind == "mlx-lm":
        import mlx_lm
        from mlx_lm.models.cache import make_prompt_cache

        model, _ = mlx_lm.load(str(folder))

        def run() -> None:
            cache = make_prompt_cache(model)
            mx.eval(model(tokens[:, :-1], cache=cache)[:, -1], [c.state for c in cache])

    else:
        from ecellm_mlx.inference.engine import Engine
        from ecellm_mlx.models import loading

        if kind == "ours, kept":
            runtime.available_memory_gb = lambda: 0.0
        base = loading.load(str(folder))
        engine = Engine(base.model)
        rows = tokens[:, :-1].tolist()

        def run() -> None:
            engine.extend(engine.new_cache(batch), rows)

    count = batch * (length - 1)
    seconds, cpu = time.perf_counter(), time.process_time()
    run()
    seconds, cpu = time.perf_counter() - seconds, time.process_time() - cpu
    return {"tokens_per_second": count / seconds, "tokens_per_cpu_second": count / cpu}


def crossover() -> None:
    """Print milliseconds of both ways, for some shapes and numbers of rows."""
    from ecellm_mlx.device.backend import mx
    from ecellm_mlx.device.cpu.quantized import _product

    def milliseconds(run: Callable[[], object]) -> float:
        mx.eval(run())
        times = []
        for _ in range(5):
            start = time.process_time()
            mx.eval(run())
            times.append(time.process_time() - start)
        return min(times) * 1e3

    print("\nCPU milliseconds of one product: fused / de-quantized first")
    print("bits  weight       " + "".join(f"{f'{n} rows':>15}" for n in ROWS))
    for bits in (4, 8):
        for out, width in SHAPES:
            weight = mx.quantize(mx.random.normal((out, width)), group_size=32, bits=bits)
            mx.eval(weight)
            cells = []
            for rows in ROWS:
                x = mx.random.normal((rows, width))
                fused = milliseconds(
                    lambda x=x, w=weight, b=bits: mx.quantized_matmul(
                        x, *w, transpose=True, group_size=32, bits=b
                    )
                )
                first = milliseconds(lambda x=x, w=weight, b=bits: _product(32, b)(x, *w))
                cells.append(f"{fused:8.2f}/{first:6.2f}")
            print(f"{bits:4}  {out:5} x {width:4} {''.join(cells)}")


if __name__ == "__main__":
    main()
