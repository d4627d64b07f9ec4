# The configuration that a module of this project makes. `given` is JSON: the values of its options.
{
  project,
  module,
  service,
  given,
  # What runs this project's code.
  python,
}:
let
  lib = import ./lib.nix;

  # A program like any package's, which runs the working tree.
  package = derivation {
    name = "harmonia-py";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    args = [
      "-ec"
      ''
        mkdir -p $out/bin
        printf '#!/bin/sh\nPYTHONPATH=%s exec %s -m harmonia_py.cli "$@"\n' ${project} ${python} >$out/bin/harmonia-py
        chmod +x $out/bin/harmonia-py
      ''
    ];
  } // { mainProgram = "harmonia-py"; };

  inline =
    value:
    if builtins.isAttrs value then
      "{ ${builtins.concatStringsSep ", " (lib.mapAttrsToList (name: one: "${name} = ${inline one}") value)} }"
    else if builtins.isList value then
      "[ ${builtins.concatStringsSep ", " (map inline value)} ]"
    else
      builtins.toJSON value;

  pkgs = {
    harmonia-py = package;
    formats.toml = _: {
      type = {
        name = "TOML";
        check = builtins.isAttrs;
      };
      generate =
        name: value:
        builtins.toFile name (
          builtins.concatStringsSep "" (lib.mapAttrsToList (key: one: "${key} = ${inline one}\n") value)
        );
    };
    writeShellScript =
      name: script:
      derivation {
        inherit name script;
        system = builtins.currentSystem;
        builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
        args = [
          "-ec"
          "{ echo '#!/bin/sh'; printf %s \"$script\"; } >$out; chmod +x $out"
        ];
      };
    runCommand =
      name: _: script:
      derivation {
        inherit name;
        system = builtins.currentSystem;
        builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
        HOME = "/homeless-shelter";
        args = [
          "-ec"
          script
        ];
      };
  };
in
lib.evalModule {
  module = import (/. + module);
  inherit service pkgs;
  given = builtins.fromJSON given;
}
