"""Types that several records share."""

from typing import Annotated

from msgspec import Meta

from regional_keystone.record import Name

Text = Annotated[str, Meta(max_length=65536)]
Label = Annotated[Name, Meta(pattern=r"[\S]+")]  # with something in it to be seen
Short = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"[\S]+")]
Url = Annotated[str, Meta(max_length=225, pattern=r"^[a-zA-Z0-9+.-]+:.+")]
