"""From an experiment's config to what an architecture function is given; loads neither torch nor transformers.

check_architecture(config)   what a named architecture would refuse, in a millisecond, before anything is built
"""

from foundry_config import names
from foundry_config.errors import ConfigError
from foundry_config.schema import ExperimentConfig
from foundry_model.architectures import ARCHITECTURES
from foundry_model.blueprints import ModelRequest, SpecialIds, heads_problems


def check_architecture(config: ExperimentConfig) -> None:
    """Refuse what the named architecture of a config cannot honour; others are left to `create_model`.

    Raises:
        ConfigError: As `create_model`, as far as that can be told without the families of transformers.
    """
    request = model_request(config)
    if (architecture := ARCHITECTURES.get(config.model.architecture)) is not None:
        architecture(request)


def is_as_published(config: ExperimentConfig) -> bool:
    """Whether a config names an architecture of ours and changes none of its constants: then it is known what it does.

    Whatever else is built, only a run over some tokens tells whether it is causal, or runs at all.
    """
    return config.model.architecture in ARCHITECTURES and not config.model.extra


def model_request(
    config: ExperimentConfig, *, vocab_size: int | None = None, special_ids: SpecialIds | None = None
) -> ModelRequest:
    """Collect what decides the shape of the model, and check what no architecture can do.

    Raises:
        ConfigError: Heads that do not divide, too few positions, no vocabulary, special ids that clash or lie outside
            of it.
    """
    if vocab_size is not None and vocab_size < 1:
        raise ConfigError(f"vocab_size: {vocab_size} entries; a vocabulary has one or more")
    model = config.model
    request = ModelRequest(
        model=model,
        vocab_size=config.tokenizer.vocab_size if vocab_size is None else vocab_size,
        positions=model.max_position_embeddings or config.data.max_sequence_length,
        special=special_ids or SpecialIds(),
    )
    problems = [*_shape_problems(config, request), *_id_problems(request)]
    if problems:
        raise ConfigError("\n".join(problems))
    return request


def _shape_problems(config: ExperimentConfig, request: ModelRequest) -> list[str]:
    model = request.model
    has_heads = model.architecture in ARCHITECTURES and model.architecture not in names.WITHOUT_ATTENTION
    problems = heads_problems(request) if has_heads else []
    if request.positions < config.data.max_sequence_length:
        problems.append(
            f"model.max_position_embeddings: {request.positions} is shorter than data.max_sequence_length"
            f" {config.data.max_sequence_length}; raise it or leave it out"
        )
    return problems


def _id_problems(request: ModelRequest) -> list[str]:
    """A padding id that doubles as another freezes that token's embedding at zero in half of the families."""
    special = request.special
    problems = [
        f"special ids: pad and {name} are both {special.pad}; the tokenizer needs a <pad> of its own"
        for name in ("bos", "eos")
        if special.pad is not None and special.pad == getattr(special, name)
    ]
    outside = {n: i for n in ("pad", "bos", "eos", "unk") if (i := getattr(special, n)) is not None}
    problems += [
        f"special ids: {name} is {value}, outside a vocabulary of {request.vocab_size}"
        for name, value in outside.items()
        if not 0 <= value < request.vocab_size
    ]
    return problems
