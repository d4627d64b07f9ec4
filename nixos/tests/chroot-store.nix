# A store that is elsewhere, with a database and no daemon.
{ pkgs, ... }:
let
  common = import ./lib/common.nix;
in
{
  name = "harmonia-py-chroot-store";
  nodes = {
    server = {
      imports = [ common.server ];
      system.extraDependencies = [ pkgs.hello ];
      services.harmonia-py.settings = {
        real_nix_store = "/guest/nix/store";
        nix_db_path = "/guest/nix/var/nix/db/db.sqlite";
      };
    };
    inherit (common) client;
  };
  testScript = ''
    start_all()
    server.wait_for_unit("harmonia-py.socket")
    server.succeed("nix copy --no-check-sigs --to /guest ${pkgs.hello}")
    client.wait_until_succeeds("curl --fail http://server:5000/ready")
    client.succeed("nix-store --store /root/other --realise ${pkgs.hello}")
    client.succeed("test -x /root/other${pkgs.hello}/bin/hello")
  '';
}
