"""Media for models that take none, some, or not in every place."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from tests.service.providers.collect import user
from tests.service.providers.providers_page import BUILDERS
from tests.service.providers.test_requests import IMAGE, answer, call, result
from turnkeeper.v1 import content_pb2
from turnkeeper_service.providers.base import ModelCapabilities, ModelRequest
from turnkeeper_service.providers.facts.media import LOST, OF_RESULT, fit_media
from turnkeeper_service.providers.options import ProviderOptions

PDF = content_pb2.Media(mime_type="application/pdf", data=b"%PDF", name="a.pdf")


def with_media(*media: content_pb2.Media) -> content_pb2.Message:
    message = user("Look.")
    for item in media:
        message.parts.add().media.CopyFrom(item)
    return message


def kinds(message: content_pb2.Message) -> list[str | None]:
    return [part.WhichOneof("part") for part in message.parts]


def test_without_media_nothing_is_copied() -> None:
    messages = [user("One."), answer(), user("Two.")]
    assert fit_media(ModelRequest("m", messages), is_inside=False) is messages


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (ModelCapabilities(), ["text", "media", "media"]),
        (ModelCapabilities(takes_images=False), ["text", "text", "media"]),
        (ModelCapabilities(takes_files=False), ["text", "media", "text"]),
        (ModelCapabilities.of(None), ["text", "media", "media"]),
        (ModelCapabilities.of({"tools", "images"}), ["text", "media", "media"]),
        (ModelCapabilities.of({"tools"}), ["text", "text", "text"]),
    ],
)
def test_prompts(capabilities: ModelCapabilities, expected: list[str]) -> None:
    message = with_media(IMAGE, PDF)
    (fitted,) = fit_media(ModelRequest("m", [message], capabilities=capabilities), is_inside=True)
    assert kinds(fitted) == expected
    # The message that is kept still has everything.
    assert kinds(message) == ["text", "media", "media"]


def test_what_is_left_out_is_said() -> None:
    capabilities = ModelCapabilities(takes_images=False)
    (fitted,) = fit_media(ModelRequest("m", [with_media(IMAGE)], capabilities=capabilities), is_inside=True)
    assert "image/png" in fitted.parts[1].text.text


def test_what_the_format_has_no_place_for_is_said_too() -> None:
    request = ModelRequest("m", [with_media(IMAGE, PDF)])
    (fitted,) = fit_media(request, is_inside=True, says=lambda mime_type: mime_type == "image/png")
    assert kinds(fitted) == ["text", "media", "text"]


def test_text_is_put_into_the_prompt() -> None:
    notes = content_pb2.Media(mime_type="text/plain; charset=utf-8", data="Größe".encode(), name='a"b.txt')
    data = content_pb2.Media(mime_type="application/ld+json", data=b"{}")
    capabilities = ModelCapabilities(takes_images=False, takes_files=False)
    (fitted,) = fit_media(ModelRequest("m", [with_media(notes, data)], capabilities=capabilities), is_inside=True)
    assert fitted.parts[1].text.text == '<file name="a\'b.txt">\nGröße\n</file>'
    assert fitted.parts[2].text.text == '<file name="file">\n{}\n</file>'


def test_media_that_is_not_there_is_said() -> None:
    (fitted,) = fit_media(ModelRequest("m", [with_media(content_pb2.Media(mime_type="image/png"))]), is_inside=True)
    assert fitted.parts[1].text.text == LOST


def step(*texts: str) -> list[content_pb2.Message]:
    calling = answer()
    results = []
    for number, text in enumerate(texts):
        call(calling, f"c{number}")
        results.append(result((f"c{number}", text)))
        results[-1].parts[0].tool_result.content.add().media.CopyFrom(IMAGE)
    return [user("Go."), calling, *results]


def test_media_of_results_stays_inside() -> None:
    fitted = fit_media(ModelRequest("m", step("a", "b")), is_inside=True)
    assert len(fitted) == 4
    assert fitted[2].parts[0].tool_result.content[1].HasField("media")


@pytest.mark.parametrize("is_last", [True, False])
def test_media_of_results_follows_the_last_of_them(is_last: bool) -> None:
    messages = step("a", "") + ([] if is_last else [user("And?")])
    fitted = fit_media(ModelRequest("m", messages), is_inside=False)
    roles = [content_pb2.Role.Name(message.role).removeprefix("ROLE_") for message in fitted]
    assert roles == ["USER", "ASSISTANT", "TOOL", "TOOL", "USER"] + ([] if is_last else ["USER"])
    texts = [fitted[number].parts[0].tool_result.content for number in (2, 3)]
    assert [len(content) for content in texts] == [1, 1]
    assert texts[0][0].text.text.startswith("a\n[")
    assert fitted[4].parts[0].text.text == OF_RESULT
    assert kinds(fitted[4])[1:] == ["media", "media"]


@pytest.mark.parametrize(("takes", "is_inside"), [(True, False), (False, True)])
def test_what_the_model_takes_wins_over_the_formats_habit(takes: bool, is_inside: bool) -> None:
    request = ModelRequest("m", step("a"), capabilities=ModelCapabilities(takes_result_media=takes))
    fitted = fit_media(request, is_inside=is_inside)
    assert (len(fitted) == 3) is takes


def test_a_model_without_images_gets_no_message_of_them() -> None:
    request = ModelRequest("m", step("a"), capabilities=ModelCapabilities(takes_images=False))
    fitted = fit_media(request, is_inside=False)
    assert len(fitted) == 3
    assert [part.WhichOneof("part") for part in fitted[2].parts[0].tool_result.content] == ["text", "text"]


PNG, JPEG, WEBP = b"\x89PNG\r\n\x1a\n...", b"\xff\xd8\xff\xe0...", b"RIFF1234WEBPVP8 "


@pytest.mark.parametrize(
    ("said", "data", "kind"),
    [
        ("image/png", JPEG, "image/jpeg"),
        ("image/jpg", b"...", "image/jpeg"),
        ("IMAGE/PNG; charset=binary", PNG, "image/png"),
        ("application/octet-stream", WEBP, "image/webp"),
        ("", b"GIF89a...", "image/gif"),
        ("image/png", b"%PDF-1.7", "application/pdf"),
        ("image/bmp", b"BM...", "image/bmp"),
        ("application/zip", b"PK...", "application/zip"),
    ],
)
@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_media_is_told_as_what_it_is_and_left_out_where_the_vendor_refuses_it(
    build: Callable[[ModelRequest, ProviderOptions], bytes], said: str, data: bytes, kind: str
) -> None:
    prompt = with_media(content_pb2.Media(mime_type=said, data=data, name="a"))
    step_with_it = [user("Go."), answer(), result(("c", "seen"))]
    call(step_with_it[1], "c")
    step_with_it[2].parts[0].tool_result.content.append(prompt.parts[1])
    is_gemini = build is BUILDERS["gemini"]
    is_taken = kind != "image/bmp" and not (kind == "image/gif" and is_gemini)
    if kind == "application/zip":
        # One vendor takes files of more kinds than it says.
        is_taken = build is BUILDERS["openai-responses"]
    for messages in ([prompt], step_with_it):
        body = build(ModelRequest("m", messages), ProviderOptions("p", "f")).decode()
        assert (base64.b64encode(data).decode() in body) == is_taken
        assert (f"media of the type {kind}" in body) == (not is_taken)
        assert kind in body
