"""Every setting that Harmonia's users have keeps working, and what is wrong is said in one line."""

import logging
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.config import file as config_file
from harmonia_py.config import settings as config
from harmonia_py.config.settings import Config
from harmonia_py.config.storage_tables import KeptNars
from harmonia_py.config.tables import Zstd
from harmonia_py.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "harmonia.toml.example"
Write = Callable[[str], Path]
SYSTEMD = {"STATE_DIRECTORY": "/state", "CACHE_DIRECTORY": "/cache"}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    file = tmp_path / "harmonia.toml"

    def write(text: str) -> Path:
        file.write_text(text)
        return file

    return write


def load(
    file: Path | None = None, environment: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    return config_file.load(file, SYSTEMD | dict(environment or {}), overrides or {})


def default(**settings: Any) -> Config:
    return Config(state_directory="/state", cache=KeptNars(directory="/cache"), **settings)


def refused(
    file: Path | None = None, environment: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, environment, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_file_at_all_is_a_working_configuration() -> None:
    settings = load()
    assert settings == default()
    assert settings.addresses == ["[::]:5000"]
    assert (settings.workers, settings.priority, settings.max_connections) == (4, 30, 2048)
    assert settings.key_files == []
    assert settings.sign


def test_an_empty_file_is_the_same_as_none(write: Write) -> None:
    assert load(write("")) == load()


def test_a_file_that_sets_only_bind_leaves_the_rest_as_it_is(write: Write) -> None:
    assert load(write('bind = "127.0.0.1:8080"\n')) == default(bind="127.0.0.1:8080")


class TestEverythingThatIsWrong:
    """One error of several was reported: people mended and tried again, once for each."""

    def test_every_problem_is_a_line_with_its_place(self, write: Write) -> None:
        file = write(
            'compression = "xz"\nworkers = 0\nbase_url = "cache"\nworker = 2\ntls_key_path = "/key"\n'
            '[cache]\njobs = "many"\nmax_size = "big"\nmaxsize = 1\n'
            '[[upstream]]\nname = "first"\n'
            '[[upstream]]\nurl = "ftp://x"\npriority = -1\n'
            '[[upstream]]\nurl = "https://x"\n'
        )
        with pytest.raises(ConfigError) as caught:
            load(file)
        lines = str(caught.value).splitlines()
        assert all(line.startswith(f"{file}: ") for line in lines)
        said = {line.removeprefix(f"{file}: ").partition(": ")[0]: line.rpartition(": ")[2] for line in lines}
        assert len(said) == len(lines)
        assert said.keys() == {
            *("compression", "workers", "base_url", "worker", "tls_cert_path"),
            *("cache.jobs", "cache.max_size", "cache.maxsize"),
            *("upstream[0].url", "upstream[1].url", "upstream[1].priority", "upstream[2].public_keys"),
        }

    def test_what_is_allowed_is_listed(self, write: Write) -> None:
        assert '"xz" is none of "none", "zstd"' in refused(write('compression = "xz"'))
        assert '"warning" is none of "debug", "error", "info", "trace", "warn"; did you mean "warn"?' in refused(
            write('log_level = "warning"')
        )
        assert '"never" is none of "auto", "error", "not-found"' in refused(write('[mirror]\non_unknown = "never"'))

    @pytest.mark.parametrize("url", ["cache", "cache.example.org", "http://", "ftp://x", "https://x/?a", "/srv"])
    def test_a_base_url_is_a_url(self, write: Write, url: str) -> None:
        """`base_url = "cache"` was accepted, and printed to people as what to put into nix.conf."""
        assert "base_url: not the URL of a cache" in refused(write(f'base_url = "{url}"'))

    def test_the_place_is_where_the_value_was_set(self, write: Write) -> None:
        """A wrong key of `[cache]` was blamed on the environment, where its directory had come from."""
        file = write("[cache]\njobs = 0\n")
        assert refused(file, {"CACHE_DIRECTORY": "/c"}).startswith(f"{file}: cache.jobs: ")
        file = write("sign_key_paths = [1]\n")
        assert refused(file, {"SIGN_KEY_PATHS": "/a /b"}).startswith(f"{file}: sign_key_paths[0]: ")
        assert refused(None, {"NIX_STORE_DIR": "relative"}).startswith("environment: virtual_nix_store: ")
        assert refused(file, overrides={"sign_key_paths": ["x"], "workers": 0}).startswith("command line: workers: ")


HARMONIA = """\
bind = "unix:/run/harmonia/socket"
workers = 2
max_connection_rate = 256
max_connections = 1024
priority = 50
virtual_nix_store = "/nix/store"
real_nix_store = "/guest/nix/store"
nix_db_path = "/guest/db.sqlite"
enable_compression = true
sign_key_paths = ["/run/keys/a", "/run/keys/b"]
sign_key_path = "/run/keys/c"
tls_cert_path = "/run/cert.pem"
tls_key_path = "/run/key.pem"
daemon_socket = "/run/nix/socket"
[zstd]
level = 9
long_distance_matching = true
window_log = 27
"""


def test_every_key_of_harmonias_file_is_read(write: Write) -> None:
    settings = load(write(HARMONIA))
    expected = tomllib.loads(HARMONIA)
    expected["zstd"] = Zstd(**expected["zstd"])
    assert {key: getattr(settings, key) for key in expected} == expected
    assert settings.key_files == [Path("/run/keys/a"), Path("/run/keys/b"), Path("/run/keys/c")]
    assert settings.nix_database == Path("/guest/db.sqlite")
    assert settings.real_store == Path("/guest/nix/store")


def test_keys_of_harmonia_that_mean_nothing_here_are_warned_of(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    file = write('max_connection_rate = 256\nsign_key_path = "/k"\n')
    with caplog.at_level(logging.WARNING):
        load(file)
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: sign_key_path: use sign_key_paths",
        f"{file}: max_connection_rate: it has no effect here",
    ]


def test_the_sectioned_form_of_the_guides_stands_for_the_same_settings(write: Write) -> None:
    file = write(
        '[server]\nlisten = "[::]:8080"\nbase-url = "http://cache.example"\n'
        '[store]\ntype = "local"\npath = "/other/store"\n'
    )
    assert load(file) == default(bind="[::]:8080", base_url="http://cache.example", virtual_nix_store="/other/store")


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("worker = 2", "worker", "workers"),
        ("sign_key_pathes = []", "sign_key_pathes", "sign_key_paths"),
        ("[server]\nlisen = 'x'", "server.lisen", "listen"),
        ("[zstd]\nlevle = 3", "zstd.levle", "level"),
        ("[store]\npaht = '/x'", "store.paht", "path"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    write: Write, text: str, key: str, suggestion: str
) -> None:
    file = write(text)
    assert refused(file) == f'{file}: {key}: unknown key; did you mean "{suggestion}"?'


def test_an_unknown_key_that_resembles_none_is_refused_without_a_guess(write: Write) -> None:
    file = write("qqqqqqqq = 1")
    assert refused(file) == f"{file}: qqqqqqqq: unknown key"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('workers = "4"', "workers"),
        ("workers = 0", "workers"),
        ("workers = 2.5", "workers"),
        ("bind = 5000", "bind"),
        ('bind = ["[::]:5000", 1]', "bind"),
        ("bind = []", "bind"),
        ('sign_key_paths = "/run/keys/a"', "sign_key_paths"),
        ("sign_key_paths = [1]", "sign_key_paths"),
        ("sign_key_path = 1", "sign_key_path"),
        ("priority = -1", "priority"),
        ("priority = true", "priority"),
        ("zstd = 3", "zstd"),
        ('zstd = "level"', "zstd"),
        ("[zstd]\nlevel = 23", "zstd.level"),
        ('virtual_nix_store = "nix/store"', "virtual_nix_store"),
        ('virtual_nix_store = "/nix/../store"', "virtual_nix_store"),
        ("virtual_nix_store = 1", "virtual_nix_store"),
        ('log_level = "loud"', "log_level"),
        ("daemon_timeout = 0", "daemon_timeout"),
        ("shutdown_timeout = nan", "shutdown_timeout"),
        ("shutdown_timeout = inf", "shutdown_timeout"),
        ('[store]\ntype = "s3"', "store.type"),
        ("store = 3", "store"),
        ("server = 3", "server"),
    ],
)
def test_a_value_of_the_wrong_type_names_the_file_and_the_key(write: Write, text: str, key: str) -> None:
    file = write(text)
    assert refused(file).startswith(f"{file}: {key}")


