"""Small models and a tokenizer whose every number can be worked out by hand."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from foundry_config import DataConfig, ExperimentConfig, ModelConfig, TokenizerConfig, TrainingConfig


class ToyTokenizer:
    """Longest match over a short list of pieces, with a space put before every text, as SentencePiece does.

    ids: 0 pad, 1 unknown, 2 BOS, 3 EOS, then the pieces.
    """

    pad_id, unk_id, bos_id, eos_id = 0, 1, 2, 3

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = list(pieces)
        self.vocab_size = 4 + len(self.pieces)
        self._by_length = sorted(range(len(self.pieces)), key=lambda i: -len(self.pieces[i]))

    def encode(self, text: str) -> list[int]:
        text, ids = f" {text}" if text else "", []
        while text:
            match = next((i for i in self._by_length if text.startswith(self.pieces[i])), None)
            ids.append(self.unk_id if match is None else 4 + match)
            text = text[1 if match is None else len(self.pieces[match]) :]
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def token_surfaces(self) -> list[bytes | None]:
        return [None] * 4 + [piece.encode() for piece in self.pieces]


class Bigram(nn.Module):
    """The next token depends on the last one only: `probabilities` [V, V], rows add up to 1."""

    def __init__(self, probabilities: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(probabilities.log())

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


class TinyAttention(nn.Module):
    """One causal attention layer over tokens and positions, called and split like a model of transformers."""

    def __init__(self, vocab_size: int, width: int = 8, context: int = 512) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=context)
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width)
        self.mixed = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, vocab_size)
        self.dropout = nn.Dropout(0.5)
        self.read_tokens = 0

    @property
    def base_model(self) -> Callable[..., tuple[Tensor]]:
        return self.body

    def get_input_embeddings(self) -> nn.Module:
        return self.tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def body(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
    ) -> tuple[Tensor]:
        length = input_ids.shape[1]
        self.read_tokens += input_ids.numel()
        positions = torch.arange(length) if position_ids is None else position_ids
        x = self.dropout(self.tokens(input_ids) + self.positions(positions))
        q, k, v = self.mixed(x).chunk(3, dim=-1)
        scores = q @ k.transpose(1, 2)
        if attention_mask is None:
            scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), float("-inf"))
        else:
            scores = scores + attention_mask[:, 0]
        return (x + scores.softmax(-1) @ v,)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
    ) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.body(input_ids, attention_mask, position_ids)[0]))


class TinyRecurrent(nn.Module):
    """A GRU: reads neither masks nor positions, and keeps its logits to itself."""

    def __init__(self, vocab_size: int, width: int = 8) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.cell = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, vocab_size)

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.out(self.cell(self.tokens(input_ids))[0]))


@pytest.fixture
def toy_tokenizer() -> type[ToyTokenizer]:
    return ToyTokenizer


@pytest.fixture
def bigram() -> type[Bigram]:
    return Bigram


@pytest.fixture
def probabilities() -> Callable[[int, dict[tuple[int, int], float]], Tensor]:
    """Makes a table with some given entries; what they leave of a row is spread evenly over the rest of it."""

    def make(size: int, given: dict[tuple[int, int], float]) -> Tensor:
        table = torch.zeros(size, size)
        for row in range(size):
            fixed = {column: p for (r, column), p in given.items() if r == row}
            table[row] = (1 - sum(fixed.values())) / (size - len(fixed))
            for column, p in fixed.items():
                table[row, column] = p
        return table

    return make


@pytest.fixture(params=[TinyAttention, TinyRecurrent], ids=["attention", "recurrent"])
def tiny_model(request: pytest.FixtureRequest) -> Callable[[int], nn.Module]:
    """Makes a random model over a vocabulary; large logits, so that errors show."""

    def make(vocab_size: int) -> nn.Module:
        torch.manual_seed(0)
        model = request.param(vocab_size)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.0)
        return model

    return make


@pytest.fixture
def tiny_attention() -> type[TinyAttention]:
    return TinyAttention


@pytest.fixture
def tiny_config() -> Callable[..., ExperimentConfig]:
    """Makes a small experiment; keyword arguments are fields of `model`, or of the section they are prefixed with."""

    def make(
        *,
        precision: str = "fp32",
        bf16_params: bool = False,
        batch_size: int = 2,
        length: int = 32,
        vocab: int = 1000,
        document_mask: bool = False,
        **model: object,
    ) -> ExperimentConfig:
        fields = {"layers": 2, "embedding_size": 64, "hidden_size": 64, "intermediate_hidden_size": 128} | model
        return ExperimentConfig(
            experiment_name="tiny",
            data=DataConfig(
                source_corpus="corpus", batch_size=batch_size, max_sequence_length=length, document_mask=document_mask
            ),
            tokenizer=TokenizerConfig(vocab_size=vocab),
            model=ModelConfig(**({"attention_heads": 2} | fields)),
            training=TrainingConfig(output_dir="run", learning_rate=1e-3, precision=precision, bf16_params=bf16_params),
        )

    return make
