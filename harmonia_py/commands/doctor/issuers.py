"""One issuer of identities of the configuration: whether it answers, and with keys that verify tokens."""

from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError, UpstreamError


async def look_at(config: Config, name: str) -> list[Finding]:
    """Ask the issuer called `name` for its keys, as the server does when the first token comes."""
    try:
        from harmonia_py.wiring.oidc import keys_of_issuer  # noqa: PLC0415  # it needs PyJWT

        keys = await keys_of_issuer(config, name)
    except ConfigError as error:
        return [Finding.failure("keys", str(error), "mend what the configuration names, or install what is missing")]
    except UpstreamError as error:
        remedy = "until it answers, its tokens are refused with 502: look at its URL, the way to it, and ca_file"
        return [Finding.failure("keys", str(error), remedy)]
    if not keys:
        what = f"{config.oidc[name].issuer} has no key for RS256, ES256 or EdDSA: none of its tokens is good"
        return [Finding.failure("keys", what, "let it sign by one of these")]
    algorithms = ", ".join(sorted({algorithm for _, algorithm in keys}))
    return [Finding.ok("keys", f"{len(keys)} of {config.oidc[name].issuer}, for {algorithms}")]
