# services.harmonia-py-push: what this machine builds is pushed to a binary cache, and no build waits for that.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  hardening = import ./hardening.nix;
  cfg = config.services.harmonia-py-push;
  queue = "/var/lib/harmonia-py-push";
  # A build that cannot be written down has been built all the same.
  hook = pkgs.writeShellScript "push-what-was-built" ''
    ${lib.getExe cfg.package} hook add --queue ${queue} || true
  '';
in
{
  options.services.harmonia-py-push = {
    enable = lib.mkEnableOption "pushing what this machine builds to a binary cache";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.harmonia-py or (pkgs.callPackage ./package.nix { });
      defaultText = lib.literalExpression "pkgs.harmonia-py";
      description = "The package to run.";
    };

    cache = lib.mkOption {
      type = lib.types.str;
      example = "https://cache.example.org/team";
      description = "The URL of the cache.";
    };

    tokenFile = lib.mkOption {
      type = lib.types.str;
      example = "/run/keys/push-token";
      description = ''
        A file with a token that may read the cache and push to it. Root alone needs to be able to read it: systemd hands it
        to the service.
      '';
    };

    deadline = lib.mkOption {
      type = lib.types.ints.positive;
      default = 60;
      description = "Seconds for which what waits is still pushed when the service stops; what is left is pushed later.";
    };
  };

  config = lib.mkIf cfg.enable {
    nix.settings.post-build-hook = hook;

    systemd.services.harmonia-py-push = {
      description = "Push what is built to a Nix binary cache";
      documentation = [ "man:harmonia-py(1)" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "nss-lookup.target"
        "nix-daemon.socket"
      ];
      wantedBy = [ "multi-user.target" ];
      environment.HARMONIA_PY_TOKEN_FILE = "%d/token";
      # Beside systemd/harmonia-py-push.service: a test compares the two.
      serviceConfig = hardening // {
        ExecStart = "${lib.getExe cfg.package} hook run ${cfg.cache} --queue ${queue} --deadline ${toString cfg.deadline}";
        LoadCredential = "token:${cfg.tokenFile}";
        StateDirectory = "harmonia-py-push";
        StateDirectoryMode = "0700";

        Restart = "always";
        RestartSec = 5;
        TimeoutStopSec = cfg.deadline + 30;
        Nice = 10;
        IOSchedulingClass = "idle";
        MemoryMax = "256M";

        RestrictAddressFamilies = "AF_UNIX AF_INET AF_INET6";
        ProtectHome = "tmpfs";
      };
    };
  };
}
