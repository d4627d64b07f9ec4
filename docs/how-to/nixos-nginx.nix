# A public cache at https://cache.example.org: harmonia-py behind nginx, with a certificate of Let's Encrypt.
{ harmonia-py, ... }:
{
  imports = [ harmonia-py.nixosModules.default ];

  services.harmonia-py = {
    enable = true;
    signKeyPaths = [ "/run/keys/cache.example.org-1.secret" ];
    settings = {
      # nginx alone reaches it.
      bind = [ "127.0.0.1:5000" ];
      base_url = "https://cache.example.org";
      limits.trusted_proxies = [ "127.0.0.1" ];
      cache.max_size = "200 GiB";
    };
  };

  services.nginx = {
    enable = true;
    recommendedTlsSettings = true;
    # Neither recommendedGzipSettings nor recommendedProxySettings: NARs come compressed, and the headers are below.
    upstreams.harmonia-py = {
      servers."127.0.0.1:5000" = { };
      extraConfig = "keepalive 32;";
    };
    virtualHosts."cache.example.org" = {
      enableACME = true;
      forceSSL = true;
      locations."/" = {
        proxyPass = "http://harmonia-py";
        extraConfig = ''
          proxy_http_version 1.1;
          proxy_set_header Connection "";
          proxy_set_header Host $host;
          proxy_set_header X-Forwarded-Proto $scheme;
          proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
          proxy_max_temp_file_size 0;
          client_max_body_size 0;
          proxy_request_buffering off;
          proxy_read_timeout 300s;
          gzip off;
        '';
      };
    };
  };

  security.acme = {
    acceptTerms = true;
    defaults.email = "admin@example.org";
  };

  networking.firewall.allowedTCPPorts = [
    80
    443
  ];
}
