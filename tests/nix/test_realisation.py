import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from msgspec.structs import replace
from strategies import new_outputs, new_realisations, old_outputs, old_realisations

from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.realisation import MAX_REALISATION_SIZE, DrvOutput, Realisation
from harmonia_py.nix.signing import PublicKey, SecretKey, Signature
from harmonia_py.nix.store_path import StorePath

MODULO = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
ZEROS = "A" * 86 + "=="
OLD_ID = DrvOutput.parse(f"{MODULO}!foo")
NEW_ID = DrvOutput.of(StorePath.parse("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv"), "foo")
OUT_PATH = StorePath.parse("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo")
OLD = Realisation(
    id=OLD_ID,
    out_path=OUT_PATH,
    signatures=(Signature("asdf", bytes(64)),),
    dependent_realisations=((OLD_ID, OUT_PATH),),
)
OLD_TEXT = (
    f'{{"dependentRealisations":{{"{MODULO}!foo":"{OUT_PATH}"}},"id":"{MODULO}!foo","outPath":"{OUT_PATH}",'
    f'"signatures":["asdf:{ZEROS}"]}}'
)
NEW = Realisation(id=NEW_ID, out_path=OUT_PATH, signatures=(Signature("asdf", bytes(64)),))
NEW_TEXT = f'{{"outPath":"{OUT_PATH}","signatures":[{{"keyName":"asdf","sig":"{ZEROS}"}}]}}'
NEW_FINGERPRINT = (
    '{"key":{"drvPath":"g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv","outputName":"foo"},'
    '"value":{"outPath":"g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo"}}'
)


def test_the_key_of_older_nix_is_a_hash_and_an_output_name() -> None:
    assert DrvOutput(Hash.of(b"abc"), "foo") == OLD_ID
    assert str(OLD_ID) == f"{MODULO}!foo"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!",
        MODULO,
        f"{MODULO}!",
        f"!{MODULO}",
        f"{MODULO.upper()}!out",
        f"{MODULO[7:]}!out",
        f"{MODULO[:-1]}!out",
        "sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s!out",
        "sha1:a9993e364706816aba3e25717850c26c9cd0d89d!out",
        f"{MODULO}!out!out",
        f"{MODULO}!a/b",
        f"{MODULO}!..",
        f"{MODULO}!out\n",
        f"{MODULO}!{'a' * 212}",
        f" {MODULO}!out",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        DrvOutput.parse(text)


def test_only_derivations_have_outputs() -> None:
    with pytest.raises(FormatError):
        DrvOutput.of(OUT_PATH, "out")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a" * 212])
def test_an_output_name_has_the_rules_of_names(name: str) -> None:
    with pytest.raises(FormatError):
        DrvOutput.of(StorePath.parse("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv"), name)


def test_the_older_form_is_that_of_nix() -> None:
    assert OLD.format_old().decode() == OLD_TEXT
    assert Realisation.parse_old(OLD_TEXT) == OLD


def test_the_newer_form_is_that_of_nix() -> None:
    assert NEW.format_new().decode() == NEW_TEXT
    assert Realisation.parse_new(NEW_TEXT, NEW_ID) == NEW


def test_signatures_are_read_in_either_form() -> None:
    """Nix 2.34 writes signatures as objects below the older key; from 2.35 on both are read."""
    structured = OLD_TEXT.replace(f'"asdf:{ZEROS}"', f'{{"keyName":"asdf","sig":"{ZEROS}"}}')
    assert Realisation.parse_old(structured) == OLD
    assert Realisation.parse_new(f'{{"outPath":"{OUT_PATH}","signatures":["asdf:{ZEROS}"]}}', NEW_ID) == NEW


def test_signatures_that_do_not_parse_are_dropped() -> None:
    text = f'{{"outPath":"{OUT_PATH}","signatures":["garbage",{{"keyName":"a:b","sig":"{ZEROS}"}},"asdf:{ZEROS}"]}}'
    assert Realisation.parse_new(text, NEW_ID) == NEW


def test_signatures_and_dependent_realisations_may_be_missing() -> None:
    bare = replace(OLD, signatures=(), dependent_realisations=())
    assert Realisation.parse_old(f'{{"id":"{MODULO}!foo","outPath":"{OUT_PATH}","future":1}}') == bare


def test_the_older_fingerprint_is_the_object_without_its_signatures() -> None:
    expected = f'{{"dependentRealisations":{{"{MODULO}!foo":"{OUT_PATH}"}},"id":"{MODULO}!foo","outPath":"{OUT_PATH}"}}'
    assert OLD.fingerprint().decode() == expected


def test_the_order_in_which_dependent_realisations_come_does_not_matter() -> None:
    """Nix keeps them in a map, and signs them in its order."""
    outputs = [(DrvOutput.parse(f"{MODULO}!{name}"), OUT_PATH) for name in ("dev", "lib", "out")]
    one = replace(OLD, dependent_realisations=tuple(outputs))
    other = replace(OLD, dependent_realisations=tuple(reversed(outputs)))
    assert one.fingerprint() == other.fingerprint()
    assert one.format_old() == other.format_old()


