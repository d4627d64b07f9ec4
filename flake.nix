{
  description = "A Nix binary cache in one daemon";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEach =
        make: lib.genAttrs systems (system: make (nixpkgs.legacyPackages.${system}.extend self.overlays.default));
      tests = lib.mapAttrs' (name: _: lib.nameValuePair (lib.removeSuffix ".nix" name) (./nixos/tests + "/${name}")) (
        lib.filterAttrs (name: _: lib.hasSuffix ".nix" name) (builtins.readDir ./nixos/tests)
      );
    in
    {
      overlays.default = final: _: { harmonia-py = final.callPackage ./nixos/package.nix { }; };

      packages = forEach (pkgs: {
        inherit (pkgs) harmonia-py;
        default = pkgs.harmonia-py;
      });

      nixosModules = {
        harmonia-py = {
          imports = [ ./nixos/module.nix ];
          nixpkgs.overlays = [ self.overlays.default ];
        };
        nix-client = ./nixos/nix-client.nix;
        push = {
          imports = [ ./nixos/push.nix ];
          nixpkgs.overlays = [ self.overlays.default ];
        };
        default = self.nixosModules.harmonia-py;
      };

      # Two machines each, booted in virtual machines.
      checks = forEach (
        pkgs:
        lib.mapAttrs (
          _: test:
          pkgs.testers.runNixOSTest {
            imports = [ test ];
            defaults.imports = [
              ./nixos/module.nix
              ./nixos/nix-client.nix
            ];
          }
        ) tests
        // {
          inherit (pkgs) harmonia-py;
        }
      );

      devShells = forEach (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ pkgs.harmonia-py ];
          packages = with pkgs; [
            gnumake
            nginx
            nix
            python3
            uv
          ];
        };
      });

      formatter = forEach (pkgs: pkgs.nixfmt-rfc-style);
    };
}
