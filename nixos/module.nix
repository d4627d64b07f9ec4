# services.harmonia-py: a Nix binary cache that serves this machine's store, and mirrors others.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  hardening = import ./hardening.nix;
  cfg = config.services.harmonia-py;
  toml = pkgs.formats.toml { };

  settings =
    cfg.settings
    // lib.optionalAttrs (cfg.upstreams != [ ]) {
      upstream = map (one: if builtins.isString one then { url = one; } else one) cfg.upstreams;
    }
    // lib.optionalAttrs (cfg.caches != { }) { inherit (cfg) caches; }
    // lib.optionalAttrs (cfg.atticEnvironmentFile != null) {
      attic = {
        enabled = true;
      }
      // (cfg.settings.attic or { });
    };
  bind = settings.bind or "[::]:5000";
  addresses = lib.toList bind;
  tcpAddresses = lib.filter (one: !(lib.hasPrefix "unix:" one)) addresses;
  ports = lib.unique (map (one: lib.toInt (lib.last (lib.splitString ":" one))) tcpAddresses);
  # What systemd.socket(5) writes for the same place.
  listenStream =
    one:
    if lib.hasPrefix "unix:" one then
      lib.removePrefix "//" (lib.removePrefix "unix:" one)
    else
      lib.removePrefix ":" one;

  # The build fails where the service would not start.
  configFile = pkgs.runCommand "harmonia.toml" { } ''
    ${lib.getExe cfg.package} check-config --no-files --config ${toml.generate "unchecked-harmonia.toml" settings} >/dev/null
    cp ${toml.generate "unchecked-harmonia.toml" settings} $out
  '';
  file = "harmonia-py/harmonia.toml";

  # What a reload cannot change: the service restarts when one of these does.
  setAtStart = [
    "bind"
    "tls_cert_path"
    "tls_key_path"
    "access_log"
    "log_format"
    "keepalive_timeout"
    "stall_timeout"
    "shutdown_timeout"
    "max_connections"
    "limits"
    "worker_timeout"
    "unix_socket_mode"
    "database"
    "unix_socket_group"
  ];

  signKeys = lib.imap0 (index: path: {
    name = "sign-key-${toString index}";
    inherit path;
  }) cfg.signKeyPaths;
  credentials =
    map (key: "${key.name}:${key.path}") signKeys
    ++ lib.mapAttrsToList (name: path: "${name}:${path}") cfg.credentials;

  isMirror = settings ? upstream;
  hasNetwork = isMirror || !cfg.socketActivation;
