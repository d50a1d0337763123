"""The log of one run: numbered records on disk within a size cap, read by any number of readers.

Owns the format, the cap and the back-pressure; knows neither protobuf nor where output comes from.
"""

from .format import (
    MAX_RECORD_BYTES,
    LogError,
    LogStream,
    Record,
)
from .reader import LogReader
from .runlog import RunLog

__all__ = [
    "MAX_RECORD_BYTES",
    "LogError",
    "LogReader",
    "LogStream",
    "Record",
    "RunLog",
]
