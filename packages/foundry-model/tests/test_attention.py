import importlib.util
import logging
from types import SimpleNamespace

import pytest

from foundry_config import ConfigError
from foundry_model import resolve_attention


def _class(**flags):
    return SimpleNamespace(__name__="GPT2LMHeadModel", **flags)


EVERYTHING = _class(_supports_sdpa=True, _supports_flex_attn=True, _supports_flash_attn=True)


def test_auto_takes_sdpa_where_the_family_has_it_and_eager_elsewhere(tiny_config):
    assert resolve_attention(tiny_config(), None, model_class=EVERYTHING) == "sdpa"
    assert resolve_attention(tiny_config(), None, model_class=_class()) == "eager"


@pytest.mark.parametrize(("wish", "used"), [("eager", "eager"), ("sdpa", "sdpa"), ("flex", "flex_attention")])
def test_an_implementation_that_works_is_taken_as_asked(tiny_config, wish, used):
    assert resolve_attention(tiny_config(attention=wish), "cpu", model_class=EVERYTHING) == used


@pytest.mark.parametrize("wish", ["sdpa", "flex", "flash_attention_2", "flash_attention_3"])
def test_an_implementation_that_the_family_lacks_is_refused(tiny_config, wish):
    with pytest.raises(ConfigError, match=f"model.attention: '{wish}' cannot be used: GPT2LMHeadModel.*does not supp"):
        resolve_attention(tiny_config(attention=wish), "cuda", model_class=_class())


def test_flash_attention_needs_a_cuda_device(tiny_config):
    with pytest.raises(ConfigError, match="needs a CUDA device, and the model is on 'cpu'; `auto` would take 'sdpa'"):
        resolve_attention(tiny_config(attention="flash_attention_2"), "cpu", model_class=EVERYTHING)


def test_flash_attention_needs_its_package_and_half_precision(tiny_config, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="the package 'flash_attn' is not installed"):
        resolve_attention(tiny_config(attention="flash_attention_2"), "cuda", model_class=EVERYTHING)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"bf16 or fp16 only, and training.precision is 'fp32'"):
        resolve_attention(tiny_config(attention="flash_attention_2"), "cuda", model_class=EVERYTHING)

    packed = tiny_config(attention="flash_attention_2", precision="bf16", document_mask=True)
    with pytest.raises(ConfigError, match=r"does not keep the documents of a row apart, which data.document_mask asks"):
        resolve_attention(packed, "cuda", model_class=EVERYTHING)

    config = tiny_config(attention="flash_attention_2", precision="bf16")
    assert resolve_attention(config, "cuda", model_class=EVERYTHING) == "flash_attention_2"


def test_use_flash_attention_falls_back_with_a_warning_that_names_both(tiny_config, caplog):
    with caplog.at_level(logging.WARNING, logger="foundry_model.attention"):
        used = resolve_attention(tiny_config(use_flash_attention=True), "cpu", model_class=EVERYTHING)

    assert used == "sdpa"
    assert "model.use_flash_attention: FlashAttention 2 cannot be used: it needs a CUDA device" in caplog.text
    assert "using 'sdpa' instead" in caplog.text


def test_use_flash_attention_is_honoured_where_it_works(tiny_config, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    config = tiny_config(use_flash_attention=True, precision="bf16")

    assert resolve_attention(config, "cuda:0", model_class=EVERYTHING) == "flash_attention_2"
