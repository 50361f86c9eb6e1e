"""Word and Excel files are zip archives of XML: what is wrong or hostile in one, seen before it is parsed."""

from __future__ import annotations

import io
import zipfile

from selfaug.retrieval.document import UnreadableDocument

__all__ = ["OLE_MAGIC", "ZIP_MAGIC", "check_office_zip"]

ZIP_MAGIC = b"PK\x03\x04"
OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
"""Of the container of old Office files, and of new ones that are encrypted."""

MAX_UNPACKED = 1 << 30
MAX_UNPACKED_XML = 400 << 20
MAX_MEMBERS = 20_000
MAX_RATIO = 200
RATIO_COUNTS_FROM = 20 << 20
"""Small files may well shrink to a thousandth."""

_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")


def check_office_zip(data: bytes, ending: str, main_folder: str) -> None:
    """Refuse what is not an Office file, is encrypted, or would unpack to absurd size.

    Nothing is unpacked. The sizes in the directory are what `zipfile` keeps to when it reads: a member that goes on
    beyond its size fails its checksum there.

    Args:
        data: the file.
        ending: the ending it has, for messages.
        main_folder: the folder in the archive that this kind of file has ("word/").

    Raises:
        UnreadableDocument: with the reason.
    """
    if data.startswith(OLE_MAGIC):
        if _ENCRYPTED in data:
            raise UnreadableDocument("password-protected; save it without a password")
        raise UnreadableDocument(f"an old Office file, not {ending}; save it anew as {ending}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise UnreadableDocument(f"damaged: its zip directory can't be read ({error})") from error
    if any(member.flag_bits & 0x1 for member in members):
        raise UnreadableDocument("password-protected; save it without a password")
    if not any(member.filename.startswith(main_folder) for member in members):
        raise UnreadableDocument(f"a zip archive, but not {ending}; check its ending")
    _check_sizes(members)


def _check_sizes(members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise UnreadableDocument(f"refused: it has {len(members):,} parts, more than {MAX_MEMBERS:,}")
    # Office writes no other kinds, and those of bzip2 and LZMA unpack without a bound.
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise UnreadableDocument("refused: a part is packed in a way that Office files never are")
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    xml = sum(member.file_size for member in members if member.filename.lower().endswith((".xml", ".rels")))
    if unpacked > MAX_UNPACKED or xml > MAX_UNPACKED_XML:
        raise UnreadableDocument(
            f"refused: it would unpack to {unpacked / 1e6:,.0f} MB; split it into smaller files"
        )
    if unpacked > RATIO_COUNTS_FROM and unpacked > MAX_RATIO * packed:
        raise UnreadableDocument(
            f"refused: it would unpack to {unpacked / 1e6:,.0f} MB from {packed / 1e6:.2f} MB, "
            "as a zip bomb does"
        )
