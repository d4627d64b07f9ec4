{ lib, python3Packages }:
let
  root = ../.;
  # The version is in one place.
  version = lib.head (
    builtins.match ".*__version__ = \"([^\"]+)\".*" (builtins.readFile ../harmonia_py/__init__.py)
  );
in
python3Packages.buildPythonApplication {
  pname = "harmonia-py";
  inherit version;
  pyproject = true;

  src = lib.fileset.toSource {
    inherit root;
    fileset = lib.fileset.unions [
      ../harmonia_py
      ../pyproject.toml
      ../README.md
      ../LICENSE
      ../completions
      ../docs/reference/harmonia-py.1
    ];
  };

  build-system = [ python3Packages.setuptools ];
  dependencies =
    with python3Packages;
    [
      aiohttp
      brotli
      jinja2
      msgspec
      pynacl
      pyxattr
      rich
      tomli-w
      uvloop
    ]
    # What `services.harmonia-py.atticEnvironmentFile` takes, and `settings.oidc`.
    ++ [ pyjwt cryptography ]
    ++ lib.optional (pythonOlder "3.14") backports-zstd;

  # The tests need a Nix to talk to; the checks of the flake have one.
  doCheck = false;
  pythonImportsCheck = [ "harmonia_py.server.serve" ];

  meta = {
    description = "Nix binary cache: serves the local Nix store over HTTP, signed, verified and fast";
    license = lib.licenses.mit;
    mainProgram = "harmonia-py";
    platforms = lib.platforms.linux;
  };
}
