"""Signed models: what one key has signed is loaded, and everything else is refused by whoever loads."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tripcast.cli import main
from tripcast.errors import InvalidRequest, SignatureError
from tripcast.jobs.deploy import deploy
from tripcast.models.signature import SIGNATURE, sign, verify
from tripcast.registry.registry import Registry
from tripcast.registry.tracking import Tracker
from tripcast.serving.model_cache import DesiredState, ServedVersion
from tripcast.serving.registry_poller import RegistryPoller, Report
from tripcast.serving.served_model import ServedModel
from tripcast.serving.version_trial import VersionTrials
from tripcast.taxi.pyfunc import flavour

CHECK = "tripcast.taxi.web.version_check"


def key_pair(kind: type[Ed25519PrivateKey] | type[X25519PrivateKey] = Ed25519PrivateKey) -> tuple[str, str]:
    private = kind.generate()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), public.decode()


PRIVATE, PUBLIC = key_pair()
OTHER_PRIVATE, OTHER_PUBLIC = key_pair()


def change_one_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture
def folder(make_model, tmp_path) -> Path:
    folder = Path(shutil.copytree(make_model(1), tmp_path / "model"))
    (folder / "model_card.html").write_text("<p>A card.</p>")
    return folder


# The signature.


def test_a_folder_verifies_by_the_key_that_signed_it_among_others(folder):
    signature = sign(folder, "tripcast-green", PRIVATE)
    verify(folder, "tripcast-green", signature, PUBLIC)
    verify(folder, "tripcast-green", signature, OTHER_PUBLIC + PUBLIC)  # while keys change
    assert sign(folder, "tripcast-green", PRIVATE) == signature


def test_a_byte_of_any_file_and_any_file_more_or_less_is_noticed(folder):
    signature = sign(folder, "tripcast-green", PRIVATE)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        for change in (change_one_byte, Path.unlink):
            change(file)
            with pytest.raises(SignatureError, match="its files are not those that were signed"):
                verify(folder, "tripcast-green", signature, PUBLIC)
            file.write_bytes(whole)
    verify(folder, "tripcast-green", signature, PUBLIC)
    (folder / "more").write_text("more")
    with pytest.raises(SignatureError):
        verify(folder, "tripcast-green", signature, PUBLIC)


@pytest.mark.parametrize(
    ("model", "key"), [("tripcast-yellow", PUBLIC), ("tripcast-green", OTHER_PUBLIC)], ids=["of yellow", "another key"]
)
def test_the_signature_of_another_model_or_key_is_refused(folder, model, key):
    with pytest.raises(SignatureError, match="or no key of TRIPCAST_VERIFY_KEYS signed them"):
        verify(folder, model, sign(folder, "tripcast-green", PRIVATE), key)


@pytest.mark.parametrize("signature", ["", None])
def test_no_signature_is_named_as_such(folder, signature):
    with pytest.raises(SignatureError, match="it is not signed"):
        verify(folder, "tripcast-green", signature, PUBLIC)


@pytest.mark.parametrize("signature", ["no base 64!", "YWJj"])
def test_a_broken_signature_is_none(folder, signature):
    with pytest.raises(SignatureError, match="no key of TRIPCAST_VERIFY_KEYS"):
        verify(folder, "tripcast-green", signature, PUBLIC)


def test_a_key_that_is_none_is_named_and_not_told(folder):
    for key in ("secret", PUBLIC, PRIVATE[:60], key_pair(X25519PrivateKey)[0]):
        with pytest.raises(InvalidRequest, match="TRIPCAST_SIGNING_KEY is no Ed25519 key in PEM") as refused:
            sign(folder, "tripcast-green", key)
        assert key not in str(refused.value)
    for keys in ("no key", PRIVATE, key_pair(X25519PrivateKey)[1], PUBLIC.replace("MCow", "AAAA")):
        with pytest.raises(InvalidRequest, match="TRIPCAST_VERIFY_KEYS is no Ed25519 key in PEM"):
            verify(folder, "tripcast-green", "", keys)


# The registry, and whoever loads from it.


@pytest.fixture
def signing(settings):
    """Settings of those who sign, and who load nothing else."""
    return dataclasses.replace(settings, signing_key=PRIVATE, verify_keys=PUBLIC)


@pytest.fixture
def registry(signing) -> Registry:
    return Registry("tripcast-green", signing)


@pytest.fixture
def register(signing, folder):
    """Registers the model, with other settings if asked."""

    def register(**changed):
        settings = dataclasses.replace(signing, **changed)
        with Tracker("tripcast-green", settings).pipeline_run("run", "run") as run_id:
            registry = Registry("tripcast-green", settings)
            return registry.register(folder, flavour=flavour("green"), run_id=run_id, tags={})

    return register


def stored(settings, name: str) -> Path:
    (file,) = (settings.home / "artifacts").rglob(f"data/model/{name}")
    return file


def test_a_registered_version_is_signed_and_loads(registry, register):
    version = register()
    assert SIGNATURE in version.tags
    assert registry.load(version).manifest.taxi == "green"
    assert deploy(registry, 1, 1.0, None) == "Version 1 answers every rider."


def test_without_keys_nothing_is_signed_and_everything_loads(settings, register):
    version = register(signing_key=None, verify_keys=None)
    assert SIGNATURE not in version.tags
    Registry("tripcast-green", settings).load(version)


def test_a_version_without_a_signature_is_refused_until_it_is_signed(registry, register, signing, monkeypatch):
    version = register(signing_key=None)
    with pytest.raises(SignatureError, match=r"version 1 is not loaded: it is not signed, .* sign 1"):
        registry.load(version)
    with pytest.raises(SignatureError):
        deploy(registry, 1, 1.0, None)
    assert registry.moves() == []

    monkeypatch.setenv("TRIPCAST_HOME", str(signing.home))
    assert CliRunner().invoke(main, ["sign", "1"]).exit_code == 2  # with what?
    monkeypatch.setenv("TRIPCAST_SIGNING_KEY", PRIVATE)
    assert CliRunner().invoke(main, ["sign", "1"]).stdout == "tripcast-green version 1 is signed.\n"
    registry.load(registry.version(1))


def test_registering_again_signs_what_was_not_and_changes_no_signature(registry, register, folder):
    register(signing_key=None)
    (folder / "model_card.html").write_text("<p>The card of another day.</p>")
    signed = register()
    registry.load(registry.version(signed.number))
    register(signing_key=OTHER_PRIVATE)
    registry.load(registry.version(signed.number))


@pytest.mark.parametrize("file", ["manifest.json", "model_card.html"])
def test_a_step_refuses_a_stored_folder_with_one_byte_changed(registry, register, signing, file):
    version = register()
    change_one_byte(stored(signing, file))
    with pytest.raises(SignatureError, match="version 1 is not loaded: its files are not those that were signed"):
        registry.load(version)


def test_what_is_not_the_model_that_was_registered_is_not_signed(registry, register, signing, make_model):
    register(signing_key=None)
    folder = stored(signing, "manifest.json").parent
    shutil.copytree(make_model(2), folder, dirs_exist_ok=True)
    with pytest.raises(SignatureError, match="its files are not the model that was registered"):
        registry.sign(1)


# The service.


@pytest.mark.slow
def test_the_poller_refuses_what_is_not_signed_and_mends_a_changed_copy(registry, register, signing):
    register()
    registry.promote(1, "It is the first.")
    poller = RegistryPoller("tripcast-green", signing, VersionTrials(CHECK))
    report = poller.poll()
    assert report.errors == []
    card = report.desired.champion.folder / "model_card.html"
    change_one_byte(card)
    assert poller.poll().errors == []
    assert card.read_text() == "<p>A card.</p>"

    stranger = RegistryPoller(
        "tripcast-green", dataclasses.replace(signing, verify_keys=OTHER_PUBLIC), VersionTrials(CHECK)
    )
    refused = stranger.poll()
    assert refused.desired is None
    assert "tripcast-green version 1 is not loaded" in refused.errors[0]


def test_the_service_refuses_a_local_copy_with_one_byte_changed_and_goes_on_serving(folder, tmp_path):
    signature = sign(folder, "tripcast-green", PRIVATE)
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    change_one_byte(changed / "model_card.html")
    model = ServedModel("tripcast-green", tmp_path, PUBLIC)

    async def take(version: int, folder: Path) -> None:
        served = ServedVersion(version, folder, {SIGNATURE: signature})
        await model.take(Report(model.name, DesiredState(served, None, 0.0)))

    async def story() -> None:
        await take(1, changed)
        assert not model.is_ready
        await take(2, folder)
        await take(3, changed)

    asyncio.run(story())
    assert model.arms.champion.version == 2
    (problem,) = model.problems
    assert problem.startswith("Version 3 cannot be loaded: its files are not those that were signed")
