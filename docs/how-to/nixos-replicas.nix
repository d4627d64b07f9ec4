# One of several servers of one cache: PostgreSQL and the bucket are elsewhere, and each server has this configuration.
{ harmonia-py, ... }:
{
  imports = [ harmonia-py.nixosModules.default ];

  services.harmonia-py = {
    enable = true;
    credentials = {
      database-password = "/run/keys/database-password";
      s3 = "/run/keys/s3";
      key-encryption = "/run/keys/key-encryption";
    };
    settings = {
      compression = "none";
      sign = false;
      key_encryption_file = "/run/credentials/harmonia-py.service/key-encryption";
      database = {
        url = "postgresql://harmonia@db.example.org/harmonia?sslmode=verify-full";
        password_file = "/run/credentials/harmonia-py.service/database-password";
      };
      storage = {
        url = "s3://nix-cache/kept?region=eu-central-1";
        credentials_file = "/run/credentials/harmonia-py.service/s3";
      };
      limits.trusted_proxies = [ "10.0.0.1" ];
    };
    caches.team = { };
  };
}
