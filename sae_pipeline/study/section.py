"""What every section of a study file has: unknown keys are errors, values never change, and the kinds of values they share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=40)]
"""A name that becomes part of asset keys, file names and column values."""

Dtype = Literal["float32", "bfloat16", "float16"]
Site = Literal["resid_post", "resid_pre", "mlp_out", "attn_out"]
Kind = Literal["in_sample", "domain_shift", "task_shift", "distribution_shift"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors and values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, data: object) -> object:
        """YAML's true would otherwise pass for 1."""
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(str(name))
            if field is not None and "bool" not in str(field.annotation) and any(isinstance(v, bool) for v in as_tuple(value)):
                raise ValueError(f"{name}: expected a value other than true or false, found {value}")
        return data


def as_tuple(value: object) -> tuple:
    """A scalar or a list from YAML as a tuple."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
