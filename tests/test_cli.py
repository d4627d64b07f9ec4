"""The command line as people and units use it: the real program, its streams and its exit statuses."""

import keyword
import os
import re
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import msgspec
import prefork
import pytest
import terminal

from harmonia_py import __version__, cli
from harmonia_py.config import key_files
from harmonia_py.config.settings import Config
from harmonia_py.nix.signing import PublicKey, SecretKey

TIME_LIMIT: Final = 30.0
COMMAND: Final = [sys.executable, "-m", "harmonia_py.cli"]


def environment(**changes: str) -> dict[str, str]:
    """What this process has, without what configures the program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NIX_", "SIGN_KEY", "CONFIG"))}
    return kept | {"PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm"} | changes


def run(directory: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    env = environment(STATE_DIRECTORY=str(directory / "state"), CACHE_DIRECTORY=str(directory / "cache"), **changes)
    return prefork.run(*arguments, cwd=directory, env=env)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error of a run that ended with 1."""
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_help_names_every_verb_and_shows_examples(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for verb in ("serve", "check-config", "generate-key"):
        assert re.search(rf"^ +{verb}\b", done.stdout, re.MULTILINE)
        help_of_verb = run(tmp_path, verb, "--help")
        assert help_of_verb.returncode == 0
        assert f"harmonia-py {verb}" in help_of_verb.stdout
    assert "\n  harmonia-py serve --config /etc/harmonia.toml\n" in done.stdout
    assert "\033[" not in done.stdout


def test_version(tmp_path: Path) -> None:
    done = run(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"harmonia-py {__version__}\n")


@pytest.mark.parametrize(
    "arguments", [["--unknown"], ["unknown"], ["serve", "--workers", "many"], ["generate-key"], ["serve", "extra"]]
)
def test_a_wrong_command_line_is_status_2(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: harmonia-py" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["chek-config"], "there is no 'chek-config'; did you mean 'check-config'?"),
        (["xyzzy"], "there is no 'xyzzy'; it is one of serve, "),
        (["serve", "--worker", "2"], "unrecognized arguments: --worker 2; did you mean '--workers'?"),
        (["serve", "--log-level", "warning"], "there is no 'warning'; did you mean 'warn'?"),
    ],
)
def test_what_was_probably_meant_is_said(tmp_path: Path, arguments: list[str], hint: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert hint in done.stderr


@pytest.mark.parametrize("verb", [command.verb for command in cli.COMMANDS])
def test_every_verb_says_at_length_what_it_does_and_shows_examples(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    description = re.split(r"^(?:positional arguments|options|which .*):$", shown, maxsplit=1, flags=re.MULTILINE)[0]
    assert len(description.split()) >= 30
    assert all(len(line) <= 60 for line in description.splitlines())
    assert f"  harmonia-py {verb}" in shown.partition("\nexamples:\n")[2]


@pytest.mark.parametrize("unbuffered", ["", "1"])
class TestStandardOutput:
    """A traceback, or success, was what `--help | true` and `check-config >/dev/full` ended with."""

    @pytest.mark.parametrize("arguments", ["--help", "serve --help", "check-config", "--version"])
    def test_a_full_disk_is_one_line_and_status_1(self, tmp_path: Path, arguments: str, unbuffered: str) -> None:
        done = self.shell(tmp_path, f"{arguments} >/dev/full", unbuffered)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert line.endswith("No space left on device")

    @pytest.mark.parametrize("arguments", ["--help", "check-config"])
    def test_a_reader_that_has_left_is_no_traceback(self, tmp_path: Path, arguments: str, unbuffered: str) -> None:
        # `read` returns at the end of file only: until then the pipe has no reader, and then it is written to.
        done = self.shell(tmp_path, f"{arguments} | true", unbuffered)
        assert done.stderr == ""

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_closed_streams_are_no_traceback(self, tmp_path: Path, closed: str, unbuffered: str) -> None:
        """`serve 2>&-` ended without a word, and `>&-` with a traceback at the end."""
        done = self.shell(tmp_path, f"check-config {closed}", unbuffered)
        assert (done.returncode, done.stderr) == (0, "")

    def shell(self, directory: Path, arguments: str, unbuffered: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", f"{' '.join(COMMAND)} {arguments}"],
            cwd=directory,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIME_LIMIT,
        )


def test_an_abbreviated_option_is_not_guessed(tmp_path: Path) -> None:
    assert run(tmp_path, "serve", "--work", "2").returncode == 2


class TestCheckConfig:
    def test_it_prints_toml_that_loads_to_what_it_printed(self, tmp_path: Path) -> None:
        file = tmp_path / "harmonia.toml"
        file.write_text('bind = ["127.0.0.1:1", "unix:/x"]\npriority = 7\n[zstd]\nlevel = 9\n')
        first = run(tmp_path, "check-config", "-c", str(file), "--workers", "2")
        assert (first.returncode, first.stderr) == (0, "")
        assert first.stdout.startswith(f"# {file}\n")
        again = tmp_path / "again.toml"
        again.write_text(first.stdout)
        second = run(tmp_path, "check-config", "-c", str(again))
        assert second.stdout.splitlines()[1:] == first.stdout.splitlines()[1:]
        settings = msgspec.convert(tomllib.loads(first.stdout), Config)
        assert (settings.addresses, settings.priority, settings.workers) == (["127.0.0.1:1", "unix:/x"], 7, 2)
        assert settings.zstd.level == 9

    def test_without_a_file_it_prints_the_defaults(self, tmp_path: Path) -> None:
        done = run(tmp_path, "check-config")
        assert done.returncode == 0
        assert done.stdout.startswith("# no configuration file: these are the defaults\n")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("worker = 2", 'worker: unknown key; did you mean "workers"?'),
            ('tls_key_path = "/key.pem"', "tls_cert_path: is missing; tls_key_path needs it"),
            ('bind = "5000"', "bind: '5000': expected host:port, [IPv6]:port or unix:/path"),
            ("bind =", "not TOML: Invalid value (at end of document)"),
        ],
    )
    def test_what_is_wrong_is_one_line_with_the_file_and_the_key(self, tmp_path: Path, text: str, message: str) -> None:
        file = tmp_path / "harmonia.toml"
        file.write_text(text)
        assert refused(run(tmp_path, "check-config", "-c", str(file))) == f"{file}: {message}"

    def test_files_that_other_machines_are_reached_with_are_read(self, tmp_path: Path) -> None:
        """What a database, a bucket and an issuer need is checked as well: all that is wrong is said at once."""
        file, absent = tmp_path / "harmonia.toml", tmp_path / "absent"
        file.write_text(
            f"""
            [database]
            url = "postgresql://harmonia@db/harmonia"
            password_file = "{absent}"
            [storage]
            url = "s3://bucket"
            credentials_file = "{absent}"
            [oidc.ci]
            issuer = "https://ci.example.org"
            audience = "https://cache.example.org"
            ca_file = "{absent}"
            rules = [{{ claims = {{ sub = "main" }}, caches = ["team"], allow = ["push"] }}]
            """
        )
        done = run(tmp_path, "check-config", "-c", str(file))
        assert (done.returncode, done.stdout) == (1, "")
        gone = "No such file or directory"
        assert [line.removeprefix("error: ") for line in done.stderr.splitlines()] == [
            f"{absent}: database.password_file: {gone}",
            f"{absent}: storage.credentials_file: {gone}",
            f"{file}: oidc.ci: ca_file: {absent}: {gone}",
        ]
        assert run(tmp_path, "check-config", "--no-files", "-c", str(file)).returncode == 0

    def test_a_key_that_does_not_parse_is_one_line_with_its_file(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("nonsense")
        line = refused(run(tmp_path, "check-config", "--sign-key", "key"))
        assert line.startswith("key: sign_key_paths: not a secret key of Nix: ")

    def test_a_wrong_option_is_not_blamed_on_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "settings.toml").write_text("workers = 1\n")
        assert refused(run(tmp_path, "check-config", "--workers", "0")).startswith("command line: workers: ")
        assert refused(run(tmp_path, "check-config", "--bind", "x")).startswith("command line: bind: ")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('tls_cert_path = "/nowhere/c"\ntls_key_path = "/nowhere/k"', "/nowhere/c: tls_cert_path: No such file"),
            ('unix_socket_group = "nobody-has-it"', "unix_socket_group: there is no group 'nobody-has-it'"),
            ('sign_key_paths = ["/etc"]', "/etc: sign_key_paths: Is a directory"),
            ('token_file = "/etc"', "/etc: token_file: Is a directory"),
            ('state_directory = "/dev/null"', "state_directory: /dev/null: /dev/null is not a directory"),
            (
                '[cache]\ndirectory = "/dev/null/cache"',
                ": /dev/null is not a directory",
            ),
            ('[mirror]\ndirectory = "/dev/null"', "mirror.directory: /dev/null"),
            ('[[upstream]]\nurl = "https://cache.nixos.org"\nca_file = "/nowhere/ca"', "ca_file: /nowhere/ca: No such"),
        ],
    )
    def test_what_cannot_start_is_not_accepted(self, tmp_path: Path, text: str, message: str) -> None:
        """The configuration was good, and the server did not start."""
        (tmp_path / "settings.toml").write_text(text)
        assert message in refused(run(tmp_path, "check-config"))
        # Where the files are not, as when an image or a NixOS system is built, the text alone can be checked.
        assert run(tmp_path, "check-config", "--no-files").returncode == 0

    def test_credentials_can_be_left_to_the_service(self, tmp_path: Path) -> None:
        """`systemctl reload` failed for every service with credentials: systemd 257 hides them from its ExecReload=."""
        secret = "/run/credentials/harmonia-py.service/key"
        (tmp_path / "settings.toml").write_text(f'sign_key_paths = ["{secret}"]\n')
        problem = refused(run(tmp_path, "check-config"))
        assert problem.startswith(f"{secret}: sign_key_paths: No such file or directory; systemd puts it there when ")
        assert run(tmp_path, "check-config", "--no-credentials").returncode == 0
        (tmp_path / "settings.toml").write_text('sign_key_paths = ["/run/credentials/../../nowhere/key"]\n')
        problem = refused(run(tmp_path, "check-config", "--no-credentials"))
        assert "/nowhere/key" in problem

    def test_everything_that_is_wrong_is_said_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "settings.toml").write_text(
            'bind = ["x", "y"]\nunix_socket_group = "nobody-has-it"\nsign_key_paths = ["/nowhere/a", "/nowhere/b"]\n'
        )
        done = run(tmp_path, "check-config")
        assert (done.returncode, done.stdout) == (1, "")
        assert [re.sub(r": No such.*|: expected.*", "", line) for line in done.stderr.splitlines()] == [
            "error: settings.toml: bind: 'x'",
            "error: settings.toml: bind: 'y'",
            "error: settings.toml: unix_socket_group: there is no group 'nobody-has-it'",
            "error: /nowhere/a: sign_key_paths",
            "error: /nowhere/b: sign_key_paths",
        ]

    def test_it_can_be_quiet(self, tmp_path: Path) -> None:
        done = run(tmp_path, "check-config", "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_it_writes_nothing(self, tmp_path: Path) -> None:
        run(tmp_path, "check-config")
        assert list(tmp_path.iterdir()) == []

    def test_the_reader_may_leave(self, tmp_path: Path) -> None:
        command = f"{' '.join(COMMAND)} check-config | true"
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, check=False, timeout=TIME_LIMIT
        )
        assert done.stderr == b""


