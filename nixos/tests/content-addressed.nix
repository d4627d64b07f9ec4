# A content-addressed derivation that was built on one machine is not built on the other.
{ pkgs, ... }:
let
  common = import ./lib/common.nix;
  expression = pkgs.writeText "ca.nix" ''
    derivation {
      name = "ca";
      system = builtins.currentSystem;
      builder = "${pkgs.busybox-sandbox-shell}/bin/sh";
      args = [ "-c" "echo content > $out" ];
      __contentAddressed = true;
      outputHashMode = "recursive";
      outputHashAlgo = "sha256";
    }
  '';
in
{
  name = "harmonia-py-content-addressed";
  nodes = {
    server = {
      imports = [ common.server ];
      system.extraDependencies = [
        expression
        pkgs.busybox-sandbox-shell
      ];
    };
    client = {
      imports = [ common.client ];
      system.extraDependencies = [
        expression
        pkgs.busybox-sandbox-shell
      ];
    };
  };
  testScript = ''
    start_all()
    server.wait_for_unit("harmonia-py.socket")
    path = server.succeed("nix build --no-link --print-out-paths --file ${expression} --option substituters '''").strip()
    client.wait_until_succeeds("curl --fail http://server:5000/health")
    # No local job: it is substituted or the build fails.
    got = client.succeed("nix build --no-link --print-out-paths --max-jobs 0 --file ${expression}").strip()
    assert got == path, f"{got} is not {path}"
    client.succeed(f"grep content {path}")
  '';
}
