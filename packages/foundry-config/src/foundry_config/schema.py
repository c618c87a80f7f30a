"""Every field of an experiment: type, range, meaning, and what a change of it does to a run that exists.

The sections follow the way of the data: `data` and `dataset_manipulation` (text to token store), `tokenizer`, `model`,
`training`, `evaluation`, `logging`. A unit stands in brackets at the end of a field's text. Relative paths count from
the project root.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from foundry_config import rules
from foundry_config.base import (
    BelowOne,
    Config,
    Fraction,
    Free,
    Identity,
    NonNegative,
    NonNegativeFloat,
    Numeric,
    Positive,
    PositiveFloat,
    Text,
)

# `$` alone would let a line break at the end pass
Duration = Annotated[
    str,
    Meta(
        pattern=r"^(?:[0-9]+(?:\.[0-9]+)?[smhd])+$(?!\n)", max_length=64, description="a time such as `90s` or `3h50m`"
    ),
]
SafeName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)",
        max_length=128,
        description="a name of at most 128 letters, digits, `.`, `_` and `-` that starts with a letter or digit",
    ),
]
PathText = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f\x7f]+$(?!\n)",
        max_length=4096,
        description="a path of at most 4096 characters without control characters",
    ),
]
Device = Annotated[
    str,
    Meta(pattern=r"^(?:auto|cpu|cuda(?::[0-9]{1,4})?|mps)$(?!\n)", description="auto, cpu, cuda, cuda:<index>, or mps"),
]
Layers = Annotated[int, Meta(ge=1, le=10_000)]
Width = Annotated[int, Meta(ge=1, le=2**24)]
SmallFloat = Annotated[float, Meta(gt=0, le=1)]


class DataConfig(Config, frozen=True, kw_only=True):
    """Where the text comes from and how it becomes batches."""

    RULES = rules.DATA_RULES

    source_corpus: Free[PathText]
    """Raw text: a file, folder or glob (.txt, .jsonl, .parquet, .gz, .zst, a saved `datasets`), or
    `builtin:python-docs`. Its content, not its path, is part of the experiment."""
    training_corpus: Free[PathText | None] = None
    """Folder that receives the prepared stages (token stores, receipts), each named by its fingerprint; or a dataset
    saved by `datasets` with a column `input_ids`. Default: `data/prepared`."""
    test_corpus: Free[PathText | None] = None
    """Raw text of the held-out split. Default: a share of the documents of `source_corpus`, see `test_fraction`."""
    test_fraction: Identity[BelowOne] = 0.05
    """Share of documents, chosen by hash, that is held out when `test_corpus` is not given; 0 holds out nothing."""
    batch_size: Identity[Positive]
    """Sequences per accumulation step, over all ranks together. [sequences]"""
    max_sequence_length: Identity[Annotated[int, Meta(ge=2, le=2**24)]]
    """Length of a training sequence (chunk). [tokens]"""
    text_documents: Identity[Literal["file", "line", "paragraph"]] = "file"
    """What one document of a .txt file is: the file, a line, or a paragraph between blank lines."""
    text_field: Identity[Text] = "text"
    """Field or column of .jsonl, .parquet and `datasets` that holds the text."""
    encoding_errors: Identity[Literal["refuse", "skip", "replace"]] = "refuse"
    """What to do with a document that is not valid UTF-8: stop, leave it out, or replace the bad bytes by U+FFFD."""
    empty_documents: Identity[Literal["skip", "refuse"]] = "skip"
    """What to do with a document that has no text; skipped ones are counted."""
    duplicate_files: Identity[Literal["skip", "keep", "refuse"]] = "skip"
    """What to do with a file whose bytes equal those of an earlier one; skipped ones are counted."""
    replacement_corpus: Free[PathText | None] = None
    """Pool of raw text from which an ablated corpus is topped up to the number of words it had before; refused without
    steps in `dataset_manipulation`. How it is drawn from: docs/ablations.md."""
    add_bos: Identity[bool] = False
    """Put a BOS token before every document."""
    add_eos: Identity[bool] = True
    """Put an EOS token after every document."""
    packing: Identity[Literal["concat", "best_fit", "document"]] = "concat"
    """How documents fill sequences: end to end; whole where they fit; or one per sequence, padded."""
    document_mask: Identity[bool] = False
    """Stop attention from crossing document borders; refused where the architecture would leak."""
    shuffle: Identity[bool] = True
    """Visit the sequences of an epoch in an order keyed by (random_seed, epoch); else in corpus order."""
    drop_last: Identity[bool] = False
    """Leave out the last, short global batch of an epoch instead of training on it."""
    num_workers: Free[NonNegative] = 0
    """Processes that read, transform and tokenize; 0 means one per core. The result is the same for any number.
    [processes]"""
    shard_tokens: Free[Positive] = 2**28
    """Tokens per file of the token store. [tokens]"""
    prefetch_batches: Free[NonNegative] = 4
    """Global batches made ready in advance by a thread; 0 makes them in the training thread. [batches]"""


class TokenizerConfig(Config, frozen=True, kw_only=True):
    """The tokenizer: trained with SentencePiece on the training split, or loaded."""

    RULES = rules.TOKENIZER_RULES

    output_dir: Free[PathText | None] = None
    """Folder of the finished tokenizer. Default: a folder named by its fingerprint beside the token stores."""
    vocab_size: Identity[Annotated[int, Meta(ge=8, le=2**31 - 1)]]
    """Number of entries, special tokens included. [tokens]"""
    source: Free[PathText | None] = None
    """Existing SentencePiece model file or Hugging Face tokenizer folder to use instead of training one."""
    model_type: Identity[Literal["unigram", "bpe", "char"]] = "unigram"
    """SentencePiece algorithm."""
    normalization: Identity[Literal["identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"]] = "identity"
    """Unicode normalization; only `identity` is lossless."""
    byte_fallback: Identity[bool] = True
    """Spell characters outside the vocabulary as bytes, so that nothing is unknown."""
    character_coverage: Identity[Annotated[float, Meta(ge=0.98, le=1)]] = 0.9995
    """Share of the characters of the corpus that the vocabulary covers; SentencePiece takes no less than 0.98."""
    split_digits: Identity[bool] = False
    """Make every digit a piece of its own."""
    add_dummy_prefix: Identity[bool] = True
    """Treat the start of a text like the start of a word."""
    remove_extra_whitespaces: Identity[bool] = False
    """Collapse runs of spaces; loses the original spacing."""
    whitespace_pieces: Identity[bool] = False
    """Allow pieces made only of whitespace, and make the line break a piece: shorter sequences for code and tables."""
    user_defined_symbols: Identity[tuple[Text, ...]] = ()
    """Strings that are always one piece."""
    max_training_sentences: Identity[NonNegative] = 0
    """Lines that the training looks at, sampled by `random_seed`; 0 means all. [lines]"""
    num_threads: Identity[Positive] = 1
    """Threads of SentencePiece's training; unigram models differ with it. [threads]"""


