"""Configs of Model Foundry: validated structs, errors that teach, and the plan of a run as pure arithmetic."""

from typing import TYPE_CHECKING

from foundry_config.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FoundryError,
    MemoryExhaustedError,
    NonFiniteError,
    ResumeMismatchError,
    RunLockedError,
    StorageError,
    WorkerError,
)
from foundry_config.loading_later import later
from foundry_config.lookup import did_you_mean, import_attribute, pick
from foundry_config.problems import Problem
from foundry_config.schema import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    LoggingConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)

if TYPE_CHECKING:
    from foundry_config.canonical import FieldChange, canonical_json, config_digest, diff_configs, dump_config
    from foundry_config.checkpoint_schedule import Milestone
    from foundry_config.durations import parse_duration
    from foundry_config.editor_schema import json_schema
    from foundry_config.fields import field_classes, flatten
    from foundry_config.loading import config_from_dict, load_config, parse_config, replace_fields
    from foundry_config.logs import configure_logging, list_log_files
    from foundry_config.paths import ExperimentPaths, find_project_root
    from foundry_config.plan import CorpusCounts, TrainingPlan, plan_training
    from foundry_config.reference import reference_markdown, template_yaml, write_reference

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CorpusCounts",
    "DataConfig",
    "DataError",
    "EvaluationConfig",
    "ExperimentConfig",
    "ExperimentPaths",
    "FieldChange",
    "FoundryError",
    "LoggingConfig",
    "MemoryExhaustedError",
    "Milestone",
    "ModelConfig",
    "NonFiniteError",
    "Problem",
    "ResumeMismatchError",
    "RunLockedError",
    "StorageError",
    "TokenizerConfig",
    "TrainingConfig",
    "TrainingPlan",
    "WorkerError",
    "canonical_json",
    "config_digest",
    "config_from_dict",
    "configure_logging",
    "did_you_mean",
    "diff_configs",
    "dump_config",
    "field_classes",
    "find_project_root",
    "flatten",
    "import_attribute",
    "json_schema",
    "list_log_files",
    "load_config",
    "parse_config",
    "parse_duration",
    "pick",
    "plan_training",
    "reference_markdown",
    "replace_fields",
    "template_yaml",
    "write_reference",
]

# Loaded when they are first asked for: a program that only reads a config does not wait for the rest.
__getattr__, __dir__ = later(
    __name__,
    {
        "canonical": ("FieldChange", "canonical_json", "config_digest", "diff_configs", "dump_config"),
        "checkpoint_schedule": ("Milestone",),
        "durations": ("parse_duration",),
        "fields": ("field_classes", "flatten"),
        "editor_schema": ("json_schema",),
        "loading": ("config_from_dict", "load_config", "parse_config", "replace_fields"),
        "logs": ("configure_logging", "list_log_files"),
        "paths": ("ExperimentPaths", "find_project_root"),
        "plan": ("CorpusCounts", "TrainingPlan", "plan_training"),
        "reference": ("reference_markdown", "template_yaml", "write_reference"),
    },
)
