"""compose.yaml and the Dockerfile agree with the service: its settings, its port, its folder; there is no Docker engine to try them."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from service.settings import Settings

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()
VARIABLES: Final = {setting.metadata["variable"] for setting in Settings.__dataclass_fields__.values()}
README: Final = (ROOT / "README.md").read_text()
_SUBSTITUTED: Final = re.compile(r"\$\{(\w+):-([^}]*)\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return parsed


def substituted(text: str) -> str:
    """The text with the default of each variable."""
    return _SUBSTITUTED.sub(lambda found: found[2], text)


def test_the_composition_has_what_it_refers_to(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == {"service", "postgres"}
    named = {volume.partition(":")[0] for service in services.values() for volume in service["volumes"]}
    assert named == compose["volumes"].keys()
    assert {config["source"] for service in services.values() for config in service.get("configs", ())} == compose["configs"].keys()
    for service in services.values():
        for other, waits in service.get("depends_on", {}).items():
            assert waits == {"condition": "service_healthy"}
            assert "healthcheck" in services[other]


def test_the_service_is_given_settings_that_there_are(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given = compose["services"]["service"]["environment"]
    assert given.keys() <= VARIABLES
    for variable, text in given.items():
        monkeypatch.setenv(variable, substituted(text))
    settings = Settings.from_environment()
    service, owner = (conninfo_to_dict(url or "") for url in (settings.database_url, settings.migration_url))
    assert (service["user"], owner["user"]) == ("ledger_service", "ledger_owner")
    assert service["host"] == owner["host"] == "postgres"
    assert service["dbname"] == owner["dbname"] == "ledger"
    assert service["password"] != owner["password"]


def test_the_owner_is_made_as_the_service_names_it(compose: dict[str, Any]) -> None:
    postgres, script = compose["services"]["postgres"], compose["configs"]["make-owner"]["content"]
    assert "CREATE ROLE ledger_owner LOGIN CREATEROLE" in script
    assert "CREATE DATABASE ledger OWNER ledger_owner" in script
    # `$$` is a dollar of the shell's, which finds the password in the container's environment.
    named = re.findall(r"\$\$(\w+)", script)
    assert named == ["LEDGER_OWNER_PASSWORD"]
    assert set(named) <= postgres["environment"].keys()
    owner = conninfo_to_dict(substituted(compose["services"]["service"]["environment"]["LEDGER_MIGRATION_URL"]))
    assert substituted(postgres["environment"]["LEDGER_OWNER_PASSWORD"]) == owner["password"]
    assert {"--username=ledger_owner", "--dbname=ledger"} <= set(postgres["healthcheck"]["test"])


def test_the_image_and_the_composition_have_one_port_and_one_folder(compose: dict[str, Any]) -> None:
    (published,) = compose["services"]["service"]["ports"]
    host, _, port = published.rpartition(":")
    assert host.startswith("127.0.0.1:")
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert f'"--port", "{port}"' in DOCKERFILE
    assert f"http://127.0.0.1:{port}/livez" in DOCKERFILE
    (volume,) = compose["services"]["service"]["volumes"]
    assert f"VOLUME {volume.partition(':')[2]}\n" in DOCKERFILE
    assert f"cat {volume.partition(':')[2]}/api-key" in README


def test_every_image_has_a_version_and_the_service_is_not_root() -> None:
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["postgres"]["image"]
    images = [*re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE), composed]
    assert all(re.search(r":[0-9][\w.-]*$", image) for image in images), images
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", DOCKERFILE, re.MULTILINE)


def test_every_variable_of_the_product_in_these_files_is_a_setting_or_a_password(compose: dict[str, Any]) -> None:
    passwords = {f"LEDGER_{name}_PASSWORD" for name in ("SUPERUSER", "OWNER", "SERVICE")}
    text = (ROOT / "compose.yaml").read_text()
    assert set(re.findall(r"LEDGER_[A-Z_]+", DOCKERFILE + text)) <= VARIABLES | passwords
    assert {name for name, _ in _SUBSTITUTED.findall(text)} == passwords
