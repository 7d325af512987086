"""`make test`: all test runners in two lanes (Cargo; the rest), with one closing line for each."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import reports
from tools.steps import ROOT, Done, Step, run, run_lanes, say

CRATE = ROOT / "core-rs" / "core"
WHEELS, WHEELS_VENV = ROOT / "dist", ROOT / "target" / "dist-venv"
UV = str(ROOT / ".tools" / "uv" / "bin" / "uv")
RESULTS = ROOT / "target" / "spec"
PYTHON = str(ROOT / ".venv" / "bin" / "python")
LOOM = {"RUSTFLAGS": "--cfg loom", "CARGO_TARGET_DIR": str(ROOT / "target" / "loom"), "LOOM_MAX_PREEMPTIONS": "3"}


@dataclass(frozen=True)
class Runner:
    """A test runner: perhaps a build, then the tests, and how its output is read."""

    name: str
    steps: tuple[Step, ...]
    count: Callable[[Done], reports.Counts]
    spec: Callable[[Done], list[reports.SpecTest]] | None = None


def core_runners(is_long: bool) -> list[Runner]:
    """The crate's own tests, and the model-checked ones, which are compiled apart."""
    limit = None if is_long else 300.0
    more = ["--release", "--", "--include-ignored"] if is_long else []
    cargo = ["cargo", "test", "--locked", "--workspace"]
    build = Step("core", "compile the core's tests", [*cargo, "--no-run", *more[:1]], limit_seconds=limit)
    tests = Step("core", "run them", [*cargo, "--no-fail-fast", *more], ROOT, limit_seconds=limit)
    runners = [Runner("core", (build, tests), _cargo_counts, _cargo_spec)]
    names = [path.stem for path in sorted((CRATE / "tests").glob("loom*"))]
    if names:
        cargo = ["cargo", "test", "--locked", "--release", "-p", "turnkeeper-core"]
        cargo += [word for name in names for word in ("--test", name)]
        environment = LOOM | ({"LOOM_MAX_PREEMPTIONS": "4"} if is_long else {})
        build = Step("loom", "compile the core on loom's locks", [*cargo, "--no-run"], ROOT, LOOM, limit)
        tests = Step("loom", "try every interleaving", [*cargo, "--no-fail-fast"], ROOT, environment, limit)
        runners.append(Runner("loom", (build, tests), _cargo_counts, _cargo_spec))
    return runners


def service_runners(is_long: bool) -> list[Runner]:
    """One runner per folder of Python tests, but the clients' and the wheels'; the service's has one per part."""
    runners = []
    for folder in test_folders(ROOT / "tests"):
        if folder.name == "service":
            own = sorted(folder.glob("test_*.py"))
            runners += [pytest_runner("service", own, is_long)] if own else []
            runners += [pytest_runner(f"service-{part.name}", [part], is_long) for part in test_folders(folder)]
        elif folder.name not in ("clients", "dist"):
            runners.append(pytest_runner(folder.name, [folder], is_long))
    return runners


def test_folders(root: Path) -> list[Path]:
    """The folders just below one that hold Python tests, at any depth."""
    return sorted({root / path.relative_to(root).parts[0] for path in root.glob("*/**/test_*.py")})


def client_runners(clients: list[str], is_long: bool) -> list[Runner]:
    """The tests of the clients that are named; those that have none yet are left out."""
    runners = []
    for client in clients:
        folder = ROOT / "tests" / "clients"
        if client == "python" and any(folder.glob("**/test_*.py")):
            runners.append(pytest_runner("client-python", [folder], is_long))
        module = ROOT / "clients" / client
        if client == "go" and any(module.glob("**/*_test.go")) and not is_long:
            command = ["go", "test", "-json", "./..."]
            step = Step("client-go", "go test", command, module, show=reports.go_shown)
            runners.append(Runner("client-go", (step,), _go_counts, _go_spec))
    return runners


def dist_runner() -> Runner:
    """The wheels of `make dist`, installed where nothing else is."""
    wheels = [str(path) for path in sorted(WHEELS.glob("*.whl"))]
    tests = pytest_runner("dist", [ROOT / "tests" / "dist"], is_long=False).steps[0]
    where = {"TURNKEEPER_DIST": str(WHEELS), "TURNKEEPER_DIST_VENV": str(WHEELS_VENV)}
    steps = (
        Step("dist", "a clean environment", [UV, "venv", "--quiet", "--clear", str(WHEELS_VENV)]),
        Step("dist", "the wheels into it", [UV, "pip", "install", "--quiet", "--python", str(WHEELS_VENV), *wheels]),
        dataclasses.replace(tests, environment=where),
    )
    return Runner("dist", steps, lambda _: reports.pytest_counts(RESULTS / "dist.xml"))


