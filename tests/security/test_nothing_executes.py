"""Nothing that is read runs: not checkpoints, tokenizers, chat templates, SAEs, data sets nor study files, unless the study asks for it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import SmallStudy
from typer.testing import CliRunner

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.cli import app
from sae_pipeline.corpora.sources import open_source
from sae_pipeline.corpora.tokenization import TextTokenizer
from sae_pipeline.errors import BadInput, SourceError, StudyError, SubjectError
from sae_pipeline.stages import subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Home, Store
from sae_pipeline.study import load_study
from sae_pipeline.study.text_sections import HuggingFace

OWN_CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({mark!r}).touch()

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


class Touches:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def with_code(tiny_llama: Path, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of an architecture that its own Python file defines, and a user who would say yes if asked."""
    from transformers import dynamic_module_utils

    folder = shutil.copytree(tiny_llama, tmp_path / "own")
    (folder / "own.py").write_text(OWN_CODE.format(mark=str(mark)))
    edited(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return folder


def test_a_checkpoint_with_code_of_its_own_is_refused_unless_the_study_trusts_it(with_code: Path, mark: Path, small_study: SmallStudy) -> None:
    found = {}
    for trusted in (False, True):

        def edit(data: dict[str, Any], trusted: bool = trusted) -> None:
            data["subject"] = {"model": str(with_code), **({"trust_remote_code": True} if trusted else {})}

        ctx = StudyContext.open(load_study(small_study.write(edit)), Home(small_study.path.parent / "home"))
        found[trusted] = subject.fingerprint(ctx)
        if trusted:
            assert subject.prepare(ctx).record["d_model"] == 32
            assert mark.exists()
        else:
            with pytest.raises(SubjectError, match=r"set subject\.trust_remote_code: true"):
                subject.prepare(ctx)
            assert not mark.exists()
    assert found[False] != found[True]


def test_the_randomised_control_and_the_tokenizer_are_refused_alike(with_code: Path, mark: Path, tmp_path: Path, tiny_llama: Path) -> None:
    with pytest.raises(SubjectError, match=r"set subject\.trust_remote_code: true"):
        SubjectModel.load(str(with_code), randomised=0)
    tokenizer = shutil.copytree(tiny_llama, tmp_path / "tokenizer")
    (tokenizer / "own.py").write_text(OWN_CODE.format(mark=str(mark)))
    edited(tokenizer / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]})
    for name in ("config.json", "tokenizer.json"):  # nothing to fall back on
        (tokenizer / name).unlink()
    with pytest.raises(SubjectError):
        TextTokenizer.load(tokenizer)
    assert not mark.exists()


def test_pickled_weights_are_read_only_where_the_study_names_them_and_then_as_tensors_alone(tiny_llama: Path, tmp_path: Path, mark: Path) -> None:
    from safetensors.torch import load_file

    folder = shutil.copytree(tiny_llama, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(SubjectError, match=r"set subject\.pickled_weights: true"):
        SubjectModel.load(str(folder))
    tokens = torch.arange(8)[None]
    read = SubjectModel.load(str(folder), pickled_weights=True).logits(tokens)
    assert torch.equal(read, SubjectModel.load(str(tiny_llama)).logits(tokens))
    torch.save({"lm_head.weight": Touches(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(SubjectError):
        SubjectModel.load(str(folder), pickled_weights=True)
    assert not mark.exists()


@pytest.mark.parametrize(
    "template",
    ["{{ cycler.__init__.__globals__.os.system('touch MARK') }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% include '/etc/passwd' %}"],
)
def test_a_chat_template_reaches_nothing_but_the_conversation(template: str, tiny_llama: Path, mark: Path) -> None:
    tokenizer = TextTokenizer.load(tiny_llama)
    tokenizer._tokenizer.chat_template = template.replace("MARK", str(mark))
    with pytest.raises(ValueError, match="expected turns that the tokenizer's chat template takes"):
        tokenizer.render([{"role": "user", "content": "hello"}])
    assert not mark.exists()


def test_a_pickled_sae_is_refused_by_the_command_line(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    torch.save({"encoder.weight": Touches(mark)}, tmp_path / "ae.pt")
    result = CliRunner().invoke(app, ["match", str(tmp_path), str(tmp_path)])
    assert isinstance(result.exception, BadInput)
    assert "could run code" in str(result.exception)
    assert not mark.exists()


def test_a_data_set_with_a_script_is_refused(tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "notes"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_text('{"text": "fine"}\n')
    (folder / "notes.py").write_text(f"open({str(mark)!r}, 'w')")
    source = HuggingFace(kind="huggingface", dataset=str(folder))
    with pytest.raises(SourceError, match="scripts are no longer supported"):
        list(open_source(source, Store(tmp_path / "store")).documents(0))
    assert not mark.exists()


@pytest.mark.parametrize("value", ["!!python/object/apply:os.system ['touch MARK']", "!!python/name:os.system", "!own {a: 1}"])
def test_yaml_makes_no_objects(value: str, tmp_path: Path, mark: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: {value}\n".replace("MARK", str(mark)))
    with pytest.raises(StudyError, match=r"study.yaml:1: expected YAML, found could not determine a constructor"):
        load_study(path)
    assert not mark.exists()
