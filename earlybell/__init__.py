"""Earlybell: sentiment signals from financial news.

Score texts, read the topics, look back without seeing the future:

    import earlybell

    engine = earlybell.open_engine()                  # the shipped model on this machine's CPU
    predictions = engine.score(["Acme raises its full-year outlook"])
    signal = earlybell.decode_signal(message.value)   # a message of the sentiment topic
    with earlybell.open_snapshot("postgresql://localhost/earlybell") as connection:
        known = earlybell.signals_as_of(connection, datetime(2026, 1, 5, 10, tzinfo=UTC), symbol="MFR")

These names are the public interface; modules below `earlybell` may move. Each name is imported on first use, so
that `import earlybell` costs nothing and a consumer of signals never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earlybell.errors import UserError
    from earlybell.inference.engine import Engine, open_engine
    from earlybell.inference.predictions import ModelDescription, Predictions
    from earlybell.storage.asof import signals_as_of, symbol_bars, symbol_sentiment_as_of
    from earlybell.storage.connection import open_snapshot
    from earlybell.streams.records import BadNews, NewsItem, SentimentSignal, decode_news, decode_signal, encode

    __version__: str

__all__ = [
    "BadNews",
    "Engine",
    "ModelDescription",
    "NewsItem",
    "Predictions",
    "SentimentSignal",
    "UserError",
    "__version__",
    "decode_news",
    "decode_signal",
    "encode",
    "open_engine",
    "open_snapshot",
    "signals_as_of",
    "symbol_bars",
    "symbol_sentiment_as_of",
]

_MODULES = {
    "earlybell.errors": ("UserError",),
    "earlybell.inference.engine": ("Engine", "open_engine"),
    "earlybell.inference.predictions": ("ModelDescription", "Predictions"),
    "earlybell.storage.asof": ("signals_as_of", "symbol_bars", "symbol_sentiment_as_of"),
    "earlybell.storage.connection": ("open_snapshot",),
    "earlybell.streams.records": (
        "BadNews",
        "NewsItem",
        "SentimentSignal",
        "decode_news",
        "decode_signal",
        "encode",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version("earlybell")
        elif name in _MODULE_OF:
            value = getattr(import_module(_MODULE_OF[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
