"""Rows from files and hub data sets, validated, and encoded as the model will see them."""

from selfaug.data.encode import encode_rows, rows_without_template
from selfaug.data.encoded_rows import IGNORED_LABEL, EncodedRow, EncodedRows, EncodeReport
from selfaug.data.general_rows import embedded_general_rows
from selfaug.data.row import RetrievalParts, Row
from selfaug.data.rows import LoadedRows, load_rows
from selfaug.data.sources import Problem, RawRow, read_rows
from selfaug.data.template import RetrievalTemplate

__all__ = [
    "IGNORED_LABEL",
    "EncodeReport",
    "EncodedRow",
    "EncodedRows",
    "LoadedRows",
    "Problem",
    "RawRow",
    "RetrievalParts",
    "RetrievalTemplate",
    "Row",
    "embedded_general_rows",
    "encode_rows",
    "load_rows",
    "read_rows",
    "rows_without_template",
]