def test_a_key_name_outside_ascii_is_written_as_it_is() -> None:
    realisation = replace(NEW, signatures=(Signature("clé", bytes(64)),))
    assert '"keyName":"clé"'.encode() in realisation.format_new()


def test_the_newer_fingerprint_is_that_of_nix() -> None:
    """Nix's `src/libstore-tests/data/realisation/simple-fingerprint.txt`."""
    assert NEW.fingerprint().decode() == NEW_FINGERPRINT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"outPath"',
        "{",
        '{"outPath":1}',
        '{"outPath":"/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo"}',
        '{"outPath":"\\ud800"}',
        f'{{"outPath":"{OUT_PATH}","signatures":{{}}}}',
        f'{{"outPath":"{OUT_PATH}","signatures":[1]}}',
        f'{{"outPath":"{OUT_PATH}","signatures":[{{}}]}}',
        f'{{"outPath":"{OUT_PATH}","signatures":[{{"keyName":"a","sig":null}}]}}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a":' + "1" * 10_000 + "}",
        "\ufeff{}",
        "\ud800",
        " " * (MAX_REALISATION_SIZE + 1),
    ],
)
def test_what_is_no_realisation_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Realisation.parse_old(text)
    with pytest.raises(FormatError):
        Realisation.parse_new(text, NEW_ID)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"outPath":"{OUT_PATH}"}}',
        f'{{"id":"{MODULO}","outPath":"{OUT_PATH}"}}',
        OLD_TEXT.replace(f'{{"{MODULO}!foo":"{OUT_PATH}"}}', "[]"),
        OLD_TEXT.replace(f'{{"{MODULO}!foo":"{OUT_PATH}"}}', f'{{"{MODULO}!foo":1}}'),
        OLD_TEXT.replace(f'{{"{MODULO}!foo":"{OUT_PATH}"}}', f'{{"foo":"{OUT_PATH}"}}'),
    ],
)
def test_what_is_no_older_realisation_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Realisation.parse_old(text)


@given(old_outputs)
def test_a_key_is_read_back(output: DrvOutput) -> None:
    assert DrvOutput.parse(str(output)) == output


@given(old_realisations)
def test_an_older_realisation_is_read_back(realisation: Realisation) -> None:
    assert Realisation.parse_old(realisation.format_old()) == realisation
    assert Realisation.parse_old(realisation.format_old().decode()) == realisation
    assert json.loads(realisation.format_old()).keys() - json.loads(realisation.fingerprint()).keys() == {"signatures"}


@given(new_realisations)
def test_a_newer_realisation_is_read_back(realisation: Realisation) -> None:
    assert Realisation.parse_new(realisation.format_new(), realisation.id) == realisation


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "outPath", "signatures", "dependentRealisations", "keyName", "sig", f"{MODULO}!out"]
            ),
            inner | st.sampled_from([str(OUT_PATH), str(OLD_ID), f"asdf:{ZEROS}"]),
        )
    ),
    max_leaves=8,
)


@given(st.binary() | _json.map(json.dumps).map(str.encode), new_outputs)
def test_any_bytes_parse_or_are_refused(data: bytes, output: DrvOutput) -> None:
    try:
        newer = Realisation.parse_new(data, output)
        assert Realisation.parse_new(newer.format_new(), output) == newer
        older = Realisation.parse_old(data)
        assert Realisation.parse_old(older.format_old()) == older
    except FormatError:
        return


@given(st.text())
def test_any_text_is_a_key_or_is_refused(text: str) -> None:
    try:
        output = DrvOutput.parse(text)
    except FormatError:
        return
    assert str(output) == text


def test_realisations_signed_by_nix_are_written_and_signed_alike(lab: Lab, tmp_path: Path) -> None:
    keys = lab.secret_key("lab-1")
    with (lab.root / "etc" / "nix.conf").open("a") as configuration:
        configuration.write(f"secret-key-files = {keys.secret_file}\n")
    closure = lab.build_ca()
    lab.nix("copy", "--to", f"file://{tmp_path}/cache", "--file", str(lab.root / "lab.nix"), "caTop")
    key = SecretKey.parse(keys.secret_file.read_text())
    realised = {}
    for file in (tmp_path / "cache" / "realisations").iterdir():
        realisation = Realisation.parse_old(file.read_bytes())
        assert file.name == f"{realisation.id}.doi"
        assert realisation.format_old() == file.read_bytes()
        assert realisation.signatures == (key.sign(realisation.fingerprint()),)
        assert PublicKey.parse(keys.public).verify(realisation.fingerprint(), realisation.signatures[0])
        realised[realisation.out_path] = realisation
    assert realised.keys() == {closure.top, closure.dep}
    assert realised[closure.top].dependent_realisations == ((realised[closure.dep].id, closure.dep),)
