# What the tests share: one server, one client, and a key that is good for nothing else.
rec {
  secretKey = "cache.test-1:DzOb7/Poexf1vAYdVffCRnxnZ8RsBVzuwwtnG0wqWlT6xWQ6V234dQn5RoeSYm7w4Uf4PBSoy4+CAaF2GnzvRg==";
  publicKey = "cache.test-1:+sVkOldt+HUJ+UaHkmJu8OFH+DwUqMuPggGhdhp870Y=";

  server =
    { pkgs, ... }:
    {
      services.harmonia-py = {
        enable = true;
        openFirewall = true;
        signKeyPaths = [ "${pkgs.writeText "secret-key" secretKey}" ];
      };
      nix.settings.experimental-features = [
        "nix-command"
        "ca-derivations"
      ];
      networking.firewall.enable = true;
      virtualisation.writableStore = true;
    };

  # It asks nobody but the server, and the server's key is all that it trusts.
  client =
    { lib, pkgs, ... }:
    {
      services.harmonia-py-client = {
        enable = true;
        caches."http://server:5000" = [ publicKey ];
      };
      nix.settings = {
        substituters = lib.mkForce [ "http://server:5000" ];
        experimental-features = [
          "nix-command"
          "ca-derivations"
        ];
      };
      environment.systemPackages = [
        pkgs.curl
        pkgs.jq
      ];
      virtualisation.writableStore = true;
    };
}
