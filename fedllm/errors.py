"""One family of errors a person can act on.

A message has three parts: what was found (with the value), what was expected, what to do, naming
the file and the setting. The command line prints it as one line and exits with code 2; any other
exception is a bug and keeps its traceback.
"""


def one_line(text: str) -> str:
    """A text on one line, with what a terminal would obey spelt out."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


class FedLLMError(Exception):
    """Something the person running fedllm can mend."""

    @property
    def line(self) -> str:
        """The message on one line, fit for a terminal whatever names it quotes."""
        return one_line(str(self))


class ConfigError(FedLLMError):
    """A recipe or an override is wrong."""


class DataError(FedLLMError):
    """A data file, a shard or a sample is wrong."""


class AdapterError(FedLLMError):
    """An adapter is damaged, incomplete or does not fit."""


class ModelError(FedLLMError):
    """A base model or its tokenizer cannot be loaded or used."""


class RetrievalError(FedLLMError):
    """An encoder, an index or centroids do not fit together."""


class EngineError(FedLLMError):
    """A round cannot be run, closed or resumed."""


class MissingExtraError(FedLLMError):
    """An optional part is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra [{extra}]; install it: pip install 'fedllm[{extra}]'"
        )