in
{
  options.services.harmonia-py = {
    enable = lib.mkEnableOption "harmonia-py, a Nix binary cache";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.harmonia-py or (pkgs.callPackage ./package.nix { });
      defaultText = lib.literalExpression "pkgs.harmonia-py";
      description = "The package to run.";
    };

    settings = lib.mkOption {
      inherit (toml) type;
      default = { };
      example = {
        bind = [ "[::]:5000" ];
        priority = 30;
        workers = 4;
        cache.max_size = "200 GiB";
        caches.main.public = true;
        oidc.github = {
          issuer = "https://token.actions.githubusercontent.com";
          audience = "https://cache.example.org";
          rules = [
            {
              claims = { repository_owner = "example"; ref = "refs/heads/main"; };
              caches = [ "main" ];
              allow = [ "read" "push" ];
            }
          ];
        };
      };
      description = ''
        What is in {file}`harmonia.toml`. It is checked when the system is built. Secrets do not belong here: everyone
        can read the store. Use `signKeyPaths` and `credentials`.
      '';
    };

    signKeyPaths = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [ "/run/keys/cache.example.org-1.secret" ];
      description = ''
        Files with secret keys, each of which signs every narinfo. Root alone needs to be able to read them: systemd
        hands them to the service. Without any, a key is made at the first start, unless `settings.sign` is false;
        {command}`harmonia-py public-key` prints it.
      '';
    };

    credentials = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      example = {
        netrc = "/run/keys/netrc";
      };
      description = ''
        Other files that root alone can read and the service needs, by name. In `settings` they are
        {file}`/run/credentials/harmonia-py.service/NAME`.
      '';
    };

    upstreams = lib.mkOption {
      type = lib.types.listOf (lib.types.either lib.types.str toml.type);
      default = [ ];
      example = [
        "https://cache.nixos.org"
        {
          url = "https://cache.example.org";
          public_keys = [ "cache.example.org-1:…" ];
        }
      ];
      description = ''
        Caches to ask for what this store does not have: a URL, or a table `[[upstream]]` of {file}`harmonia.toml`.
      '';
    };

    caches = lib.mkOption {
      type = lib.types.attrsOf toml.type;
      default = { };
      example = {
        team.max_size = "200 GiB";
        open = {
          public = true;
          caches = [ "default" ];
        };
        default.into = "store";
      };
      description = ''
        Caches that machines push to, each a table `[caches.NAME]` of {file}`harmonia.toml`, at `/NAME/`; `default` lets the
        cache at `/` take pushes. {command}`harmonia-py token create` makes the tokens that open them, and
        {command}`harmonia-py key create` the keys that they sign with.
      '';
    };

    atticEnvironmentFile = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      example = lib.literalExpression "config.services.atticd.environmentFile";
      description = ''
        A file that sets `ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64` or its kin, the key of Attic's tokens, as
        {option}`services.atticd.environmentFile` does; it stays out of the Nix store. With it the API of Attic is
        switched on, for its client as it is.
      '';
    };

    socketActivation = lib.mkOption {
      type = lib.types.bool;
      default = true;
      description = ''
        Whether systemd listens, and starts the service on the first connection. Without upstreams the service then has
        no network of its own, and nobody is refused while it restarts.
      '';
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to open the ports of `settings.bind` in the firewall.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = !(cfg.settings ? sign_key_paths || cfg.settings ? sign_key_path);
        message = "services.harmonia-py: name secret keys in signKeyPaths, not in settings: the service cannot read root's files.";
      }
      {
        assertion = !(cfg.settings ? upstream && cfg.upstreams != [ ]);
        message = "services.harmonia-py: name upstreams in upstreams or in settings.upstream, not in both.";
      }
      {
        assertion = !(cfg.settings ? caches && cfg.caches != { });
        message = "services.harmonia-py: declare caches in caches or in settings.caches, not in both.";
      }
    ];

    environment.etc.${file}.source = configFile;

    # The nix-daemon knows who asks by name, where `allowed-users` says who may.
    nix.settings.extra-allowed-users = [ "harmonia-py" ];

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall ports;

    systemd.sockets.harmonia-py = lib.mkIf cfg.socketActivation {
      description = "Nix binary cache, socket";
      wantedBy = [ "sockets.target" ];
      listenStreams = map listenStream addresses;
      socketConfig = {
        Backlog = 4096;
      }
      // lib.optionalAttrs (settings ? unix_socket_mode) { SocketMode = settings.unix_socket_mode; }
      // lib.optionalAttrs (settings ? unix_socket_group) { SocketGroup = settings.unix_socket_group; };
    };

    systemd.services.harmonia-py = {
      description = "Nix binary cache";
      documentation = [ "man:harmonia-py(1)" ];
      requires = lib.optional cfg.socketActivation "harmonia-py.socket";
      wants = lib.optional isMirror "network-online.target";
      after = [
        "nix-daemon.socket"
      ]
      ++ lib.optional cfg.socketActivation "harmonia-py.socket"
      ++ lib.optionals isMirror [
        "network-online.target"
        "nss-lookup.target"
      ]
      ++ lib.optional (!cfg.socketActivation) "network.target";
      wantedBy = lib.optional (!cfg.socketActivation) "multi-user.target";
      reloadTriggers = [ configFile ];
      restartTriggers = [ (builtins.toJSON (lib.filterAttrs (name: _: lib.elem name setAtStart) settings)) ];
      environment = lib.optionalAttrs (signKeys != [ ]) {
        SIGN_KEY_PATHS = lib.concatMapStringsSep " " (key: "%d/${key.name}") signKeys;
      };
      # Beside systemd/harmonia-py.service: a test compares the two.
      serviceConfig = hardening // {
        Type = "notify-reload";
        ExecStart = "${lib.getExe cfg.package} serve --config /etc/${file}";
        ExecReload = "${lib.getExe cfg.package} check-config --quiet --no-credentials --config /etc/${file}";
        StateDirectory = "harmonia-py";
        StateDirectoryMode = "0700";
        CacheDirectory = "harmonia-py";
        CacheDirectoryMode = "0700";

        Restart = "on-failure";
        RestartSec = 1;
        WatchdogSec = 30;
        TimeoutStartSec = 60;
        TimeoutStopSec = 60;
        KillMode = "mixed";
        OOMPolicy = "continue";
        MemoryMax = "50%";
        TasksMax = 2048;
        LimitNOFILE = 65536;

        DynamicUser = true;
        PrivateUsers = true;

        RestrictAddressFamilies = [ "AF_UNIX" ] ++ lib.optionals hasNetwork [ "AF_INET" "AF_INET6" ];
        ProtectHome = true;
        RemoveIPC = true;
        SystemCallFilter = hardening.SystemCallFilter ++ [ "setpriority" ];
      }
      // lib.optionalAttrs (!hasNetwork) {
        PrivateNetwork = true;
        IPAddressDeny = "any";
      }
      # For sockets that it makes itself.
      // lib.optionalAttrs (!cfg.socketActivation) { RuntimeDirectory = "harmonia-py"; }
      // lib.optionalAttrs (credentials != [ ]) { LoadCredential = credentials; }
      // lib.optionalAttrs (cfg.atticEnvironmentFile != null) { EnvironmentFile = cfg.atticEnvironmentFile; }
      // lib.optionalAttrs (!cfg.socketActivation && lib.any (port: port < 1024) ports) {
        CapabilityBoundingSet = "CAP_NET_BIND_SERVICE";
        AmbientCapabilities = "CAP_NET_BIND_SERVICE";
        # A capability in a user namespace says nothing about ports outside.
        PrivateUsers = false;
      };
    };
  };
}
