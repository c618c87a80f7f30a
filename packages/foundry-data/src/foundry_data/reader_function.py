"""A corpus that is a Python function of yours, named as `"module:function"`: called without arguments, it gives texts.

    data: {source_corpus: "my_corpus:sentences"}           def sentences():
                                                               yield "One small step."

The module is looked for beside the project's files too. What it gives can only be known by running it: the fingerprint
hashes all of it, so a function must give the same texts every time.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from foundry_config.errors import DataError, FoundryError
from foundry_data.documents import DocumentBlock, ReadReport, ReadSettings, escaped, is_unicode
from foundry_data.intake import Intake
from foundry_data.sources import SourceFile, SourcePart
from foundry_data.transform_function import find_function

SUFFIX = "module:function"
BLOCK_DOCUMENTS = 256
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


class FunctionFile(SourceFile, frozen=True):
    """The corpus seen as one file; `path` is the folder of the project, `name` the reference."""

    def digest(self) -> str:
        """SHA-256 over the texts, as 64 hexadecimal digits.

        Raises:
            DataError: The function failed.
        """
        digest = hashlib.sha256()
        for text in _texts(self):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.hexdigest()


def function_file(source: Path) -> FunctionFile | None:
    """Return the corpus that `folder/module:function` names, or None if it does not look like that.

    Raises:
        ConfigError: There is no such module or function, or it needs arguments.
    """
    if not REFERENCE.fullmatch(source.name):
        return None
    find_function(source.name, {}, source.parent, arguments=0)
    return FunctionFile(path=str(source.parent), name=source.name, suffix=SUFFIX)


def read_function(part: SourcePart, settings: ReadSettings, report: ReadReport) -> Iterator[DocumentBlock]:
    """Yield the texts of the function.

    Raises:
        DataError: The function failed or gave something else than texts; or a policy refuses one of them.
    """
    intake = Intake(part.file.label, settings, report)
    numbers: list[int] = []
    texts: list[str | None] = []
    for number, text in enumerate(_texts(part.file), 1):
        numbers.append(number)
        texts.append(_admit(text, number, intake))
        if len(texts) == BLOCK_DOCUMENTS:
            yield intake.block(numbers, texts)
            numbers, texts = [], []
    if texts:
        yield intake.block(numbers, texts)


def _admit(text: str, number: int, intake: Intake) -> str | None:
    data = text.encode("utf-8", "surrogatepass")
    intake.count(data)
    intake.require_size(data, number, "yield it in smaller pieces")
    return text if is_unicode(text) else intake.invalid(data, number, "half of a surrogate pair")


def _texts(file: SourceFile) -> Iterator[str]:
    function = find_function(file.name, {}, Path(file.path), arguments=0)
    try:
        for number, text in enumerate(function(), 1):
            if not isinstance(text, str):
                raise DataError(f"{file.label} gave {type(text).__name__} as number {number}; it must give texts")
            yield text
    except FoundryError:
        raise
    except (Exception, SystemExit) as error:  # a user's function may raise anything
        raise DataError(f"{file.label} failed: {type(error).__name__}: {escaped(str(error))}") from error
