# A closure from one machine to another; the service starts with the first connection.
{ pkgs, ... }:
let
  common = import ./lib/common.nix;
in
{
  name = "harmonia-py-closure";
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
    server.fail("systemctl is-active harmonia-py.service")
    client.wait_until_succeeds("curl --fail http://server:5000/nix-cache-info | grep 'Priority: 30'")
    server.succeed("systemctl is-active harmonia-py.service")

    client.succeed("nix-store --store /root/other --realise ${pkgs.hello}")
    client.succeed("test -x /root/other${pkgs.hello}/bin/hello")

    server.succeed("systemctl reload harmonia-py.service")
    client.succeed("curl --fail http://server:5000/ready")
    server.succeed("systemctl kill --kill-whom=main --signal=KILL harmonia-py.service")
    client.succeed("curl --fail http://server:5000/health")
  '';
}
