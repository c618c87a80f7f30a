"""From raw text to batches: readers, ablations, tokenizers, a memory-mapped token store, exact data order."""

from foundry_data.batches import BatchPlan
from foundry_data.chunking import chunk_stream
from foundry_data.documents import Document, ReadReport, ReadSettings
from foundry_data.fingerprint import fingerprint, source_fingerprint
from foundry_data.keyed_random import split_by_hash
from foundry_data.order import epoch_order
from foundry_data.packing import PACKINGS, Rows, packed_rows
from foundry_data.processor import DataProcessor, PreparedData
from foundry_data.readers import READERS, DocumentStream, list_sources, read_documents
from foundry_data.sentencepiece_training import TrainingSettings, train_tokenizer
from foundry_data.store import ChunkStore
from foundry_data.store_build import Part, build_store, build_store_from_ids, merge_stores
from foundry_data.tokenizer import Tokenizer
from foundry_data.tokenizer_export import write_hf_tokenizer
from foundry_data.tokenizer_loading import load_tokenizer
from foundry_data.transform_runner import run_manipulation
from foundry_data.transforms import TRANSFORMS, validate_steps
from foundry_data.words import count_words

__all__ = [
    "PACKINGS",
    "READERS",
    "TRANSFORMS",
    "BatchPlan",
    "ChunkStore",
    "DataProcessor",
    "Document",
    "DocumentStream",
    "Part",
    "PreparedData",
    "ReadReport",
    "ReadSettings",
    "Rows",
    "Tokenizer",
    "TrainingSettings",
    "build_store",
    "build_store_from_ids",
    "chunk_stream",
    "count_words",
    "epoch_order",
    "fingerprint",
    "list_sources",
    "load_tokenizer",
    "merge_stores",
    "packed_rows",
    "read_documents",
    "run_manipulation",
    "source_fingerprint",
    "split_by_hash",
    "train_tokenizer",
    "validate_steps",
    "write_hf_tokenizer",
]
