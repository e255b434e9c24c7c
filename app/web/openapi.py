"""What FastAPI cannot derive for /api/v1/openapi.json: problem documents, the specs of jobs, idempotency keys."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app.domain.specs import SPEC_OF_KIND
from app.web.api.problems import Problem, problems
from app.web.idempotency import HEADER

_IDEMPOTENCY_KEY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 200},
    "description": "The same call with the same key acts once, and is answered as it was the first time, for a day.",
    "example": "6f1f6f0e-8f7a-4d5e-9b53-2f6c3c1f7a10",
}
_REF = "#/components/schemas/{model}"


def install_openapi(app: FastAPI) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    models = [(model, "validation") for model in (*SPEC_OF_KIND.values(), Problem)]
    _, schemas = models_json_schema(models, ref_template=_REF)  # type: ignore[arg-type]
    document["components"]["schemas"] |= schemas["$defs"]
    kinds = {kind.value: _REF.format(model=model.__name__) for kind, model in SPEC_OF_KIND.items()}
    document["components"]["schemas"]["JobIn"]["properties"]["spec"] = {
        "description": "Hyperparameters of this kind of job.",
        "anyOf": [{"$ref": ref} for ref in kinds.values()],
    }
    for methods in document["paths"].values():
        if "post" in methods:
            methods["post"].setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
        for operation in methods.values():
            if "requestBody" in operation:  # FastAPI's answer to a body that is not text
                operation["responses"] |= {str(status): answer for status, answer in problems(400).items()}
    return document
