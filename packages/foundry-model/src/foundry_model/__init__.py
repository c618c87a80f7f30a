"""Causal language models: built from scratch, costed, trained on an exact loss, saved and loaded safely."""

from typing import TYPE_CHECKING

from foundry_config.loading_later import later

if TYPE_CHECKING:
    from foundry_model.architectures import ARCHITECTURES
    from foundry_model.attention import resolve_attention
    from foundry_model.blueprints import Blueprint, ModelRequest, SpecialIds, require
    from foundry_model.cost import ParameterCounts, count_parameters, flops_per_token
    from foundry_model.factory import create_model
    from foundry_model.generation import generate_text
    from foundry_model.hub_folder import load_pretrained
    from foundry_model.loss import TokenLoss, isolates_documents, supports_chunked_loss, token_loss
    from foundry_model.memory import MemoryEstimate, estimate_memory
    from foundry_model.model_request import check_architecture
    from foundry_model.pretrained import config_files, load_weights_into, model_state
    from foundry_model.safetensors_header import read_safetensors_header, read_safetensors_metadata

__all__ = [
    "ARCHITECTURES",
    "Blueprint",
    "MemoryEstimate",
    "ModelRequest",
    "ParameterCounts",
    "SpecialIds",
    "TokenLoss",
    "check_architecture",
    "config_files",
    "count_parameters",
    "create_model",
    "estimate_memory",
    "flops_per_token",
    "generate_text",
    "isolates_documents",
    "load_pretrained",
    "load_weights_into",
    "model_state",
    "read_safetensors_header",
    "read_safetensors_metadata",
    "require",
    "resolve_attention",
    "supports_chunked_loss",
    "token_loss",
]

# Loaded when they are first asked for: most of them need torch, and what only looks at a config does not wait for it.
__getattr__, __dir__ = later(
    __name__,
    {
        "architectures": ("ARCHITECTURES",),
        "attention": ("resolve_attention",),
        "blueprints": ("Blueprint", "ModelRequest", "SpecialIds", "require"),
        "cost": ("ParameterCounts", "count_parameters", "flops_per_token"),
        "factory": ("create_model",),
        "generation": ("generate_text",),
        "hub_folder": ("load_pretrained",),
        "loss": ("TokenLoss", "isolates_documents", "supports_chunked_loss", "token_loss"),
        "memory": ("MemoryEstimate", "estimate_memory"),
        "model_request": ("check_architecture",),
        "pretrained": ("config_files", "load_weights_into", "model_state"),
        "safetensors_header": ("read_safetensors_header", "read_safetensors_metadata"),
    },
)
