"""Builds a program with a generated client, each language with its own toolchain, and says how to start it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.servers import ROOT

BUILD_SECONDS: Final = 280
OPTIONS: Final = sorted((ROOT / "clients").glob("*.yaml"))
NPM: Final = ("typescript@5.9.3", "@types/node@20", "openapi-typescript@7.13.0")
# What may be absent is known to be there in what they play.
LOOK: Final = ("--strict", "--no-strict-optional", "--follow-imports=silent")
QUIET: Final = {"npm_config_update_notifier": "false", "NO_COLOR": "1", "GOFLAGS": "-mod=mod"}


class Missing(Exception):
    """A toolchain is not there."""


def tool(*names: str) -> None:
    """That commands are there. CI has all of them; elsewhere a language without its toolchain is left out."""
    for name in names:
        if shutil.which(name) is None:
            raise Missing(f"{name} is not installed")


def run(*command: str, cwd: Path) -> str:
    """What a step of a build prints; it must succeed."""
    ran = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | QUIET,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout[-3_000:]}{ran.stderr[-3_000:]}"
    return ran.stdout


def generate(folder: Path) -> None:
    """All clients, by the committed options, into `build/clients` of a folder."""
    tool("java")
    (folder / "clients").mkdir()
    shutil.copy(ROOT / "openapi.yaml", folder)
    generator = Path(sys.executable).parent / "openapi-generator-cli"
    run(str(generator), "batch", "--fail-fast", "--root-dir", str(folder), *map(str, OPTIONS), cwd=folder)


def build_python(client: Path, program: Path) -> list[str]:
    """The client as a package in an environment of its own; the program is held against its types."""
    python = str(client / ".venv" / "bin" / "python")
    if not Path(python).exists():
        run(sys.executable, "-m", "venv", ".venv", cwd=client)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ".", cwd=client)
    run(sys.executable, "-m", "mypy", "--python-executable", python, *LOOK, str(program), cwd=client.parent)
    return [python, str(program)]


def build_typescript(client: Path, program: Path) -> list[str]:
    """The client by its own build; the program strictly, beside the types that openapi-typescript makes."""
    tool("npm", "node")
    folder = program.parent
    if not (client / "dist").exists():
        run("npm", "install", "--no-audit", "--no-fund", "--silent", "--no-save", *NPM, cwd=client)
        run("npx", "tsc", "-p", ".", cwd=client)
        run("npx", "openapi-typescript", "../../../openapi.yaml", "-o", "types/ledger.d.ts", cwd=client)
    options = {"target": "es2022", "module": "nodenext", "moduleResolution": "nodenext", "strict": True, "outDir": ".", "types": ["node"]}
    names = {"contract-ledger-client": [str(client)], "contract-ledger-types": [str(client / "types" / "ledger.d.ts")]}
    options |= {"paths": names, "typeRoots": [str(client / "node_modules" / "@types")]}
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": [str(program)]}))
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "node_modules").mkdir(exist_ok=True)
    (folder / "node_modules" / "contract-ledger-client").symlink_to(client)
    run(str(client / "node_modules" / ".bin" / "tsc"), "-p", ".", cwd=folder)
    return ["node", str(program.with_suffix(".js"))]


def build_go(client: Path, program: Path) -> list[str]:
    """The client as a module that the program's own module takes from its folder."""
    tool("go")
    module = "contract-ledger.example/client/ledger"
    (program.parent / "go.mod").write_text(f"module program\n\ngo 1.23\n\nrequire {module} v0.0.0\n\nreplace {module} => {client}\n")
    run("go", "vet", ".", cwd=program.parent)
    run("go", "build", "-o", "program", ".", cwd=program.parent)
    return [str(program.parent / "program")]


def build_java(client: Path, program: Path) -> list[str]:
    """The client by Maven, the program with all warnings but for what the client's own sources cause."""
    tool("mvn", "javac")
    path = client / "classpath"
    if not path.exists():
        run("mvn", "-q", "-B", "compile", "dependency:build-classpath", "-Dmdep.outputFile=classpath", cwd=client)
    classes = f"{client / 'target' / 'classes'}:{path.read_text().strip()}"
    run("javac", "-Xlint:all,-processing", "-Werror", "-cp", classes, "-d", ".", str(program), cwd=program.parent)
    return ["java", "-cp", f"{program.parent}:{classes}", program.stem]


BUILDS: Final[dict[str, tuple[str, Callable[[Path, Path], list[str]]]]] = {
    "python": (".py", build_python),
    "typescript": (".ts", build_typescript),
    "go": (".go", build_go),
    "java": (".java", build_java),
}
"""How each language's program is built, by the end of its file's name."""