class TestGenerateKey:
    def test_it_writes_the_secret_and_prints_the_public_key(self, tmp_path: Path) -> None:
        done = run(tmp_path, "generate-key", "cache.example.org-1")
        assert done.returncode == 0
        file = tmp_path / "cache.example.org-1.secret"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        (secret,) = key_files.read_secret_keys([file], {})
        # Standard output has the public key alone, for pipes and substitutions.
        assert PublicKey.parse(done.stdout.strip()) == secret.public_key
        assert done.stderr == "cache.example.org-1.secret: secret key, for sign_key_paths\n"
        assert secret.format() not in done.stdout + done.stderr

    def test_it_never_overwrites(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("precious")
        line = refused(run(tmp_path, "generate-key", "name-1", "--output", "key"))
        assert line == "key: exists already; a key is never overwritten"
        assert (tmp_path / "key").read_text() == "precious"

    @pytest.mark.parametrize("name", ["", "two words", "with:colon", "line\nfeed", "../elsewhere"])
    def test_a_name_that_cannot_stand_in_a_narinfo_is_refused(self, tmp_path: Path, name: str) -> None:
        refused(run(tmp_path, "generate-key", name))
        assert list(tmp_path.iterdir()) == []


class TestPublicKey:
    def test_it_prints_the_public_key_of_each_file(self, tmp_path: Path) -> None:
        keys = [SecretKey.generate(name) for name in ("a-1", "b-1")]
        for key in keys:
            key_files.write_secret_key(tmp_path / key.name, key)
        done = run(tmp_path, "public-key", "a-1", "b-1")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [str(key.public_key) for key in keys]

    def test_without_a_file_it_prints_what_the_server_signs_with(self, tmp_path: Path) -> None:
        assert "has not been made" in refused(run(tmp_path, "public-key"))
        made = SecretKey.generate("made-1")
        key_files.write_secret_key(tmp_path / "state/secret-key", made)
        assert run(tmp_path, "public-key").stdout == f"{made.public_key}\n"
        named = SecretKey.generate("named-1")
        key_files.write_secret_key(tmp_path / "named", named)
        (tmp_path / "settings.toml").write_text('sign_key_paths = ["named"]\n')
        assert run(tmp_path, "public-key").stdout == f"{named.public_key}\n"
        (tmp_path / "settings.toml").write_text("sign = false\n")
        assert "sign = false" in refused(run(tmp_path, "public-key"))

    def test_what_is_no_key_is_one_line_in_words(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("nonsense")
        assert refused(run(tmp_path, "public-key", "key")).startswith("key: ")
        assert refused(run(tmp_path, "public-key", "absent")) == "absent: sign_key_paths: No such file or directory"


class TestServe:
    def test_it_is_what_happens_without_a_verb(self, tmp_path: Path) -> None:
        """Harmonia is started so, with CONFIG_FILE in its unit."""
        assert "nowhere.toml: no such configuration file" in refused(run(tmp_path, CONFIG_FILE="nowhere.toml"))
        assert "other.toml: no such configuration file" in refused(run(tmp_path, "-c", "other.toml"))

    @pytest.mark.parametrize("arguments", [("--config",), ("serve", "-c"), ("serve", "--config")])
    def test_the_file_may_be_named_with_and_without_the_verb(self, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        assert "other.toml: no such configuration file" in refused(run(tmp_path, *arguments, "other.toml"))

    def test_a_port_that_is_taken_is_one_line_and_status_1(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            line = refused(run(tmp_path, "serve", "--bind", address))
            assert line == f"command line: bind: cannot listen on {address}: Address already in use"
            (tmp_path / "settings.toml").write_text(f'bind = "{address}"\n')
            assert refused(run(tmp_path)).startswith(f"settings.toml: bind: cannot listen on {address}: ")

    def test_a_certificate_that_is_none_is_one_line_with_file_and_key(self, tmp_path: Path) -> None:
        (tmp_path / "some.pem").write_text("nonsense")
        file = tmp_path / "harmonia.toml"
        file.write_text(f'tls_cert_path = "{tmp_path}/nowhere.pem"\ntls_key_path = "{tmp_path}/some.pem"\n')
        arguments = ["serve", "-c", str(file), "--bind", "127.0.0.1:0"]
        assert refused(run(tmp_path, *arguments)) == f"{tmp_path}/nowhere.pem: tls_cert_path: No such file or directory"
        file.write_text(f'tls_cert_path = "{tmp_path}/some.pem"\ntls_key_path = "{tmp_path}/some.pem"\n')
        assert "tls_cert_path, tls_key_path: not a certificate and its key" in refused(run(tmp_path, *arguments))

    def test_a_worker_that_cannot_start_is_one_clear_line_and_status_1(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text(SecretKey.generate("k-1").format())
        file = tmp_path / "harmonia.toml"
        file.write_text('workers = 1\nsign_key_paths = ["nowhere"]\n')
        assert "nowhere: sign_key_paths: No such file" in refused(run(tmp_path, "-c", str(file), "-b", "127.0.0.1:0"))


def on_a_terminal(directory: Path, *arguments: str, **changes: str) -> str:
    """What a person sees whose terminal standard error is."""
    return terminal.on_a_terminal(arguments, cwd=directory, env=environment(**changes), status=1)


def test_an_error_has_colour_on_a_terminal_only(tmp_path: Path) -> None:
    assert on_a_terminal(tmp_path, "-c", "nowhere").startswith("\033[1;31merror:\033[0m nowhere: ")
    assert on_a_terminal(tmp_path, "-c", "nowhere", NO_COLOR="1").startswith("error: nowhere: ")
    assert on_a_terminal(tmp_path, "-c", "nowhere", TERM="dumb").startswith("error: nowhere: ")
    assert "\033" not in run(tmp_path, "-c", "nowhere").stderr


def test_verbs_that_do_not_serve_do_not_load_the_web_framework(tmp_path: Path) -> None:
    program = "import sys; from harmonia_py import cli; cli.main(['check-config']); assert 'aiohttp' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        check=True,
        capture_output=True,
        timeout=TIME_LIMIT,
    )


def test_a_command_loads_the_module_of_no_other(tmp_path: Path) -> None:
    """Progress bars, the client's libraries, JWT: a server must not pay for what other commands import."""
    program = """if True:
        import sys
        from harmonia_py import cli
        assert cli.main(["-c", "/nowhere"]) == 1
        loaded = {name[21:] for name in sys.modules if name.startswith("harmonia_py.commands.")}
        assert loaded == {"serve", "shared", "shared.options", "shared.parser"}, loaded
        assert "rich" not in sys.modules
    """
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), check=False, capture_output=True, text=True, timeout=TIME_LIMIT
    )
    assert done.returncode == 0, done.stderr


def test_the_parser_of_a_verb_makes_that_of_no_other() -> None:
    """The parsers of thirty verbs that were not asked for took a thirtieth of each start."""
    assert "push" in cli.make_parser(["serv"]).format_help()
    assert "push" not in cli.make_parser(["serve"]).format_help().partition("verbs:")[2]


def test_every_command_has_a_module_and_every_module_a_command() -> None:
    folder = Path(cli.__file__).parent / "commands"
    modules = {entry.stem for entry in folder.iterdir()} - {"__init__", "__pycache__", "shared"}
    names = {command.verb.replace("-", "_") for command in cli.COMMANDS}
    assert modules == {f"{name}_" if keyword.iskeyword(name) else name for name in names}


def test_main_returns_the_status(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIG_FILE", "/nowhere/harmonia.toml")
    assert cli.main([]) == 1
    assert capsys.readouterr().err == "error: /nowhere/harmonia.toml: no such configuration file\n"
