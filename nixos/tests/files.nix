# What is inside a store path: its listing, its files, and its build log.
{ pkgs, ... }:
let
  common = import ./lib/common.nix;
  hashPart = path: builtins.substring 11 32 "${path}";
in
{
  name = "harmonia-py-files";
  nodes = {
    server = {
      imports = [ common.server ];
      system.extraDependencies = [ pkgs.hello ];
    };
    inherit (common) client;
  };
  testScript = ''
    start_all()
    server.wait_for_unit("harmonia-py.socket")
    client.wait_until_succeeds("curl --fail http://server:5000/health")

    kind = "curl --fail http://server:5000/${hashPart pkgs.hello}.ls | jq -r .root.entries.bin.entries.hello.type"
    assert client.succeed(kind).strip() == "regular"

    client.succeed("curl --fail http://server:5000/serve/${hashPart pkgs.hello}/bin/hello > hello")
    there = server.succeed("sha256sum < ${pkgs.hello}/bin/hello")
    assert client.succeed("sha256sum < hello") == there
    client.fail("curl --fail http://server:5000/serve/${hashPart pkgs.hello}/../../../etc/passwd --path-as-is")
  '';
}
