"""What a real client substitutes, and whether it has got all of it."""

from lab import Client, Lab


def realise(client: Client, url: str, public_keys: str, path: str, *, check: bool = True) -> bool:
    """Whether `client` gets `path` with its closure from `url`, trusting these keys and building nothing."""
    options = {"substituters": url, "trusted-public-keys": public_keys, "max-jobs": "0"}
    arguments = [argument for name, value in options.items() for argument in ("--option", name, value)]
    return client.run("nix-store", "--realise", path, *arguments, check=check).returncode == 0


def assert_has_the_closure(client: Client, lab: Lab) -> None:
    """The closure is there and valid, and every byte of it is right."""
    for store_path in (lab.closure.top, lab.closure.input2, lab.closure.input0):
        dump = client.run("nix-store", "--dump", str(client.real(store_path))).stdout
        assert dump == lab.dump(store_path)
    client.nix_store("--verify", "--check-contents")
    client.nix_store("--check-validity", lab.full(lab.closure.top))
    references = client.nix_store("--query", "--requisites", lab.full(lab.closure.top)).split()
    assert sorted(references) == sorted(lab.nix_store("--query", "--requisites", lab.full(lab.closure.top)).split())
    assert not client.real(lab.closure.input1).exists()