def pytest_runner(name: str, paths: Sequence[Path], is_long: bool) -> Runner:
    """One pytest process on some folders or files."""
    junit, spec = RESULTS / f"{name}.xml", RESULTS / f"{name}.json"
    names = [str(path.relative_to(ROOT)) for path in paths]
    command = [PYTHON, "-m", "pytest", "-q", *names]
    command += [f"--junitxml={junit}", f"--spec-results={spec}", *(["-m", "long"] if is_long else [])]
    step = Step(name, f"pytest {' '.join(names)}", command, limit_seconds=None if is_long else 300.0)
    return Runner(name, (step,), lambda _: reports.pytest_counts(junit))


def run_runner(runner: Runner) -> tuple[Done, reports.Counts]:
    """Build, then test; a build that fails or a run that was cut counts as one failure."""
    for stale in RESULTS.glob(f"{runner.name}.*"):
        stale.unlink()
    done = run(runner.steps[0])
    for step in runner.steps[1:]:
        if done.is_ok:
            done = run(step)
    counts = runner.count(done)
    if runner.spec is not None and done.step is runner.steps[-1]:
        reports.write_spec(RESULTS / f"{runner.name}.json", runner.spec(done))
    if done.code not in (0, 5) and counts.failed == 0:
        counts += reports.Counts(failed=1)
    return done, counts


def main(arguments: list[str]) -> int:
    """Run the parts that are named, in two lanes, and close with a line per runner."""
    parser = argparse.ArgumentParser(prog="tools.test")
    parser.add_argument("parts", nargs="+", choices=["core", "service", "clients", "dist"])
    parser.add_argument("--clients", default="python go")
    parser.add_argument("--long", action="store_true", help="the tests marked long, without limits of time")
    options = parser.parse_args(arguments)
    clients = options.clients.split()
    for client in clients:
        if not (ROOT / "clients" / client).is_dir():
            parser.error(
                f"no client {client!r}: there are {sorted(path.name for path in (ROOT / 'clients').iterdir())}"
            )
    if set(options.parts) == {"core", "service", "clients"}:
        shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True, exist_ok=True)

    lanes = [
        core_runners(options.long) if "core" in options.parts else [],
        [
            *(service_runners(options.long) if "service" in options.parts else []),
            *(client_runners(clients, options.long) if "clients" in options.parts else []),
            *([dist_runner()] if "dist" in options.parts else []),
        ],
    ]
    totals: dict[str, tuple[Done, reports.Counts]] = {}

    def started(runner: Runner) -> Callable[[], Done]:
        def go() -> Done:
            totals[runner.name] = run_runner(runner)
            return totals[runner.name][0]

        return go

    run_lanes([[started(runner) for runner in lane] for lane in lanes if lane])
    return conclude([runner for lane in lanes for runner in lane], totals, options.long)


def conclude(runners: list[Runner], totals: dict[str, tuple[Done, reports.Counts]], is_long: bool) -> int:
    """Print the closing lines; say whether all is well."""
    failed = not any(counts.passed for _, counts in totals.values())
    say("")
    for runner in runners:
        done, counts = totals.get(runner.name, (None, reports.Counts(failed=1)))
        ran_nothing = counts == reports.Counts() and not is_long
        if done is not None and done.was_cut:
            say(f"{runner.name} was cut after {done.seconds:.0f} s")
        if ran_nothing:
            say(f"{runner.name} ran nothing")
        failed = failed or counts.failed > 0 or ran_nothing
        say(f"{runner.name}: {counts}")
    return 1 if failed else 0


def _cargo_counts(done: Done) -> reports.Counts:
    return reports.cargo_counts(done.lines)


def _cargo_spec(done: Done) -> list[reports.SpecTest]:
    return reports.cargo_spec(done.lines, CRATE)


def _go_counts(done: Done) -> reports.Counts:
    return reports.go_counts(done.lines)


def _go_spec(done: Done) -> list[reports.SpecTest]:
    return reports.go_spec(done.lines, ROOT / "clients" / "go")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
