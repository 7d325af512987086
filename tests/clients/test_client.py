"""What the package exports, where it looks for its server, and what it writes into its requests."""

from __future__ import annotations

import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

import turnkeeper
from turnkeeper import Backoff, Part, Text
from turnkeeper._config import Settings
from turnkeeper._connection import channel_options
from turnkeeper._ids import new_id
from turnkeeper._submission import cancel_request, submission
from turnkeeper.v1 import event_pb2

EXPORTED = """
Approval Backoff CancelModeName CancelReceipt Client Conversation DeliveryName Delta DeltaGapError EndTurn Event
FunctionTool Item Media Message MessageAssembler ModelParameters OpenMessage OpenPart Outcome OutcomeReason
OutcomeStatus Part Prompt Run RunItem RunReceipt RunState RunStream Session SessionSettings SessionStream Snapshot
SubmitOptions TenantStream Text ToolCall ToolError ToolResult TurnkeeperError Violation WatchTenantResponse Worker
__version__
"""
METHODS = """
address answer_approval cancel clear_queue close converse create_session delete_session get_run get_session
list_approvals list_messages list_runs list_sessions list_tools run serve_tools submit summarize_session update_session
watch watch_tenant
"""


def test_the_exported_names_are_these() -> None:
    assert turnkeeper.__all__ == EXPORTED.split()
    assert [name for name in dir(turnkeeper.Client) if not name.startswith("_")] == METHODS.split()


def test_only_what_the_package_names_is_imported() -> None:
    code = "import turnkeeper, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"typer", "rich", "turnkeeper_service", "turnkeeper_core", "pydantic"} & set(done.stdout.split())


def test_arguments_come_before_the_environment_and_that_before_defaults() -> None:
    environ = {"TURNKEEPER_ADDRESS": "a:1", "TURNKEEPER_TOKEN": "secret", "TURNKEEPER_TLS_CA": "/ca.pem"}
    found = Settings.load(None, None, None, environ=environ)
    assert (found.address, found.token, found.tls_ca) == ("a:1", "secret", Path("/ca.pem"))
    assert "secret" not in repr(found)
    given = Settings.load("b:2", "other", "/other.pem", environ=environ)
    assert (given.address, given.token, given.tls_ca) == ("b:2", "other", Path("/other.pem"))
    plain = Settings.load(None, None, None, environ={})
    assert (plain.address, plain.token, plain.tls_ca) == ("127.0.0.1:7450", None, None)


def test_half_a_client_certificate_is_refused() -> None:
    with pytest.raises(ValueError, match="belong together"):
        Settings.load(None, None, "/ca.pem", tls_certificate="/c.pem", environ={})
    with pytest.raises(ValueError, match="needs tls_ca"):
        Settings.load(None, None, None, tls_certificate="/c.pem", tls_key="/k.pem", environ={})


def test_waits_grow_between_their_bounds() -> None:
    backoff, delay = Backoff(), 0.0
    for _ in range(100):
        following = backoff.next(delay)
        assert 0.25 <= following <= min(10.0, max(delay, 0.25) * 3)
        delay = following


def test_the_channel_is_set_as_documented() -> None:
    options = dict(channel_options(Settings()))
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.keepalive_timeout_ms"] == 10_000
    assert options["grpc.max_receive_message_length"] == options["grpc.max_send_message_length"] == 16 * 1024 * 1024
    config = str(options["grpc.service_config"])
    assert '"maxAttempts": 4' in config
    for stream in ("Run", "Converse", "WatchSession", "WatchTenant"):
        assert f'"method": "{stream}"' not in config


def test_ids_are_version_7_and_sort_by_time() -> None:
    first = uuid.UUID(new_id())
    assert (first.version, first.variant) == (7, uuid.RFC_4122)
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [found[:8] for found in ids] == sorted(found[:8] for found in ids)


def test_a_submission_is_written_as_it_was_meant() -> None:
    plain = submission("s", "hello")
    assert plain.run_id
    assert plain.prompt == [Part(text=Text(text="hello"))]
    assert not plain.HasField("preconditions")
    assert not plain.HasField("max_steps")
    assert not plain.HasField("max_output_reprompts")
    full = submission(
        "s",
        ["a", Part(text=Text(text="b"))],
        run_id="r",
        delivery="replace",
        require_idle=True,
        max_steps=0,
        output_schema={"type": "object"},
        max_output_reprompts=0,
        output_reprompt="only JSON",
        start_timeout=2,
        run_timeout=timedelta(minutes=1),
        cancel_on_disconnect=0.5,
    )
    assert [part.text.text for part in full.prompt] == ["a", "b"]
    assert (full.run_id, full.delivery, full.HasField("max_steps")) == ("r", event_pb2.DELIVERY_REPLACE, True)
    assert (full.start_timeout.seconds, full.run_timeout.seconds) == (2, 60)
    assert full.on_disconnect.cancel_after.nanos == 500_000_000
    assert full.output_schema_json == '{"type": "object"}'
    assert (full.HasField("max_output_reprompts"), full.output_reprompt) == (True, "only JSON")


def test_a_cancel_has_one_scope() -> None:
    assert cancel_request(session_id="s").scope.session_id == "s"
    one = cancel_request(run_id="r", session_id="s")
    assert (one.scope.run_id, one.session_id) == ("r", "s")
    assert cancel_request(session_id="s", up_to=5).scope.up_to.accept_sequence == 5
    assert cancel_request(all_sessions=True).scope.WhichOneof("scope") == "tenant"
    assert cancel_request(run_id="r", mode="stop", hint="be short").hint == "be short"
    for wrong in ({}, {"up_to": 5}, {"session_id": "s", "all_sessions": True}, {"run_id": "r", "up_to": 5}):
        with pytest.raises(ValueError, match="a cancel is for"):
            cancel_request(**wrong)
