"""The files of store paths: NARs made from them, single files, build logs, derivations."""
