"""Certificates of tokens signed with PKI, which no release has made for long: whoever asks is told so.

Source: keystone/api/os_simple_cert.py.
"""

from regional_keystone.api.shapes import Call, Result, Route, Shape
from regional_keystone.errors import Gone


async def _gone(call: Call) -> Result:
    del call
    raise Gone("This API is no longer available due to the removal of support for PKI tokens.")


SHAPES: list[Shape] = [
    Route(method="GET", path=f"/OS-SIMPLE-CERT/{name}", handle=_gone, open=True) for name in ("ca", "certificates")
]
