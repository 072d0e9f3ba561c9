"""The OpenAPI description of a server, made of its ways in."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from glassrt.engine.service.ways import JSON, Way

ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
NAMED = re.compile(r"\{(\w+)\}")


def describe_ways(ways: Sequence[Way], token: bool) -> dict[str, Any]:
    """The description; with a `token` every way that is not public asks for it."""
    paths: dict[str, dict[str, Any]] = {}
    for way in ways:
        paths.setdefault(way.path, {})[way.method.lower()] = describe_way(way, token)
    components: dict[str, Any] = {"schemas": {"Error": ERROR}}
    if token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "GlassRT", "version": version("glassrt")},
        "paths": paths,
        "components": components,
    }


def describe_way(way: Way, token: bool) -> dict[str, Any]:
    """One method of one path."""
    parameters = [describe_parameter(name, "path", "", True) for name in NAMED.findall(way.path)]
    parameters += [describe_parameter(name, "query", tells, name in way.needed) for name, tells in way.query.items()]
    answers: dict[str, Any] = {
        str(answer.status): {"description": answer.tells, **describe_content(answer.gives)} for answer in way.answers
    }
    schema = {"$ref": "#/components/schemas/Error"}
    answers["default"] = {"description": "what is wrong, in one line", "content": {JSON: {"schema": schema}}}
    told: dict[str, Any] = {"summary": way.tells, "responses": answers}
    if parameters:
        told["parameters"] = parameters
    if way.takes:
        told["requestBody"] = describe_content(way.takes)
    if token and not way.public:
        told["security"] = [{"token": []}]
    return told


def describe_parameter(name: str, place: str, tells: str, needed: bool) -> dict[str, Any]:
    """One parameter."""
    told: dict[str, Any] = {"name": name, "in": place, "required": needed, "schema": {"type": "string"}}
    return {**told, "description": tells} if tells else told


def describe_content(kinds: Sequence[str]) -> dict[str, Any]:
    """Content of these kinds."""
    return {"content": {kind: {} for kind in kinds}} if kinds else {}
