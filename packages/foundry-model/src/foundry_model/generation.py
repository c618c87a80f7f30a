"""Continue prompts with a model.

    "The cat" --encode--> ids --model, draw, append--> ids + new ones --decode--> " sat on the mat"

Every prompt has its own random generator, so a text depends on (seed, its place in the list) and nothing else: not on
the other prompts, not on PyTorch's global generator, which is never touched. Prompts of equal length share a batch, so
there is no padding and the result is right for every architecture. Where a model keeps a cache it is used; when a text
outgrows the positions of the model, the last of them are read again for every token.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foundry_config.errors import ConfigError
from foundry_model.context import longest_context
from foundry_model.loss import parameters_of_forward, unwrapped
from foundry_model.modes import evaluating
from foundry_model.out_of_memory import is_out_of_memory
from foundry_model.sampling import Sampling, draw_tokens

logger = logging.getLogger(__name__)


def generate_text(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    seed: int = 0,
    start_id: int | None = None,
    on_text: Callable[[int, str], None] | None = None,
) -> list[str]:
    """Return the continuation of each prompt, up to the end of the document.

    Args:
        model: Anything whose output has `.logits`; its modes and the global random state stay as they are.
        tokenizer: Has `encode`, `decode`, `bos_id` and `eos_id`.
        prompts: Texts to continue. An empty one starts from `start_id`, or else from BOS, or else from EOS.
        max_new_tokens: Longest continuation. [tokens]
        temperature: Divides the logits; 0 is `greedy`.
        top_k: Draw among this many most likely tokens.
        top_p: Draw among the most likely tokens that together reach this probability.
        greedy: Take the most likely token always.
        seed: Of the drawing; the same seed gives the same texts.
        start_id: Token put before every prompt: what stood before a document in training.
        on_text: Called with (place in the list, piece of text) as soon as a piece is known.

    Raises:
        ConfigError: A value outside its range, or an empty prompt and a tokenizer with neither BOS nor EOS.
        NonFiniteError: The model gives logits that are not numbers.
    """
    sampling = Sampling(0.0 if greedy else temperature, top_k, top_p)
    _check_wishes(model, prompts, max_new_tokens, start_id)
    starts = [_prompt_ids(tokenizer, prompt, start_id) for prompt in prompts]
    writers = [_Writer(tokenizer, ids) for ids in starts]
    for index, token in generate_ids(
        model, starts, max_new_tokens=max_new_tokens, stop_id=_special(tokenizer, "eos"), sampling=sampling, seed=seed
    ):
        piece = writers[index].add(token)
        if piece and on_text is not None:
            on_text(index, piece)
    for index, writer in enumerate(writers):
        rest = writer.finish()
        if rest and on_text is not None:
            on_text(index, rest)
    return [writer.text for writer in writers]


def generate_ids(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_id: int | None,
    sampling: Sampling,
    seed: int,
) -> Iterator[tuple[int, int]]:
    """Yield (place of the prompt, new token id) in the order in which tokens are made; the stop token is not yielded.

    Args:
        model: Anything whose output has `.logits`.
        prompts: Token ids, at least one each.
        max_new_tokens: Longest continuation. [tokens]
        stop_id: Token that ends a text.
        sampling: How tokens are drawn.
        seed: Of the drawing.
    """
    core = unwrapped(model)
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    batches = [group[i : i + _MOST_ROWS] for group in by_length.values() for i in range(0, len(group), _MOST_ROWS)]
    for places in batches:
        generators = [torch.Generator().manual_seed((int(seed) * 1_000_003 + place) % 2**63) for place in places]
        ids = torch.tensor([list(prompts[place]) for place in places], device=next(core.parameters()).device)
        yield from _continue_batch(core, ids, places, max_new_tokens, stop_id, sampling, generators)


def _continue_batch(
    model: Any,
    ids: Tensor,
    places: Sequence[int],
    max_new_tokens: int,
    stop_id: int | None,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
) -> Iterator[tuple[int, int]]:
    reader = _Reader(model)
    open_rows = set(range(len(places)))
    for _ in range(max_new_tokens):
        with evaluating(model):
            tokens = draw_tokens(reader.next_logits(ids), sampling, generators)  # [B]
        ids = torch.cat([ids, tokens[:, None]], dim=1)
        for row, token in enumerate(tokens.tolist()):
            if row not in open_rows:
                continue
            if token == stop_id:
                open_rows.discard(row)
            else:
                yield places[row], token
        if not open_rows:
            return


class _Reader:
    """Gives the logits after the last token; remembers the model's cache between calls."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.context = longest_context(model)
        self.names = parameters_of_forward(model)
        self.caches = "past_key_values" in self.names
        self.cache: Any = None
        self.cached = 0

    def next_logits(self, ids: Tensor) -> Tensor:
        """Logits of the token after `ids` [B, T], of which all but the last were given before. [B, V]"""
        if self.caches and (self.context is None or ids.shape[1] <= self.context):
            try:
                return self._with_cache(ids)
            except Exception as error:
                # a shallow hybrid may have no layer that its cache is made for; what else is wrong shows again below
                if self.cached or is_out_of_memory(error):
                    raise
                self.caches = False
                logger.info(
                    "%s cannot use its cache (%s: %s): every token is computed anew, which is slower",
                    *(type(self.model).__name__, type(error).__name__, error),
                )
        inputs: dict[str, Any] = {"use_cache": False} if "use_cache" in self.names else {}
        window = ids if self.context is None else ids[:, -self.context :]
        return self.model(input_ids=window, **inputs, **self._last_only()).logits[:, -1]

    def _with_cache(self, ids: Tensor) -> Tensor:
        fresh = ids[:, self.cached :]
        output = self.model(input_ids=fresh, past_key_values=self.cache, use_cache=True, **self._last_only())
        self.cache = getattr(output, "past_key_values", None)
        self.cached = ids.shape[1] if self.cache is not None else 0
        return output.logits[:, -1]

    def _last_only(self) -> dict[str, Any]:
        return {"logits_to_keep": 1} if "logits_to_keep" in self.names else {}


