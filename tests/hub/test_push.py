"""A push sends whole files once, says what it would send, and goes on where it broke."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from ecellm_mlx.device.backend import mx
from ecellm_mlx.errors import EcellmError, HubError, UsageError
from ecellm_mlx.export import publish
from ecellm_mlx.models import loading, lora

from .fake_hub import FakeHub
from .fake_uploads import TOKEN

REPO = "shop/tuned"
# The hub's client sends bodies in a way that its own HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.fixture
def hub(empty_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """An empty hub that knows one token, which the environment has."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # Xet's own server is not part of the fake hub; large files travel as Git LFS objects.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    # The client waits and tries five times before it gives up on a connection.
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(constants, "ENDPOINT", empty_hub.url)
    return empty_hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model folder with two weight files."""
    path = tmp_path / "model"
    path.mkdir()
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        mx.save_safetensors(str(path / name), {f"w{number}": mx.full((300, 300), number)})
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "README.md").write_text("---\nlicense: mit\n---\n# mine\n")
    (path / ".ecellm-source.json").write_text("{}")
    (path / "notes").mkdir()
    return path


def on_hub(hub: FakeHub) -> dict[str, bytes]:
    repo = hub.repos[REPO]
    return repo.commits[repo.branches["main"]]


def local(folder: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name[0] != "."
    }


def test_a_push_publishes_the_folders_files_and_nothing_else(
    hub: FakeHub, folder: Path
) -> None:
    planned = publish.plan(folder, REPO, private=True)
    assert not planned.exists
    assert planned.bytes_to_send == sum(map(len, local(folder).values()))
    url = publish.push(planned)
    assert on_hub(hub) == local(folder)
    assert hub.repos[REPO].private
    assert url.startswith(f"{hub.url}/{REPO}/commit/")
    assert len(hub.uploads.messages) == 1


def test_a_second_push_sends_only_what_changed(hub: FakeHub, folder: Path) -> None:
    publish.push(publish.plan(folder, REPO))
    hub.uploads.sent.clear()
    (folder / "config.json").write_text('{"model_type": "phi"}')
    planned = publish.plan(folder, REPO)
    assert planned.exists
    assert {name for name, _ in planned.files} - planned.unchanged == {"config.json"}
    publish.push(planned)
    assert hub.uploads.sent == []
    assert on_hub(hub) == local(folder)
    commits = len(hub.uploads.messages)
    publish.push(publish.plan(folder, REPO))
    assert len(hub.uploads.messages) == commits, "nothing changed, so nothing is committed"


def test_an_interrupted_push_goes_on(hub: FakeHub, folder: Path) -> None:
    """The first shard arrives, the second is lost: it alone is sent again."""
    started: list[str] = []

    def report(name: str, _size: int) -> None:
        started.append(name)
        if name.startswith("model-00002"):
            hub.uploads.lost = 100

    with pytest.raises(HubError, match="not sent twice"):
        publish.push(publish.plan(folder, REPO), report)
    first = list(hub.uploads.sent)
    assert len(first) == 1
    assert on_hub(hub) == {}, "a reader of the hub sees no half model"
    hub.uploads.lost = 0
    publish.push(publish.plan(folder, REPO))
    assert hub.uploads.sent.count(first[0]) == 1
    assert on_hub(hub) == local(folder)


def test_a_run_is_published_as_its_adapter_with_a_card(
    hub: FakeHub, tiny: Path, tmp_path: Path
) -> None:
    base = loading.load(tiny)
    spec = lora.LoraSpec(2, 1.5, 0.0, lora.resolve_targets(base.model, ["q_proj"]))
    lora.attach(base.model, spec, seed=0)
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    section = {
        "base": {"name": "llama-2-13b-chat", "model_type": "llama"},
        "metrics": {"step": 7, "validation_loss": 0.25},
        "recipe": {"rank": 2, "targets": ["q_proj"]},
    }
    lora.save(run / "adapter", base.model, spec, section)
    config = {"train": "/home/somebody/shop/train.jsonl", "recipe": {}}
    (run / "job.json").write_text(
        json.dumps({"kind": "train", "config": config, "fingerprints": {"train": "ab" * 32}})
    )
    publish.push(publish.plan(run, REPO))
    files = on_hub(hub)
    assert files.keys() == {"adapters.safetensors", "adapter_config.json", "README.md"}
    text = files["README.md"].decode()
    assert text.startswith("---\nlicense: llama2\nbase_model: meta-llama/Llama-2-13b-chat-hf\n")
    assert "base_model_relation: adapter" in text
    assert "Validation loss 0.2500" in text
    assert "acceptable use policy" in text
    assert "somebody" not in text


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "HF_TOKEN"), (403, "may not write"), (404, "owner's name"), (503, "again later")],
)
def test_refusals_say_what_to_do(
    hub: FakeHub, folder: Path, status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = publish.plan(folder, REPO)
    hub.uploads.refuse = status
    with pytest.raises(HubError, match=message):
        publish.push(planned)
    assert REPO not in hub.repos


def test_tokens(hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="needs a token"):
        publish.plan(folder, REPO)
    assert hub.requests == [], "nothing is asked without a token"
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(HubError, match="wrong or expired"):
        publish.push(publish.plan(folder, REPO))


def test_an_unreachable_hub(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="check the connection"):
        publish.plan(folder, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(HubError, match="offline mode"):
        publish.plan(folder, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()


def test_what_must_not_be_published(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="owner/name"):
        publish.plan(folder, "just-a-name")
    hub.commit(REPO, {"README.md": b"public"})
    with pytest.raises(UsageError, match="is public"):
        publish.plan(folder, REPO, private=True)
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(EcellmError, match="truncated"):
        publish.plan(folder, REPO)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(EcellmError, match="no weights"):
        publish.plan(folder, REPO)


def test_the_command_shows_sizes_and_a_dry_run_sends_nothing(
    hub: FakeHub, folder: Path, ecellm: Any
) -> None:
    environment = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        dry = ecellm("push", folder, REPO, "--dry-run", "--json")
        assert dry.returncode == 0, dry.stderr
        assert "0.36 MB  model-00001-of-00002.safetensors" in dry.stderr
        answer = json.loads(dry.stdout)
        assert (answer["dry_run"], answer["url"], answer["exists"]) == (True, None, False)
        assert REPO not in hub.repos
        assert {request.method for request in hub.requests} == {"GET"}
        sent = ecellm("push", folder, REPO)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout.startswith(f"{hub.url}/{REPO}/commit/")
    assert on_hub(hub) == local(folder)
