"""Settings: precedence, places, what is refused and how it is said, secrets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.service.ops import configuration_page
from turnkeeper_service.settings.layers import SettingsError
from turnkeeper_service.settings.settings import Settings, known_keys
from turnkeeper_service.settings.tables import is_loopback, split_address

ROOT = Path(__file__).resolve().parents[3]


def load(folder: Path, text: str | None = None, /, **environ: str) -> Settings:
    if text is not None:
        (folder / "turnkeeper.toml").write_text(text)
    return Settings.load({"HOME": str(folder / "home"), **environ}, cwd=folder)


def problems(folder: Path, text: str | None = None, /, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(folder, text, **environ)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    (tmp_path / "turnkeeper.toml").write_text(
        "[limits]\nmax_running_turns = 4\nmax_running_turns_per_tenant = 4\nmax_steered_steps = 4\n"
    )
    environ = {"TURNKEEPER_LIMITS__MAX_RUNNING_TURNS": "5", "TURNKEEPER_LIMITS__MAX_RUNNING_TURNS_PER_TENANT": "5"}
    limits = Settings.load(environ, {"limits.max_running_turns": "6"}, cwd=tmp_path).limits
    assert (limits.max_running_turns, limits.max_running_turns_per_tenant, limits.max_steered_steps) == (6, 5, 4)
    assert limits.max_queued_runs_per_session == 10_000


def test_the_file_is_looked_for_in_four_places(tmp_path: Path) -> None:
    def write(name: str, depth: int) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"[limits]\nmax_running_turns = {depth}\n")
        return str(tmp_path / name)

    found = []
    environ = {"HOME": str(tmp_path / "home")}
    found.append(Settings.load(environ, cwd=tmp_path).limits.max_running_turns)
    write("home/.config/turnkeeper/config.toml", 11)
    found.append(Settings.load(environ, cwd=tmp_path).limits.max_running_turns)
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    write("xdg/turnkeeper/config.toml", 12)
    found.append(Settings.load(environ, cwd=tmp_path).limits.max_running_turns)
    write("turnkeeper.toml", 13)
    found.append(Settings.load(environ, cwd=tmp_path).limits.max_running_turns)
    environ["TURNKEEPER_CONFIG"] = write("by-variable.toml", 14)
    found.append(Settings.load(environ, cwd=tmp_path).limits.max_running_turns)
    write("by-flag.toml", 15)
    found.append(Settings.load(environ, config="by-flag.toml", cwd=tmp_path).limits.max_running_turns)
    assert found == [256, 11, 12, 13, 14, 15]


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeff[limits]\nmax_running_turns = 7\n").limits.max_running_turns == 7
    assert problems(tmp_path, "\ufeffzzz = 1\n") == ["turnkeeper.toml:1: unknown key zzz"]


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert problems(tmp_path, TURNKEEPER_CONFIG="none.toml") == ["none.toml: cannot read it: No such file or directory"]


def test_the_data_directory_follows_the_environment(tmp_path: Path) -> None:
    assert load(tmp_path).server.data_dir == tmp_path / "home/.local/share/turnkeeper"
    assert load(tmp_path, XDG_DATA_HOME="/data").server.data_dir == Path("/data/turnkeeper")
    assert load(tmp_path, TURNKEEPER_DATA_DIR="here").server.data_dir == tmp_path / "here"
    assert load(tmp_path, TURNKEEPER_SERVER__DATA_DIR="~/there").server.data_dir == tmp_path / "home/there"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[server]\n# a comment\n\ngrcp_address = "127.0.0.1:1"\n',
            "turnkeeper.toml:4: unknown key server.grcp_address; did you mean server.grpc_address?",
        ),
        (
            "[limits]\nmax_running_turns = 1\n[servr]\na = 1\n",
            "turnkeeper.toml:3: unknown key servr; did you mean server?",
        ),
        (
            '[defaults]\nsystem_prompt = """\nmax_step = 3\n"""\nmax_step = 3\n',
            "turnkeeper.toml:5: unknown key defaults.max_step; did you mean defaults.max_steps?",
        ),
        (
            '[providers.mine]\nformat = "scripted"\nscript_roots = [\n  "a",\n]\n',
            "turnkeeper.toml:3: unknown key providers.mine.script_roots; did you mean providers.mine.script_root?",
        ),
        (
            '[models."a/b"]\nflatrate = true\n',
            'turnkeeper.toml:2: unknown key models."a/b".flatrate; did you mean models.a/b.flat_rate?',
        ),
        ("zzz = 1\n", "turnkeeper.toml:1: unknown key zzz"),
    ],
)
def test_an_unknown_key_names_its_line_and_the_nearest_key(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server = 3\n", "turnkeeper.toml:1: server must be a table"),
        (
            "[limits]\nmax_running_turns = -1\n",
            "turnkeeper.toml:2: limits.max_running_turns: Input should be greater than or equal to 0 (it is -1)",
        ),
        (
            '[server]\ngrpc_address = "7450"\n',
            "turnkeeper.toml:2: server.grpc_address: must be HOST:PORT with a port from 0 to 65535 (it is '7450')",
        ),
        (
            "[server]\nheartbeat_interval_seconds = inf\n",
            "turnkeeper.toml:2: server.heartbeat_interval_seconds: Input should be a finite number (it is inf)",
        ),
        ('[defaults]\nmodel = "gpt"\n', "turnkeeper.toml:2: defaults.model: must be PROVIDER/MODEL (it is 'gpt')"),
        (
            '[defaults]\nmodel = "openai/gpt"\n',
            "turnkeeper.toml:2: defaults.model: openai/gpt needs a table [providers.openai]",
        ),
        (
            '[models."typo/gpt"]\ncontext_window_tokens = 1000\n',
            'turnkeeper.toml:1: models."typo/gpt": typo/gpt needs a table [providers.typo]',
        ),
        ("[providers.x]\n", "turnkeeper.toml:1: providers.x.format is missing"),
        (
            '[providers.x]\nformat = "openai-chat"\n',
            "turnkeeper.toml:1: providers.x.base_url: must start with http:// or https://",
        ),
        ('[auth]\nmode = "token"\n', 'turnkeeper.toml:1: auth.token_file: auth.mode "token" needs it'),
        ('[tls]\ncert_file = "a"\n', "turnkeeper.toml:1: tls.key_file: a certificate and a key come together"),
        (
            "[tls]\nrequire_client_cert = true\n",
            "turnkeeper.toml:2: tls.require_client_cert: tls.client_ca_file is needed to check them",
        ),
        (f"a = {'[' * 3000}", "turnkeeper.toml: not TOML: nested too deeply"),
        (
            "[server\n",
            "turnkeeper.toml: not TOML: Expected ']' at the end of a table declaration (at line 1, column 8)",
        ),
    ],
)
def test_a_bad_value_names_its_key_and_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


def test_a_variable_that_nests_without_end_is_named(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, '[mcp.a]\ncommand = "a"\n', TURNKEEPER_MCP__A__ARGS="[" * 3000)
    assert problem.startswith("environment variable TURNKEEPER_MCP__A__ARGS: mcp.a.args: nested too deeply")


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path, "[limits]\nmax_running_turns = -1\nmax_runing_turns = 1\n", TURNKEEPER_SERVER__LOG_LEVEL="loud"
    )
    assert len(found) == 3
    assert any(problem.startswith("environment variable TURNKEEPER_SERVER__LOG_LEVEL: ") for problem in found)


def test_an_unknown_variable_of_ours_is_refused_and_the_clients_are_left_alone(tmp_path: Path) -> None:
    load(tmp_path, TURNKEEPER_TOKEN="t", TURNKEEPER_ADDRESS="a", TURNKEEPER_TLS_CA="f", TURNKEEPER_RECORDINGS="r")
    assert problems(tmp_path, TURNKEEPER_SERVER_GRPC_ADDRESS="x") == [
        "environment variable TURNKEEPER_SERVER_GRPC_ADDRESS: unknown key server_grpc_address; "
        "did you mean server.grpc_address?"
    ]
    assert problems(tmp_path, TURNKEEPER_LIMIT__MAX_RUNNING_TURNS="1") == [
        "environment variable TURNKEEPER_LIMIT__MAX_RUNNING_TURNS: unknown key limit; did you mean limits?"
    ]


def test_providers_and_models_come_from_the_environment_and_from_flags_too(tmp_path: Path) -> None:
    environ = {
        "TURNKEEPER_PROVIDERS__OPENAI__FORMAT": "openai-chat",
        "TURNKEEPER_PROVIDERS__OPENAI__BASE_URL": "https://example.org/v1",
        "TURNKEEPER_PROVIDERS__OPENAI__TOTAL_TIMEOUT_SECONDS": "none",
        "TURNKEEPER_PROVIDERS__OPENAI__HEADERS": '{"x-team": "a"}',
    }
    flags = {'models."openai/GPT-5".flat_rate': "true", 'models."openai/GPT-5".capabilities': '["tools"]'}
    settings = Settings.load(environ, flags, cwd=tmp_path)
    provider, model = settings.provider("openai"), settings.models["openai/GPT-5"]
    assert (provider.total_timeout_seconds, provider.idle_timeout_seconds) == (None, 120.0)
    assert provider.headers["x-team"].get_secret_value() == "a"
    assert model.flat_rate
    assert model.capabilities == frozenset({"tools"})


def test_the_key_comes_from_the_first_place_that_is_set(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    table = '[providers.x]\nformat = "openai-chat"\nbase_url = "http://h"\n'

    def key(text: str) -> str:
        return load(tmp_path, table + text, KEY="from-variable").provider("x").api_key.get_secret_value()

    assert key('api_key_env = "KEY"\n') == "from-variable"
    assert key('api_key_env = "KEY"\napi_key_file = "key"\n') == "from-file"
    assert key('api_key_env = "KEY"\napi_key_file = "key"\napi_key = "direct"\n') == "direct"
    assert key("") == ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('api_key_env = "ABSENT"', "providers.x.api_key_env: the environment variable ABSENT is not set"),
        ('api_key_file = "/absent"', "providers.x.api_key_file: cannot read /absent: No such file or directory"),
    ],
)
def test_a_missing_key_is_an_error_of_the_provider_that_is_used(tmp_path: Path, line: str, problem: str) -> None:
    settings = load(tmp_path, f'[providers.x]\nformat = "openai-chat"\nbase_url = "http://h"\n{line}\n')
    assert settings.provider("scripted").format == "scripted"
    with pytest.raises(SettingsError, match=re.escape(problem)):
        settings.provider("x")
    with pytest.raises(SettingsError, match="no such provider"):
        settings.provider("y")


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    table = '[providers.x]\nformat = "openai-chat"\nbase_url = "http://h"\n'
    settings = load(tmp_path, table + 'api_key = "hush-1"\nheaders = { x-key = "hush-2" }\n')
    assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()
    for bad in ("api_key = 31337", "headers = { x-key = 31337 }"):
        (problem,) = problems(tmp_path, table + bad)
        assert "31337" not in problem


@pytest.mark.parametrize("address", ["0.0.0.0:7450", "[::]:7450", "192.0.2.1:1", "example.org:1"])
@pytest.mark.parametrize("key", ["grpc_address", "http_address"])
def test_without_authentication_only_loopback_is_served(tmp_path: Path, key: str, address: str) -> None:
    (problem,) = problems(tmp_path, f'[server]\n{key} = "{address}"\n')
    assert problem.startswith(f"turnkeeper.toml:2: server.{key}: {address} is reached from other machines")
    assert not is_loopback(address)
    load(tmp_path, f'[server]\n{key} = "{address}"\n[auth]\nmode = "token"\ntoken_file = "t"\n')


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.9.9.9:1", "[::1]:7450", "localhost:7450"])
def test_loopback_addresses(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["", ":1", "h", "h:", "h:65536", "h:-1", "h:1x", "::1:80", "[::1]", "[x]:1", "h:١"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        split_address(address)


def test_settings_are_frozen_and_look_at_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNKEEPER_LIMITS__MAX_RUNNING_TURNS", "9")
    monkeypatch.setenv("LIMITS", '{"max_running_turns": 9}')
    settings = load(tmp_path)
    assert settings == Settings.load({"HOME": str(tmp_path / "home")}, cwd=tmp_path)
    assert settings.limits.max_running_turns == Settings().limits.max_running_turns == 256
    with pytest.raises(ValueError, match="frozen"):
        settings.limits.max_running_turns = 1


def test_the_page_says_what_the_settings_are() -> None:
    text = configuration_page.PAGE.read_text()
    assert text == configuration_page.page(), "run `python -m tests.service.ops.configuration_page`"
    assert all(info.description for _, info in known_keys())
    assert max(map(len, text.partition(configuration_page.MARK)[0].splitlines())) <= 125


def test_the_example_is_valid_as_it_is_and_with_its_providers(tmp_path: Path) -> None:
    text = (ROOT / "examples/turnkeeper.toml").read_text()
    load(tmp_path, text)
    head, mark, tail = text.partition("# [providers.openai]")
    tail = re.sub(r"^# (?=\[|[a-z_]+ = )", "", mark + tail, flags=re.M)
    settings = load(tmp_path, head + tail, OPENAI_API_KEY="k")
    assert sorted(settings.providers) == ["anthropic", "local", "openai"]
    assert settings.provider("openai").api_key.get_secret_value() == "k"
    assert settings.models["local/qwen3"].flat_rate