class ModelConfig(Config, frozen=True, kw_only=True):
    """The model, in words that mean the same in every architecture."""

    RULES = rules.MODEL_RULES

    architecture: Identity[Text] = "gpt2"
    """A named architecture (gpt2, gpt_neox or pythia, opt, llama, mistral, qwen3, olmo2, gemma3, smollm3, mamba,
    mamba2, rwkv), `hf:<model_type>` for any other of transformers, or `module:function`."""
    layers: Identity[Layers]
    """Number of blocks (L)."""
    embedding_size: Identity[Width]
    """Width of the token embedding; equals `hidden_size` unless the architecture separates them. [units]"""
    hidden_size: Identity[Width]
    """Width of the residual stream (D). [units]"""
    intermediate_hidden_size: Identity[Width]
    """Width of the feed-forward layer. [units]"""
    attention_heads: Identity[Width]
    """Number of query heads (H); ignored by architectures without attention. [heads]"""
    activation_function: Identity[Text] = "gelu"
    """Activation of the feed-forward layer; any spelling of a known name."""
    dropout: Identity[BelowOne] = 0.0
    """Dropout on embeddings and residual branches, wherever the architecture has them. [probability]"""
    attention_dropout: Identity[BelowOne] = 0.0
    """Dropout on attention weights. [probability]"""
    key_value_heads: Identity[Width | None] = None
    """Number of key/value heads (grouped-query attention). Default: `attention_heads`. [heads]"""
    head_dim: Identity[Width | None] = None
    """Width of one head. Default: `hidden_size / attention_heads`. [units]"""
    max_position_embeddings: Identity[Width | None] = None
    """Longest sequence the model is built for. Default: `data.max_sequence_length`. [tokens]"""
    rope_theta: Identity[PositiveFloat] = 10000.0
    """Base of the rotary position embedding, where there is one."""
    norm_epsilon: Identity[SmallFloat] = 1e-5
    """Epsilon of every normalization layer."""
    tie_embeddings: Identity[bool] = True
    """Use the token embedding as the output projection."""
    bias: Identity[bool | None] = None
    """Biases in linear layers, where the architecture leaves the choice. Default: as the architecture was published."""
    state_size: Identity[Width | None] = None
    """Size of the recurrent state (mamba, mamba2). Default: as the architecture was published. [units]"""
    init: Identity[Literal["hf", "gpt2-scaled", "mup-like"]] = "hf"
    """Initialization: as transformers does; residual projections scaled by 1/sqrt(2L); or widths scaled as in muP."""
    init_std: Identity[SmallFloat] = 0.02
    """Standard deviation of the initial weights."""
    attention: Numeric[Literal["auto", "eager", "sdpa", "flex", "flash_attention_2", "flash_attention_3"]] = "auto"
    """Attention implementation; `auto` takes the best that works and says which."""
    use_flash_attention: Numeric[bool] = False
    """Ask for FlashAttention 2 and fall back to `auto`, with a warning, where it does not work."""
    extra: Identity[dict[str, Any]] = {}  # noqa: RUF012 (msgspec copies it)
    """Further fields of the architecture's own transformers config; unknown ones are refused."""


