# A small stand-in for nixpkgs' `lib`: what the modules use, with nixpkgs' meaning, and `evalModule` for one module.
rec {
  inherit (builtins) any attrNames attrValues concatLists elem filter head;
  last = list: builtins.elemAt list (builtins.length list - 1);
  toList = value: if builtins.isList value then value else [ value ];
  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: values: if condition then values else [ ];
  optionalAttrs = condition: values: if condition then values else { };
  unique = builtins.foldl' (seen: one: if elem one seen then seen else seen ++ [ one ]) [ ];
  imap0 = f: list: builtins.genList (index: f index (builtins.elemAt list index)) (builtins.length list);
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  filterAttrs =
    wanted: set: removeAttrs set (filter (name: !(wanted name set.${name})) (attrNames set));

  hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
  removePrefix =
    prefix: text:
    if hasPrefix prefix text then builtins.substring (builtins.stringLength prefix) (-1) text else text;
  escapeRegex = builtins.replaceStrings [ "." "[" "]" ] [ "\\." "\\[" "\\]" ];
  splitString = separator: text: filter builtins.isString (builtins.split (escapeRegex separator) text);
  concatMapStringsSep = separator: f: list: builtins.concatStringsSep separator (map f list);
  toInt = builtins.fromJSON;
  getExe = package: "${package}/bin/${package.mainProgram}";

  literalExpression = text: text;
  mkOption = option: option // { _type = "option"; };
  mkEnableOption =
    what:
    mkOption {
      type = types.bool;
      default = false;
      description = "Whether to enable ${what}.";
    };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  # The order of several definitions: here every option has one.
  mkBefore = content: content;

  types =
    let
      type = name: check: { inherit name check; };
    in
    rec {
      bool = type "bool" builtins.isBool;
      str = type "str" builtins.isString;
      package = type "package" (value: builtins.isAttrs value && value ? outPath);
      ints = {
        unsigned = type "unsigned" (value: builtins.isInt value && value >= 0);
        positive = type "positive" (value: builtins.isInt value && value > 0);
      };
      listOf = of: type "list of ${of.name}" (value: builtins.isList value && builtins.all of.check value);
      attrsOf =
        of: type "attrs of ${of.name}" (value: builtins.isAttrs value && builtins.all of.check (attrValues value));
      either = one: other: type "${one.name} or ${other.name}" (value: one.check value || other.check value);
      nullOr = of: type "null or ${of.name}" (value: value == null || of.check value);
    };

  # What `module` makes of `given`, values of its options by the path of names that `service` begins.
  evalModule =
    {
      module,
      service,
      given,
      pkgs,
    }:
    let
      lib = (import ./lib.nix);
      evaluated = module {
        inherit lib pkgs;
        config.services.${service} = values;
      };
      declared = evaluated.options.services.${service};
      unknown = filter (name: !(declared ? ${name})) (attrNames given);
      values =
        if unknown != [ ] then
          throw "The option `services.${service}.${head unknown}' does not exist."
        else
          builtins.mapAttrs (
            name: option:
            let
              value = given.${name} or option.default;
            in
            if option.type.check value then
              value
            else
              throw "A definition for option `services.${service}.${name}' is not of type `${option.type.name}'."
          ) declared;
    in
    resolve evaluated.config;

  # mkIf, wherever it is.
  resolve =
    value:
    if (value._type or null) == "if" then
      (if value.condition then resolve value.content else { })
    else if builtins.isAttrs value && !(value ? outPath) then
      builtins.mapAttrs (_: resolve) value
    else
      value;
}
