"""`foundry generate`: let a model continue prompts."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from foundry_cli.console import say, say_json, write
from foundry_cli.options import DEFAULT_CONFIG, BaseDirOption, CheckpointOption, JsonOption, ModelArgument

PromptOption = Annotated[
    list[str], typer.Option("--prompt", "-p", metavar="TEXT", help="Text to continue. Repeatable; none starts afresh.")
]
PromptsFileOption = Annotated[
    Path | None, typer.Option("--prompts-file", metavar="FILE", help="File of prompts, one a line.")
]
TokensOption = Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Most tokens to write per prompt.")]
GreedyOption = Annotated[bool, typer.Option("--greedy", help="Always take the likeliest token.")]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", "-t", min=0.0, help="Below 1 more certain, above 1 wilder.")
]
TopKOption = Annotated[int | None, typer.Option("--top-k", min=1, help="Draw from the K likeliest tokens only.")]
TopPOption = Annotated[
    float | None,
    typer.Option(
        "--top-p", metavar="SHARE", help="Draw from the likeliest that make up this share (above 0, at most 1)."
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]


def generate(
    model: ModelArgument = DEFAULT_CONFIG,
    prompt: PromptOption = [],  # noqa: B006 (typer copies it)
    prompts_file: PromptsFileOption = None,
    checkpoint: CheckpointOption = "latest",
    max_tokens: TokensOption = 100,
    greedy: GreedyOption = False,
    temperature: TemperatureOption = 1.0,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    base_dir: BaseDirOption = None,
    json: JsonOption = False,
) -> None:
    """Continue prompts with MODEL, written to the terminal as it comes; the same seed gives the same text."""
    from foundry_cli.libraries import load_libraries
    from foundry_cli.targets import find_model, read_model

    for text in prompt:
        _check_unicode(text)
    _check_sampling(temperature, top_p)
    prompts = [*prompt, *_read_prompts(prompts_file)] or [""]
    find_model(model, checkpoint, base_dir=base_dir)  # what is not there is said before PyTorch is loaded
    load_libraries()
    from foundry_model import generate_text

    folder, network, tokenizer, start_id = read_model(
        model, checkpoint, lambda found: _load(found, device), base_dir=base_dir
    )
    streams = len(prompts) == 1 and not json
    if streams:
        write(prompts[0])
    texts = generate_text(
        network,
        tokenizer,
        prompts,
        max_new_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        greedy=greedy,
        seed=seed,
        start_id=start_id,
        on_text=(lambda _, piece: write(piece)) if streams else None,
    )
    if json:
        rows = zip(prompts, texts, strict=True)
        say_json([{"prompt": asked, "text": text, "model": str(folder), "seed": seed} for asked, text in rows])
    elif streams:
        say()
    else:
        for asked, text in zip(prompts, texts, strict=True):
            say(f"{asked}{text}\n")


class _Loaded(NamedTuple):
    folder: Path
    network: Any
    tokenizer: Any
    start_id: int | None
    """The token that stood before every document in training."""


def _load(folder: Path, device: str) -> _Loaded:
    from foundry_data import load_tokenizer
    from foundry_model import load_pretrained
    from foundry_model.scoring_tokenizer import start_token
    from foundry_train.devices import get_device
    from foundry_train.evaluation_targets import find_models

    (found,), _ = find_models(folder)
    found.verify()
    tokenizer = load_tokenizer(folder)
    start_id = None if found.start is None else start_token(tokenizer, found.start)
    network = load_pretrained(folder, device=str(get_device(device, asked="--device"))).eval()
    return _Loaded(folder, network, tokenizer, start_id)


def _check_sampling(temperature: float, top_p: float | None) -> None:
    from foundry_config import ConfigError

    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"--temperature {temperature}: it must be 0 or a positive number")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"--top-p {top_p}: it must be a share above 0 and at most 1")


def _check_unicode(text: str) -> None:
    from foundry_config import ConfigError

    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"--prompt {text!r} is not valid UTF-8") from None


def _read_prompts(path: Path | None) -> list[str]:
    if path is None:
        return []
    from foundry_config import DataError

    try:
        text = path.read_text(encoding="utf-8-sig")  # newlines of Windows and old Macs are read as \n
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompts-file {path} cannot be read: {error}") from error
    if not text:
        raise DataError(f"--prompts-file {path} is empty; leave the option out to start afresh")
    return text.removesuffix("\n").split("\n")  # splitlines() would cut at form feeds and U+2028 too
