"""Cut a text that is longer than the model's context into windows, so that every token is scored exactly once.

    tokens   0 1 2 3 4 5 6 7 8 9            window 6, stride 2
             [0 1 2 3 4 5]                  scores 1 to 5
                 [2 3 4 5 6 7]              scores 6 and 7, each given at least window - stride = 4 tokens
                     [4 5 6 7 8 9]          scores 8 and 9

A small stride gives every token more context and costs more: the model reads window / stride times the text.
"""

from foundry_config.errors import ConfigError
from foundry_model.prefix_trie import Span

LONGEST_WINDOW = 4096  # where neither the model nor the user says


class Windowing:
    """A window and its stride, checked against the model's context.

    Attributes:
        window: Tokens that the model sees at once, those that it predicts included. [tokens]
        stride: Tokens that each further window scores. [tokens]
    """

    def __init__(self, context: int | None, *, window: int | None = None, stride: int | None = None) -> None:
        """Fill in the defaults: the model's context, and half of the window.

        Raises:
            ConfigError: The window is longer than the context, or the stride not inside the window.
        """
        self.window = window or context or LONGEST_WINDOW
        if self.window < 2 or (context is not None and self.window > context):
            raise ConfigError(f"window {self.window}: must be from 2 to the model's context, {context} tokens")
        self.stride = stride or max(1, self.window // 2)
        if not 1 <= self.stride < self.window:
            raise ConfigError(f"stride {self.stride}: must be from 1 to {self.window - 1}, below the window")

    def spans(self, tokens: tuple[int, ...]) -> list[Span]:
        """Return the windows of a text; its first token is context only, every other one is scored once."""
        spans = [Span(tokens[: self.window], 1)]
        done = self.window
        while done < len(tokens):
            end = min(done + self.stride, len(tokens))
            begin = max(0, end - self.window)
            spans.append(Span(tokens[begin:end], done - begin))
            done = end
        return spans
