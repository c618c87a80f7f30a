"""What the reference page says before and after its tables: layers, classes, lengths and schedules."""

INTRODUCTION = """\
# Configuration

*This page is made from the structs in `foundry_config.schema`; change the text there.*

An experiment is one file in YAML (by the core rules of YAML 1.2: `1e-4` is a number, `no` is text), TOML or JSON. A
first line `# yaml-language-server: $schema=docs/config.schema.json` gives editors completion and checks;
`foundry validate` names every problem with its line and column. `configs/template.yaml` holds every field with its
default.

- **Layers.** `include: base.yaml`, or a list, lays the file over others (later ones win, and the file itself over all).
  `FOUNDRY__TRAINING__LEARNING_RATE=3e-4` in the environment wins over files, and
  `--set training.learning_rate=3e-4` over everything. Values there are YAML too: lists `[1, 2]`, `null`.
- **Relative paths** count from the project root: the nearest parent of the config file that holds `.git` or
  `pyproject.toml`, else the file's own folder; or from `--base-dir`.
- **`module:function`** names a function of yours: of a module in the project root, or of an installed one. (A step of
  `dataset_manipulation` looks in the project root first, a model, optimizer, schedule or sink among what is installed.)
- **Class** says what a change of the field does to a run that exists. *identity*: it is another experiment, and resume
  refuses. *numeric*: other bits with the same meaning, and resume asks for `--allow-numeric-drift`. *free*: no
  influence on the result.
"""

SCHEDULES = """\
## How long a run is

A step is one update of the weights: `data.batch_size` times `training.gradient_accumulation_steps` sequences. An epoch
is as many steps as the training split needs, the last of them with fewer sequences (or left out with
`data.drop_last`). The run ends after `epochs`, or after `train_steps`, `train_tokens` or `train_words` (one of the
three), whichever comes first; `train_steps` that `epochs` do not reach are refused. Without any of them it is one
epoch. Tokens and words are reached by a whole step, and a share of an epoch or of the run (`epochs: 0.5`,
`warmup_ratio: 0.1`) is rounded up to a whole step.

## Checkpoint schedules

`training.checkpoint_schedule` is a list; its entries are joined, and the last step of the run always belongs to it.
`foundry plan` prints every checkpoint before anything is trained; those that words and epochs decide need the corpus.

| entry | checkpoints |
|---|---|
| `100` | after that step; `0` is the untrained model |
| `{every_steps: 100}` | 100, 200, 300 ... |
| `{every_tokens: 1e6}` | the first step at which each multiple has been seen |
| `{every_words: 1e6}` | the same; whole millions are labelled `chck_1M`, `chck_2M` ... |
| `{evenly: 20}` | 20 over the first epoch, step 0 and its end included; `{evenly: 1}` is its end alone |
| `{powers_of_two: 512}` | 0, 1, 2, 4 ... 512 |
| `{log: 2}` | within every later epoch at distances 1, 2, 4, 8 ..., and its end |
| `{linear: 50}` | within every later epoch at distance 50, and its end |
| `epochs` | the end of every epoch |
| `pythia` | 0, 1, 2, 4 ... 512, then every 1000 steps |
| `babylm-strict-small` | every 1M words to 10M, every 10M to 100M, labelled `chck_1M` ... `chck_100M` |
| `babylm-strict` | the same, then every 100M to 1000M |

`evenly`, `log` and `linear` take `min_interval` as the smallest distance: `{log: 2, min_interval: 10}`.
`auto_generate_checkpoints: true` is `{evenly: first_epoch_checkpoints}` joined with `log` or `linear`
(`subsequent_epochs_spacing`). With 333 steps per epoch and the defaults that is 0, 18, 35 ... 315, 333 in the first
epoch, and 334, 336, 340, 348, 364, 396, 460, 588, 666 in the second.
"""
