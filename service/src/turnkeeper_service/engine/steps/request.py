"""What a step asks of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from turnkeeper.v1 import content_pb2
from turnkeeper_service.engine.models import Model
from turnkeeper_service.engine.pairing import paired
from turnkeeper_service.engine.plan import TurnPlan
from turnkeeper_service.providers.base import ModelRequest, ToolDefinition
from turnkeeper_service.tools.base import OfferedTool


def step_request(
    plan: TurnPlan, model: Model, history: Sequence[content_pb2.Message], tools: Mapping[str, OfferedTool]
) -> ModelRequest:
    """The request of a step: prefix, history, system prompt with what tool servers add to it, tools."""
    messages = paired(history)
    if plan.prompt_prefix:
        prefix = content_pb2.Message(role=content_pb2.ROLE_USER)
        prefix.parts.add().text.text = plan.prompt_prefix
        messages = [prefix, *messages]
    instructions = plan.toolbox.instructions(tools) if tools else ()
    return ModelRequest(
        model=model.own_name,
        messages=messages,
        system="\n\n".join(text for text in (plan.system_prompt, *instructions) if text),
        parameters=plan.parameters,
        tools=[
            ToolDefinition(one.tool.name, one.tool.description, one.tool.input_schema_json) for one in tools.values()
        ],
        tool_choice=(plan.tool_choice or "auto") if tools else "auto",
        output_schema_json=plan.output_schema_json,
        session_hash=plan.session_hash,
        capabilities=model.capabilities,
    )