@pytest.mark.parametrize("environment", [{"SIGN_KEY_PATHS": "/a"}, {"NIX_STORE_DIR": "/s", "RUST_LOG": "info"}])
@pytest.mark.parametrize("text", ['sign_key_paths = "/run/keys/a"', "sign_key_paths = 1"])
def test_the_environment_does_not_hide_a_wrong_type(write: Write, text: str, environment: Mapping[str, str]) -> None:
    file = write(text)
    assert refused(file, environment).startswith(f"{file}: sign_key_paths: expected ")


@pytest.mark.parametrize(
    ("given_key", "missing"), [("tls_cert_path", "tls_key_path"), ("tls_key_path", "tls_cert_path")]
)
def test_half_a_tls_pair_is_refused(write: Write, given_key: str, missing: str) -> None:
    file = write(f'{given_key} = "/x.pem"')
    assert refused(file) == f"{file}: {missing}: is missing; {given_key} needs it"


@pytest.mark.parametrize("data", [b"bind = ", b"\xff\xfe", b"a = 1\na = 2\n", b"\0"])
def test_what_is_no_toml_is_refused_with_the_name_of_the_file(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "harmonia.toml"
    file.write_bytes(data)
    assert refused(file).startswith(f"{file}: not TOML: ")


def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"{tmp_path}: Is a directory"


def test_what_is_wrong_on_the_command_line_or_in_the_environment_is_not_blamed_on_the_file(write: Write) -> None:
    file = write("workers = 2\n")
    assert refused(file, overrides={"workers": 0}).startswith("command line: workers: ")
    assert refused(file, {"NIX_STORE_DIR": "relative"}).startswith("environment: virtual_nix_store: ")
    assert refused(None, {"NIX_STORE_DIR": "relative"}).startswith("environment: virtual_nix_store: ")


class TestEnvironment:
    def test_sign_key_paths_are_separated_by_spaces_and_come_after_those_of_the_file(self, write: Write) -> None:
        file = write('sign_key_paths = ["/a"]')
        settings = load(file, {"SIGN_KEY_PATHS": " /b  /c\n", "SIGN_KEY_PATH": "/d"})
        assert settings.key_files == [Path("/a"), Path("/b"), Path("/c"), Path("/d")]

    def test_nix_store_dir_is_the_store_unless_the_file_names_one(self, write: Write) -> None:
        environment = {"NIX_STORE_DIR": "/env/store"}
        assert load(None, environment).store_dir == "/env/store"
        assert load(write('virtual_nix_store = "/file/store"'), environment).store_dir == "/file/store"

    def test_the_daemons_socket_is_where_nix_is_told_to_find_it(self, write: Write) -> None:
        environment = {"NIX_DAEMON_SOCKET_PATH": "/env/socket"}
        assert load(None, environment).daemon_socket == "/env/socket"
        assert load(write('daemon_socket = "/file/socket"'), environment).daemon_socket == "/file/socket"

    @pytest.mark.parametrize(
        ("value", "level"),
        [
            ("debug", "debug"),
            ("DEBUG", "debug"),
            ("harmonia=trace", "trace"),
            ("actix_web=nonsense,harmonia=warn", "warn"),
            ("warning", "warn"),
            ("off", "error"),
            ("", "info"),
            ("nonsense", "info"),
        ],
    )
    def test_the_levels_of_rust_log_are_understood(self, value: str, level: str) -> None:
        assert load(None, {"RUST_LOG": value}).log_level == level

    def test_the_file_wins_over_rust_log_and_the_command_line_over_both(self, write: Write) -> None:
        file = write('log_level = "error"')
        assert load(file, {"RUST_LOG": "debug"}).log_level == "error"
        assert load(file, {"RUST_LOG": "debug"}, {"log_level": "warn"}).log_level == "warn"

    def test_the_first_directory_that_systemd_names_is_the_state_directory(self) -> None:
        assert config_file.load(None, {"STATE_DIRECTORY": "/one:/two"}, {}).state_directory == "/one"

    def test_without_systemd_a_user_keeps_state_at_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        assert config_file.load(None, {"HOME": "/home/me"}, {}).state_directory == "/home/me/.local/state/harmonia-py"
        environment = {"HOME": "/home/me", "XDG_STATE_HOME": "/xdg"}
        assert config_file.load(None, environment, {}).state_directory == "/xdg/harmonia-py"

    def test_without_systemd_root_keeps_state_in_var(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 0)
        assert config_file.load(None, {}, {}).state_directory == "/var/lib/harmonia-py"


class TestFindFile:
    @pytest.fixture(autouse=True)
    def empty_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_there_may_be_none(self) -> None:
        assert config_file.find_file(None, {}) is None
        assert config_file.find_file(None, {"CONFIG_FILE": ""}) is None

    def test_settings_toml_where_it_starts_is_taken(self) -> None:
        Path("settings.toml").touch()
        assert config_file.find_file(None, {}) == Path("settings.toml")

    def test_a_command_of_root_takes_the_file_of_the_service(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`sudo harmonia-py key create team` made a key that was not encrypted: it did not see key_encryption_file."""
        of_service = tmp_path / "of-service.toml"
        monkeypatch.setattr(config_file, "SYSTEM_FILE", of_service)
        monkeypatch.setattr("os.geteuid", lambda: 0)
        assert config_file.find_file(None, {}) is None
        of_service.touch()
        assert config_file.find_file(None, {}) == of_service
        assert config_file.find_file(None, {"STATE_DIRECTORY": str(tmp_path)}) is None
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        assert config_file.find_file(None, {}) is None
        monkeypatch.setattr("os.geteuid", lambda: 0)
        Path("settings.toml").touch()
        assert config_file.find_file(None, {}) == Path("settings.toml")

    def test_the_command_line_wins_over_the_environment_and_that_over_settings_toml(self) -> None:
        for name in ("settings.toml", "environment.toml", "named.toml"):
            Path(name).touch()
        environment = {"CONFIG_FILE": "environment.toml"}
        assert config_file.find_file(None, environment) == Path("environment.toml")
        assert config_file.find_file("named.toml", environment) == Path("named.toml")

    def test_a_file_that_was_named_must_be_there(self) -> None:
        with pytest.raises(ConfigError, match=r"^nowhere\.toml: no such configuration file$"):
            config_file.find_file("nowhere.toml", {})
        with pytest.raises(ConfigError, match=r"^nowhere\.toml: no such configuration file$"):
            config_file.find_file(None, {"CONFIG_FILE": "nowhere.toml"})


class TestStoreLayouts:
    def test_the_usual_store(self) -> None:
        settings = Config()
        assert settings.real_store == Path("/nix/store")
        assert settings.nix_database == Path("/nix/var/nix/db/db.sqlite")
        assert settings.log_directory == Path("/nix/var/log/nix")

    def test_a_chroot_store_has_its_database_and_logs_beside_it(self) -> None:
        settings = Config(real_nix_store="/guest/nix/store")
        assert settings.store_dir == "/nix/store"
        assert settings.nix_database == Path("/guest/nix/var/nix/db/db.sqlite")
        assert settings.log_directory == Path("/guest/nix/var/log/nix")

    def test_logs_are_where_they_are_said_to_be(self) -> None:
        assert Config(nix_log_dir="/logs").log_directory == Path("/logs")


def test_signing_is_switched_off_in_so_many_words() -> None:
    """The example file and the output of check-config say `sign_key_paths = []`, and with them nothing was signed."""
    assert Config(sign_key_paths=[]).generated_key_file is not None
    assert Config(sign=False).generated_key_file is None
    with pytest.raises(ValueError, match="sign: is false, and sign_key_paths names keys"):
        Config(sign=False, sign_key_paths=["/key"])


configurations = st.builds(
    Config,
    bind=st.one_of(st.just("[::]:80"), st.lists(st.sampled_from(["a:1", "unix:/b"]), min_size=1)),
    workers=st.integers(1, 1024),
    priority=st.integers(0, 1_000_000),
    want_mass_query=st.booleans(),
    real_nix_store=st.none() | st.just("/guest/nix/store"),
    sign_key_paths=st.lists(st.text(st.characters(codec="utf-8"), min_size=1)),
    zstd=st.builds(Zstd, level=st.integers(-7, 22), window_log=st.none() | st.integers(10, 31)),
    daemon_timeout=st.floats(min_value=0.001, max_value=86_400),
    log_format=st.sampled_from(["text", "json"]),
    state_directory=st.just("/state"),
)


@given(configurations)
def test_what_check_config_prints_loads_to_the_same_configuration(settings: Config) -> None:
    printed = tomllib.loads(config_file.format_toml(settings))
    assert msgspec.convert(printed, Config) == settings


class TestExample:
    def test_it_loads_and_says_what_the_defaults_are(self) -> None:
        assert load(EXAMPLE) == load()

    def test_it_names_every_setting(self) -> None:
        # What is accepted for the sake of Harmonia's users is not recommended to ours.
        unnamed = {
            "sign_key_path",
            "max_connection_rate",
            "max_connections",
            "enable_compression",
            "compression",
            "zstd",
        }
        text = EXAMPLE.read_text()
        words = set(text.replace("#", " ").replace("[", " ").replace("]", " ").split())
        assert set(config.KNOWN_KEYS) - words <= unnamed

    def test_settings_it_shows_behind_a_comment_sign_load_too(self, write: Write) -> None:
        lines = EXAMPLE.read_text().partition("[zstd]")[0].splitlines()
        shown = [line.removeprefix("#").strip() for line in lines if line.startswith("#") and " = " in line]
        settings = [line for line in shown if line.partition(" = ")[0] in config.KNOWN_KEYS]
        assert settings
        load(write("\n".join(settings)))


class TestUpstreams:
    def test_the_public_cache_needs_its_url_alone(self, write: Write) -> None:
        settings = load(write('[[upstream]]\nurl = "https://cache.nixos.org"\n'))
        assert [key.name for key in settings.upstream[0].keys] == ["cache.nixos.org-1"]
        assert settings.upstream[0].label == "cache.nixos.org"

    def test_the_sectioned_form_has_one_and_a_switch(self, write: Write) -> None:
        section = '[upstream]\nurl = "https://cache.nixos.org"\n'
        assert len(load(write(section)).upstream) == 1
        assert len(load(write(section + "enabled = true\n")).upstream) == 1
        assert load(write(section + "enabled = false\n")).upstream == []

    @pytest.mark.parametrize(
        ("table", "words"),
        [
            ('url = "https://other.example.org"', "public_keys: is missing"),
            ('url = "ftp://x"', "not the URL of a cache"),
            ('url = "cache.nixos.org"', "not the URL of a cache"),
            ('url = "https://[::1"', "url: "),
            ('url = "https://me:secret@cache.nixos.org"', "holds a password"),
            ('url = "https://cache.nixos.org?x=1"', "ends with the path"),
            ('url = "https://x"\npublic_keys = ["nonsense"]', "public_keys: a public key has the form"),
            ('url = "https://cache.nixos.org"\npriorty = 1', 'did you mean "priority"'),
            ("priority = 1", "url"),
        ],
    )
    def test_what_is_wrong_is_said_and_a_password_is_never_repeated(self, write: Write, table: str, words: str) -> None:
        message = refused(write(f"[[upstream]]\n{table}\n"))
        assert words in message
        assert "secret" not in message

    def test_two_of_one_name_are_refused(self, write: Write) -> None:
        table = '[[upstream]]\nurl = "https://cache.nixos.org"\n'
        assert "same name" in refused(write(table * 2))
        assert len(load(write(table + table + 'name = "second"\n')).upstream) == 2

    @pytest.mark.parametrize(
        "line", ['max_size = "much"', 'on_unknown = "maybe"', "budget = 0", 'recompress = "xz"', "nosuch = 1"]
    )
    def test_the_mirror_table_is_checked(self, write: Write, line: str) -> None:
        assert "mirror" in refused(write(f"[mirror]\n{line}\n")) or "max_size" in refused(write(f"[mirror]\n{line}\n"))
