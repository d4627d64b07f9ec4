"""`harmonia-py login`: the token for a server, tried, and kept for pushes."""

import argparse
import asyncio
import getpass
import os
import shlex
import sys
from urllib.parse import urlsplit

from harmonia_py.client.answers import Exchanged
from harmonia_py.client.api import PushApi
from harmonia_py.client.http import HttpServer
from harmonia_py.client.id_token import id_token, is_handed_out
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.progress import messages
from harmonia_py.config import netrc
from harmonia_py.config.logins import Logins, logins_file, parse_server
from harmonia_py.errors import ConfigError

# A job goes on where its server is restarted, or the issuer fails for a moment.
_PATIENCE_SECONDS: float = 60.0


def add_arguments(parser: Parser) -> None:
    """The arguments: the server, and the token."""
    parser.describe(
        """
        Ask a server what it is and whether it takes a token, and keep the token for `push`, in a file that only you can
        read. Without TOKEN it is asked for, or read from standard input. With --oidc a job of a CI shows the token that
        its CI has signed, and gets one of the server for it, which lasts for hours: no secret is stored anywhere.""",
        ("harmonia-py login https://cache.example.org", "and type the token"),
        ("harmonia-py login https://cache.example.org < ci.token", "a token from a file"),
        ("harmonia-py login https://cache.example.org --oidc", "in a job of GitHub, GitLab or Forgejo"),
        ("harmonia-py login https://cache.example.org --oidc --netrc >> ~/.netrc", "for `nix copy` as well"),
    )
    parser.add_argument("url", metavar="URL", help="of the server, without the name of a cache")
    parser.add_argument("token", metavar="TOKEN", nargs="?", help="a token that the server has made")
    parser.add_argument("--oidc", action="store_true", help="exchange the token of the CI's job for one of the server")
    parser.add_argument(
        "--id-token",
        metavar="FROM",
        help="where that is: env:NAME, a file, or - for standard input; unless given, the CI is asked as GitHub and "
        "Forgejo want it, or else $HARMONIA_PY_ID_TOKEN has it",
    )
    parser.add_argument(
        "--audience",
        metavar="NAME",
        help="for which the CI is to make it, where that is another host than the server's, or it takes several",
    )
    parser.add_argument("--netrc", action="store_true", help="print a line for a netrc on standard output: a secret")


def run(options: argparse.Namespace) -> None:
    """Try it and keep it."""
    url = parse_server(options.url)
    if not options.oidc and (options.id_token or options.audience):
        options.usage("--id-token and --audience go with --oidc")
    if options.oidc and options.token is not None:
        options.usage("--oidc needs no TOKEN: --id-token says where the one of the CI is")
    console = messages()
    if options.oidc:
        exchanged = asyncio.run(_exchanged(url, options.id_token, options.audience))
        token, told = exchanged.token, f"{exchanged.principal}, for {exchanged.seconds // 60} minutes"
    else:
        token = options.token or _ask()
        told = asyncio.run(_capabilities(url, token))
    file = logins_file(os.environ)
    Logins.read(file).with_(url, token).write(file)
    console.print(f"logged in to {url} as {told}")
    if options.netrc and token:
        print(netrc.entry(urlsplit(url).hostname or "", token))  # what it was asked for


def _ask() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("token (it is not shown): ").strip()
    return sys.stdin.readline().strip()


async def _capabilities(url: str, token: str) -> str:
    async with HttpServer(url, token or None, patience=0) as server:
        return (await PushApi(server, "").capabilities()).principal


async def _exchanged(url: str, source: str | None, audience: str | None) -> Exchanged:
    async with HttpServer(url, None, patience=_PATIENCE_SECONDS) as server:
        api = PushApi(server, "")
        audiences = (await api.capabilities()).audiences
        if not audiences:
            raise ConfigError(f"{url} takes no tokens of CIs: its harmonia.toml has no [oidc.NAME]")
        if audience is None and len(audiences) > 1 and source is None:
            raise ConfigError(f"{url} takes tokens for several audiences: say with --audience which of {audiences}")
        asked = source is None and is_handed_out(os.environ)
        if asked and audience is None and not _is_of_host(audiences[0], url):
            raise ConfigError(
                f"{url} wants a token for {audiences[0]!r}, with which it could act for this job at that service: "
                f"say --audience {shlex.quote(audiences[0])} if you mean it"
            )
        return await api.exchange(await id_token(source, audience or audiences[0], os.environ))


def _is_of_host(audience: str, url: str) -> bool:
    """Whether an audience, a URL or a host, is of the host of `url`."""
    try:
        return urlsplit(audience if "://" in audience else f"//{audience}").hostname == urlsplit(url).hostname
    except ValueError:
        return False
