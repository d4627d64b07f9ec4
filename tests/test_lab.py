"""The lab itself works as its docstring says."""

from pathlib import Path

import pytest
from lab import Lab
from template import Template


def test_the_small_closure_has_references_and_nothing_protects_it(lab: Lab) -> None:
    closure = lab.closure
    references = lab.nix_store("--query", "--references", lab.full(closure.top)).split()
    assert sorted(references) == sorted([lab.full(closure.top), lab.full(closure.input2)])
    assert lab.is_valid(closure.top)
    lab.delete(closure.top)
    assert not lab.is_valid(closure.top)
    assert not lab.real(closure.top).exists()


def test_a_chroot_store_has_the_usual_store_dir(chroot_lab: Lab) -> None:
    assert chroot_lab.full(chroot_lab.closure.top).startswith("/nix/store/")
    assert chroot_lab.real(chroot_lab.closure.top).is_relative_to(chroot_lab.root)
    assert (chroot_lab.real(chroot_lab.closure.top) / "foobar").read_text() == "FOOBAR\n"
    chroot_lab.start_daemon()


def test_content_addressed_derivations_have_realisations(lab: Lab) -> None:
    closure = lab.build_ca()
    references = lab.nix_store("--query", "--references", lab.full(closure.top)).split()
    assert sorted(references) == sorted([lab.full(closure.top), lab.full(closure.dep)])
    derivation = lab.full(closure.top_derivation)
    # From Nix 2.13 on the output must be named.
    told = [
        lab.run("nix", "realisation", "info", "--json", name, check=False) for name in (derivation, f"{derivation}^out")
    ]
    assert any(b"sha256:" in answer.stdout for answer in told)


def test_an_added_tree_is_dumped(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    store_path = lab.add(tmp_path / "file")
    assert lab.real(store_path).read_bytes() == b"hello"
    assert b"hello" in lab.dump(store_path)


def test_a_client_copies_a_closure_from_a_file_cache(lab: Lab) -> None:
    keys = lab.secret_key("lab-1")
    assert keys.public.startswith("lab-1:")
    cache = f"file://{lab.root}/cache"
    lab.nix("copy", "--to", f"{cache}?secret-key={keys.secret_file}", lab.full(lab.closure.top))
    client = lab.client("client")
    options = ("--option", "substituters", cache, "--option", "trusted-public-keys", keys.public)
    client.nix_store("--realise", lab.full(lab.closure.top), *options)
    assert (client.real(lab.closure.top) / "foobar").read_text() == "FOOBAR\n"
    assert client.real(lab.closure.input0).exists()
    client.forget()


def test_a_daemon_can_be_stopped_and_started_again(daemon: Lab) -> None:
    daemon.stop_daemon()
    assert not daemon.socket.exists()
    daemon.start_daemon()
    assert daemon.run("nix", "store", "ping", "--store", f"unix://{daemon.socket}").returncode == 0


def test_a_lab_that_cannot_be_made_is_not_in_the_way_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One `nix-build` that ran out of time failed all tests after it: the folder was there already."""
    template = Template(tmp_path / "lab")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(FileNotFoundError):
            template.lab()
    with template.lab() as lab:
        assert lab.is_valid(lab.closure.top)
