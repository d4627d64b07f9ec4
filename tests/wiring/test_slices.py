"""Settings of parts, taken from the configuration: each field is a setting, of the same type and default."""

from typing import Any, get_type_hints

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import fields

from harmonia_py.config.settings import Config
from harmonia_py.config.tables import Zstd as ZstdTable
from harmonia_py.config.upstream_tables import Mirror
from harmonia_py.contents.encoders import Zstd
from harmonia_py.mirror.mirror import MirrorSettings
from harmonia_py.web.admission.limits import Limits
from harmonia_py.wiring.serving_settings import limits_of
from harmonia_py.wiring.slices import slice_of


@pytest.mark.parametrize(
    ("part", "tables"),
    [(Limits, (Config().limits, Config())), (MirrorSettings, (Mirror(),)), (Zstd, (ZstdTable(),))],
)
def test_what_nothing_is_configured_of_is_what_the_part_has_by_itself(part: type, tables: tuple[object, ...]) -> None:
    assert slice_of(part, *tables) == part()


@pytest.mark.parametrize(("part", "tables"), [(Limits, (Config().limits, Config())), (MirrorSettings, (Mirror(),))])
def test_a_setting_has_the_type_of_the_field(part: type[Struct], tables: tuple[object, ...]) -> None:
    kinds: dict[str, Any] = {}
    for table in reversed(tables):
        kinds |= get_type_hints(type(table))
    assert {one.name: get_type_hints(part)[one.name] for one in fields(part)} == {
        one.name: kinds[one.name] for one in fields(part)
    }


def test_what_is_configured_arrives() -> None:
    text = b'{"max_connections": 7, "stall_timeout": 8, "limits": {"header_timeout": 9, "min_rate": 10}}'
    limits = limits_of(msgspec.json.decode(text, type=Config))
    assert (limits.max_connections, limits.stall_timeout, limits.header_timeout, limits.min_rate) == (7, 8.0, 9.0, 10)


def test_a_field_that_is_no_setting_is_an_error() -> None:
    with pytest.raises(AttributeError, match="max_connections"):
        slice_of(Limits, Config().limits)
