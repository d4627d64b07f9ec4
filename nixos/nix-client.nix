# services.harmonia-py-client: Nix on this machine asks binary caches before others, and gives up on them soon.
{ config, lib, ... }:
let
  cfg = config.services.harmonia-py-client;
in
{
  options.services.harmonia-py-client = {
    enable = lib.mkEnableOption "substituting from the binary caches named here";

    caches = lib.mkOption {
      type = lib.types.attrsOf (lib.types.listOf lib.types.str);
      default = { };
      example = {
        "https://cache.example.org" = [ "cache.example.org-1:…" ];
      };
      description = "Public keys whose signatures are trusted, by the URL of the cache.";
    };

    negativeTtl = lib.mkOption {
      type = lib.types.ints.unsigned;
      default = 60;
      description = ''
        Seconds for which Nix remembers that a cache does not have a path. Its own default is an hour, which is long where
        something is built and wanted elsewhere a minute later.
      '';
    };

    connectTimeout = lib.mkOption {
      type = lib.types.ints.positive;
      default = 3;
      description = "Seconds after which a cache that does not answer is left out, such as one at home from elsewhere.";
    };

    netrcFile = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      description = "A netrc with passwords, for caches that are not public.";
    };
  };

  config = lib.mkIf cfg.enable {
    nix.settings = {
      # In front of cache.nixos.org, which NixOS names by itself; Nix then goes by their priorities.
      substituters = lib.mkBefore (lib.attrNames cfg.caches);
      trusted-public-keys = lib.unique (lib.concatLists (lib.attrValues cfg.caches));
      narinfo-cache-negative-ttl = cfg.negativeTtl;
      connect-timeout = cfg.connectTimeout;
      # A cache that is away costs a build, never an error.
      fallback = true;
    }
    // lib.optionalAttrs (cfg.netrcFile != null) { netrc-file = cfg.netrcFile; };
  };
}