class TrainingConfig(Config, frozen=True, kw_only=True):
    """The run: how long, how the weights are updated, what is saved."""

    RULES = rules.TRAINING_RULES

    output_dir: Free[PathText]
    """Run directory."""
    learning_rate: Identity[Annotated[float, Meta(gt=0, le=1000)]]
    """Peak learning rate."""
    epochs: Identity[Annotated[float, Meta(gt=0, le=1e6)] | None] = None
    """Passes over the training data; the run ends at the first limit among `epochs` and the `train_*` fields. Default:
    1 when none of them is given. [epochs]"""
    train_steps: Identity[Positive | None] = None
    """Optimizer updates; must fit into `epochs` when both are given. [steps]"""
    train_tokens: Identity[Positive | None] = None
    """Tokens to train on, rounded up to a whole step. [tokens]"""
    train_words: Identity[Positive | None] = None
    """Whitespace-separated words to train on, rounded up to a whole step. [words]"""
    warmup_steps: Identity[NonNegative | None] = None
    """Steps over which the learning rate rises from 0 to its peak. Default: `warmup_ratio` of the run. [steps]"""
    warmup_ratio: Identity[Fraction | None] = None
    """Share of the run that warms up, instead of `warmup_steps`; 0 when neither is given."""
    gradient_accumulation_steps: Identity[Positive] = 1
    """Batches of `data.batch_size` that make one update; their product is the global batch. [batches]"""
    micro_batch_size: Numeric[Positive | Literal["auto"] | None] = None
    """Sequences per forward pass and rank: a matter of memory only. Default: `data.batch_size` over the ranks. `auto`
    finds the largest that fits. [sequences]"""
    optimizer: Identity[Text] = "adamw"
    """adamw, muon, sgd, adafactor, or `module:function`. PyTorch's adafactor never takes a rate above one over the
    square root of the step, whatever the schedule gives, and takes it relative to the size of the weights."""
    adam_beta1: Identity[BelowOne] = 0.9
    """Decay of the first moment; momentum of sgd and muon. Adafactor has none."""
    adam_beta2: Identity[BelowOne] = 0.999
    """Decay of the second moment (adamw, and what muon leaves to it)."""
    adam_epsilon: Identity[SmallFloat] = 1e-8
    """Added to the denominator (adamw, and what muon leaves to it)."""
    weight_decay: Identity[NonNegativeFloat] = 0.0
    """Weight decay, on matrices only (not on biases, norms, embeddings of one dimension): decoupled from the gradient
    for adamw, muon and adafactor, added to it for sgd."""
    max_grad_norm: Identity[NonNegativeFloat | None] = 1.0
    """Clip the gradient to this global norm; null or 0 clips nothing."""
    lr_schedule: Identity[Text] = "linear"
    """linear, cosine, wsd (warmup-stable-decay), constant, inverse_sqrt, polynomial, or `module:function`."""
    min_lr_ratio: Identity[Fraction] = 0.0
    """Floor of the learning rate, as a share of the peak."""
    decay_ratio: Identity[Fraction] = 0.2
    """Share of the run that decays at the end (wsd)."""
    lr_power: Identity[PositiveFloat] = 1.0
    """Exponent of the polynomial schedule."""
    precision: Numeric[Literal["fp32", "tf32", "bf16", "fp16"]] = "fp32"
    """Arithmetic of the forward and backward pass; weights and optimizer stay fp32."""
    bf16_params: Numeric[bool] = False
    """With `precision: bf16`: compute with a copy of the weights in bf16 instead of casting them in every pass. What
    stands between the layers is bf16 too: less memory, less exact. Optimizer and checkpoints keep fp32 weights."""
    compile: Numeric[Literal["off", "auto", "on"]] = "off"
    """torch.compile; `auto` compiles on CUDA when the run is long enough to repay it."""
    chunked_loss: Numeric[Literal["off", "auto", "on"]] = "auto"
    """Cross-entropy that never holds all logits; `auto`: for large vocabularies, where the architecture allows it."""
    gradient_checkpointing: Numeric[bool] = False
    """Recompute activations in the backward pass: less memory, more time."""
    liger_kernels: Numeric[bool] = False
    """Use the kernels of the optional extra `liger` (CUDA)."""
    deterministic: Numeric[bool] = False
    """Only deterministic algorithms of PyTorch; on CUDA they alone make sure that a resumed run has the same bits."""
    device: Numeric[Device] = "auto"
    """Where to train; `auto` takes an accelerator if there is one."""
    threads: Numeric[NonNegative] = 0
    """CPU threads of PyTorch; 0 leaves its own choice. [threads]"""
    on_nonfinite: Identity[Literal["stop", "skip"]] = "stop"
    """What to do when a loss or gradient is NaN or infinite: stop, or leave that update out."""
    max_nonfinite_skips: Identity[NonNegative] = 10
    """Updates that may be left out before the run stops. [steps]"""
    stop_after: Free[Duration | None] = None
    """Save and stop after this time, e.g. `3h50m`; run again to go on."""
    resume_from_checkpoint: Free[bool] = False
    """Refuse to start from scratch, as `--resume must` does. Without it a run goes on where it stopped, if it did."""
    auto_generate_checkpoints: Free[bool] = False
    """Make a checkpoint schedule from the five fields below; `checkpoint_schedule` is joined to it."""
    first_epoch_checkpoints: Free[Positive] = 20
    """Checkpoints spread evenly over the first epoch, step 0 and its end included. [checkpoints]"""
    subsequent_epochs_spacing: Free[Literal["linear", "log"]] = "log"
    """Spacing within the later epochs."""
    log_base: Free[Annotated[float, Meta(gt=1, le=1e6)]] = 2.0
    """Growth of the distance between checkpoints with `log` spacing."""
    linear_interval: Free[Positive | None] = None
    """Distance between checkpoints with `linear` spacing. Default: as in the first epoch. [steps]"""
    min_checkpoint_interval: Free[Positive] = 1
    """Smallest distance between two checkpoints of the automatic schedule. [steps]"""
    checkpoint_schedule: Free[tuple[NonNegative | Text | dict[str, Any], ...] | None] = None
    """Milestones, joined: steps (`100`); presets (`pythia`, `babylm-strict-small`, `babylm-strict`, `epochs`);
    `{every_steps: N}`, `{every_tokens: N}`, `{every_words: N}`, `{powers_of_two: LAST}`; `{evenly: N}` over the first
    epoch; `{linear: DISTANCE}`, `{log: BASE}` within later ones. The last step is always one."""
    milestones: Free[Literal["weights", "full"]] = "weights"
    """What a scheduled checkpoint holds: the model, or the model with all that a resume or fork needs."""
    save_every_steps: Free[Positive | None] = None
    """Distance between rolling full checkpoints, kept for safety. [steps]"""
    save_every_minutes: Free[PositiveFloat | None] = 15.0
    """Time between rolling full checkpoints. [minutes]"""
    keep_checkpoints: Free[Annotated[int, Meta(ge=2, le=10**6)]] = 2
    """Newest rolling checkpoints that are kept. [checkpoints]"""
    async_save: Free[bool] = True
    """Write checkpoints in a thread while training goes on."""
    verify_after_write: Free[bool] = False
    """Read every checkpoint back from the disk before it counts as saved."""


