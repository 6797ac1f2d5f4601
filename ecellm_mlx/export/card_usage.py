"""What a model card says on running each kind of export."""

from __future__ import annotations

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
