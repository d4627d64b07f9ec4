import base64
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import TIME_LIMIT, Lab
from strategies import key_names, signatures

from harmonia_py.errors import FormatError
from harmonia_py.nix.signing import PublicKey, SecretKey, Signature, parse_signatures

# The test key of go-nix.
SECRET = "test1:jbX9NxZp8WB/coK8k7yLf0gNYmBbIbCrOFwgJgI7OV+0sASf4R5oFQlioSlN3bJ56uvshzr7S9Z75pcv+9hSkQ=="
PUBLIC = "test1:tLAEn+EeaBUJYqEpTd2yeerr7Ic6+0vWe+aXL/vYUpE="
FINGERPRINT = (
    b"1;/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin;"
    b"sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0;196040;"
    b"/nix/store/0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0,"
    b"/nix/store/6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115,"
    b"/nix/store/j5jxw3iy7bbz4a57fh9g2xm2gxmyal8h-zlib-1.2.12,"
    b"/nix/store/yxvjs9drzsphm9pcf42a4byzj1kb9m7k-openssl-1.1.1n"
)
SIGNATURE = "test1:519iiVLx/c4Rdt5DNt6Y2Jm6hcWE9+XY69ygiWSZCNGVcmOcyL64uVAJ3cV8vaTusIZdbTnYo9Y7vDNeTmmMBQ=="
NIXOS_PUBLIC = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
NIXOS_SIGNATURE = (
    "cache.nixos.org-1:TsTTb3WGTZKphvYdBHXwo6weVILmTytUjLB+vcX89fOjjRicCHmKA4RCPMVLkj6TMJ4GMX3HPVWRdD1hkeKZBQ=="
)


@pytest.fixture(scope="module")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("nix")) as lab:
        yield lab


def test_a_known_key_makes_a_known_signature() -> None:
    key = SecretKey.parse(SECRET)
    assert key.format() == SECRET
    assert str(key.public_key) == PUBLIC
    assert str(key.sign(FINGERPRINT)) == SIGNATURE


@pytest.mark.parametrize(("public", "signature"), [(PUBLIC, SIGNATURE), (NIXOS_PUBLIC, NIXOS_SIGNATURE)])
def test_known_signatures_verify(public: str, signature: str) -> None:
    key = PublicKey.parse(public)
    assert str(key) == public
    assert key.verify(FINGERPRINT, Signature.parse(signature))
    assert not key.verify(FINGERPRINT + b" ", Signature.parse(signature))


def test_a_signature_under_another_name_does_not_verify() -> None:
    """The name is what a client looks the key up by."""
    signature = Signature("test2", Signature.parse(SIGNATURE).data)
    assert not PublicKey.parse(PUBLIC).verify(FINGERPRINT, signature)


def test_the_vector_of_rfc_8032_holds() -> None:
    """RFC 8032, section 7.1, TEST SHA(abc)."""
    seed = bytes.fromhex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42")
    public = bytes.fromhex("ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf")
    message = bytes.fromhex(
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
    )
    key = SecretKey.parse("test:" + base64.b64encode(seed + public).decode())
    assert key.sign(message).data == bytes.fromhex(
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"
    )


def test_a_key_file_may_end_in_a_newline() -> None:
    assert SecretKey.parse(SECRET + "\n") == SecretKey.parse(SECRET)


def test_a_secret_key_is_not_printed_by_accident() -> None:
    key = SecretKey.parse(SECRET)
    for text in (repr(key), str(key), f"{key}"):
        assert "jbX9" not in text
        assert repr(key.data) not in text


def test_an_error_about_a_secret_key_does_not_contain_it() -> None:
    with pytest.raises(FormatError) as caught:
        SecretKey.parse(SECRET[:-4])
    assert "jbX9" not in str(caught.value)


def test_halves_that_do_not_belong_together_are_refused() -> None:
    data = SecretKey.parse(SECRET).data
    with pytest.raises(FormatError):
        SecretKey.parse("test1:" + base64.b64encode(data[:32] + bytes(32)).decode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "test1",
        "test1:",
        ":" + PUBLIC.partition(":")[2],
        "te st:" + PUBLIC.partition(":")[2],
        "te\nst:" + PUBLIC.partition(":")[2],
        "te\x85st:" + PUBLIC.partition(":")[2],
        "te\ud800st:" + PUBLIC.partition(":")[2],
        "n" * 256 + ":" + PUBLIC.partition(":")[2],
        PUBLIC + "\n",
        PUBLIC[:-1],
        PUBLIC + "=",
        PUBLIC[:10] + " " + PUBLIC[10:],
        PUBLIC[:10] + "é" + PUBLIC[11:],
        PUBLIC.replace(":", "::"),
        SECRET,
        SIGNATURE,
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        PublicKey.parse(text)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\nb", "n" * 256, "\udcff"])
def test_a_key_is_not_generated_under_a_name_that_breaks_a_line(name: str) -> None:
    with pytest.raises(FormatError):
        SecretKey.generate(name)


def test_generated_keys_differ_and_sign() -> None:
    one, other = SecretKey.generate("a-1"), SecretKey.generate("a-1")
    assert one != other
    assert one.public_key.verify(b"message", one.sign(b"message"))
    assert not other.public_key.verify(b"message", one.sign(b"message"))
    assert SecretKey.parse(one.format()) == one


def test_signatures_that_do_not_parse_are_dropped_and_the_others_sorted() -> None:
    """Stores of Nix up to 2.33 hold arbitrary strings as signatures."""
    texts = [SIGNATURE, "garbage", "sig", NIXOS_SIGNATURE, SIGNATURE, "", "test1:AAAA"]
    assert [str(signature) for signature in parse_signatures(texts)] == [NIXOS_SIGNATURE, SIGNATURE]


@given(signatures)
def test_what_is_formatted_is_read_back(signature: Signature) -> None:
    assert Signature.parse(str(signature)) == signature
    assert signature.to_json() == {
        "keyName": signature.key_name,
        "sig": str(signature).removeprefix(signature.key_name + ":"),
    }


@given(key_names, st.binary(max_size=100))
def test_a_key_verifies_what_it_signs(name: str, message: bytes) -> None:
    key = SecretKey.generate(name)
    assert PublicKey.parse(str(key.public_key)).verify(message, key.sign(message))


@given(
    st.text()
    | st.builds("{}:{}".format, key_names, st.binary(max_size=100).map(lambda data: base64.b64encode(data).decode()))
)
def test_any_text_parses_or_is_refused(text: str) -> None:
    for parse in (Signature.parse, PublicKey.parse, SecretKey.parse):
        try:
            value = parse(text)
        except FormatError:
            continue
        str(value).encode()


def _nix_key(nix: Lab, command: str, secret: str) -> str:
    return subprocess.run(
        ["nix", "key", command],
        env=nix.env,
        input=secret,
        capture_output=True,
        check=True,
        text=True,
        timeout=TIME_LIMIT,
    ).stdout.strip()


def test_keys_of_nix_are_read_and_nix_reads_ours(nix: Lab) -> None:
    theirs = nix.nix("key", "generate-secret", "--key-name", "lab-1").strip()
    ours = SecretKey.generate("ours-1")
    assert SecretKey.parse(theirs).format() == theirs
    assert str(SecretKey.parse(theirs).public_key) == _nix_key(nix, "convert-secret-to-public", theirs)
    assert str(ours.public_key) == _nix_key(nix, "convert-secret-to-public", ours.format())
