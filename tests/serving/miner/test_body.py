import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.miner.body import picture
from streetvision.errors import WireError


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"\xff\xfe\xfd", "bad_json"),
        (b"[" * 100_000, "bad_json"),
        (b'{"image": ' + b"[" * 100_000, "bad_json"),
        (b'{"image": "AAAA", "prediction": NaN}', "bad_json"),
        (b'{"image": "AAAA", "prediction": Infinity}', "bad_json"),
        (b"[]", "no_image"),
        (b"{}", "no_image"),
        (b'{"image": ""}', "no_image"),
        (b'{"image": 7}', "no_image"),
        (b'{"image": null}', "no_image"),
        (b'{"image": {"image": "AAAA"}}', "no_image"),
        (b'{"image": "abc"}', "bad_base64"),
        (b'{"image": "AAAA===="}', "bad_base64"),
        (b'{"image": "AA==AA"}', "bad_base64"),
        (b'{"image": "_-_-"}', "bad_base64"),
        (b'{"image": "data:image/jpeg;base64,AAAA"}', "bad_base64"),
        ('{"image": "Köln"}'.encode(), "bad_base64"),
        (b'{"image": "AA\\nAA"}', "bad_base64"),
    ],
)
def test_a_body_without_a_picture_is_refused(body: bytes, reason: str):
    with pytest.raises(WireError) as raised:
        picture(body)
    assert (raised.value.status, raised.value.reason) == (400, reason)


@given(st.binary(min_size=1, max_size=500))
def test_a_picture_comes_through_byte_by_byte(image: bytes):
    assert picture(json.dumps({"name": "ImageSynapse", "image": base64.b64encode(image).decode()}).encode()) == image


def test_of_two_pictures_the_last_counts_as_for_the_stock_axon():
    assert picture(b'{"image": "AAAA", "image": "/9j/"}') == b"\xff\xd8\xff"


@given(st.binary(max_size=200))
def test_any_body_is_a_picture_or_refused(body: bytes):
    try:
        picture(body)
    except WireError as err:
        assert err.status == 400
