"""Models whose fields are documented by the strings under them, read when a schema is asked for and not on import."""

import ast
import inspect
import textwrap
from functools import cache

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core.core_schema import CoreSchema


class Documented(BaseModel):
    """A field's description in the JSON schema is the string below it.

    Pydantic's `use_attribute_docstrings` says the same, but reads the source of every class while the program starts:
    0.15 s of the web process's one second.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for owner in reversed(cls.__mro__):
            if issubclass(owner, Documented) and owner is not Documented:
                for name, text in _strings_below(owner).items():
                    if name in properties and not cls.model_fields[name].description:
                        properties[name]["description"] = text
        return schema


@cache
def _strings_below(model: type[BaseModel]) -> dict[str, str]:
    """The string below each annotated attribute of one class, from its source; empty where there is none to read."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    except (OSError, TypeError):
        return {}
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found
