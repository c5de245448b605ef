"""The words on the wire: names and digests, to the last character."""

import msgspec
import pytest

from schemas import Digest, Name

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(("kind", "text"), [(Name, "bank"), (Name, "a.b_c-9"), (Digest, DIGEST)])
def test_a_name_and_a_digest_end_where_they_end(kind: type, text: str) -> None:
    assert msgspec.convert(text, kind) == text
    for wrong in (text + "\n", "\n" + text, text + "\x00", text.upper(), f"{text}/{text}"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, kind)
