"""What docs/reference/openapi.yaml says, and whether an answer is what it says.

operations = read_operations()              # by name, which is the route's
operations["narinfo"].target(hash_part="…") # /….narinfo
operations["narinfo"].complaint(status, headers)    # what is wrong, or ""; the names of headers in lower case
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import yaml

FILE: Final = Path(__file__).parent.parent / "docs/reference/openapi.yaml"


@dataclass(frozen=True, slots=True)
class Parameter:
    """`pattern` is None for a text of any kind; `slashes` says whether the value may have them as they are."""

    name: str
    place: Literal["path", "query", "header"]
    pattern: str | None
    slashes: bool


@dataclass(frozen=True, slots=True)
class Header:
    required: bool
    pattern: str


@dataclass(frozen=True, slots=True)
class Response:
    types: frozenset[str]
    headers: Mapping[str, Header]

    def complaint(self, headers: Mapping[str, str]) -> str:
        content_type = headers.get("content-type", "").partition(";")[0]
        if not self.types & {content_type, "*/*"} and (self.types or content_type):
            return f"its type is {content_type!r}"
        for name, header in self.headers.items():
            value = headers.get(name)
            if value is None:
                if header.required:
                    return f"it has no {name}"
            elif re.search(header.pattern, value) is None:
                return f"{name} is {value!r}"
        return ""


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    path: str
    parameters: tuple[Parameter, ...]
    responses: Mapping[str, Response]

    def target(self, **values: str) -> str:
        """The URL with these values, percent-encoded as they must be."""
        path, query = self.path, []
        for parameter in self.parameters:
            if parameter.place == "path":
                value = quote(values[parameter.name], safe="/!" if parameter.slashes else "!")
                path = path.replace(f"{{{parameter.name}}}", value)
            elif parameter.place == "query" and parameter.name in values:
                query.append(f"{parameter.name}={quote(values[parameter.name], safe='')}")
        return f"{path}?{'&'.join(query)}" if query else path

    def complaint(self, status: int, headers: Mapping[str, str]) -> str:
        described = self.responses.get(str(status))
        return f"{status} is not described" if described is None else described.complaint(headers)


def read_operations() -> dict[str, Operation]:
    """Every operation by its name, but for pushes and their API, which have tests of their own."""
    document = yaml.load(FILE.read_text(), yaml.CSafeLoader)  # in C: eight times as fast
    readable = {
        path: item["get"]
        for path, item in document["paths"].items()
        if not is_api(path) and "get" in item and {"pushed", "Attic"}.isdisjoint(item["get"]["tags"])
    }
    operations = [_operation(document, path, item) for path, item in readable.items()]
    return {operation.name: operation for operation in operations}


def is_api(path: str) -> bool:
    """Whether a URL is part of the push API."""
    return path.startswith("/api/")


def _operation(document: dict[str, Any], path: str, item: dict[str, Any]) -> Operation:
    parameters = [_resolve(document, one) for one in item.get("parameters", [])]
    return Operation(
        name=item["operationId"],
        path=path,
        parameters=tuple(
            Parameter(one["name"], one["in"], one["schema"].get("pattern"), slashes="x-allow-reserved" in one)
            for one in parameters
        ),
        responses={status: _response(document, one) for status, one in item["responses"].items()},
    )


def _response(document: dict[str, Any], item: dict[str, Any]) -> Response:
    item = _resolve(document, item)
    headers = {name.lower(): _resolve(document, one) for name, one in item.get("headers", {}).items()}
    return Response(
        frozenset(item.get("content", {})),
        {name: Header(one.get("required", False), _pattern(one["schema"])) for name, one in headers.items()},
    )


def _pattern(schema: dict[str, Any]) -> str:
    return f"^{re.escape(schema['const'])}$" if "const" in schema else str(schema.get("pattern", ""))


def _resolve(document: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in item:
        return item
    value = document
    for name in item["$ref"].removeprefix("#/").split("/"):
        value = value[name]
    return value
