"""The outputs of a derivation are those that Nix says it has."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab

from harmonia_py.errors import FormatError
from harmonia_py.nix.derivation import parse_outputs
from harmonia_py.nix.store_path import StoreDir

STORE = StoreDir("/nix/store")


def test_they_are_what_nix_says(lab: Lab) -> None:
    derivation = lab.closure.derivation
    told = json.loads(lab.nix("show-derivation", lab.full(derivation)))[lab.full(derivation)]
    outputs = parse_outputs(lab.real(derivation).read_bytes(), lab.store_dir)
    assert [lab.full(output) for output in outputs] == [output["path"] for output in told["outputs"].values()]
    assert outputs == (lab.closure.top,)


def test_an_output_that_is_known_only_once_it_is_built_is_left_out(lab: Lab) -> None:
    derivation = lab.build_ca().top_derivation
    assert parse_outputs(lab.real(derivation).read_bytes(), lab.store_dir) == ()


def test_several_outputs_and_a_text_that_breaks_off_after_them() -> None:
    paths = [f"/nix/store/{'0' * 32}-{name}" for name in ("a", "a-dev")]
    outputs = ",".join(f'("{name}","{path}","","")' for name, path in zip(("out", "dev"), paths, strict=True))
    for start in ("Derive(", 'DrvWithVersion("xp-dyn-drv",'):
        found = parse_outputs(f'{start}[{outputs}],[("/nix'.encode(), STORE)
        assert [STORE.join(path) for path in found] == paths


@given(st.binary() | st.binary().map(lambda data: b"Derive([" + data))
def test_any_bytes_parse_or_raise(data: bytes) -> None:
    try:
        parse_outputs(data, STORE)
    except FormatError:
        return


@pytest.mark.parametrize("path", ["/etc/passwd", "/nix/store/../x", "/nix/store/short", "\\n"])
def test_an_output_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(FormatError):
        parse_outputs(f'Derive([("out","{path}","","")],'.encode(), STORE)
