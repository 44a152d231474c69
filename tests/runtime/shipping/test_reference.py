"""References: what is understood, and what is said of the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coformer_runtime.errors import CoformerError
from coformer_runtime.shipping.reference import Reference, parse_reference

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("oci://r.example/flowers", Reference("oci", "r.example", "flowers", "latest")),
        ("oci://r.example:5000/a/b-c:v1", Reference("oci", "r.example:5000", "a/b-c", "v1")),
        ("oci://[::1]:5000/a:v1@" + DIGEST, Reference("oci", "[::1]:5000", "a", "v1", DIGEST)),
        ("oci-layout:usb", Reference("oci-layout", "usb", "", "latest")),
        ("oci-layout:/media/a:b/usb", Reference("oci-layout", "/media/a:b/usb", "", "latest")),
        ("oci-layout:/media/usb:v1@" + DIGEST, Reference("oci-layout", "/media/usb", "", "v1", DIGEST)),
    ],
)
def test_understood(text: str, wanted: Reference) -> None:
    assert parse_reference(text) == wanted
    assert parse_reference(str(wanted)) == wanted


@pytest.mark.parametrize(
    ("text", "what", "mend"),
    [
        ("docker://r/x", "unknown scheme 'docker'", "write oci://HOST/NAME:TAG, or oci-layout:DIR:TAG for a folder"),
        ("ocilayout:x", "unknown scheme 'ocilayout'", "did you mean 'oci-layout'? write oci://"),
        ("flowers", "names no scheme", "write oci://"),
        ("oci:r/x", "unknown scheme 'oci'", "write oci://"),
        ("oci-layout:", "names no folder", "write oci://"),
        ("oci://r", "'' is not a repository name", "use lower-case letters"),
        ("oci://r/Flowers", "'Flowers' is not a repository name", "use lower-case letters"),
        ("oci://r/a:b c", "'b c' is not a tag", "use up to 128 letters"),
        ("oci://user@r/a", "'r/a' is not a digest", "write @sha256: and 64 hex digits"),
        ("oci:///a", "'' is not a registry's HOST or HOST:PORT", "write oci://"),
    ],
)
def test_refused(text: str, what: str, mend: str) -> None:
    with pytest.raises(CoformerError) as caught:
        parse_reference(text)
    assert caught.value.what == what and caught.value.mend.startswith(mend)
    assert caught.value.where == "reference '{}'".format(text)


@given(st.text(max_size=60) | st.text(alphabet="oci:/-layut.@sh256", max_size=40))
def test_anything_is_understood_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except CoformerError:
        return
    assert parse_reference(str(reference)) == reference