class _Writer:
    """Turns tokens into text, holding back what is not a whole character yet."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.ids = list(prompt)
        self.prompt = tokenizer.decode(self.ids)
        self.text = ""

    def add(self, token: int) -> str:
        """Take one more token; return the text that is now certain."""
        self.ids.append(token)
        return self._grow(self._decoded().rstrip("\ufffd"))

    def finish(self) -> str:
        """Return what was held back."""
        return self._grow(self._decoded())

    def _decoded(self) -> str:
        # decoding from the prompt on keeps the space before the first new word
        whole = self.tokenizer.decode(self.ids)
        return whole[len(self.prompt) :] if whole.startswith(self.prompt) else whole

    def _grow(self, text: str) -> str:
        if not text.startswith(self.text):
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece


def _check_wishes(model: nn.Module, prompts: Sequence[str], max_new_tokens: int, start_id: int | None) -> None:
    if isinstance(prompts, str):
        raise ConfigError(f"prompts: a list of texts is expected, not the one text {prompts!r:.60}")
    if max_new_tokens < 0:
        raise ConfigError(f"max_new_tokens: {max_new_tokens} is below 0")
    most = 2**63 - 1
    with contextlib.suppress(RuntimeError):  # how transformers says that the table has an unusual name
        most = getattr(getattr(unwrapped(model), "get_input_embeddings", lambda: None)(), "num_embeddings", most)
    if start_id is not None and not 0 <= start_id < most:
        raise ConfigError(f"start_id: {start_id} is no token of this model, whose ids are 0 to {most - 1}")


def _prompt_ids(tokenizer: Any, prompt: str, start_id: int | None) -> list[int]:
    ids = [int(token) for token in tokenizer.encode(prompt, add_special_tokens=False)] if prompt else []
    if start_id is not None:
        return [start_id, *ids]
    if ids:
        return ids
    first = _special(tokenizer, "bos")
    first = _special(tokenizer, "eos") if first is None else first
    if first is None:
        raise ConfigError("an empty prompt needs a token to start from, and the tokenizer has neither BOS nor EOS")
    return [first]


def _special(tokenizer: Any, name: str) -> int | None:
    """Id of a special token, under our name for it or that of transformers."""
    return getattr(tokenizer, f"{name}_id", getattr(tokenizer, f"{name}_token_id", None))


_MOST_ROWS = 64  # the cache of a batch is what a long file of prompts would fill the memory with
