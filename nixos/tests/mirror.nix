# A mirror between the server and the client goes on serving when the server is away.
{ pkgs, ... }:
let
  common = import ./lib/common.nix;
in
{
  name = "harmonia-py-mirror";
  nodes = {
    server = {
      imports = [ common.server ];
      system.extraDependencies = [ pkgs.hello ];
    };
    mirror = {
      services.harmonia-py = {
        enable = true;
        openFirewall = true;
        upstreams = [
          {
            url = "http://server:5000";
            public_keys = [ common.publicKey ];
          }
        ];
      };
    };
    client =
      { lib, ... }:
      {
        imports = [ common.client ];
        nix.settings.substituters = lib.mkOverride 40 [ "http://mirror:5000" ];
      };
  };
  testScript = ''
    start_all()
    server.wait_for_unit("harmonia-py.socket")
    mirror.wait_for_unit("harmonia-py.socket")
    client.wait_until_succeeds("curl --fail http://mirror:5000/health")
    client.succeed("nix-store --store /root/first --realise ${pkgs.hello}")

    server.shutdown()
    client.succeed("rm -rf /root/.cache")
    client.succeed("nix-store --store /root/second --realise ${pkgs.hello}")
    client.succeed("test -x /root/second${pkgs.hello}/bin/hello")
  '';
}