class EvaluationConfig(Config, frozen=True, kw_only=True):
    """What is measured on the held-out split and on minimal pairs while training runs; never changes a training bit."""

    every_steps: Free[Positive | None] = None
    """Distance between evaluations. Default: only before the first and after the last step. [steps]"""
    at_checkpoints: Free[bool] = False
    """Evaluate at every scheduled checkpoint too."""
    max_sequences: Free[Positive] = 256
    """Held-out sequences that one evaluation reads. [sequences]"""
    batch_size: Free[Positive | None] = None
    """Sequences per forward pass of an evaluation. Default: the micro-batch. [sequences]"""
    minimal_pairs: Free[tuple[PathText, ...]] = ()
    """Files or folders of minimal pairs to score."""
    sample_prompts: Free[tuple[str, ...]] = ("",)
    """Prompts of the text samples; an empty one starts from BOS."""
    sample_tokens: Free[NonNegative] = 60
    """Length of a text sample; 0 writes none. [tokens]"""
    sample_every_steps: Free[Positive | None] = None
    """Distance between text samples. Default: only after the last step. [steps]"""


class LoggingConfig(Config, frozen=True, kw_only=True):
    """What is said and written while a run goes on."""

    RULES = rules.LOGGING_RULES

    level: Free[Literal["DEBUG", "INFO", "WARNING", "ERROR"]] = "INFO"
    """Least severe message that is shown."""
    dir: Free[PathText | None] = None
    """Folder of the log files. Default: `logs` in the run directory."""
    log_every_steps: Free[Positive] = 10
    """Distance between lines on a console that is no terminal; metrics.jsonl always has every step. [steps]"""
    use_wandb: Free[bool] = False
    """Mirror the metrics to Weights & Biases (extra `wandb`)."""
    wandb_project: Free[Text | None] = None
    """Project at Weights & Biases. Default: the experiment's name."""
    wandb_mode: Free[Literal["offline", "online"]] = "offline"
    """Whether W&B writes local files only or sends them."""
    use_tensorboard: Free[bool] = False
    """Mirror the metrics to TensorBoard event files (extra `tensorboard`)."""
    sinks: Free[tuple[Text, ...]] = ()
    """Further sinks, as `module:function`."""


class ExperimentConfig(Config, frozen=True, kw_only=True):
    """One experiment: the whole of a config file."""

    RULES = rules.EXPERIMENT_RULES

    experiment_name: Free[SafeName]
    """Name of the experiment, for people and for file names."""
    data: DataConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()
    random_seed: Identity[Annotated[int, Meta(ge=0, le=2**63 - 1)]] = 42
    """Seed of initialization, dropout, data order, ablations and samples."""
    dataset_manipulation: Identity[tuple[str | dict[str, Any], ...]] = ()
    """Steps applied to the training documents, in order: a name (`lowercase`), `{name: ..., option: value}`,
    `module:function`, or `{command: [program, argument]}`. All steps and options: docs/ablations.md."""
    matrix: Free[dict[str, list[Any]]] = {}  # noqa: RUF012 (msgspec copies it)
    """Fields by dotted name and the values they take, for `foundry train --matrix`: one run for every combination. A
    value of `dataset_manipulation` may be `none`, one step, a list of steps, or `{condition: [step, ...]}`."""
